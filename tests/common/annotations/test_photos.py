"""Files of a dataset, and names of annotations matched with them: exactly, or not at all."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from common.annotations.photos import (
    AmbiguousNameError,
    PhotoIndex,
    files_in,
    header_size,
    name_parts,
    photos_in,
    split_of_folders,
    split_of_name,
)

ROOT = Path("/train/sets/faces")  # folders above the dataset do not count, whatever their names


def index(*names: str) -> PhotoIndex:
    return PhotoIndex([ROOT / name for name in names], ROOT)


def found(photos: PhotoIndex, name: str, split: str | None = None, near: str | None = None) -> str | None:
    photo = photos.find(name, split, None if near is None else ROOT / near)
    return None if photo is None else photo.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    ("photos", "name", "expected"),
    [
        (["images/a.jpg"], "a.jpg", "images/a.jpg"),
        (["images/a.jfif"], "a.jpg", "images/a.jfif"),
        (["images/a.JPG"], "a.jpg", "images/a.JPG"),
        (["images/a.b.jpg"], "a.b", "images/a.b.jpg"),
        (["images/a.jpg"], "A.jpg", None),
        (["images/a1.jpg"], "a.jpg", None),
        (["images/a.jpg"], r"C:\data\images\a.jpg", "images/a.jpg"),
        (["images/a.jpg"], "/home/me/set/a.jpg", "images/a.jpg"),
        (["images/a.jpg"], "../../images/./a.jpg", "images/a.jpg"),
        (["images/a.jpg", "images/a.png"], "a.png", "images/a.png"),
        (["x/a.jpg", "y/a.jpg"], "y/a.jpg", "y/a.jpg"),
        (["x/1/a.jpg", "y/1/a.jpg"], "set/y/1/a.jpg", "y/1/a.jpg"),
        (["images/x/a.jpg"], "images/a.jpg", "images/x/a.jpg"),
        (["x/a.jpg", "y/b.jpg"], "y/a.jpg", None),  # the dataset has the folder y, without that image
        (["train/a.jpg"], "val/a.jpg", None),
        (["train2017/a.jpg"], "valid/a.jpg", None),
        (["a.jpg"], "", None),
        (["a.jpg"], "..", None),
    ],
)
def test_names_find_images(photos: list[str], name: str, expected: str | None) -> None:
    assert found(index(*photos), name) == expected


def test_names_are_compared_in_one_unicode_form() -> None:
    composed, decomposed = (unicodedata.normalize(form, "사진.jpg") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for on_disk, written in ((composed, decomposed), (decomposed, composed)):
        assert found(index(on_disk), written) == on_disk


def test_the_split_of_the_annotation_decides_between_folders() -> None:
    photos = index("images/train/a.jpg", "images/val/a.jpg", "images/a.jpg", "images/val2017/b.jpg")
    assert found(photos, "a.jpg", split="val") == "images/val/a.jpg"
    assert found(photos, "train/a.jpg", split="val") == "images/train/a.jpg"  # the name says more than the file
    assert found(photos, "b.jpg", split="train") is None
    assert found(photos, "b.jpg", split="val") == "images/val2017/b.jpg"
    assert found(index("train/a.png", "val/a.jpg"), "a.jpg", split="train") == "train/a.png"


def test_equal_candidates_are_ambiguous_unless_one_is_nearer() -> None:
    photos = index("x/images/a.jpg", "y/images/a.jpg")
    with pytest.raises(AmbiguousNameError, match=r"'a\.jpg' fits 2 images \(images/a\.jpg, images/a\.jpg\)") as raised:
        photos.find("a.jpg")
    assert raised.value.candidates == (ROOT / "x/images/a.jpg", ROOT / "y/images/a.jpg")
    assert found(photos, "a.jpg", near="y/annotations") == "y/images/a.jpg"
    with pytest.raises(AmbiguousNameError):
        index("images/a.jpg", "images/a.png").find("a.bmp")


def test_name_parts_of_other_machines() -> None:
    assert name_parts(r"D:\sets\a b\c.jpg") == ("sets", "a b", "c.jpg")
    assert name_parts("file:///x/./../c.jpg") == ("x", "c.jpg")


def test_splits_in_names() -> None:
    assert split_of_name("instances_train2017") == "train"
    assert split_of_name("trainer") is None
    assert [split_of_folders(f) for f in (["train", "a"], ["images", "val2017"], ["Test_2"], ["valid", "train"])] == [
        *("train", "val", "test", "train")
    ]
    assert split_of_folders(["images"]) is None


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.jpg").touch()
    root = tmp_path / "set"
    (root / "inner").mkdir(parents=True)
    (root / "inner/a.jpg").touch()
    (root / ".hidden").mkdir()
    (root / ".hidden/c.jpg").touch()
    (root / "linked").symlink_to(outside)
    (root / "inner/loop").symlink_to(root)
    (root / "broken.jpg").symlink_to(tmp_path / "missing.jpg")
    assert [p.relative_to(root).as_posix() for p in photos_in(root, recursive=True)] == ["inner/a.jpg", "linked/b.jpg"]
    assert list(files_in(root)) == []
    assert photos_in(tmp_path / "missing") == []


def test_header_size_of_a_turned_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert header_size(tmp_path / "a.jpg")[:2] == ((40, 30), (30, 40))
