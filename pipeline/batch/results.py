"""The results: a folder of Parquet parts that can be gone on with, and a file of errors beside it."""

# os.path, not pathlib: an address is no path.
# ruff: noqa: PTH119, PTH120

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from common.display import shown
from common.errors import UserError, first_line
from common.files import naming
from common.locks import locked
from common.parallel import map_ordered
from pipeline.batch.digest_set import DigestSet
from pipeline.batch.storage import Entry, find_place
from pipeline.batch.table import ERRORS, BatchRecipe

SUFFIX = ".parquet"
PREFIX = "part-"
_READERS = 8  # parts read at a time


class BatchResults:
    """OUT.parquet and OUT.errors.parquet, on this machine or at an address.

    Raises UserError when `out` does not end in .parquet or its address cannot be opened.
    """

    def __init__(self, out: str, recipe: BatchRecipe) -> None:
        self.out, self._recipe = out.rstrip("/"), recipe
        if not self.out.endswith(SUFFIX):
            raise UserError(f"{shown(out)}: name the folder of results last, ending in {SUFFIX}")
        self._place, path = find_place(self.out)
        self._path = os.path.realpath(path) if self._place.is_local else path

    @property
    def name(self) -> str:
        """What listing calls the folder."""
        return self._place.name(self._path)

    @contextmanager
    def opened(self) -> Iterator[tuple[DigestSet, ErrorFile]]:
        """Holds the folder; gives the photos answered before, and takes the errors of this run.

        The errors of the run before are forgotten when this one ends well: their photos were tried again. A folder that
        was made for it and stays empty is removed: it is no table. Raises UserError when another process holds the
        folder, or it holds what this command did not make, with this bundle and these options.
        """
        with self._naming():
            before = self._place.kind(self._path)
            if before == "file":
                raise UserError(f"{shown(self.out)}: is a file, results are a folder; name another place")
            self._place.make_folder(self._path)
        try:
            with locked(Path(self._path)) if self._place.is_local else nullcontext():
                with self._naming():
                    parts = self._parts()
                names = DigestSet(name for part in map_ordered(self._names, parts, _READERS) for name in part)
                with tempfile.TemporaryFile() as spool:
                    errors = ErrorFile(spool, self._recipe)
                    yield names, errors
                    with self._naming():
                        path = errors_of(self._path)
                        if errors.count:
                            self._place.write(path, errors.finish())
                        else:
                            self._place.delete(path)
        finally:
            if before == "none" and self._place.is_local:
                with suppress(OSError):  # it has parts
                    os.rmdir(self._path)  # noqa: PTH106

    def add(self, key: str, part: bytes) -> None:
        """Puts the part of a chunk into its place; one with the same key is replaced. Raises OSError."""
        with self._naming():
            self._place.write(f"{self._path}/{PREFIX}{key}{SUFFIX}", part)

    def _parts(self) -> list[str]:
        """The finished parts; what a killed run left half done, here and beside, is removed."""
        beside = os.path.dirname(self._path)
        half = f".{os.path.basename(errors_of(self._path)).removesuffix(SUFFIX)}."
        if self._place.is_local:
            self._tidy([entry for entry in self._place.entries(beside) if entry.name.startswith(half)])
        entries = self._place.entries(self._path)
        self._tidy([entry for entry in entries if entry.name.startswith(f".{PREFIX}")])
        here = [entry for entry in entries if not entry.name.startswith((".", "_"))]
        for entry in here:
            if not (entry.name.startswith(PREFIX) and entry.name.endswith(SUFFIX)):
                raise UserError(f"{shown(self.out)}: holds {entry.name!r} beside results; name another place")
        return [entry.path for entry in here]

    def _tidy(self, entries: list[Entry]) -> None:
        for entry in entries:
            if ".tmp" in entry.name:
                self._place.delete(entry.path)

    def _names(self, path: str) -> list[str]:
        """The photos of a part."""
        file = path.rpartition("/")[2]
        try:
            with self._place.open(path) as opened:
                table = pq.read_table(opened, columns=["file"])
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{shown(self.out)}: {file} cannot be read ({first_line(error)}); "
                "delete it, and its photos are done again"
            ) from error
        differs = self._recipe.differs(table.schema.metadata or {})
        if differs is not None:
            raise UserError(f"{shown(self.out)}: was made with {differs}; go on with the same, or name another place")
        return list(table["file"].unique().to_pylist())

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Turns an address's OSError, which may name nothing, into one that names the results."""
        try:
            yield
        except OSError as error:
            if error.filename is not None:
                raise
            raise UserError(f"{shown(self.out)}: cannot be used ({first_line(error)}); check the place") from error


class ErrorFile:
    """Takes errors and becomes a Parquet file of them; memory does not grow with their number."""

    _AT_A_TIME = 10_000

    def __init__(self, spool: IO[bytes], recipe: BatchRecipe) -> None:
        self.count = 0
        self._spool, self._recipe = spool, recipe
        self._waiting: list[dict[str, str]] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, file: str, error: str) -> None:
        """file: the photo's name. error: what is the matter, and the mend."""
        self.count += 1
        self._waiting.append({"file": file, "error": error})
        if len(self._waiting) >= self._AT_A_TIME:
            self._flush()

    def finish(self) -> bytes:
        """The file."""
        self._flush()
        assert self._writer is not None
        with naming(tempfile.gettempdir()):
            self._writer.add_key_value_metadata(self._recipe.metadata())
            self._writer.close()
            self._spool.seek(0)
            return self._spool.read()

    def _flush(self) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._spool, ERRORS, compression="zstd", store_schema=False)
        with naming(tempfile.gettempdir()):
            self._writer.write_table(pa.Table.from_pylist(self._waiting, ERRORS))
        self._waiting = []


def errors_of(out: str) -> str:
    """The file of errors beside a folder of results."""
    out = out.rstrip("/")
    return f"{out.removesuffix(SUFFIX)}.errors{SUFFIX}"
