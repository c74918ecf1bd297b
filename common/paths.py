"""Find the picture and video files that paths, folders and glob patterns name."""

# os.path, not pathlib: results have the names as given, and pathlib would change "./a.jpg" to "a.jpg".
# ruff: noqa: PTH112, PTH118, PTH119, PTH120, PTH122, PTH207

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import MediaError

# Pictures in a folder of photos or in a dataset. HEIC cannot be read, but must be reported.
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
    | {".jpe", ".jfif", ".mpo", ".apng", ".avif", ".heic", ".heif", ".dib", ".gif", ".jp2", ".j2k", ".jpx", ".qoi"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"}
    | {".3gp", ".3g2", ".ogv", ".mjpeg", ".mjpg", ".asf", ".vob", ".mxf", ".h264", ".264", ".hevc", ".h265"}
)


def is_address(path: str | Path) -> bool:
    """Return whether a name is a network address (scheme://...)."""
    return re.match(r"[a-z][a-z0-9+.-]+://", os.fspath(path), re.IGNORECASE) is not None


def is_video(path: str | Path) -> bool:
    """Return whether a name is that of a video file or a network stream."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    return is_address(path) or (suffix in VIDEO_SUFFIXES and not os.path.isdir(path))


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A picture or video file."""

    path: str  # as given or found
    relative: str  # the path below the searched folder, with "/"


@dataclass(frozen=True)
class FoundMedia:
    """What paths, folders and patterns name."""

    images: list[FoundImage]
    videos: list[FoundImage]  # with the addresses of streams
    errors: list[MediaError]  # of paths that do not exist, cannot be searched or hold nothing


def find_images(
    paths: Sequence[str | Path], skip: str | Path | None = None
) -> tuple[list[FoundImage], list[MediaError]]:
    """Find the pictures that files, folders (with subfolders) and glob patterns name; each picture once.

    Args:
        paths: files are used in this order and with any suffix. The files of a folder or pattern are chosen by suffix,
            without hidden files, in natural order (2 before 10).
        skip: a folder whose files are used only when given by name.

    Returns:
        The pictures, and an error for each path that does not exist, cannot be searched or holds no picture.
    """
    return _find(paths, skip, _is_picture)


def find_media(paths: Sequence[str | Path], skip: str | Path | None = None) -> FoundMedia:
    """Find pictures and videos as `find_images` does; a file is a video by its suffix, an address always."""
    names = [os.fspath(path) for path in paths]
    videos = [name for name in names if is_video(name) and not _is_pattern(name)]
    chosen = set(videos)
    others = [name for name in names if name not in chosen]
    found, errors = _find(others, skip, lambda name: _is_picture(name) or _has_suffix(name, VIDEO_SUFFIXES))
    named: dict[str, str] = {}
    for video in videos:
        named.setdefault(video if is_address(video) else canonical_path(video), video)
    return FoundMedia(
        [each for each in found if not is_video(each.path)],
        [FoundImage(video, os.path.basename(video)) for video in named.values()]
        + [each for each in found if is_video(each.path) and canonical_path(each.path) not in named],
        errors,
    )


def _find(
    paths: Sequence[str | Path], skip: str | Path | None, wanted: Callable[[str], bool]
) -> tuple[list[FoundImage], list[MediaError]]:
    """Find files as `find_images` does; `wanted` chooses the files of folders and patterns by name."""
    skipped = os.path.realpath(skip) if skip is not None else None
    found: dict[str, FoundImage] = {}
    errors: list[MediaError] = []
    for path in (os.fspath(p) for p in paths):
        if os.path.isdir(path):
            names = sorted(_walk(path, skipped, errors, wanted), key=_natural)
            here = [FoundImage(os.path.join(path, name), name.replace(os.sep, "/")) for name in names]
            nothing = "holds no pictures; name a folder that does"
        elif _is_pattern(path):
            here = _expand(path, skipped, errors, wanted)
            nothing = "matches no pictures; check the pattern"
        elif os.path.lexists(path):
            here = [FoundImage(path, os.path.basename(path))]
        else:
            here, nothing = [], "not found; check the name"
        if not here:
            errors.append(MediaError(path, nothing))
        for image in here:
            found.setdefault(canonical_path(image.path), image)
    return list(found.values()), errors


def _is_pattern(path: str) -> bool:
    return glob.has_magic(path) and not os.path.lexists(path) and not is_address(path)


def canonical_path(path: str | Path) -> str:
    """Return a file's absolute path with the links of its folder resolved, but not the file itself."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def compared_names(path: str | Path) -> set[str]:
    """Return the names by which files are compared: of a link and of its target, as many file systems ignore case."""
    return {name.casefold() for name in (canonical_path(path), os.path.realpath(path))}


def _walk(root: str, skipped: str | None, errors: list[MediaError], wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield files relative to `root`; follow links to folders, but search each real folder once."""

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
        yield from (os.path.relpath(os.path.join(folder, name), root) for name in files if wanted(name))


def _expand(
    pattern: str, skipped: str | None, errors: list[MediaError], wanted: Callable[[str], bool]
) -> list[FoundImage]:
    """Return the matches of a glob pattern, relative to the folder before the first wildcard."""
    base = pattern
    while glob.has_magic(base):
        base = os.path.dirname(base)
    paths: list[str] = []
    for match in glob.glob(pattern, recursive=True):
        if skipped is not None and f"{os.path.realpath(match)}{os.sep}".startswith(f"{skipped}{os.sep}"):
            continue
        if os.path.isdir(match):
            paths += [os.path.join(match, name) for name in _walk(match, skipped, errors, wanted)]
        elif wanted(os.path.basename(match)):
            paths.append(match)
    names = {path: os.path.relpath(path, base or os.curdir) for path in paths}
    return [FoundImage(path, names[path].replace(os.sep, "/")) for path in sorted(names, key=_natural)]


def _is_picture(name: str) -> bool:
    """Return whether a file found in a folder is a picture by its suffix, and not hidden."""
    return _has_suffix(name, IMAGE_SUFFIXES)


def _has_suffix(name: str, suffixes: frozenset[str]) -> bool:
    """Return whether a file's name has one of the suffixes, and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


def _natural(path: str) -> tuple[str, str]:
    """Return a key that sorts by folder, then name, numbers by value; one string: there may be millions of keys."""

    def number(digits: re.Match[str]) -> str:
        value = digits[0].lstrip("0")
        return f"\1{len(value):04}{value}"  # the number of digits first; \1 sorts before all characters of a name

    return re.sub("[0-9]+", number, path.casefold()).replace(os.sep, "\0"), path
