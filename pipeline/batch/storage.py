"""Storage of photos and results: this machine's files, or an address that pyarrow or fsspec understands."""

# os.path, not pathlib, as in common/paths.py: names are compared and written as text.
# ruff: noqa: PTH100, PTH112, PTH123

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast
from urllib.parse import unquote, urlsplit

import pyarrow
from pyarrow import fs as arrow_fs

from common.cli import requires_extra
from common.errors import UserError, first_line
from common.files import write_bytes
from common.paths import is_address

PathKind = Literal["file", "folder", "none"]
# A file of an object store appears as a whole when it is closed, or not at all; moving it would copy it.
_OBJECT_STORES = ("s3", "gcs", "abfs")


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A file or subfolder of a folder. path: on its storage."""

    path: str
    is_folder: bool

    @property
    def name(self) -> str:
        """The name in the folder."""
        return self.path.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Storage:
    """A file system. It can be sent to another process, which opens it by its address.

    Every method but `name` may raise OSError.
    """

    address: str | None = None  # any address on the file system; None for this machine's files

    @property
    def is_local(self) -> bool:
        """Whether this is the storage of this machine's files."""
        return self.address is None

    @property
    def is_private(self) -> bool:
        """Whether no other process can see the files (memory://)."""
        return self.address is not None and urlsplit(self.address).scheme == "memory"

    def name(self, path: str) -> str:
        """Return a file's name in the results: its absolute path or its address, as valid Unicode.

        Bytes that are not UTF-8 become \\xNN, so that different names stay different.
        """
        if self.address is None:
            return os.fsencode(path).decode("utf-8", "backslashreplace")
        return f"{urlsplit(self.address).scheme}://{path.lstrip('/')}"

    def kind(self, path: str) -> PathKind:
        """Return whether `path` is a file, a folder or does not exist."""
        if self.address is None:
            return "folder" if os.path.isdir(path) else "file" if os.path.lexists(path) else "none"
        with _as_os_error():
            found = self._fs.get_file_info([path])[0].type
        kinds: dict[Any, PathKind] = {arrow_fs.FileType.NotFound: "none", arrow_fs.FileType.Directory: "folder"}
        return kinds.get(found, "file")

    def entries(self, folder: str) -> list[FolderEntry]:
        """Return the entries of a folder, sorted by path; links to folders count as folders."""
        if self.address is None:
            with os.scandir(folder) as listing:
                entries = [FolderEntry(each.path, each.is_dir()) for each in listing]
        else:
            with _as_os_error():
                infos = self._fs.get_file_info(arrow_fs.FileSelector(folder))
            entries = [FolderEntry(info.path, info.type == arrow_fs.FileType.Directory) for info in infos]
        return sorted(entries, key=lambda entry: entry.path)

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading; the file can seek."""
        if self.address is None:
            return open(path, "rb")
        with _as_os_error():
            return cast(BinaryIO, self._fs.open_input_file(path))

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        with self.open(path) as file, _as_os_error():
            return file.read()

    def write(self, path: str, data: bytes) -> None:
        """Write a file in one step: a kill leaves the old file, no file, or the new file."""
        if self.address is None:
            write_bytes(path, data)
            return
        folder, _, name = path.rpartition("/")
        atomic = self._fs.type_name in _OBJECT_STORES
        written = path if atomic else f"{folder}/.{name}.tmp"
        with _as_os_error():
            with self._fs.open_output_stream(written) as file:
                file.write(data)
            if not atomic:
                self._fs.move(written, path)

    def make_folder(self, path: str) -> None:
        """Make a folder and its missing parents."""
        if self.address is None:
            Path(path).mkdir(parents=True, exist_ok=True)
        else:
            with _as_os_error():
                self._fs.create_dir(path, recursive=True)

    def delete(self, path: str) -> None:
        """Remove a file, if it exists."""
        if self.address is None:
            Path(path).unlink(missing_ok=True)
        elif self.kind(path) != "none":
            with _as_os_error():
                self._fs.delete_file(path)

    @property
    def _fs(self) -> Any:
        assert self.address is not None
        return _file_system(self.address)[0]


LOCAL = Storage()


def resolve_storage(name: str) -> tuple[Storage, str]:
    """Return the storage of a path or address, and the path on it. A file:// address is a path of this machine.

    Raises UserError when neither pyarrow nor fsspec can open the address.
    """
    if not is_address(name):
        return LOCAL, os.path.abspath(name)
    parts = urlsplit(name)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"{name}: names the machine {parts.netloc!r}; write file:///PATH with three slashes")
        return LOCAL, os.path.abspath(unquote(parts.path))
    try:
        _, path = _file_system(name)
    except OSError as error:
        raise UserError(f"{name}: cannot be opened ({error}); check the address") from error
    if not path.strip("/"):
        raise UserError(f"{name}: names no file or folder; add a path to it")
    return Storage(name), path.rstrip("/")


@lru_cache(maxsize=64)
def _file_system(address: str) -> tuple[Any, str]:
    """Return an address's file system, pyarrow's rather than fsspec's, and the path on it. Raises OSError."""
    try:
        return cast(tuple[Any, str], arrow_fs.FileSystem.from_uri(address))
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise OSError(first_line(error)) from error
    except Exception as error:  # each file system raises its own kind
        raise OSError(first_line(error)) from error
    with requires_extra("batch"):
        import fsspec  # type: ignore[import-untyped]
    with _as_os_error():
        system, path = fsspec.core.url_to_fs(address)
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(system)), cast(str, path)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn any exception of a file system into an OSError of one line."""
    try:
        yield
    except Exception as error:
        raise OSError(first_line(error)) from error
