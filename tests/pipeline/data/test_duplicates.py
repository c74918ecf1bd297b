"""Near-duplicates: copies, re-encodings and re-crops are found, other photos are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.duplicates import (
    connected_components,
    count_inliers,
    fingerprint_photo,
    near_duplicate_groups,
    same_source_pairs,
)

REAL = Path(__file__).resolve().parents[3].parent / "shared/data/face-mask-detection/images"


def scene(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = np.full((300, 400, 3), rng.integers(60, 200, 3), np.uint8)
    for _ in range(150):
        x, y, w, h = (int(v) for v in rng.integers((0, 0, 4, 4), (400, 300, 60, 60)))
        pixels[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def test_copies_and_crops_are_grouped_and_other_photos_are_not(tmp_path: Path) -> None:
    photo = scene(0)
    versions = {
        "a.png": photo,
        "b.png": scene(1),
        "c.jpg": photo,  # re-encoded
        "d.png": photo.crop((120, 60, 360, 260)),  # 40% of the area
        "e.png": photo.resize((200, 150)),
        "f.png": scene(2),
        "g.png": scene(1).crop((0, 0, 260, 240)).resize((520, 480)),
    }
    for name, version in versions.items():
        version.save(tmp_path / name)
    found = near_duplicate_groups([tmp_path / name for name in versions])
    assert found.groups == [0, 1, 0, 0, 0, 2, 1]
    assert found.unreadable == []


def test_a_crop_has_inliers_and_another_photo_few(tmp_path: Path) -> None:
    for name, picture in {"a": scene(0), "b": scene(0).crop((100, 50, 400, 300)), "c": scene(5)}.items():
        picture.save(tmp_path / f"{name}.png")
    a, b, c = (fingerprint_photo(tmp_path / f"{name}.png") for name in "abc")
    assert not isinstance(a, str) and not isinstance(b, str) and not isinstance(c, str)
    assert count_inliers(a, b) > 30 and count_inliers(a, c) < 5


def test_a_photo_without_features_or_unreadable_is_alone(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (200, 0, 0)).save(tmp_path / "flat.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    scene(1).save(tmp_path / "photo.png")
    found = near_duplicate_groups([tmp_path / name for name in ("flat.png", "bad.png", "photo.png")])
    assert found.groups == [0, 1, 2]
    assert [i for i, _ in found.unreadable] == [1]
    assert near_duplicate_groups([]).groups == []


def test_group_numbers_join_chains() -> None:
    assert connected_components(6, [(1, 4), (4, 5), (0, 2)]) == [0, 1, 0, 2, 1, 1]
    assert connected_components(2, []) == [0, 1]


def test_roboflow_names_of_one_source() -> None:
    hashes = ["0" * 32, "1" * 32, "2" * 32]
    names = [f"a_jpg.rf.{h}.jpg" for h in hashes] + [f"b_jpg.rf.{hashes[0]}.jpg", "a_jpg.jpg"]
    assert same_source_pairs([Path(name) for name in names]) == [(0, 1), (0, 2)]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the photos are not at {REAL}")
def test_real_pairs() -> None:
    """Group pairs found by eye: a copy, three re-crops with distant hashes, and two similar but different photos."""
    same = [(146, 219), (21, 71), (529, 719), (276, 832)]
    numbers = [*(n for pair in same for n in pair), 273, 443]
    groups = near_duplicate_groups([REAL / f"maksssksksss{n}.jpg" for n in numbers]).groups
    assert groups == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]
