"""Finds the picture files that paths, folders and glob patterns name, and tells videos from them."""

# os.path, not pathlib, which would rewrite the names ("./a.jpg" to "a.jpg"): results carry them as given.
# ruff: noqa: PTH112, PTH118, PTH119, PTH120, PTH122, PTH207

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import MediaError

# What a folder is searched for. HEIC cannot be read, but a phone's photos must be named, not passed over.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".heic", ".heif", ".tif"}
    | {".tiff", ".bmp", ".dib", ".gif", ".jp2", ".j2k", ".jpx", ".qoi", ".ppm", ".pgm", ".pbm", ".pnm"}
)
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"}
    | {".3gp", ".ogv", ".mjpeg", ".mjpg", ".asf", ".vob", ".mxf", ".h264", ".264", ".hevc", ".h265"}
)


def is_address(path: str | Path) -> bool:
    """Whether a name is a network address (scheme://...), not a file's."""
    return re.match(r"[a-z][a-z0-9+.-]+://", os.fspath(path), re.IGNORECASE) is not None


def is_video(path: str | Path) -> bool:
    """Whether a name is a video file's or a network stream's rather than a picture's or a folder's."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    return is_address(path) or (suffix in VIDEO_SUFFIXES and not os.path.isdir(path))


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A picture file. path: as given or found. relative: its name below the folder searched, with "/"."""

    path: str
    relative: str


def find_images(
    paths: Sequence[str | Path], skip: str | Path | None = None
) -> tuple[list[FoundImage], list[MediaError]]:
    """The pictures that files, folders (searched to the bottom) and glob patterns name.

    Files stay in the order given and are taken whatever their suffix; what a folder or pattern holds is taken
    by suffix, in natural order (2 before 10), hidden files left out. Nothing is named twice. What lies in the
    folder `skip` is left out when found, not when given by name.

    Returns the pictures, and an error for each path that does not exist, cannot be searched or holds none.
    """
    skipped = os.path.realpath(skip) if skip is not None else None
    found: dict[str, FoundImage] = {}
    errors: list[MediaError] = []
    for path in (os.fspath(p) for p in paths):
        if os.path.isdir(path):
            names = sorted(_walk(path, skipped, errors), key=_natural)
            here = [FoundImage(os.path.join(path, name), name.replace(os.sep, "/")) for name in names]
            nothing = "holds no pictures; name a folder that does"
        elif glob.has_magic(path) and not os.path.lexists(path):
            here = _expand(path, skipped, errors)
            nothing = "matches no pictures; check the pattern"
        elif os.path.lexists(path):
            here = [FoundImage(path, os.path.basename(path))]
        else:
            here, nothing = [], "not found; check the name"
        if not here:
            errors.append(MediaError(path, nothing))
        for image in here:
            found.setdefault(location(image.path), image)
    return list(found.values()), errors


def location(path: str | Path) -> str:
    """The one absolute name of a file, links in its folder resolved, the file itself not."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _walk(root: str, skipped: str | None, errors: list[MediaError]) -> Iterator[str]:
    """Names of pictures relative to `root`; links to folders are followed, each real folder once."""

    def report(error: OSError) -> None:
        errors.append(MediaError(error.filename or root, f"cannot be searched ({error.strerror})"))

    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=report):
        real = os.path.realpath(folder)
        if real in seen or (real == skipped and folder != root):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if _is_picture(name):
                yield os.path.relpath(os.path.join(folder, name), root)


def _expand(pattern: str, skipped: str | None, errors: list[MediaError]) -> list[FoundImage]:
    """What a glob pattern matches; names are relative to the folder before the first wildcard."""
    base = pattern
    while glob.has_magic(base):
        base = os.path.dirname(base)
    paths: list[str] = []
    for match in glob.glob(pattern, recursive=True):
        if _within(match, skipped):
            continue
        if os.path.isdir(match):
            paths += [os.path.join(match, name) for name in _walk(match, skipped, errors)]
        elif _is_picture(os.path.basename(match)):
            paths.append(match)
    names = {path: os.path.relpath(path, base or os.curdir) for path in paths}
    return [FoundImage(path, names[path].replace(os.sep, "/")) for path in sorted(names, key=_natural)]


def _within(path: str, folder: str | None) -> bool:
    real = os.path.realpath(path)
    return folder is not None and (real == folder or real.startswith(folder + os.sep))


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _natural(path: str) -> tuple[str, str]:
    """A key that sorts by folder, then name, numbers by their value; one string, for there may be millions."""

    def number(digits: re.Match[str]) -> str:
        value = digits[0].lstrip("0")
        return f"\1{len(value):04}{value}"  # by its length first; \1 is before all that a name holds

    return re.sub("[0-9]+", number, path.casefold()).replace(os.sep, "\0"), path
