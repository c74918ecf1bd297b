"""From sources to chunks of photos, scanned as they are needed: folders, patterns, files, Parquet files, addresses."""

# os.path, not pathlib, as in common/paths.py.
# ruff: noqa: PTH122

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from common.errors import MediaError, UserError, first_line
from common.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES, canonical_path, is_address
from pipeline.batch.chunk import Chunk, PhotoRef, earlier_photo_name, name_digest, photo_name
from pipeline.batch.photo_source import ParquetColumns, find_rows, read_contents
from pipeline.batch.storage import FolderEntry, PathKind, Storage, resolve_storage, split_tail, without_secrets

# Chunks grow with the number of photos found: so a few hundred photos keep all workers busy to the end.
MIN_CHUNK = 16
CHUNK_SHARE = 4  # a chunk holds at most 1 / (CHUNK_SHARE * workers) of the photos found so far
TABLE_SUFFIX = ".parquet"

Report = Callable[[MediaError], None]
OnVideo = Callable[[str], None]  # called with a video's name, as in the results


@dataclass(frozen=True)
class ScanConfig:
    """What is scanned, and into which chunks."""

    sources: Sequence[str]  # files, folders, patterns and addresses, as the user wrote them
    max_chunk: int  # photos
    workers: int  # number of workers that the chunks are for
    columns: ParquetColumns = field(default_factory=ParquetColumns)
    skip_folder: str | None = None  # its name as in the results


@dataclass(frozen=True, slots=True)
class _FoundPhoto:
    """A photo found. row_group: where its row is in a Parquet file; None for a file."""

    storage: Storage
    photo: PhotoRef
    row_group: int | None = None

    @property
    def place(self) -> tuple[Storage, str | None]:
        """What all photos of a chunk share: the storage of files, or the Parquet file of rows."""
        return self.storage, None if self.row_group is None else self.photo.path


def find_chunks(
    config: ScanConfig, processed: Container[str], report: Report, on_video: OnVideo = lambda _: None
) -> Iterator[Chunk]:
    """Yield chunks of all photos of the sources whose names are not `processed`, each photo once.

    Folders are searched with all subfolders for pictures and Parquet files by suffix, without hidden ones. A file
    named as a source is taken whatever its suffix. Memory holds the names of one folder at a time. With several
    sources or a pattern it also holds a digest of each photo's name.

    Args:
        config: the sources, and the size of chunks.
        processed: names of photos to leave out.
        report: called with each source that does not exist, holds no photos or cannot be searched.
        on_video: called for each video of a folder or pattern, which is left out.
    """
    waiting: list[_FoundPhoto] = []
    for count, found in enumerate(_new_photos(config, processed, report, on_video)):
        size = min(config.max_chunk, max(MIN_CHUNK, count // (CHUNK_SHARE * config.workers)))
        if waiting and _is_complete(waiting, found, size):
            yield _make_chunk(waiting, config.columns)
            waiting = []
        waiting.append(found)
    if waiting:
        yield _make_chunk(waiting, config.columns)


def _is_complete(waiting: Sequence[_FoundPhoto], following: _FoundPhoto, size: int) -> bool:
    """Return whether a chunk ends before the following photo; rather with a row group, which is read as a whole."""
    if len(waiting) >= size or following.place != waiting[-1].place:
        return True
    return following.row_group != waiting[-1].row_group and 2 * len(waiting) >= size


def _make_chunk(found: Sequence[_FoundPhoto], columns: ParquetColumns) -> Chunk:
    chunk = Chunk(found[0].storage, tuple(each.photo for each in found))
    return replace(chunk, contents=tuple(read_contents(chunk, columns))) if chunk.storage.is_private else chunk


def _new_photos(
    config: ScanConfig, processed: Container[str], report: Report, on_video: OnVideo
) -> Iterator[_FoundPhoto]:
    """Yield every photo that is not processed, once."""
    may_repeat = len(config.sources) > 1 or any(glob.has_magic(source) for source in config.sources)
    seen: set[bytes] = set()
    for source in config.sources:
        for found in _SourceScanner(config, report, on_video).photos(source):
            name = photo_name(found.storage, found.photo)
            if name in processed:
                continue
            earlier = earlier_photo_name(found.storage, found.photo)
            if earlier != name and earlier in processed:
                fix = "name another place for the results, to process its photos again"
                raise UserError(f"{name}: the results have it by its earlier name, without its server; {fix}")
            if may_repeat:
                digest = name_digest(name)
                if digest in seen:
                    continue
                seen.add(digest)
            yield found


class _SourceScanner:
    """Finds the photos of one source, and reports a source without photos.

    Not `common.paths.find_images`, which holds all names in memory and knows neither addresses nor Parquet files.
    """

    def __init__(self, config: ScanConfig, report: Report, on_video: OnVideo) -> None:
        self._config, self._report, self._on_video = config, report, on_video
        self._reported = False

    def photos(self, source: str) -> Iterator[_FoundPhoto]:
        """Yield all photos, each once unless links or a pattern lead to it twice."""
        base, pattern = _split_pattern(source)
        try:
            storage, path = resolve_storage(base)
            kind = storage.kind(path)
        except (UserError, OSError) as error:
            shown = without_secrets(base)
            what = first_line(error).removeprefix(f"{shown}: ")
            self._problem(MediaError(shown, what if isinstance(error, UserError) else f"cannot be read ({what})"))
            return
        shown = without_secrets(base, strict=False)
        photos: Iterator[_FoundPhoto] = iter(())
        if kind == "folder":
            photos = self._matching(storage, path, pattern or [], set())
        elif kind == "file" and pattern is None and _is_video(base):
            self._problem(MediaError(shown, "is a video; process it with `python -m pipeline.detect`"))
        elif kind == "file" and pattern is None:
            photos = self._in_file(storage, canonical_path(path) if storage.is_local else path)
        empty = True
        for found in photos:
            empty = False
            yield found
        if empty and not self._reported:
            self._problem(_no_photos(shown, pattern, kind))

    def _in_folder(self, storage: Storage, root: str) -> Iterator[_FoundPhoto]:
        """Yield the photos in a folder and its subfolders; links to folders are followed, each real folder once."""
        seen: set[str] = set()
        waiting = [root]
        while waiting:
            folder = _real_path(storage, waiting.pop())
            if folder in seen or storage.name(folder) == self._config.skip_folder:
                continue
            seen.add(folder)
            entries = self._entries(storage, folder)
            for entry in entries:
                if not entry.is_folder:
                    yield from self._in_found_file(storage, entry)
            waiting += [entry.path for entry in reversed(entries) if entry.is_folder and not entry.name.startswith(".")]

    def _matching(
        self, storage: Storage, folder: str, pattern: Sequence[str], seen: set[tuple[str, int]]
    ) -> Iterator[_FoundPhoto]:
        """Yield the photos in a folder that match a pattern's parts, and all photos in a folder that matches."""
        folder = _real_path(storage, folder)
        if (folder, len(pattern)) in seen or storage.name(folder) == self._config.skip_folder:
            return
        seen.add((folder, len(pattern)))  # links may lead in a circle
        if not pattern or list(pattern) == ["**"]:
            yield from self._in_folder(storage, folder)
            return
        head, *rest = pattern
        if head == "**":
            yield from self._matching(storage, folder, rest, seen)
        for entry in self._entries(storage, folder):
            if entry.name.startswith(".") and not head.startswith("."):
                continue
            if entry.is_folder and head == "**":
                yield from self._matching(storage, entry.path, pattern, seen)
            elif fnmatchcase(entry.name, head):
                if entry.is_folder:
                    yield from self._matching(storage, entry.path, rest, seen)
                elif not rest:
                    yield from self._in_found_file(storage, entry)

    def _in_found_file(self, storage: Storage, entry: FolderEntry) -> Iterator[_FoundPhoto]:
        """Yield the photos of a file of a folder or pattern: chosen by its suffix."""
        if _has_photos(entry.name):
            yield from self._in_file(storage, entry.path)
        elif _is_video(entry.name):
            self._on_video(storage.name(entry.path))

    def _in_file(self, storage: Storage, path: str) -> Iterator[_FoundPhoto]:
        """Yield a picture file, or the rows of a Parquet file."""
        if not path.lower().endswith(TABLE_SUFFIX):
            yield _FoundPhoto(storage, PhotoRef(path))
            return
        try:
            for row_group, row in find_rows(storage, path, self._config.columns):
                yield _FoundPhoto(storage, PhotoRef(path, row), row_group)
        except MediaError as error:
            self._problem(error)

    def _entries(self, storage: Storage, folder: str) -> list[FolderEntry]:
        try:
            return storage.entries(folder)
        except OSError as error:
            what = f"cannot be searched ({error.strerror or first_line(error)})"
            self._problem(MediaError(storage.name(folder), what))
            return []

    def _problem(self, error: MediaError) -> None:
        self._reported = True
        self._report(error)


def _split_pattern(source: str) -> tuple[str, list[str] | None]:
    """Return a pattern's folder before the first wildcard, and the parts from there; a name as it is, and None.

    The folder of an address has the options of the address. Its user, password and host have no wildcard.
    """
    start, path, tail, wildcard = "", source, "", re.compile(r"[*?[]")
    if is_address(source):
        place, tail = split_tail(source)
        rest = place.partition("://")[2]
        path = rest[len(re.split("[/#]", rest, maxsplit=1)[0]) :]
        start, wildcard = place.removesuffix(path), re.compile(r"[*[]")  # "?" begins the options
    elif os.path.lexists(source):
        return source, None
    if not wildcard.search(path):
        return source, None
    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if wildcard.search(part))
    folder = "/".join(parts[:first]) or ("/" if path.startswith("/") else os.curdir)
    return f"{start}{folder}{tail}", [part for part in parts[first:] if part]


def _no_photos(base: str, pattern: Sequence[str] | None, kind: PathKind) -> MediaError:
    """Return the error of a source without photos."""
    if pattern is not None:
        place, tail = split_tail(base)
        return MediaError("/".join([place.rstrip("/"), *pattern]) + tail, "matches no pictures; check the pattern")
    if kind == "none":
        return MediaError(base, "not found; check the name")
    return MediaError(base, "holds no pictures; name a folder that does" if kind == "folder" else "holds no photos")


def _real_path(storage: Storage, folder: str) -> str:
    return os.path.realpath(folder) if storage.is_local else folder


def _has_photos(name: str) -> bool:
    """Return whether a file is a picture or a Parquet file by its name, and not hidden."""
    suffix = os.path.splitext(name)[1].lower()
    hidden = (".", "_") if suffix == TABLE_SUFFIX else "."
    return (suffix == TABLE_SUFFIX or suffix in IMAGE_SUFFIXES) and not name.startswith(hidden)


def _is_video(name: str) -> bool:
    """Return whether a file is a video by its name, and not hidden."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.rpartition("/")[2].startswith(".")
