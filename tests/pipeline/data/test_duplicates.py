"""Near-duplicates: copies, re-encodings, re-crops and mirror images are found, other photos are not."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.data import duplicates
from pipeline.data.duplicates import (
    MAX_WEAK_GROUP,
    MIN_INLIERS,
    MIRROR_MIN_INLIERS,
    STRONG_INLIERS,
    PhotoFingerprint,
    connected_components,
    count_inliers,
    fingerprint_photo,
    near_duplicate_groups,
    same_scene_pairs,
    same_source_pairs,
)

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
REAL = SHARED / "data/face-mask-detection/images"
LEAK_FLIPS = SHARED / "cases/leak_flips/images"


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


@pytest.mark.parametrize(
    "change",
    [
        ImageOps.mirror,
        ImageOps.flip,
        lambda photo: ImageOps.mirror(photo).resize((200, 150)),
        lambda photo: ImageOps.mirror(photo).crop((30, 20, 370, 290)),  # 77% of the area
        lambda photo: ImageOps.mirror(photo).rotate(8, Image.Resampling.BICUBIC),
        lambda photo: photo.rotate(-10, Image.Resampling.BICUBIC),
        lambda photo: photo.rotate(90, expand=True),
        lambda photo: ImageOps.mirror(photo).rotate(270, expand=True),
    ],
    ids=["mirrored", "upside down", "smaller", "cropped", "rotated and mirrored", "rotated", "turned", "transposed"],
)
def test_mirror_images_and_rotations_are_grouped(tmp_path: Path, change: Callable[[Image.Image], Image.Image]) -> None:
    photos = []
    for seed in range(3):
        for name, picture in (("photo", scene(seed)), ("changed", change(scene(seed)))):
            photos.append(tmp_path / f"{name}{seed}.jpg")
            picture.save(photos[-1], quality=60)
    assert near_duplicate_groups(photos).groups == [0, 0, 1, 1, 2, 2]


def test_a_mirror_image_has_the_corners_of_the_photo(tmp_path: Path) -> None:
    for name, picture in {"a": scene(0), "b": ImageOps.mirror(scene(0)), "c": scene(5)}.items():
        picture.save(tmp_path / f"{name}.png")
    a, b, c = (fingerprint_photo(tmp_path / f"{name}.png") for name in "abc")
    assert not isinstance(a, str) and not isinstance(b, str) and not isinstance(c, str)
    assert a.mirrored and b.mirrored and c.mirrored
    assert np.array_equal(a.mirrored.hash, b.hash) and not np.array_equal(a.hash, b.hash)
    assert count_inliers(a, b.mirrored) > 100 and count_inliers(b, a.mirrored) > 100
    assert count_inliers(a, c.mirrored) < MIRROR_MIN_INLIERS


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
def test_groups_are_the_scenes_whatever_is_mirrored(shots: list[tuple[int, bool]]) -> None:
    fingerprints = [fingerprints_of_scenes()[shot] for shot in shots]
    groups = connected_components(len(shots), same_scene_pairs(fingerprints))
    assert groups == connected_components(
        len(shots), [(i, j) for i, j in itertools.combinations(range(len(shots)), 2) if shots[i][0] == shots[j][0]]
    )


@functools.cache
def fingerprints_of_scenes() -> dict[tuple[int, bool], PhotoFingerprint]:
    """Return the fingerprint of each scene, plain and mirrored."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed, flip in itertools.product(range(4), (False, True)):
            file = Path(folder) / f"{seed}{flip}.png"
            (ImageOps.mirror(scene(seed)) if flip else scene(seed)).save(file)
            fingerprint = fingerprint_photo(file)
            assert not isinstance(fingerprint, str)
            found[seed, flip] = fingerprint
    return found


def test_frames_of_one_camera_need_few_comparisons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that are in one group already are not compared again."""
    scene(0).save(tmp_path / "frame.png")
    frame = fingerprint_photo(tmp_path / "frame.png")
    assert not isinstance(frame, str)
    monkeypatch.setattr(duplicates, "count_inliers", lambda *_: pytest.fail("compared in full"))
    assert len(same_scene_pairs([frame] * 50)) == 49


@pytest.mark.parametrize(
    ("inliers", "sizes"),
    [
        (STRONG_INLIERS, [30]),
        (STRONG_INLIERS - 1, [MAX_WEAK_GROUP] * 3 + [30 - 3 * MAX_WEAK_GROUP]),
        (MIN_INLIERS - 1, [1] * 30),
    ],
)
def test_weak_pairs_do_not_chain_a_whole_set(monkeypatch: pytest.MonkeyPatch, inliers: int, sizes: list[int]) -> None:
    """Each photo shows something of the next one, as portraits share the corners of eyes."""
    rng = np.random.default_rng(0)
    photos = [PhotoFingerprint(rng.random(64) < 0.5, np.zeros((0, 32), np.uint8), np.zeros((0, 2))) for _ in range(30)]
    photos = [replace(photo, mirrored=photo) for photo in photos]
    monkeypatch.setattr(duplicates, "_candidates", lambda _: [(i, i + 1) for i in range(29)])
    monkeypatch.setattr(duplicates, "_close_hashes", lambda *_: iter(()))
    monkeypatch.setattr(duplicates, "count_inliers", lambda *_: inliers)
    groups = connected_components(30, same_scene_pairs(photos))
    assert sorted(Counter(groups).values(), reverse=True) == sizes


def test_the_strongest_of_the_weak_pairs_are_joined_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_WEAK_GROUP", 2)
    photos = [PhotoFingerprint(np.zeros(64, bool), np.zeros((0, 32), np.uint8), np.full((1, 2), i)) for i in range(3)]
    photos = [replace(photo, mirrored=photo) for photo in photos]
    found = {(0, 1): MIN_INLIERS, (1, 2): MIN_INLIERS + 1}
    monkeypatch.setattr(duplicates, "_candidates", lambda _: list(found))
    monkeypatch.setattr(duplicates, "_close_hashes", lambda *_: iter(()))
    monkeypatch.setattr(duplicates, "count_inliers", lambda a, b: found[int(a.points[0, 0]), int(b.points[0, 0])])
    assert same_scene_pairs(photos) == [(1, 2)]


def test_a_photo_without_features_or_unreadable_is_alone(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (200, 0, 0)).save(tmp_path / "flat.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    scene(1).save(tmp_path / "photo.png")
    found = near_duplicate_groups([tmp_path / name for name in ("flat.png", "bad.png", "photo.png")])
    assert found.groups == [0, 1, 2]
    assert [i for i, _ in found.unreadable] == [1]
    assert near_duplicate_groups([]).groups == []


@pytest.mark.parametrize("size", [(1200, 4), (400, 1), (1, 401), (3, 4000), (20000, 20), (400, 62)])
def test_a_thin_photo_has_no_corners(tmp_path: Path, size: tuple[int, int]) -> None:
    scene(1).resize(size).save(tmp_path / "thin.png")
    found = fingerprint_photo(tmp_path / "thin.png")
    assert not isinstance(found, str) and found.mirrored is not None
    assert len(found.descriptors) == len(found.points) == len(found.mirrored.points) == 0
    assert found.hash.shape == (64,) and found.hash.any()


def test_the_least_thin_photos_have_corners(tmp_path: Path) -> None:
    scene(1).resize((400, 80)).save(tmp_path / "a.png")
    found = fingerprint_photo(tmp_path / "a.png")
    assert not isinstance(found, str) and len(found.points) > 0


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


@pytest.mark.skipif(not LEAK_FLIPS.is_dir(), reason=f"the photos are not at {LEAK_FLIPS}")
def test_made_flips_and_turns() -> None:
    photos = sorted(LEAK_FLIPS.iterdir())
    groups = near_duplicate_groups(photos).groups
    number = {name: i for i, name in enumerate(dict.fromkeys(photo.stem[:3] for photo in photos))}
    assert groups == [number[photo.stem[:3]] for photo in photos]
