"""Datasets with one annotation file per image: find the files and the images of a layout, and match them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from common.annotations.collect import Collector, RawFace, Size
from common.annotations.photos import (
    AmbiguousNameError,
    PhotoIndex,
    entries_in,
    files_in,
    name_parts,
    photos_in,
    split_of_folders,
)
from common.annotations.text import EncodingError
from common.annotations.xml_text import XmlError
from common.paths import IMAGE_SUFFIXES

Parsed = TypeVar("Parsed")

# Folder names in any case; the first that holds annotations is read.
ANNOTATION_FOLDERS = ("annotations", "annotation", "xmls", "xml", "jsons", "json", "labels", "label", "annots", "ann")
IMAGE_FOLDERS = ("images", "image", "jpegimages", "imgs", "img", "photos", "pictures", "frames")
YOLO_FOLDERS = ("labels", "label")  # they are YOLO's where they hold as many .txt files
MAX_LOOKED_AT = 20  # files of a folder that are opened to tell whether they are annotations


@dataclass(frozen=True)
class FileKind:
    """The annotation files of a format."""

    suffix: str  # in lower case
    is_one: Callable[[Path], bool]  # whether a file with this suffix has the format

    def files(self, folder: Path, recursive: bool = False) -> Iterator[Path]:
        """Yield the files with this suffix, in a fixed order."""
        return (file for file in files_in(folder, recursive) if file.suffix.lower() == self.suffix)

    def is_in(self, folder: Path, recursive: bool = False) -> bool:
        """Return whether the folder holds files of the format."""
        return any(map(self.is_one, islice(self.files(folder, recursive), MAX_LOOKED_AT)))


@dataclass(frozen=True)
class Part:
    """A part of a dataset: annotation files, and the images among which theirs are."""

    files: tuple[tuple[Path, str], ...]  # each file, and its name with the folders that images may have, too
    photos: tuple[Path, ...]
    photo_folder: Path  # for messages
    split: str | None


@dataclass(frozen=True)
class RawImage:
    """An image as annotated."""

    name: str  # as the annotation names the image file
    size: Size | None
    faces: Sequence[RawFace]
    refused: Sequence[str] = ()  # one line for each object that gives no box
    fix: str = ""  # what to do where the image file is missing

    @property
    def objects(self) -> int:
        """Return the number of annotated objects."""
        return len(self.faces) + len(self.refused)


def find_parts(root: Path, kind: FileKind) -> list[Part]:
    """Return the parts of a dataset; empty for other datasets.

    They are a folder of annotations and a folder of images, at any depth; or each folder with the name of a split, with
    such folders or with the annotations next to the images; or annotations next to the images in `root`.
    """
    if part := _folders_part(root, kind, None):
        return [part]
    named = [(p, split_of_folders([p.name])) for p in sorted(entries_in(root)) if p.is_dir()]
    inner = [(p, split) for p, split in named if split is not None and p.name[0] != "."]
    parts = [_folders_part(p, kind, split) or _beside_part(p, kind, split) for p, split in inner]
    return [part for part in parts if part is not None] or list(filter(None, [_beside_part(root, kind, None)]))


def _folders_part(folder: Path, kind: FileKind, split: str | None) -> Part | None:
    """Return the part with a folder of annotations, if there is one."""
    annotations = next((p for p in _named(folder, ANNOTATION_FOLDERS) if _holds(p, kind)), None)
    if annotations is None:
        return None
    image_folders, photos = _named(folder, IMAGE_FOLDERS), dataset_photos(folder)
    if not photos and not image_folders:
        return None
    files = [(file, file.relative_to(annotations).as_posix()) for file in kind.files(annotations, recursive=True)]
    return Part(tuple(files), tuple(photos), image_folders[0] if image_folders else folder, split)


def _beside_part(folder: Path, kind: FileKind, split: str | None) -> Part | None:
    """Return the part with annotations next to the images, in a folder or (for a split) in its images/."""
    for place in (folder, *(_named(folder, IMAGE_FOLDERS) if split else ())):
        recursive = place is not folder
        if kind.is_in(place, recursive):
            files = [(file, file.relative_to(place).as_posix()) for file in kind.files(place, recursive)]
            return Part(tuple(files), tuple(photos_in(place, recursive)), place, split)
    return None


def dataset_photos(folder: Path) -> list[Path]:
    """Return the images of a dataset: in images/ or the like, else in `folder`, else in any folder below it."""
    named = [photo for inner in _named(folder, IMAGE_FOLDERS) for photo in photos_in(inner, recursive=True)]
    return named or photos_in(folder) or photos_in(folder, recursive=True)


def listed_photos(folder: Path) -> list[Path]:
    """Return the images that an annotation file of `folder` may list: in images/ or the like, else in any folder."""
    return (_named(folder, IMAGE_FOLDERS) and dataset_photos(folder)) or photos_in(folder, recursive=True)


@dataclass(frozen=True)
class Listing:
    """One annotation file for many images."""

    file: Path
    folder: Path  # the images are in it, at any depth
    split: str | None


def find_listings(root: Path, kind: FileKind) -> list[Listing]:
    """Return the files of a format with one file for many images; empty for other datasets.

    They are in `root`, or in its folder of annotations; else in the folders with the name of a split. `root` may be
    such a file.
    """
    if root.is_file():
        return [Listing(root, root.parent if photos_in(root.parent, True) else root.parent.parent, None)]
    if found := _listings_in(root, _named(root, ANNOTATION_FOLDERS), kind, None):
        return found
    folders = [p for p in sorted(entries_in(root)) if p.is_dir() and p.name[0] != "."]
    splits = ((p, split_of_folders([p.name])) for p in folders)
    return [each for p, split in splits if split is not None for each in _listings_in(p, [], kind, split)]


def _listings_in(folder: Path, inner: Sequence[Path], kind: FileKind, split: str | None) -> list[Listing]:
    """Return the files of a format in a folder, and in some folders in it."""
    files = (file for place in (folder, *inner) if kind.is_in(place) for file in kind.files(place))
    return [Listing(file, folder, split) for file in files if kind.is_one(file)]


def note_unlisted_photos(listed: set[Path], collector: Collector, what: str) -> None:
    """Add a problem for each image that is next to listed ones, and is not listed in `what`."""
    for folder in sorted({photo.parent for photo in listed}):
        for photo in photos_in(folder):
            if photo not in listed:
                collector.add_problem(photo, f"not listed in {what}; not used", "unmatched")


def _named(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the folders in `folder` that have one of the names, in the order of `names`."""
    found = [p for p in sorted(entries_in(folder)) if p.is_dir() and p.name.lower() in names]
    return sorted(found, key=lambda p: names.index(p.name.lower()))


def _holds(folder: Path, kind: FileKind) -> bool:
    """Return whether a folder of annotations holds files of the format, and is not YOLO's labels/."""
    if not kind.is_in(folder, recursive=True):
        return False
    if folder.name.lower() not in YOLO_FOLDERS:
        return True
    rows = sum(file.suffix.lower() == ".txt" and file.name != "classes.txt" for file in files_in(folder, True))
    return rows < sum(1 for _ in kind.files(folder, recursive=True))


def note_unread_files(root: Path, kind: FileKind, parts: Sequence[Part], collector: Collector) -> None:
    """Add a note on the annotation files of the format that belong to no part."""
    used = {file for part in parts for file, _ in part.files}
    others = [file for file in kind.files(root, recursive=True) if file not in used and kind.is_one(file)]
    if others:
        first = others[0].relative_to(root).as_posix()
        what = f"{len(others)} other {kind.suffix} files with annotations, such as {first}, are not read"
        collector.add_note(f"{what}; name their folder to read them")


def match_photo(index: PhotoIndex, file: Path, name: str, named: str, split: str | None) -> Path | None:
    """Return the image of an annotation file, or None.

    Args:
        index: the images of the part.
        file: the annotation file.
        name: the file's name with its folders in the part. The image with that stem is the one.
        named: the image's name as written in the file. It decides where two images have the stem, or no image has.
        split: the part's split.

    Raises:
        AmbiguousNameError: several images fit equally.
    """
    folder, written = Path(name).parent, name_parts(named)
    near = file.parent
    inside = [named, (folder / written[-1]).as_posix()] if written else []
    try:
        if photo := index.find(name, split, near):
            return photo
    except AmbiguousNameError:
        if not inside or (photo := index.find(inside[1], split, near)) is None:
            raise
        return photo
    double = Path(name).with_suffix("").as_posix()  # a.jpg.xml
    candidates = [*([double] if Path(double).suffix.lower() in IMAGE_SUFFIXES else []), *inside]
    for candidate in (*candidates, *map(unquote, (*candidates, name))):
        if photo := index.find(candidate, split, near):
            return photo
    return None


def read_parts(
    root: Path, parts: Sequence[Part], collector: Collector, parse: Callable[[Path], RawImage | None]
) -> list[tuple[Path, Path, RawImage, str | None]]:
    """Return (image, annotation file, content, split) for each annotation file whose image was found.

    What has no counterpart is a problem: files without an image, and images without a file, which are not used.

    Args:
        root: the dataset's folder.
        parts: its parts.
        collector: gets the problems.
        parse: returns a file's content, or None after a problem.
    """
    found: list[tuple[Path, Path, RawImage, str | None]] = []
    for part in parts:
        index = PhotoIndex(part.photos, root)
        claimed: set[Path | None] = set()
        for file, name in part.files:
            content = parse(file)
            try:
                photo = match_photo(index, file, name, content.name if content else "", part.split)
            except AmbiguousNameError as error:
                if content is not None:
                    collector.add_problem(file, f"{error}; not used", objects=content.objects)
                continue
            claimed.add(photo)  # also that of a broken file: one problem is enough
            if content is None:
                continue
            if photo is None:
                what = f"no image {file.stem}.* in {part.photo_folder}; not used"
                what = f"{what}, {content.fix}" if content.fix else what
                collector.add_problem(file, what, "unmatched", content.objects)
                continue
            inner = photo.relative_to(root).parts[:-1] if photo.is_relative_to(root) else ()
            found.append((photo, file, content, part.split or split_of_folders(inner)))
        for photo in part.photos:
            if photo not in claimed:
                collector.add_problem(photo, "no annotation; not used", "unmatched")
    # Of two files for an image, the one with its stem is read first: the other may be a copy with an old <filename>.
    return sorted(found, key=lambda each: name_parts(each[0].stem) != name_parts(each[1].stem))


def parse_or_report(file: Path, collector: Collector, parse: Callable[[Path], Parsed]) -> Parsed | None:
    """Return what `parse` makes of a file, or None after a problem with the whole file."""
    kind = file.suffix.upper().removeprefix(".")  # such as JSON
    try:
        return parse(file)
    except OSError as error:
        what = f"cannot be read ({error.strerror}); not used, check its permissions"
    except EncodingError as error:
        what = f"{error}; not used"
    except XmlError as error:
        what = f"{error}; not used, export it again"
    except (ValueError, RecursionError) as error:
        what = f"malformed {kind} ({error}); not used, export it again"
    collector.add_problem(file, what)
    return None


def add_image(
    collector: Collector, photo: Path, file: Path, content: RawImage, split: str | None, complete: bool = True
) -> None:
    """Add an image and its faces; the objects without a box are problems, and leave the image incomplete."""
    for what in content.refused:
        collector.add_problem(file, f"{what}; left out", objects=1)
    collector.add(photo, file, content.faces, content.size, split, complete and not content.refused)
