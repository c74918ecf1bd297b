"""Where photos and results lie: this machine's files, or an address that pyarrow or fsspec understands."""

# os.path, not pathlib, as in pipeline/find.py: names are compared and written as text.
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

Kind = Literal["file", "folder", "none"]
# A file of these appears whole, when it is closed, or not at all; moving one would copy it.
_OBJECT_STORES = ("s3", "gcs", "abfs")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder holds. path: on its place."""

    path: str
    is_folder: bool

    @property
    def name(self) -> str:
        """Its name in the folder."""
        return self.path.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Storage:
    """A file system. It can be sent to another process, which makes it anew from its address.

    address: any address on it; None for this machine's files. Every method but `name` may raise OSError.
    """

    address: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether this machine's files are meant."""
        return self.address is None

    @property
    def is_private(self) -> bool:
        """Whether no other process can see what lies there (memory://)."""
        return self.address is not None and urlsplit(self.address).scheme == "memory"

    def name(self, path: str) -> str:
        """What tables call a file: its absolute path or its address, as valid Unicode.

        Bytes that are not UTF-8 become \\xNN, so that two names stay two.
        """
        if self.address is None:
            return os.fsencode(path).decode("utf-8", "backslashreplace")
        return f"{urlsplit(self.address).scheme}://{path.lstrip('/')}"

    def kind(self, path: str) -> Kind:
        """Whether `path` is a file, a folder or nothing that exists."""
        if self.address is None:
            return "folder" if os.path.isdir(path) else "file" if os.path.lexists(path) else "none"
        with _plain():
            found = self._fs.get_file_info([path])[0].type
        if found == arrow_fs.FileType.NotFound:
            return "none"
        return "folder" if found == arrow_fs.FileType.Directory else "file"

    def entries(self, folder: str) -> list[Entry]:
        """What lies in a folder, by name; links to folders count as folders."""
        if self.address is None:
            with os.scandir(folder) as found:
                here = [Entry(each.path, each.is_dir()) for each in found]
        else:
            with _plain():
                infos = self._fs.get_file_info(arrow_fs.FileSelector(folder))
            here = [Entry(info.path, info.type == arrow_fs.FileType.Directory) for info in infos]
        return sorted(here, key=lambda entry: entry.path)

    def open(self, path: str) -> BinaryIO:
        """A file to read from, at any position."""
        if self.address is None:
            return open(path, "rb")
        with _plain():
            return cast(BinaryIO, self._fs.open_input_file(path))

    def read(self, path: str) -> bytes:
        """A file's bytes."""
        with self.open(path) as file, _plain():
            return file.read()

    def write(self, path: str, data: bytes) -> None:
        """Puts a file there in one step: a kill leaves the old one, or none, or the new one."""
        if self.address is None:
            write_bytes(path, data)
            return
        folder, _, name = path.rpartition("/")
        whole_at_once = self._fs.type_name in _OBJECT_STORES
        written = path if whole_at_once else f"{folder}/.{name}.tmp"
        with _plain():
            with self._fs.open_output_stream(written) as file:
                file.write(data)
            if not whole_at_once:
                self._fs.move(written, path)

    def make_folder(self, path: str) -> None:
        """Makes a folder and those above it, where they are missing."""
        if self.address is None:
            Path(path).mkdir(parents=True, exist_ok=True)
            return
        with _plain():
            self._fs.create_dir(path, recursive=True)

    def delete(self, path: str) -> None:
        """Removes a file, if it is there."""
        if self.address is None:
            Path(path).unlink(missing_ok=True)
        elif self.kind(path) != "none":
            with _plain():
                self._fs.delete_file(path)

    @property
    def _fs(self) -> Any:
        assert self.address is not None
        return _file_system(self.address)[0]


LOCAL = Storage()


def find_place(name: str) -> tuple[Storage, str]:
    """The place of a path or address, and the path there. A file:// address is a path of this machine.

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
        raise UserError(f"{name}: names no file or folder; write a path behind it")
    return Storage(name), path.rstrip("/")


@lru_cache(maxsize=64)
def _file_system(address: str) -> tuple[Any, str]:
    """An address's file system, pyarrow's own before fsspec's, and the path on it. Raises OSError."""
    try:
        return cast(tuple[Any, str], arrow_fs.FileSystem.from_uri(address))
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise OSError(first_line(error)) from error
    except Exception as error:  # each file system has its own
        raise OSError(first_line(error)) from error
    with requires_extra("batch"):
        import fsspec  # type: ignore[import-untyped]
    try:
        system, path = fsspec.core.url_to_fs(address)
    except Exception as error:
        raise OSError(first_line(error)) from error
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(system)), cast(str, path)


@contextmanager
def _plain() -> Iterator[None]:
    """Turns whatever a file system raises into an OSError of one line."""
    try:
        yield
    except Exception as error:
        raise OSError(first_line(error)) from error
