"""Pictures in files, folders and patterns are found once, in a fixed order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.paths import find_images


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "photos/a10.jpg", "photos/a2.JPG", "photos/notes.txt", "photos/.hidden.jpg", "photos/.cache/x.jpg",
        "photos/sub/b.png", "photos/sub/phone.heic", "photos/out/a2.JPG", "empty/readme.md", "odd[1].jpg",
    ):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def find(*paths: str | Path, skip: str | None = None) -> list[tuple[str, str]]:
    """Return (path, relative) of the pictures, which must be found without errors."""
    found, errors = find_images(paths, skip)
    assert errors == []
    return [(image.path, image.relative) for image in found]


def test_a_folder_is_searched_with_subfolders_in_natural_order(tree: Path) -> None:
    assert find("./photos", skip="photos/out") == [
        ("./photos/a2.JPG", "a2.JPG"),
        ("./photos/a10.jpg", "a10.jpg"),
        ("./photos/sub/b.png", "sub/b.png"),
        ("./photos/sub/phone.heic", "sub/phone.heic"),
    ]


def test_files_keep_their_order_and_any_suffix(tree: Path) -> None:
    assert find("photos/notes.txt", "photos/.hidden.jpg", tree / "odd[1].jpg") == [
        ("photos/notes.txt", "notes.txt"),
        ("photos/.hidden.jpg", ".hidden.jpg"),
        (f"{tree}/odd[1].jpg", "odd[1].jpg"),
    ]


def test_patterns_are_expanded_and_keep_folders(tree: Path) -> None:
    assert find("photos/a*") == [("photos/a2.JPG", "a2.JPG"), ("photos/a10.jpg", "a10.jpg")]
    assert find("photos/**/*.png") == [("photos/sub/b.png", "sub/b.png")]
    assert find("pho*/a10.jpg") == [("photos/a10.jpg", "photos/a10.jpg")]
    assert [path for path, _ in find("photos/*", skip="photos/out")] == [
        "photos/a2.JPG", "photos/a10.jpg", "photos/sub/b.png", "photos/sub/phone.heic",
    ]  # fmt: skip


def test_no_picture_is_found_twice(tree: Path) -> None:
    found = find("photos/a2.JPG", "photos", "./photos/sub", "photos/sub/../a10.jpg", skip="photos/out")
    assert [path for path, _ in found] == [
        "photos/a2.JPG", "photos/a10.jpg", "photos/sub/b.png", "photos/sub/phone.heic",
    ]  # fmt: skip


def test_the_skipped_folder_is_searched_when_given_by_name(tree: Path) -> None:
    assert find("photos/out", skip="photos/out") == [("photos/out/a2.JPG", "a2.JPG")]


def test_paths_without_pictures_are_reported(tree: Path) -> None:
    found, errors = find_images(["missing.jpg", "empty", "photos/z*.jpg", "photos/sub/b.png"])
    assert [image.path for image in found] == ["photos/sub/b.png"]
    assert [str(error) for error in errors] == [
        "missing.jpg: not found; check the name",
        "empty: holds no pictures; name a folder that does",
        "photos/z*.jpg: matches no pictures; check the pattern",
    ]


def test_links_to_folders_are_followed_once(tree: Path) -> None:
    (tree / "photos/sub/loop").symlink_to(tree / "photos")
    (tree / "elsewhere").mkdir()
    (tree / "elsewhere/c.jpg").touch()
    (tree / "photos/sub/link").symlink_to(tree / "elsewhere")
    assert [relative for _, relative in find("photos", skip="photos/out")] == [
        "a2.JPG", "a10.jpg", "sub/b.png", "sub/link/c.jpg", "sub/phone.heic",
    ]  # fmt: skip


def test_a_name_that_is_not_utf8_is_found(tree: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (tree / "empty" / name).touch()
    assert find("empty") == [(f"empty/{name}", name)]
