"""Find the image files of a dataset and their upright sizes, without decoding pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def annotated_folders(root: Path, is_annotated: Callable[[Path], bool]) -> list[tuple[Path, str | None]]:
    """Return (folder, split) for each annotated folder with the name of a split; without any, `root` if annotated."""
    named = [(p, SPLIT_FOLDERS.get(p.name.lower())) for p in sorted(root.iterdir()) if p.is_dir()]
    found: list[tuple[Path, str | None]] = [(p, split) for p, split in named if split and is_annotated(p)]
    return found or ([(root, None)] if is_annotated(root) else [])


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
        return next((photo for photo in same_stem if photo.name == wanted.name), next(iter(same_stem), None))


def header_size(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (width, height) as stored, and upright: they differ when the EXIF tag turns the photo by 90 degrees.

    Raises MediaError as `read_image` does, without a check of the pixels.
    """
    with open_image_file(path) as file, open_undecoded(file, path) as image:
        stored = image.size
        # Pillow gives TIFF sizes upright, and would decode a PNG to find a late tag.
        tagged = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        turned = tagged and orientation_of(image) in (5, 6, 7, 8)
    if min(stored) < 1:
        raise MediaError(path, f"has the size {stored[0]}x{stored[1]}; copy or download it again")
    return stored, (stored[1], stored[0]) if turned else stored
