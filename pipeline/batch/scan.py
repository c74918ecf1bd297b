"""From sources to chunks of photos, listed as they are needed: folders, patterns, files, Parquet files, addresses."""

# os.path, not pathlib, as in pipeline/find.py.
# ruff: noqa: PTH122

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from common.errors import MediaError, UserError, first_line
from common.paths import SUFFIXES, is_address, location
from pipeline.batch.chunk import Chunk, Item, item_name
from pipeline.batch.digest_set import digest
from pipeline.batch.parquet_source import Columns, find_rows
from pipeline.batch.read_ahead import contents
from pipeline.batch.storage import Entry, Kind, Storage, find_place

# Chunks begin small and grow with what was listed, so that a few hundred photos keep all workers busy to the end.
LEAST = 16
TABLE = ".parquet"
SHARE = 4  # a chunk holds at most 1 / (SHARE * workers) of the photos listed so far

Report = Callable[[MediaError], None]


@dataclass(frozen=True)
class ScanConfig:
    """What is looked for. sources: as given. most: photos in a chunk, at most. skip: name of a folder passed over."""

    sources: Sequence[str]
    most: int
    workers: int
    columns: Columns = field(default_factory=Columns)
    skip: str | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """A photo found. group: the row group that it lies in, None for a file."""

    place: Storage
    item: Item
    group: int | None = None

    def goes_with(self, other: _Found) -> bool:
        """Whether both may be in one chunk: files of one place, or rows of one file."""
        if self.place != other.place or (self.group is None) != (other.group is None):
            return False
        return self.group is None or self.item.path == other.item.path


def find_chunks(wanted: ScanConfig, answered: Container[str], report: Report) -> Iterator[Chunk]:
    """The photos of all sources whose names are not among the `answered`, none twice, in chunks.

    Folders are searched to the bottom, for pictures and Parquet files by suffix, hidden ones left out; what is named
    itself is taken whatever its suffix. Memory holds the names of one folder at a time, and where there are several
    sources or patterns a digest of each photo's. report: is told of what does not exist, holds nothing or cannot be
    searched.
    """
    waiting: list[_Found] = []
    for listed, found in enumerate(_fresh(wanted, answered, report)):
        size = min(wanted.most, max(LEAST, listed // (SHARE * wanted.workers)))
        # Rows are read by row groups: a chunk rather ends with one than in the next.
        if waiting and (
            len(waiting) >= size
            or not found.goes_with(waiting[-1])
            or (found.group != waiting[-1].group and 2 * len(waiting) >= size)
        ):
            yield _chunk(waiting, wanted.columns)
            waiting = []
        waiting.append(found)
    if waiting:
        yield _chunk(waiting, wanted.columns)


def _chunk(found: Sequence[_Found], columns: Columns) -> Chunk:
    chunk = Chunk(found[0].place, tuple(each.item for each in found))
    return replace(chunk, contents=tuple(contents(chunk, columns))) if chunk.place.is_private else chunk


def _fresh(wanted: ScanConfig, answered: Container[str], report: Report) -> Iterator[_Found]:
    """Every photo that is not answered, once."""
    remember = len(wanted.sources) > 1 or any(glob.has_magic(source) for source in wanted.sources)
    seen: set[bytes] = set()
    for source in wanted.sources:
        for found in _Search(wanted, report).photos(source):
            name = item_name(found.place, found.item)
            if name in answered:
                continue
            if remember:
                mark = digest(name)
                if mark in seen:
                    continue
                seen.add(mark)
            yield found


class _Search:
    """Finds the photos of one source, and reports it when it has none."""

    def __init__(self, wanted: ScanConfig, report: Report) -> None:
        self._wanted, self._report = wanted, report
        self._reported = False

    def photos(self, source: str) -> Iterator[_Found]:
        """All of them, each once unless links or a pattern lead to it twice."""
        literal, nothing = True, "not found; check the name"
        pattern: list[str] = []
        try:
            # "?" begins the options of an address.
            magic = re.compile(r"[*[]" if is_address(source) else r"[*?[]")
            if magic.search(source) and (is_address(source) or not os.path.lexists(source)):
                literal, nothing = False, "matches no pictures; check the pattern"
                source, pattern = _split(source, magic)
            place, path = find_place(source)
            kind = place.kind(path)
        except (UserError, OSError) as error:
            what = first_line(error).removeprefix(f"{source}: ")
            self._problem(MediaError(source, what if isinstance(error, UserError) else f"cannot be read ({what})"))
            return
        some = False
        if literal and kind != "none":
            nothing = "holds no pictures; name a folder that does" if kind == "folder" else "holds no photos"
        for found in self._named(place, path, kind) if literal else self._matching(place, path, pattern, set()):
            some = True
            yield found
        if not some and not self._reported:
            self._problem(MediaError(source if literal else "/".join([source.rstrip("/"), *pattern]), nothing))

    def _named(self, place: Storage, path: str, kind: Kind) -> Iterator[_Found]:
        if kind == "folder":
            yield from self._below(place, path)
        elif kind == "file":
            yield from self._file(place, location(path) if place.is_local else path)

    def _below(self, place: Storage, root: str) -> Iterator[_Found]:
        """What lies in a folder and those below it; links to folders are followed, each real folder once."""
        seen: set[str] = set()
        waiting = [root]
        while waiting:
            folder = _real(place, waiting.pop())
            if folder in seen or place.name(folder) == self._wanted.skip:
                continue
            seen.add(folder)
            here = self._entries(place, folder)
            for entry in here:
                if not entry.is_folder and _is_photos(entry.name):
                    yield from self._file(place, entry.path)
            waiting += [entry.path for entry in reversed(here) if entry.is_folder and not entry.name.startswith(".")]

    def _matching(
        self, place: Storage, folder: str, pattern: Sequence[str], seen: set[tuple[str, int]]
    ) -> Iterator[_Found]:
        """What matches a pattern's parts from a folder on, and all below a folder that does."""
        folder = _real(place, folder)
        if not seen and place.kind(folder) != "folder":
            return
        if (folder, len(pattern)) in seen or place.name(folder) == self._wanted.skip:
            return
        seen.add((folder, len(pattern)))  # links may lead in a circle
        if not pattern or list(pattern) == ["**"]:
            yield from self._below(place, folder)
            return
        head, *rest = pattern
        if head == "**":
            yield from self._matching(place, folder, rest, seen)
        for entry in self._entries(place, folder):
            if entry.name.startswith(".") and not head.startswith("."):
                continue
            if entry.is_folder and head == "**":
                yield from self._matching(place, entry.path, pattern, seen)
            elif fnmatchcase(entry.name, head):
                if entry.is_folder:
                    yield from self._matching(place, entry.path, rest, seen)
                elif not rest and _is_photos(entry.name):
                    yield from self._file(place, entry.path)

    def _file(self, place: Storage, path: str) -> Iterator[_Found]:
        if not path.lower().endswith(TABLE):
            yield _Found(place, Item(path))
            return
        try:
            for group, row in find_rows(place, path, self._wanted.columns):
                yield _Found(place, Item(path, row), group)
        except MediaError as error:
            self._problem(error)

    def _entries(self, place: Storage, folder: str) -> list[Entry]:
        try:
            return place.entries(folder)
        except OSError as error:
            why = error.strerror or first_line(error)
            self._problem(MediaError(place.name(folder), f"cannot be searched ({why})"))
            return []

    def _problem(self, error: MediaError) -> None:
        self._reported = True
        self._report(error)


def _split(source: str, magic: re.Pattern[str]) -> tuple[str, list[str]]:
    """A pattern's folder before the first wildcard, and the parts from there on."""
    scheme, _, path = source.rpartition("://")
    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if magic.search(part))
    folder = "/".join(parts[:first]) or ("/" if path.startswith("/") else "" if scheme else os.curdir)
    return f"{scheme}://{folder}" if scheme else folder, [part for part in parts[first:] if part]


def _real(place: Storage, folder: str) -> str:
    return os.path.realpath(folder) if place.is_local else folder


def _is_photos(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return not name.startswith(".") and (suffix in SUFFIXES or (suffix == TABLE and not name.startswith("_")))
