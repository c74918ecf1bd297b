"""Find the image files of a dataset, match names with them, and read upright sizes without decoding pixels."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from common.display import display_name
from common.errors import MediaError, UserError
from common.images import TRANSPOSED, open_image_file, open_undecoded, orientation_of
from common.paths import IMAGE_SUFFIXES

# Folder names that mean a split; Roboflow uses "valid".
SPLIT_FOLDERS = {
    **{"train": "train", "training": "train", "valid": "val", "val": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
# Folders of macOS's archives and of file systems: no dataset is in them, and few users may read the last two.
SYSTEM_FOLDERS = ("__MACOSX", "lost+found", "System Volume Information")
MAX_NAMED = 3  # candidates in a message
_Candidate = tuple[Path, tuple[str, ...]]  # an image, and the parts of its path


class AmbiguousNameError(ValueError):
    """A name that fits several images; the message names them."""

    def __init__(self, message: str, candidates: Sequence[Path] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


def split_of_name(name: str) -> str | None:
    """Return the split that a file or folder name means, such as "train2017" or "instances_val", or None."""
    words = re.findall("[a-z]+", name.lower())
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), None)


def split_of_folders(folders: Sequence[str]) -> str | None:
    """Return the split of the innermost folder whose name is that of a split ("train", "val2017"), or None."""
    for folder in reversed(folders):
        if found := SPLIT_FOLDERS.get(re.sub(r"[-_ ]?\d*$", "", folder.lower())):
            return found
    return None


def _unsearchable(error: OSError) -> UserError:
    what = f"cannot be searched ({error.strerror}); allow reading it, or move it out of the dataset"
    return UserError(f"{display_name(error.filename)}: {what}")


def _refuse_unsearchable(error: OSError) -> None:
    """Raise UserError for a folder that cannot be listed: without its files, photos or labels would be missing."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise _unsearchable(error) from error


def _leave_out(_: OSError) -> None:
    """Take a folder that cannot be listed as empty."""


def entries_in(folder: Path) -> list[Path]:
    """Return the files and folders of a folder, in any order; raise UserError when its permissions forbid it."""
    try:
        return list(folder.iterdir())
    except PermissionError as error:
        raise _unsearchable(error) from error


def is_searchable(folder: Path) -> bool:
    """Return whether the permissions of a folder allow listing it and opening its files."""
    try:
        os.scandir(folder).close()
    except PermissionError:
        return False
    return _can_open_files(folder)


def _can_open_files(folder: Path | str) -> bool:
    """Return whether the files of a folder can be opened: some folders can only be listed."""
    return os.path.exists(f"{folder}/.")  # noqa: PTH110 (a Path has no dot at its end)


def files_in(folder: Path, recursive: bool = False, skip_unsearchable: bool = False) -> Iterator[Path]:
    """Yield the files of a folder in a fixed order; a missing folder has none.

    Hidden files and those in SYSTEM_FOLDERS are left out.
    Links to folders are followed, and each real folder is visited once: links may form a circle.

    Args:
        folder: where.
        recursive: also the files of the folders in it, in any depth.
        skip_unsearchable: leave out folders that cannot be listed. Use it only where no data is read.

    Raises:
        UserError: a folder cannot be listed.
    """
    seen = set()
    report: Callable[[OSError], None] = _leave_out if skip_unsearchable else _refuse_unsearchable
    for name, folders, files in os.walk(folder, followlinks=True, onerror=report):
        if files and not _can_open_files(name):
            report(PermissionError(errno.EACCES, os.strerror(errno.EACCES), name))
            folders.clear()
            continue
        real = os.path.realpath(name)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        here = Path(name)
        yield from (here / file for file in sorted(files) if file[0] != "." and (here / file).is_file())
        if not recursive:
            return
        folders[:] = sorted(inner for inner in folders if inner[0] != "." and inner not in SYSTEM_FOLDERS)


def photos_in(folder: Path, recursive: bool = False, skip_unsearchable: bool = False) -> list[Path]:
    """Return the sorted image files of a folder; arguments and errors as of `files_in`."""
    return sorted(p for p in files_in(folder, recursive, skip_unsearchable) if p.suffix.lower() in IMAGE_SUFFIXES)


def name_parts(name: str | Path) -> tuple[str, ...]:
    """Return the folders and the file name of a path as an annotation has it.

    Windows paths and those of other machines are read. Drives, "." and ".." are left out. Names are in Unicode's NFC:
    macOS writes "é" as two characters.
    """
    text = unicodedata.normalize("NFC", os.fspath(name)).replace("\\", "/")
    parts = re.sub("^(file://|[a-zA-Z]:)", "", text).split("/")
    return tuple(part for part in (p.strip() for p in parts) if part not in ("", ".", ".."))


class PhotoIndex:
    """The image files of a dataset, found by the names that annotations give.

    A name finds an image exactly or not at all. Candidates have the same file name in NFC, else the same stem with
    another suffix. When the name has folders, and the dataset has a folder of that name, only images in it count. Of
    the candidates, the one with the longest equal end of the path wins.
    """

    def __init__(self, photos: Iterable[Path], root: Path) -> None:
        """Index `photos`; folders below `root` count, those above it do not."""
        self._root = root
        self._by_stem: dict[str, list[_Candidate]] = {}
        self._folders: set[tuple[str, ...]] = set()
        self._ends: dict[tuple[str, ...], tuple[str, ...]] = {}
        for photo in photos:
            parts = self._parts(photo)
            self._by_stem.setdefault(Path(parts[-1]).stem, []).append((photo, parts))
            self._folders.add(parts[:-1])

    def _parts(self, path: Path) -> tuple[str, ...]:
        return name_parts(path.relative_to(self._root) if path.is_relative_to(self._root) else path)

    def find(self, name: str, split: str | None = None, near: Path | None = None) -> Path | None:
        """Return the image of a name, or None.

        Args:
            name: a path as the annotation has it, with or without folders and suffix.
            split: the split of the annotation file; images in the folder of another split do not count.
            near: the annotation's folder; of candidates that are equal otherwise, the nearest one is taken.

        Raises:
            AmbiguousNameError: several images fit equally.
        """
        wanted = name_parts(name)
        if not wanted:
            return None
        folders, known = wanted[:-1], self._known_end(wanted[:-1])
        split = split_of_folders(folders) or split
        found = [
            candidate
            for candidate in self._same_stem(wanted[-1])
            if _contains(candidate[1][:-1], known)
            and (split is None or split_of_folders(candidate[1][:-1]) in (None, split))
        ]
        found = _best(found, lambda parts: parts[-1] == wanted[-1])
        found = _best(found, lambda parts: equal_end(parts[:-1], folders))
        found = _best(found, lambda parts: split is not None and split_of_folders(parts[:-1]) == split)
        if near is not None:
            here = self._parts(near)
            found = _best(found, lambda parts: _equal_start(parts[:-1], here))
        if len(found) > 1:
            names = ", ".join("/".join(parts[-2:]) for _, parts in found[:MAX_NAMED])
            what = f"{name!r} fits {len(found)} images ({names}); give its folder in the annotation"
            raise AmbiguousNameError(what, [photo for photo, _ in found])
        return found[0][0] if found else None

    def _same_stem(self, file_name: str) -> list[_Candidate]:
        """Return the images with the stem of a file name; else those whose stem is the whole name."""
        return self._by_stem.get(Path(file_name).stem, []) or self._by_stem.get(file_name, [])

    def _known_end(self, folders: tuple[str, ...]) -> tuple[str, ...]:
        """Return the longest end of `folders` that is the path of folders in the dataset, in any depth."""
        if folders not in self._ends:
            ends = (folders[start:] for start in range(len(folders)))
            known = (end for end in ends if any(_contains(folder, end) for folder in self._folders))
            self._ends[folders] = next(known, ())
        return self._ends[folders]


def _best(found: list[_Candidate], score: Callable[[tuple[str, ...]], int]) -> list[_Candidate]:
    """Return the candidates whose parts have the highest score."""
    highest = max((score(parts) for _, parts in found), default=0)
    return [candidate for candidate in found if score(candidate[1]) == highest]


def _contains(folders: tuple[str, ...], run: tuple[str, ...]) -> bool:
    """Return whether `run` is a part of `folders` without gaps."""
    return any(folders[i : i + len(run)] == run for i in range(len(folders) - len(run) + 1))


def _equal_start(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Return how many parts are equal from the start on."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def equal_end(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Return how many parts are equal from the end on."""
    return _equal_start(a[::-1], b[::-1])


class HeaderSize(NamedTuple):
    """What the header of an image file says; the sizes differ when the EXIF tag turns the photo by 90 degrees."""

    stored: tuple[int, int]  # (width, height)
    upright: tuple[int, int]
    orientation: int  # the EXIF tag, 1 to 8; 1: stored upright


def header_size(path: Path) -> HeaderSize:
    """Return the sizes and the EXIF orientation of an image file.

    Raises MediaError as `read_image` does, without a check of the pixels.
    """
    with open_image_file(path) as file, open_undecoded(file, path) as image:
        size = image.size
        # Pillow would decode a PNG to find a late tag.
        orientation = orientation_of(image) if image.format != "PNG" or "exif" in image.info else 1
        upright_tiff = image.format == "TIFF"  # Pillow gives TIFF sizes upright
    if min(size) < 1:
        raise MediaError(path, f"has the size {size[0]}x{size[1]}; copy or download it again")
    turned = size[::-1] if orientation in TRANSPOSED else size
    return HeaderSize(turned, size, orientation) if upright_tiff else HeaderSize(size, turned, orientation)
