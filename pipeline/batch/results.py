"""The results: a folder of Parquet parts that a later run can continue, and a file of errors next to it."""

# os.path, not pathlib: an address is not a path.

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.display import display_name
from common.errors import UserError, first_line
from common.files import with_file_name
from common.parallel import map_ordered
from common.run_folder import lock_folder
from pipeline.batch.chunk import name_digest
from pipeline.batch.storage import FolderEntry, resolve_storage, split_tail, without_secrets
from pipeline.batch.table import ERROR_SCHEMA, BatchRecipe

SUFFIX = ".parquet"
PREFIX = "part-"
_READ_THREADS = 8  # parts read at a time


class DigestSet:
    """A fixed set of names, in 16 bytes each: small enough to hold millions. Each name must be given once."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        digests = bytearray()
        for name in names:
            digests += name_digest(name)
        halves = np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)
        order = np.lexsort((halves[:, 1], halves[:, 0]))
        self._first: NDArray[np.uint64] = halves[order, 0]
        self._second: NDArray[np.uint64] = halves[order, 1]

    def __len__(self) -> int:
        return len(self._first)

    def __contains__(self, name: object) -> bool:
        if not len(self) or not isinstance(name, str):
            return False
        digest = name_digest(name)
        first, second = (np.uint64(int.from_bytes(half, "big")) for half in (digest[:8], digest[8:]))
        start, end = np.searchsorted(self._first, first), np.searchsorted(self._first, first, side="right")
        return bool((self._second[start:end] == second).any())


class BatchResults:
    """OUT.parquet and OUT.errors.parquet, on this machine or at an address.

    Raises UserError when `out` does not end in .parquet or its address cannot be opened.
    """

    def __init__(self, out: str, recipe: BatchRecipe) -> None:
        self._recipe = recipe
        self._shown = display_name(without_secrets(out).rstrip("/"))
        if not split_tail(out)[0].rstrip("/").endswith(SUFFIX):
            raise UserError(f"{self._shown}: name the folder of results last, ending in {SUFFIX}")
        self._storage, path = resolve_storage(out.rstrip("/"))
        self._shown = display_name(without_secrets(out, strict=False).rstrip("/"))
        self._path = os.path.realpath(path) if self._storage.is_local else path

    @property
    def location(self) -> str:
        """The folder's name as the scan of the sources writes it."""
        return self._storage.name(self._path)

    @contextmanager
    def open(self) -> Iterator[tuple[DigestSet, ErrorFile]]:
        """Lock the folder; yield the names of the photos processed before, and the file for this run's errors.

        The last run's errors are replaced when this run ends well, since their photos were tried again. A new folder
        that stays empty is removed, since it is not a table.

        Raises UserError when another process holds the lock, and on other files or results of another recipe.
        """
        with self._naming():
            kind_before = self._storage.kind(self._path)
            if kind_before == "file":
                raise UserError(f"{self._shown}: is a file, results are a folder; name another place")
            self._storage.make_folder(self._path)
        try:
            with lock_folder(Path(self._path)) if self._storage.is_local else nullcontext():
                with self._naming():
                    parts = self._parts()
                names = chain.from_iterable(map_ordered(self._photo_names, parts, _READ_THREADS))
                with tempfile.TemporaryFile() as spool:
                    errors = ErrorFile(spool, self._recipe)
                    yield DigestSet(names), errors
                    with self._naming():
                        path = errors_path(self._path)
                        if errors.count:
                            self._storage.write(path, errors.finish())
                        else:
                            self._storage.delete(path)
        finally:
            if kind_before == "none" and self._storage.is_local:
                with suppress(OSError):  # the folder has parts
                    os.rmdir(self._path)  # noqa: PTH106

    def add(self, key: str, part: bytes) -> None:
        """Write the part of a chunk; it replaces one with the same key. Raises OSError."""
        with self._naming():
            self._storage.write(f"{self._path}/{PREFIX}{key}{SUFFIX}", part)

    def _parts(self) -> list[str]:
        """Return the paths of the finished parts; remove the unfinished files of a killed run."""
        parent, errors_name = os.path.split(errors_path(self._path))
        if self._storage.is_local:
            self._clean_entries(parent, f".{errors_name.removesuffix(SUFFIX)}.")
        entries = self._clean_entries(self._path, f".{PREFIX}")
        visible = [entry for entry in entries if not entry.name.startswith((".", "_"))]
        for entry in visible:
            if not (entry.name.startswith(PREFIX) and entry.name.endswith(SUFFIX)):
                raise UserError(f"{self._shown}: holds {entry.name!r}, which is not a result; name another place")
        return [entry.path for entry in visible]

    def _clean_entries(self, folder: str, prefix: str) -> list[FolderEntry]:
        """Return the entries of a folder; delete the temporary files whose names begin with `prefix`."""
        entries = self._storage.entries(folder)
        for entry in entries:
            if entry.name.startswith(prefix) and ".tmp" in entry.name:
                self._storage.delete(entry.path)
        return entries

    def _photo_names(self, path: str) -> list[str]:
        """Return the photos' names in a part. Raises UserError when the part cannot be read or has another recipe."""
        try:
            with self._storage.open(path) as opened:
                table = pq.read_table(opened, columns=["file"])
        except (OSError, pa.ArrowException) as error:
            why = f"{path.rpartition('/')[2]} cannot be read ({first_line(error)})"
            raise UserError(f"{self._shown}: {why}; delete it to process its photos again") from error
        difference = self._recipe.difference(table.schema.metadata or {})
        if difference is not None:
            raise UserError(f"{self._shown}: was made with {difference}; use the same, or name another place")
        return list(table["file"].unique().to_pylist())

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Turn a storage's OSError without a file name into a UserError that names the results."""
        try:
            yield
        except OSError as error:
            if error.filename is not None:
                raise
            raise UserError(f"{self._shown}: cannot be used ({first_line(error)}); check the place") from error


class ErrorFile:
    """Collects errors and becomes a Parquet file of them; its memory does not grow with their number."""

    _ROWS_PER_WRITE = 10_000

    def __init__(self, spool: IO[bytes], recipe: BatchRecipe) -> None:
        self.count = 0
        self._spool, self._recipe = spool, recipe
        self._rows: list[dict[str, str]] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, file: str, error: str) -> None:
        """Add an error. file: the photo's name. error: what is wrong, and what to do."""
        self.count += 1
        self._rows.append({"file": file, "error": error})
        if len(self._rows) >= self._ROWS_PER_WRITE:
            self._flush()

    def finish(self) -> bytes:
        """Return the Parquet file."""
        self._flush()
        assert self._writer is not None
        with with_file_name(tempfile.gettempdir()):
            self._writer.add_key_value_metadata(self._recipe.metadata())
            self._writer.close()
            self._spool.seek(0)
            return self._spool.read()

    def _flush(self) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._spool, ERROR_SCHEMA, compression="zstd", store_schema=False)
        with with_file_name(tempfile.gettempdir()):
            self._writer.write_table(pa.Table.from_pylist(self._rows, ERROR_SCHEMA))
        self._rows = []


def errors_path(out: str) -> str:
    """Return the path or address of the file of errors, next to the folder of results `out`."""
    place, tail = split_tail(out)
    return f"{place.rstrip('/').removesuffix(SUFFIX)}.errors{SUFFIX}{tail}"
