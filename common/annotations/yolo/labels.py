"""Pair the images of a YOLO dataset with its label files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from common.annotations.photos import AmbiguousNameError, PhotoIndex, files_in, photos_in
from common.annotations.text import EncodingError, read_text
from common.annotations.yolo.layout import YoloLayout

IMAGE_FOLDERS = ("images", "jpegimages")  # in lower case
LABEL_FOLDERS = ("labels", "Labels")


def label_folders(folder: Path) -> list[Path]:
    """Return where the labels of a folder of images may be, the usual place first."""
    parts = folder.parts
    found = [
        Path(*parts[:i], name, *parts[i + 1 :])
        for i in range(len(parts) - 1, -1, -1)
        if parts[i].lower() in IMAGE_FOLDERS
        for name in LABEL_FOLDERS
    ]
    near = [place for name in LABEL_FOLDERS for place in (folder / name, folder.parent / name / folder.name)]
    return list(dict.fromkeys([*found, folder, *near, *(folder.parent / name for name in LABEL_FOLDERS)]))


def label_file(photo: Path) -> Path | None:
    """Return the .txt file of a photo, if any: in labels/ instead of images/, next to the photo, or in its labels/."""
    forms = dict.fromkeys(unicodedata.normalize(form, photo.stem) for form in ("NFC", "NFD"))
    stems = dict.fromkeys([photo.stem, *forms])
    names = [*(f"{stem}{suffix}" for suffix in (".txt", ".TXT") for stem in stems), f"{photo.name}.txt"]
    for folder in label_folders(photo.parent):
        found = next((folder / name for name in names if os.path.isfile(folder / name)), None)  # noqa: PTH113
        if found is not None:
            return found
    return None


def _label_of(photo: Path) -> Path | None:
    """Return the label file of a photo, or of the photo that it links to."""
    found = label_file(photo)
    if found is None and (real := Path(os.path.realpath(photo))) != photo:
        return label_file(real)
    return found


class Pairing:
    """Pairs the images of a dataset with its label files.

    Attributes:
        labels: the label file of each image.
        lost: label files without an image, and why each is not used.
        orphans: those of them whose image may be in the dataset with another name.
        ambiguous: images that may have one of the `lost` files; they are not used.
    """

    def __init__(self, layout: YoloLayout) -> None:
        self._layout = layout
        self.labels: dict[Path, Path] = {}
        self.lost: dict[Path, str] = {}
        self.orphans: set[Path] = set()
        self.ambiguous: set[Path] = set()
        self.unnamed: Counter[Path] = Counter()  # label files of images that no list names, per folder

    def match(self) -> None:
        """Fill the attributes."""
        owners = defaultdict(list)
        for photo in self._layout.photos:
            if (file := _label_of(photo)) is not None:
                owners[file].append(photo)
        for file, photos in owners.items():
            self._assign(file, photos)
        rest = self._other_labels(owners)
        if not owners and not rest:  # labels in a folder of another name
            base = self._layout.base
            files = (file for file in files_in(base, recursive=True) if file.suffix.lower() == ".txt")
            rest = [file for file in files if file not in self._layout.other_files and _has_rows(file)]
        self._match_by_name(rest)

    def _assign(self, file: Path, photos: list[Path]) -> None:
        """Give a label file to its image; to none of several."""
        if len(photos) == 1:
            self.labels[photos[0]] = file
            return
        names = ", ".join(photo.name if photo.parent == photos[0].parent else str(photo) for photo in photos[:3])
        self.lost[file] = f"fits {len(photos)} images ({names}); not used, keep one of them"
        self.ambiguous.update(photos)

    def _other_labels(self, owners: Iterable[Path]) -> list[Path]:
        """Return the label files without an image; set aside those of images that no list names."""
        photo_folders = list(dict.fromkeys(photo.parent for photo in self._layout.photos))
        places = [place for folder in photo_folders for place in label_folders(folder)]
        places += [self._layout.base / name for name in LABEL_FOLDERS]
        known = {*owners, *self._layout.other_files}
        found: dict[Path, None] = {}
        for place in dict.fromkeys(places):
            is_labels = _folder_index(place, ("labels",)) is not None
            for file in files_in(place, recursive=is_labels):
                if file.suffix.lower() == ".txt" and file not in known and (is_labels or _has_rows(file)):
                    found[file] = None
        photo_folders += [_swap_folder(folder, ("labels",), "images") for folder in {file.parent for file in found}]
        named, labelled = self._layout.photos, {file.parent for file in self.labels.values()}
        unnamed = (p for folder in dict.fromkeys(photo_folders) for p in photos_in(folder) if p not in named)
        for photo in unnamed:
            own = _label_of(photo)
            if own is None or own not in found:
                continue
            del found[own]
            if own.parent in labelled:
                self.lost[own] = "its image is not in the dataset's lists or folders; not used"
            else:
                self.unnamed[own.parent] += 1
        return list(found)

    def _match_by_name(self, files: list[Path]) -> None:
        """Match label files that are in an unusual folder by the names of images without one."""
        base = self._layout.base
        left = [photo for photo in self._layout.photos if photo not in self.labels and photo not in self.ambiguous]
        index = PhotoIndex(left, base)
        owners = defaultdict(list)
        for file in files:
            path = _swap_folder(file, ("labels",), "images")
            name = path.relative_to(base) if path.is_relative_to(base) else path
            try:
                photo = index.find(str(name))
            except AmbiguousNameError as error:
                self.lost[file] = f"{error}; not used"
                stem = unicodedata.normalize("NFC", file.stem)
                self.ambiguous.update(p for p in left if unicodedata.normalize("NFC", p.stem) == stem)
                continue
            if photo is None:
                self.lost[file] = "no image of this name; not used"
                self.orphans.add(file)
            else:
                owners[photo].append(file)
        for photo, own in owners.items():
            if len(own) == 1:
                self.labels[photo] = own[0]
                continue
            self.ambiguous.add(photo)
            for file in own:
                self.lost[file] = f"is one of {len(own)} label files of {photo.name}; not used, remove the others"


def _folder_index(path: Path, names: tuple[str, ...]) -> int | None:
    """Return the index of the innermost part that has one of the names, in capitals or not."""
    return next((i for i in range(len(path.parts) - 1, -1, -1) if path.parts[i].lower() in names), None)


def _swap_folder(path: Path, names: tuple[str, ...], other: str) -> Path:
    """Return a path with another name of its innermost folder that has one of the names."""
    index = _folder_index(path, names)
    return path if index is None else Path(*path.parts[:index], other, *path.parts[index + 1 :])


def _has_rows(file: Path) -> bool:
    """Return whether a text file looks like a label file: a line has a class and four numbers."""
    try:
        lines = read_text(file).splitlines()
    except (EncodingError, OSError):
        return False
    return any(re.fullmatch(r"\s*\S+([\s,;]+[-+.\deE]+){4,}\s*", line) for line in lines[:100])
