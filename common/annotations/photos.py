"""Finds the image files of a dataset and their upright sizes, without decoding a pixel."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.errors import MediaError
from common.images import opened, orientation_of, recognised

PHOTO_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})

# Folder names that stand for a split; Roboflow says "valid".
SPLIT_FOLDERS = {"train": "train", "valid": "val", "val": "val", "test": "test"}


def photos_in(folder: Path, recursive: bool = False) -> list[Path]:
    """The image files of a folder, sorted; hidden files and a missing folder count as nothing."""
    if not folder.is_dir():
        return []
    entries = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(p for p in entries if p.suffix.lower() in PHOTO_SUFFIXES and p.name[0] != "." and p.is_file())


def split_folders(root: Path) -> list[tuple[Path, str]]:
    """(folder, split) for each subfolder of `root` that is named after a split."""
    found = [
        (p, SPLIT_FOLDERS[p.name.lower()]) for p in root.iterdir() if p.is_dir() and p.name.lower() in SPLIT_FOLDERS
    ]
    return sorted(found)


class PhotoIndex:
    """Image files by stem, so that an annotation finds its image though the extension differs."""

    def __init__(self, photos: Iterable[Path]) -> None:
        self._by_stem: dict[str, list[Path]] = {}
        for photo in photos:
            self._by_stem.setdefault(photo.stem, []).append(photo)

    def find(self, name: str) -> Path | None:
        """The image called `name`; failing that, the first (by name) with its stem; else None."""
        wanted = Path(name.replace("\\", "/"))
        same_stem = self._by_stem.get(wanted.stem, [])
        for photo in same_stem:
            if photo.name == wanted.name:
                return photo
        return same_stem[0] if same_stem else None


def header_size(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) as stored, and upright: the two differ when the EXIF tag turns the photo by 90 degrees.

    Raises MediaError, as `read_image` does, when the file is no readable picture or too large to be decoded safely.
    """
    with opened(path) as file, recognised(file, path) as image:
        stored = image.size
        # Pillow gives TIFF sizes upright already, and would decode a PNG to look for a late tag.
        tagged = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        orientation = orientation_of(image) if tagged else 1
    if min(stored) < 1:
        raise MediaError(path, f"has the size {stored[0]}x{stored[1]}; copy or download it again")
    turned = orientation in (5, 6, 7, 8)
    return stored, (stored[1], stored[0]) if turned else stored
