"""Writes small videos with red blobs on grey; `FakePredictor` detects a face in each blob."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

Box = Sequence[int]
SIZE = (96, 64)  # width, height
PIX_FMTS = {"mjpeg": "yuvj444p", "rawvideo": "bgr24"}  # others use yuv420p: boxes with even sides keep sharp edges


def walk(i: int) -> list[Box]:
    """Return one blob per frame, 2 px further right each time; the left edge gives the frame number, up to 40."""
    return [(2 * i % 80, 20, 2 * i % 80 + 16, 40)]


def blob_frame(boxes: Sequence[Box], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return a grey picture of `size` (width, height) with a red blob in each box, uint8 (H, W, 3) RGB."""
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = (255, 0, 0)
    return pixels


def blob_video(
    path: Path,
    boxes: Sequence[Sequence[Box]] | Callable[[int], Sequence[Box]] = walk,
    frames: int = 50,
    rate: int = 25,
    size: tuple[int, int] = SIZE,
    codec: str = "libx264",
    rotation: int = 0,
    audio: bool | float = False,
    times: Sequence[float] | None = None,
    gop: int = 10,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video in the container that the suffix names, and return `path`.

    Args:
        path: the file.
        boxes: boxes of each frame, upright; with a list, its length is the number of frames.
        frames: number of frames for a function `boxes`.
        rate: frames per second.
        size: width and height, upright.
        codec: FFmpeg's name of the encoder.
        rotation: degrees that a player must turn it counterclockwise, in quarter turns.
        audio: whether there is sound of the video's length, or seconds of sound.
        times: seconds of each frame, for an uneven rate.
        gop: number of frames from one key frame to the next.
        options: options of the container.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    boxes_of = boxes if callable(boxes) else boxes.__getitem__
    count = frames if callable(boxes) else len(boxes)
    turns = rotation // 90
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size[::-1] if turns % 2 else size
        stream.pix_fmt = PIX_FMTS.get(codec, "yuv420p")
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "crf": "18", "sc_threshold": "0"}
        elif codec == "libvpx-vp9":
            stream.options = {"deadline": "realtime", "cpu-used": "8", "crf": "20"}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        for i in range(count):
            pixels = np.ascontiguousarray(np.rot90(blob_frame(boxes_of(i), size), -turns))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            add_silence(container, sound, count / rate if audio is True else audio)
    return path


def add_silence(container: Any, sound: Any, seconds: float) -> None:
    """Write silence to an AAC stream of 8000 Hz."""
    for start in range(0, round(seconds * 8000), 1024):
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate, silence.pts = 8000, start
        container.mux(sound.encode(silence))
    container.mux(sound.encode(None))
