"""Order in time, by EXIF or by name, and the cut into contiguous blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from common.annotations import AnnotatedImage
from common.errors import UserError
from pipeline.data.time_order import cut_blocks, cut_by_time, exif_time, natural_key, time_order


def photo(path: Path, taken: str | None = None, fraction: str | None = None) -> AnnotatedImage:
    """Write a small photo with the EXIF time of taking, and return it with one face."""
    exif = Image.Exif()
    times = exif.get_ifd(ExifTags.IFD.Exif)
    if taken is not None:
        times[ExifTags.Base.DateTimeOriginal] = taken
    if fraction is not None:
        times[ExifTags.Base.SubsecTimeOriginal] = fraction
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    return AnnotatedImage(path, path.stem, (30, 20), np.array([[0, 0, 9, 9]], np.float32), ("with_mask",))


def test_numbers_in_names_count_by_value() -> None:
    names = ["cam2/f10", "cam2/f9", "cam10/f1", "cam2/f", "cam2/f9b", "9", "10", "cam2/f009"]
    assert sorted(names, key=natural_key) == [
        *("9", "10", "cam2/f", "cam2/f009", "cam2/f9", "cam2/f9b", "cam2/f10", "cam10/f1"),
    ]


def test_exif_time_orders_where_all_photos_have_it(tmp_path: Path) -> None:
    images = [
        photo(tmp_path / "a.jpg", "2024:03:01 10:00:01"),
        photo(tmp_path / "b.jpg", "2024:03:01 10:00:00", "90"),
        photo(tmp_path / "c.jpg", "2024:03:01 10:00:00", "15"),
        photo(tmp_path / "d.jpg", "2023:12:31 23:59:59"),
    ]
    assert time_order(images) == ([3, 2, 1, 0], "EXIF time")
    images[1] = photo(tmp_path / "b.jpg")
    assert time_order(images) == ([0, 1, 2, 3], "name")


@pytest.mark.parametrize("taken", [None, "", "0000:00:00 00:00:00", "yesterday"])
def test_photos_without_a_time(tmp_path: Path, taken: str | None) -> None:
    assert exif_time(photo(tmp_path / "a.jpg", taken).path) == ""
    assert exif_time(tmp_path / "missing.jpg") == ""


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_blocks_are_contiguous_and_none_is_empty(data: st.DataObject) -> None:
    parts = data.draw(st.integers(3, 6))
    classes = data.draw(st.integers(0, 3))
    row = st.lists(st.integers(0, 2), min_size=classes, max_size=classes)
    faces = data.draw(st.lists(row, min_size=parts, max_size=40))
    weights = np.array(data.draw(st.lists(st.integers(1, 50), min_size=parts, max_size=parts)), float)
    blocks = cut_blocks(np.array(faces, np.intp).reshape(len(faces), classes), list(weights / weights.sum()))
    assert len(blocks) == len(faces) and blocks == sorted(blocks)
    assert set(blocks) == set(range(parts))


def test_cuts_are_at_the_shares_where_every_block_has_all_classes() -> None:
    blocks = cut_blocks(np.ones((100, 2), np.intp), (0.7, 0.2, 0.1))
    assert np.bincount(blocks).tolist() == [70, 20, 10]


def test_a_cut_moves_to_give_a_block_the_rare_class() -> None:
    faces = np.zeros((24, 2), np.intp)
    faces[:, 0] = 1
    faces[[3, 18, 19], 1] = 1  # 70% end at 17 and 85% at 20: the last block would lack the class
    blocks = np.array(cut_blocks(faces, (0.7, 0.15, 0.15)))
    assert [int(faces[blocks == block, 1].sum()) for block in range(3)] == [1, 1, 1]
    assert np.bincount(blocks).tolist() == [17, 2, 5]


def test_a_cut_moves_to_give_a_block_a_face() -> None:
    faces = np.zeros((20, 1), np.intp)
    faces[[0, 13, 19]] = 1
    blocks = np.array(cut_blocks(faces, (0.7, 0.15, 0.15)))
    assert [int(faces[blocks == block].sum()) for block in range(3)] == [1, 1, 1]


def test_too_few_photos(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 photos are too few for 3 parts"):
        cut_by_time([photo(tmp_path / "a.png"), photo(tmp_path / "b.png")], (0.7, 0.15, 0.15))


def test_the_cut_knows_the_neighbours(tmp_path: Path) -> None:
    cut = cut_by_time([photo(tmp_path / f"f{i}.png") for i in (10, 9, 1, 2)], (0.5, 0.25, 0.25))
    assert cut.order == (2, 3, 1, 0) and cut.parts == (2, 1, 0, 0) and cut.source == "name"
    assert cut.neighbours() == [(3, 1), (1, 0)]
