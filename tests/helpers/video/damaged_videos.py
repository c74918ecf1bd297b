"""Damages video files, and reads them back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from common.errors import MediaError
from pipeline.video.reader import Frame, FrameSampler, VideoFile
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.video.made_videos import walk

INDEX_FIRST = {"movflags": "faststart"}  # the index at the front of an MP4


def read_frames(path: Path, sampler: FrameSampler | None = None, seconds: float | None = None) -> list[Frame]:
    return list(VideoFile(str(path)).frames(sampler, seconds))


def read_with_damage(path: Path) -> tuple[list[Frame], str | None]:
    """Return the frames, and the error of a damaged file without its folder."""
    file = VideoFile(str(path), path.name)
    frames = list(file.frames())
    return frames, str(file.damage) if file.damage else None


def open_error(path: Path | str) -> str:
    """Return the error at opening a file, without its folder."""
    with pytest.raises(MediaError) as caught:
        VideoFile(str(path), Path(path).name)
    return str(caught.value)


def blob_boxes(frame: Frame) -> list[list[float]]:
    return FakePredictor().detect(frame.pixels).boxes.tolist()


def frame_numbers(frames: Sequence[Frame], rate: int = 25) -> list[int]:
    """Return each frame's number by its time; check that the frame shows `walk` at that number."""
    numbers = [round(frame.time * rate) for frame in frames]
    for number, frame in zip(numbers, frames, strict=True):
        (box,) = blob_boxes(frame)
        assert np.abs(np.subtract(box, walk(number)[0])).max() <= 2, number
    return numbers


def find_packet(path: Path, number: int) -> tuple[int, int]:
    """Return the place and size, in bytes, of the packet of frame `number`."""
    with av.open(str(path)) as container:
        packet = next(p for p in container.demux(video=0) if round(float(p.pts * p.time_base) * 25) == number)
        return path.read_bytes().index(bytes(packet)), packet.size


def truncate_at(path: Path, number: int) -> Path:
    """Write a copy that ends in the middle of frame `number`."""
    start, size = find_packet(path, number)
    return write_file(path.with_name(f"cut{path.suffix}"), path.read_bytes()[: start + size // 2])


def corrupt_frame(path: Path, number: int) -> Path:
    """Write a copy with random bytes in place of frame `number`."""
    start, size = find_packet(path, number)
    data = bytearray(path.read_bytes())
    data[start : start + size] = np.random.default_rng(0).bytes(size)
    return write_file(path.with_name(f"bad{path.suffix}"), data)


def write_file(path: Path, data: bytes | bytearray) -> Path:
    path.write_bytes(data)
    return path
