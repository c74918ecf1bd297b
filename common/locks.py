"""A folder that one process at a time may write into; a killed one lets go of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.display import shown
from common.errors import UserError
from common.files import naming

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder inside the block. Raises UserError when another process does (not told on Windows).

    The system, not the file, knows whether it is held: a file that a killed process left behind is taken over.
    """
    if fcntl is None:
        yield
        return
    path = folder / NAME
    while True:
        with naming(folder):
            file = path.open("a+", encoding="ascii")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                who = file.read().strip() or "unknown"
                raise UserError(
                    f"{shown(folder)}: process {who} writes there; wait for it or end it, or name another folder"
                ) from error
            try:
                same = path.stat().st_ino == os.fstat(file.fileno()).st_ino
            except FileNotFoundError:
                same = False
            if not same:  # its holder removed it in this very moment
                continue
            try:
                with naming(folder):
                    file.truncate(0)
                    os.write(file.fileno(), str(os.getpid()).encode())  # not buffered: closing would write it again
                yield
            finally:
                path.unlink(missing_ok=True)
            return
