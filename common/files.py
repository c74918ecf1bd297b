"""Atomic writes: a killed run leaves either the old file or folder or the new one, never a part of one.

The next process that writes into the same folder removes a killed process's temporary files and folders.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO
from zlib import crc32

_UMASK_LOCK = threading.Lock()
# A temporary name holds its owner: the machine (several may write into one folder) and the process id.
_MACHINE = f"{crc32(socket.gethostname().encode()):08x}"
_TEMPORARY_NAME = re.compile(r"\.(.*)\.([0-9a-f]{8})-([0-9]+)-[^.]*\.tmp(\.[^.]*)?")
MAX_NAME_BYTES = 255  # of a file's name on most file systems
RANDOM_CHARACTERS = 8  # that `tempfile` adds
MAX_LINKS = 40  # that lead to one another, as on Linux
_CLEANED_FOLDERS: set[str] = set()  # by this process


@contextmanager
def atomic_replace(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; that file replaces `path` when the block ends without an error.

    The temporary name has the suffix of `path`, because image and array writers choose their format by it.
    After an exception the temporary file is removed and `path` is unchanged. A link stays a link: the file that it
    leads to is replaced. Raises OSError, with the name `path`, for a folder, a device, a read-only file or a failed
    write.
    """
    given = path = Path(path)
    _check_writable(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale_files(path.parent)
    with with_file_name(given):
        prefix = _temporary_prefix(path.stem, path.suffix)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=f".tmp{path.suffix}")
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            yield temporary
        except OSError as error:  # a failed write has no file name
            nameless = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None
            if nameless or error.filename == name:
                raise OSError(error.errno, error.strerror, str(given)) from error
            raise
        # mkstemp makes private files; give the file the permissions that open() would have given.
        with _UMASK_LOCK:  # the mask is the process's: a second thread would read, and restore, this thread's 0
            umask = os.umask(0)
            os.umask(umask)
        with with_file_name(given):
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty folder next to `path`, which takes its place when the block ends without an error.

    After an exception, Ctrl-C included, what was there stays. A link to a folder stays a link. Raises OSError, with
    the name `path`, for a failed write.
    """
    out = Path(path).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale_files(out.parent)
    with with_file_name(out):
        prefix = f".{out.name}.{_MACHINE}-{os.getpid()}-"  # of the whole name, by which a killed folder comes back
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=prefix, suffix=".tmp"))
    new, old = temporary / "new", temporary / "old"
    try:
        with with_file_name(out):
            new.mkdir()
            yield new
        try:
            if out.exists():
                out.replace(old)
            new.replace(out)
        except BaseException:  # Ctrl-C, too
            if old.exists() and not out.exists():
                old.replace(out)
            raise
    finally:
        # Should the earlier folder not have come back, it is not removed.
        shutil.rmtree(temporary if out.exists() or not old.exists() else new, ignore_errors=True)


def write_text(path: Path | str, text: str) -> None:
    """Replace `path` with `text` (UTF-8) atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replace `path` with `data` atomically.

    Serialize torch and safetensors data into memory first: on a full disk those libraries do not raise OSError.
    """
    with atomic_replace(path) as temporary, with_file_name(path):
        temporary.write_bytes(data)


@contextmanager
def atomic_text(path: Path | str, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file (UTF-8) that replaces `path` when the block ends without an error; its errors name `path`."""
    with atomic_replace(path) as temporary, _as_text(_NamedFile(temporary, path), newline) as file:
        yield file


def streaming_text(path: Path | str, newline: str | None = None) -> TextIO:
    """Open `path` to append text (UTF-8) in place, as of a live stream; its errors name `path`."""
    return _as_text(streaming_bytes(path, append=True), newline)


def streaming_bytes(path: Path | str, *, append: bool = False) -> io.RawIOBase:
    """Open `path` as an unbuffered file that is written in place; its errors name `path`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return _NamedFile(path, path, "a" if append else "w")


def check_writable_file(path: Path | str) -> None:
    """Raise OSError when `path` cannot be written; call it before long work."""
    _check_writable(Path(path))
    with with_file_name(path):
        check_writable_folder(Path(path).parent)


def check_writable_folder(folder: Path | str) -> None:
    """Raise OSError when `folder` cannot be made, or no file in it; no file or folder is left behind."""
    existing = Path(os.path.abspath(folder))  # noqa: PTH100  # links are not followed
    while not os.path.lexists(existing):
        existing = existing.parent
    with with_file_name(folder), tempfile.TemporaryFile(dir=existing, buffering=0) as file:
        file.write(b"x")  # a full disk accepts new files, but no bytes in them


@contextmanager
def with_file_name(path: Path | str) -> Iterator[None]:
    """Give each OSError of the block the name `path`: users know no temporary names, and failed writes have no name."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


class _NamedFile(io.FileIO):
    """A file whose failed writes name `path`, because several files may be open at once."""

    def __init__(self, file: Path | str, path: Path | str, mode: str = "w") -> None:
        super().__init__(file, mode)
        self._path = path

    def write(self, data: Any) -> int:
        with with_file_name(self._path):
            return super().write(data)


def _as_text(raw: io.RawIOBase, newline: str | None) -> TextIO:
    """Return a buffered text file (UTF-8) over an unbuffered one."""
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", newline=newline)


def _check_writable(path: Path) -> None:
    """Raise OSError when `path` is a folder, a pipe or device (which a file would replace) or a read-only file."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # A redirected /dev/stdout leads to a file, but replacing it would replace the device or the program's output.
    if _leads_to_device(path) or (path.exists() and not path.is_file()):
        raise FileExistsError(errno.EEXIST, "Is a pipe or device", str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _leads_to_device(path: Path) -> bool:
    """Return whether a name, or a link that it leads to, is in /dev itself or in /proc."""
    for _ in range(MAX_LINKS):
        folder = os.path.realpath(path.parent)
        if folder == "/dev" or f"{folder}/".startswith("/proc/"):
            return True
        if not path.is_symlink():
            return False
        path = Path(folder, path.readlink())
    return False


def is_of_one_name(error: OSError, path: Path) -> bool:
    """Return whether `path` cannot be written because of its name, so that other files of the folder can."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return path.exists()
    return error.errno in (errno.ENAMETOOLONG, errno.EISDIR, errno.EEXIST, errno.ENOTDIR)


def _remove_stale_files(folder: Path) -> None:
    """Remove the temporary files and folders of this machine's ended processes, once per folder and process."""
    real = os.path.realpath(folder)
    if real in _CLEANED_FOLDERS:
        return
    _CLEANED_FOLDERS.add(real)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            owner = _TEMPORARY_NAME.fullmatch(entry.name)
            if owner and owner[2] == _MACHINE and not _is_running(int(owner[3])):
                with suppress(OSError):
                    _remove_stale(Path(entry.path), owner[1])


def _temporary_prefix(stem: str, suffix: str) -> str:
    """Return the start of a temporary file's name; a long stem is cut, so that the name is no longer than allowed."""
    owner = f".{_MACHINE}-{os.getpid()}-"
    free = MAX_NAME_BYTES - len(os.fsencode(f".{owner}.tmp{suffix}")) - RANDOM_CHARACTERS
    if len(name := os.fsencode(stem)) > free:
        stem = name[: max(free, 0)].decode(errors="ignore")
    return f".{stem}{owner}"


def _remove_stale(temporary: Path, name: str) -> None:
    """Remove a temporary file or folder; a folder that was killed between two renames gets its earlier content back."""
    if not temporary.is_dir():
        temporary.unlink()
        return
    old, out = temporary / "old", temporary.with_name(name)
    if old.is_dir() and not out.exists():
        old.replace(out)
    shutil.rmtree(temporary, ignore_errors=True)


def _is_running(pid: int) -> bool:
    """Return whether a process exists; always True on Windows, where os.kill would end the process."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:  # another error: another user's process
        return not isinstance(error, ProcessLookupError)
    return True
