"""Writes files so that a killed run leaves either the old file or the new one, never a half.

What a killed process was at is removed by the next one that writes into the same folder.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
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
    On an exception the temporary file is removed and `path` is untouched.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    try:
        prefix = f".{path.stem}.{_MACHINE}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=f".tmp{path.suffix}")
    except OSError as error:  # the user knows the file, not its temporary name
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            yield temporary
        except OSError as error:  # a write that fails carries no name
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise
        # mkstemp makes files private; give the result the permissions that open() would have given.
        with _UMASK:  # the process's own: of two threads at once one would read, and put back, the other's 0
            umask = os.umask(0)
            os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Replaces `path` with `text` (UTF-8) in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
