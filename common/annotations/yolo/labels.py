"""Pair the images of a YOLO dataset with its label files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.annotations.photos import AmbiguousNameError, PhotoIndex, files_in, photos_in
from common.annotations.types import ProblemKind
from common.annotations.yolo.layout import YoloLayout, has_rows

IMAGE_FOLDERS = ("images", "jpegimages")  # in lower case
OTHER_TEXTS = r"(\w*classes|readme.*|notes)\.txt"  # names of text files that are no labels
LABEL_FOLDERS = ("labels", "Labels", "LABELS")


def label_folders(folder: Path) -> list[Path]:
    """Return where the labels of a folder of images may be, the usual place first."""
    index = _folder_index(folder, IMAGE_FOLDERS)
    usual = [] if index is None else [_with_part(folder, index, name) for name in LABEL_FOLDERS]
    return [*usual, folder, *(folder / name for name in LABEL_FOLDERS)]


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


@dataclass(frozen=True)
class LostFile:
    """Why a label file is not used."""

    reason: str
    kind: ProblemKind = "refused"
    is_orphan: bool = False  # its image may be in the dataset with another name


class Pairing:
    """Pairs the images of a dataset with its label files.

    Attributes:
        labels: the label file of each image.
        lost: label files that have no image, or several.
        ambiguous: images that may have one of the `lost` files; they are not used.
        unnamed: per folder, the number of label files of images that the dataset does not name.
    """

    def __init__(self, layout: YoloLayout) -> None:
        self._layout = layout
        self.labels: dict[Path, Path] = {}
        self.lost: dict[Path, LostFile] = {}
        self.ambiguous: set[Path] = set()
        self.unnamed: Counter[Path] = Counter()

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
            files = filter(_may_be_label, files_in(base, recursive=True))
            rest = [file for file in files if file not in self._layout.other_files and has_rows(file)]
        self._match_by_name(rest)

    def _assign(self, file: Path, photos: list[Path]) -> None:
        """Give a label file to its image; to none of several."""
        if len(photos) == 1:
            self.labels[photos[0]] = file
            return
        names = ", ".join(photo.name if photo.parent == photos[0].parent else str(photo) for photo in photos[:3])
        self.lost[file] = LostFile(f"fits {len(photos)} images ({names}); not used, keep one of them")
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
                if file not in known and _may_be_label(file) and (is_labels or has_rows(file)):
                    found[file] = None
        photo_folders += [_image_path(folder) for folder in {file.parent for file in found}]
        named, labelled = self._layout.photos, {file.parent for file in self.labels.values()}
        unnamed = (p for folder in dict.fromkeys(photo_folders) for p in photos_in(folder) if p not in named)
        for photo in unnamed:
            own = _label_of(photo)
            if own is None or own not in found:
                continue
            del found[own]
            if own.parent in labelled:
                what = "its image is not in the dataset's lists or folders; not used"
                self.lost[own] = LostFile(what, "unmatched")
            else:
                self.unnamed[own.parent] += 1
        return list(found)

    def _match_by_name(self, files: list[Path]) -> None:
        """Match label files that are in an unusual folder by the names of images without one."""
        base = self._layout.base
        left = {photo for photo in self._layout.photos if photo not in self.labels and photo not in self.ambiguous}
        index = PhotoIndex(self._layout.photos, base)
        owners = defaultdict(list)
        for file in files:
            path = _image_path(file)
            try:
                photo = index.find(str(path.relative_to(base) if path.is_relative_to(base) else path))
            except AmbiguousNameError as error:
                self.lost[file] = LostFile(f"{error}; not used")
                stem = unicodedata.normalize("NFC", file.stem)
                self.ambiguous.update(p for p in left if unicodedata.normalize("NFC", p.stem) == stem)
                continue
            if photo is None:
                self.lost[file] = LostFile("no image of this name; not used", "unmatched", is_orphan=True)
            elif photo not in left:
                self.lost[file] = LostFile(f"{photo.name} has another label file; not used", "unmatched")
            else:
                owners[photo].append(file)
        for photo, own in owners.items():
            if len(own) == 1:
                self.labels[photo] = own[0]
                continue
            self.ambiguous.add(photo)
            for file in own:
                what = f"is one of {len(own)} label files of {photo.name}; not used, remove the others"
                self.lost[file] = LostFile(what)


def _folder_index(path: Path, names: tuple[str, ...]) -> int | None:
    """Return the index of the innermost part that has one of the names, in capitals or not."""
    return next((i for i in range(len(path.parts) - 1, -1, -1) if path.parts[i].lower() in names), None)


def _with_part(path: Path, index: int, name: str) -> Path:
    """Return a path with another name of the part at `index`."""
    return Path(*path.parts[:index], name, *path.parts[index + 1 :])


def _image_path(path: Path) -> Path:
    """Return a path with images/ instead of its innermost labels/."""
    index = _folder_index(path, ("labels",))
    return path if index is None else _with_part(path, index, "images")


def _may_be_label(file: Path) -> bool:
    """Return whether the name of a file can be that of a label file."""
    return file.suffix.lower() == ".txt" and re.match(OTHER_TEXTS, file.name.lower()) is None
