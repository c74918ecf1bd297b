"""Files of a dataset, and names of annotations matched with them: exactly, or not at all."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.annotations.photos import (
    AmbiguousNameError,
    PhotoIndex,
    entries_in,
    files_in,
    header_size,
    is_searchable,
    name_parts,
    photos_in,
    split_of_folders,
    split_of_name,
)
from common.annotations.reader import find_dataset, read_dataset
from common.errors import UserError
from tests.helpers import unprivileged
from tests.helpers.yolo_sets import save_photo, save_text

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


def close(monkeypatch: pytest.MonkeyPatch, *closed: Path) -> None:
    """Forbid listing folders, as permissions do for all users but root."""

    def unless_closed(listing: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def list_folder(path: Any = ".") -> Any:
            if Path(path) in closed:
                raise PermissionError(13, "Permission denied", str(path))
            return listing(path)

        return list_folder

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, unless_closed(getattr(os, name)))


def write_set(root: Path) -> Path:
    """Write a YOLO dataset of two photos, one of them in images/private."""
    for photo in ("images/a", "images/private/b"):
        save_photo(root / f"{photo}.jpg")
        save_text(root / f"{photo.replace('images', 'labels')}.txt", "0 0.5 0.5 0.2 0.3")
    save_text(root / "classes.txt", "mask")
    return root


def cannot_be_searched(folder: Path) -> str:
    fix = "allow reading it, or move it out of the dataset"
    return f"{folder}: cannot be searched (Permission denied); {fix}"


@pytest.mark.parametrize("inner", ["images/private", "labels/private", "images"])
def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    root = write_set(tmp_path / "set")
    assert len(read_dataset(root).images) == 2
    close(monkeypatch, root / inner)
    for read in (read_dataset, lambda folder: photos_in(folder, recursive=True)):
        if inner.startswith("images") or read is read_dataset:
            with pytest.raises(UserError) as raised:
                read(root)
            assert str(raised.value) == cannot_be_searched(root / inner)
    with pytest.raises(UserError):
        entries_in(root / inner)
    assert is_searchable(root) and not is_searchable(root / inner)


def test_a_split_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val"):
        save_photo(tmp_path / f"{split}/images/{split}.jpg")
        save_text(tmp_path / f"{split}/labels/{split}.txt", "0 0.5 0.5 0.2 0.3")
    save_text(tmp_path / "classes.txt", "mask")
    assert len(read_dataset(tmp_path).images) == 2
    close(monkeypatch, tmp_path / "val")
    with pytest.raises(UserError) as raised:
        read_dataset(tmp_path)
    assert str(raised.value) == cannot_be_searched(tmp_path / "val")


def test_folders_of_the_file_system_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_set(tmp_path / "set")
    (root / "lost+found").mkdir()
    close(monkeypatch, root / "lost+found")
    assert len(photos_in(root, recursive=True)) == len(read_dataset(root).images) == 2


def test_a_dataset_is_found_next_to_folders_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    root = write_set(disk / "backup/set")
    closed = (disk / "lost+found", disk / "private", disk / "backup/private")
    for folder in closed:
        folder.mkdir()
    close(monkeypatch, *closed)
    found = find_dataset(disk)
    assert found is not None and found[0] == root
    assert len(read_dataset(disk).images) == 2
    close(monkeypatch, disk / "backup")
    with pytest.raises(UserError, match=r"no annotated dataset; .*found backup/ \(cannot be searched\), lost\+found/"):
        read_dataset(disk)


def test_permissions_of_the_system(tmp_path: Path) -> None:
    root = write_set(tmp_path / "disk/set")
    (tmp_path / "disk/lost+found").mkdir(mode=0)
    (tmp_path / "disk/names only").mkdir()
    save_text(tmp_path / "disk/names only/a.txt", "")
    (tmp_path / "disk/names only").chmod(0o444)
    code = "from common.annotations import read_dataset as read; print(len(read('disk').images))"
    assert unprivileged.run_python("-c", code, cwd=tmp_path).stdout == "2\n"
    for mode in (0, 0o444):
        (root / "images/private").chmod(mode)
        done = unprivileged.run_python("-m", "pipeline.split", "--data", "disk", cwd=tmp_path)
        line = f"error: {cannot_be_searched(Path('disk/set/images/private'))}\n"
        assert (done.returncode, done.stderr) == (1, line)
