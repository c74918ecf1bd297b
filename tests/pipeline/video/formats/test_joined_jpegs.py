"""JPEGs one after the other, also with HTTP heads between them, are a video."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.errors import MediaError
from pipeline.video.reader import VideoFile
from tests.helpers.cases import CASES, needs_cases
from tests.helpers.video.damaged_videos import frame_numbers, open_error, read_frames, read_with_damage, write_file
from tests.helpers.video.made_videos import SIZE, blob_frame, walk


def jpeg(i: int, size: tuple[int, int] = SIZE, **options: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(blob_frame(walk(i), size)).save(data, "JPEG", quality=95, subsampling=0, **options)
    return data.getvalue()


def with_thumbnail(i: int) -> bytes:
    """Return a JPEG with a small JPEG in its EXIF segment."""
    data, small = jpeg(i), jpeg(30, (48, 32))
    return data[:2] + b"\xff\xe1" + (len(small) + 8).to_bytes(2) + b"Exif\0\0" + small + data[2:]


def part(data: bytes, with_length: bool = True) -> bytes:
    length = f"Content-Length: {len(data)}\r\n" if with_length else ""
    return f"--part\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode() + data + b"\r\n"


JPEGS = [jpeg(i) for i in range(12)]
HTTP = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=part\r\n\r\n"
FILES = {
    "joined": b"".join(JPEGS),
    "line breaks": b"\r\n".join(JPEGS),
    "parts": b"".join(map(part, JPEGS)),
    "parts without length": b"".join(part(data, with_length=False) for data in JPEGS) + b"--part--\r\n",
    "with the answer's head": HTTP + b"".join(map(part, JPEGS)),
    "thumbnails": b"".join(map(with_thumbnail, range(12))),
    "progressive": b"".join(jpeg(i, progressive=True) for i in range(12)),
    "no end markers": b"".join(data[:-2] for data in JPEGS),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_picture_is_a_frame(tmp_path: Path, kind: str) -> None:
    frames, damage = read_with_damage(write_file(tmp_path / "a.mjpeg", FILES[kind]))
    assert frame_numbers(frames) == list(range(12)) and damage is None


@pytest.mark.parametrize("name", ["a.mjpg", "a.MJPG", "a.avi", "a.mp4"])
def test_any_video_suffix(tmp_path: Path, name: str) -> None:
    assert frame_numbers(read_frames(write_file(tmp_path / name, FILES["joined"]))) == list(range(12))


def test_one_picture(tmp_path: Path) -> None:
    (frame,) = read_frames(write_file(tmp_path / "b.mjpg", JPEGS[0]))
    assert frame.index == 0 and frame.pixels.shape == (64, 96, 3)
    assert "is a picture, not a video" in open_error(write_file(tmp_path / "a.mp4", JPEGS[0]))


def test_pictures_of_different_sizes(tmp_path: Path) -> None:
    sizes = [(96, 64), (160, 120), (96, 64)]
    data = b"".join(jpeg(i, size) for i, size in enumerate(sizes))
    frames, damage = read_with_damage(write_file(tmp_path / "a.mjpeg", data))
    assert [frame.pixels.shape[1::-1] for frame in frames] == sizes and damage is None


@pytest.mark.parametrize("kind", ["joined", "parts"])
def test_a_torn_picture_is_left_out_and_reported(tmp_path: Path, kind: str) -> None:
    torn = [*JPEGS[:4], JPEGS[4][:-200], *JPEGS[5:]]
    data = b"".join(torn if kind == "joined" else map(part, torn))
    frames, damage = read_with_damage(write_file(tmp_path / "a.mjpeg", data))
    assert frame_numbers(frames) == [0, 1, 2, 3, *range(5, 12)]
    assert damage is not None and damage.startswith("a.mjpeg: is truncated or broken: read 11 frames")
    frames, damage = read_with_damage(write_file(tmp_path / "b.mjpeg", b"".join(JPEGS)[:-200]))
    assert frame_numbers(frames) == list(range(11)) and damage is not None


@pytest.mark.parametrize("left", [10, 60, 200])  # bytes: up to inside the JFIF segment, and two tables
def test_a_picture_cut_in_its_header_is_reported(tmp_path: Path, left: int) -> None:
    data = b"".join([*JPEGS[:4], JPEGS[4][:left], *JPEGS[5:]])
    frames, damage = read_with_damage(write_file(tmp_path / "a.mjpeg", data))
    assert frame_numbers(frames) == list(range(11))  # no time is known for the one in between
    assert damage is not None and damage.startswith("a.mjpeg: is truncated or broken: read 11 frames")


@pytest.mark.parametrize("data", [b"", b"hello" * 50, b"\xff\xd8\xff" + b"x" * 500])
def test_no_picture_in_it(tmp_path: Path, data: bytes) -> None:
    path = write_file(tmp_path / "a.mjpeg", data)
    with pytest.raises(MediaError, match=r"is empty|is not a video that can be read|holds no frame that can be read"):
        video = VideoFile(str(path))
        assert list(video.frames()) == [] and video.damage is not None
        raise video.damage


@needs_cases
@pytest.mark.parametrize("name", ["one_size.mjpeg", "one_size.mjpg", "httpdump.mjpeg"])
def test_the_cases(name: str) -> None:
    video = VideoFile(str(CASES / "mjpeg_concat" / name))
    assert len(list(video.frames())) == 15 and video.damage is None
