"""Find the image files of a dataset and their upright sizes, without decoding pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.errors import MediaError
from common.images import open_image_file, open_undecoded, orientation_of
from common.paths import DATASET_IMAGE_SUFFIXES

# Folder names that mean a split; Roboflow uses "valid".
SPLIT_FOLDERS = {"train": "train", "valid": "val", "val": "val", "test": "test"}


def photos_in(folder: Path, recursive: bool = False) -> list[Path]:
    """Return the sorted image files of a folder, without hidden files; a missing folder has none."""
    if not folder.is_dir():
        return []
    entries = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(p for p in entries if p.suffix.lower() in DATASET_IMAGE_SUFFIXES and p.name[0] != "." and p.is_file())


def split_folders(root: Path) -> list[tuple[Path, str]]:
    """Return (folder, split) for each subfolder of `root` that has the name of a split."""
    found = [
        (p, SPLIT_FOLDERS[p.name.lower()]) for p in root.iterdir() if p.is_dir() and p.name.lower() in SPLIT_FOLDERS
    ]
    return sorted(found)


class PhotoIndex:
    """Image files by stem, so that an annotation finds its image with another extension."""

    def __init__(self, photos: Iterable[Path]) -> None:
        self._by_stem: dict[str, list[Path]] = {}
        for photo in photos:
            self._by_stem.setdefault(photo.stem, []).append(photo)

    def find(self, name: str) -> Path | None:
        """Return the image with this name, else the first image (by name) with its stem, else None."""
        wanted = Path(name.replace("\\", "/"))
        same_stem = self._by_stem.get(wanted.stem, [])
        for photo in same_stem:
            if photo.name == wanted.name:
                return photo
        return same_stem[0] if same_stem else None


def header_size(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (width, height) as stored, and upright: they differ when the EXIF tag turns the photo by 90 degrees.

    Raises MediaError as `read_image` does, without a check of the pixels.
    """
    with open_image_file(path) as file, open_undecoded(file, path) as image:
        stored = image.size
        # Pillow gives TIFF sizes upright, and would decode a PNG to find a late tag.
        tagged = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        orientation = orientation_of(image) if tagged else 1
    if min(stored) < 1:
        raise MediaError(path, f"has the size {stored[0]}x{stored[1]}; copy or download it again")
    turned = orientation in (5, 6, 7, 8)
    return stored, (stored[1], stored[0]) if turned else stored
