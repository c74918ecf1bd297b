"""Writes small videos: red blobs on grey, as fake_predictor "finds" them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Box = Sequence[int]
SIZE = (96, 64)  # width, height
PIX_FMTS = {"mjpeg": "yuvj444p", "rawvideo": "bgr24"}  # others take yuv420p: boxes with even sides keep their edges


def walk(i: int) -> list[Box]:
    """One blob, 2 px further to the right in each frame; its left edge tells the frame's number, up to 40."""
    return [(2 * i % 80, 20, 2 * i % 80 + 16, 40)]


def blob_frame(boxes: Sequence[Box], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A grey picture of `size` (width, height) with a red blob in each box, uint8 (H, W, 3) RGB."""
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
    """Writes a video, its container by the suffix, and returns `path`.

    boxes: those of each frame, as seen upright; a list says how many frames there are. size: width and height, upright.
    rotation: quarter turns in degrees that a player must turn it counterclockwise. audio: sound as long as the
    picture, or of so many seconds. times: seconds of each frame, for an uneven rate. gop: frames from one whole
    picture to the next. options: the container's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = boxes if callable(boxes) else boxes.__getitem__
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
            pixels = np.ascontiguousarray(np.rot90(blob_frame(shown(i), size), -turns))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            seconds = count / rate if audio is True else audio
            for start in range(0, round(seconds * 8000), 1024):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate, silence.pts = 8000, start
                container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path
