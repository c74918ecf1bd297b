"""A JPEG without its end marker is read when all its pixels are there, and refused at every other cut."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.decoding.jpeg_end import complete_jpeg, has_end
from common.errors import MediaError
from common.images import NO_END_NOTE, decode_photo
from tests.helpers.cases import CASES, needs_cases
from tests.helpers.drawn_photos import draw

PHOTO = draw((150, 110), [(20, 15, 70, 80), (90, 30, 130, 85)])
PHOTO[80:] = 200  # flat at the bottom, as a wall or the sky: few bits hold many pixels
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "best": {"quality": 100, "subsampling": 0},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "many restarts": {"restart_marker_blocks": 1},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
}


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(data, "JPEG", **options)
    return data.getvalue()


def read(data: bytes) -> np.ndarray | None:
    """Return the pixels; None where the file is refused as truncated."""
    try:
        photo = decode_photo(io.BytesIO(data), "a.jpg")
    except MediaError as error:
        assert "truncated" in error.reason or "not a picture" in error.reason
        return None
    assert photo.note in (NO_END_NOTE, "")  # Pillow itself reads some files without the marker
    return photo.pixels


@pytest.mark.parametrize(
    ("kind", "mode"),
    [*((kind, "RGB") for kind in KINDS), ("baseline", "L"), ("optimized", "CMYK"), ("progressive", "L")],
)
def test_a_cut_is_read_only_where_all_pixels_are_there(kind: str, mode: str) -> None:
    data = jpeg(mode, **KINDS[kind])
    whole = decode_photo(io.BytesIO(data), "a.jpg")
    assert whole.note == ""
    for cut in sorted({len(data) * share // 100 for share in range(1, 100)} | {len(data) - k for k in range(1, 20)}):
        pixels = read(data[:cut])
        assert pixels is None or (pixels == whole.pixels).all(), (kind, mode, len(data) - cut)
        if len(data) - cut <= 2:  # only the marker is missing, or a part of it
            assert pixels is not None, kind
        elif cut < 0.97 * len(data):
            assert pixels is None, (kind, mode, len(data) - cut)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_cut(kind: str) -> None:
    data = jpeg(**KINDS[kind])
    whole = decode_photo(io.BytesIO(data), "a.jpg").pixels
    for cut in range(3, len(data), 1 + len(data) // 5000):
        pixels = read(data[:cut])
        assert pixels is None or (pixels == whole).all(), len(data) - cut


def test_a_progressive_file_without_its_last_scans_is_refused() -> None:
    data = jpeg(progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for scan in scans[1:]:  # between two scans, no pixel depends on the bits that follow
        tables = data.rfind(b"\xff\xc4", 0, scan)
        for cut in (scan, tables):
            assert read(data[:cut]) is None


def test_an_end_that_was_never_written_is_refused() -> None:
    data = jpeg()
    for share in (0.3, 0.6, 0.99):
        cut = int(len(data) * share)
        for filler in (b"\0", b"\xff"):
            assert read(data[:cut] + filler * (len(data) - cut + 20)) is None


def test_half_a_marker_and_a_reduced_read() -> None:
    data = jpeg()
    assert read(data[:-1]) is not None and read(data[:-2] + b"\xff\xff") is not None
    assert decode_photo(io.BytesIO(data[:-2]), "a.jpg").note == NO_END_NOTE
    small = decode_photo(io.BytesIO(data[:-2]), "a.jpg", lambda size: 2)
    assert small.note == NO_END_NOTE and small.size == (150, 110) and small.pixels.shape == (55, 75, 3)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xda\0\2" + bytes(range(200)), bytes(50)])
def test_what_is_not_a_jpeg_is_refused(data: bytes) -> None:
    assert complete_jpeg(data) is None


def test_the_end_of_a_thumbnail_is_not_the_end() -> None:
    data = jpeg()
    thumbnail = jpeg(quality=20)
    assert len(thumbnail) < 60_000
    head = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2) + b"Exif\0\0" + thumbnail
    with_thumbnail = data[:2] + head + data[2:]
    assert has_end(with_thumbnail) and not has_end(with_thumbnail[:-2])
    assert read(with_thumbnail[:-2]) is not None and read(with_thumbnail[:-100]) is None


@needs_cases
def test_the_case() -> None:
    assert read((CASES / "photos/missing_eoi.jpg").read_bytes()) is not None
