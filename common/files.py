"""Writes files so that a killed run leaves either the old file or the new one, never a half.

What a killed process was at is removed by the next one that writes into the same folder.
"""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO
from zlib import crc32

_UMASK = threading.Lock()
# A temporary name says whose it is: the machine (several may write into one folder) and the process.
_MACHINE = f"{crc32(socket.gethostname().encode()):08x}"
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-([0-9]+)-[^.]*\.tmp(\.[^.]*)?")
_SWEPT: set[str] = set()


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what is written there takes its place when the block ends well.

    The temporary name keeps `path`'s suffix, because image and array writers choose their format by it.
    On an exception the temporary file is removed and `path` is untouched. A file that may not be written is not
    replaced either.
    """
    path = Path(path)
    _refuse(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    with naming(path):
        prefix = f".{path.stem}.{_MACHINE}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=f".tmp{path.suffix}")
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            yield temporary
        except OSError as error:  # a write that fails carries no name
            nameless = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None
            if nameless or error.filename == name:
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise
        # mkstemp makes files private; give the result the permissions that open() would have given.
        with _UMASK:  # the process's own: of two threads at once one would read, and put back, the other's 0
            umask = os.umask(0)
            os.umask(umask)
        with naming(path):
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Replaces `path` with `text` (UTF-8) in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replaces `path` with `data` in one step.

    For what torch or safetensors wrote into memory, too: of a full disk they raise errors of their own.
    """
    with replacing(path) as temporary, naming(path):
        temporary.write_bytes(data)


@contextmanager
def replaced_text(path: Path | str, newline: str | None = None) -> Iterator[TextIO]:
    """A text file (UTF-8) that takes the place of `path` when the block ends well; its errors name `path`."""
    with replacing(path) as temporary, _Named(temporary, path) as raw, _as_text(raw, newline) as file:
        yield file


@contextmanager
def growing_text(path: Path | str, newline: str | None = None) -> Iterator[TextIO]:
    """A text file (UTF-8) written in place, for what has no end of its own; its errors name `path`."""
    with growing_bytes(path) as raw, _as_text(raw, newline) as file:
        yield file


@contextmanager
def growing_bytes(path: Path | str) -> Iterator[io.RawIOBase]:
    """A file written in place, every write at once; its errors name `path`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with _Named(path, path) as file:
        yield file


def check_file(path: Path | str) -> None:
    """Raises OSError when nothing can be written to `path`, so that it is said before long work."""
    _refuse(Path(path))
    with naming(path):
        check_folder(Path(path).parent)


def check_folder(folder: Path | str) -> None:
    """Raises OSError when no file can be made in `folder`, or no such folder; nothing is left behind."""
    here = Path(os.path.abspath(folder))  # noqa: PTH100  # links are not followed
    while not os.path.lexists(here):
        here = here.parent
    with naming(folder), tempfile.TemporaryFile(dir=here, buffering=0) as file:
        file.write(b"x")  # a full disk takes new files, but nothing in them


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Says of `path` what the system says inside: the user knows no temporary names, and failed writes carry none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


class _Named(io.FileIO):
    """A file whose failed writes name `path`: several may be open at once, and an error must tell which it is of."""

    def __init__(self, file: Path | str, path: Path | str) -> None:
        super().__init__(file, "w")
        self._path = path

    def write(self, data: Any) -> int:
        with naming(self._path):
            return super().write(data)


def _as_text(raw: io.RawIOBase, newline: str | None) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", newline=newline)


def _refuse(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def sweep(folder: Path) -> None:
    """Removes the temporary files of processes of this machine that are no more; looks once a folder and process."""
    real = os.path.realpath(folder)
    if real in _SWEPT:
        return
    _SWEPT.add(real)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            made = _TEMPORARY.fullmatch(entry.name)
            if made and made[1] == _MACHINE and not _alive(int(made[2])):
                with suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108  # an entry's path, of which there may be many


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # there, os.kill would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True
