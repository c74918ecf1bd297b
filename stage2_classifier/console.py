"""What a command line shares with the others: one clear line for bad input, a console, a progress bar."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def console() -> Console:
    """A console on standard output; made when used, so that tests and pipes see their own stream."""
    return Console(soft_wrap=True)


def progress() -> Progress:
    """A progress bar on standard error, shown only on a terminal (a log file gets no half-drawn bars)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def guarded(command: Callable[[], int], *errors: type[Exception]) -> int:
    """Runs a command and returns its exit code: one of `errors` or an OSError becomes one line and code 1.

    Ctrl-C gives 130. A programming error keeps its traceback.
    """
    expected: tuple[type[Exception], ...] = (*errors, OSError)
    try:
        return command()
    except expected as error:
        print(f"error: {_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


# What mends the operating system's commonest refusals.
_MENDS = {
    errno.ENOENT: "check the name",
    errno.EACCES: "change its permissions or name another place",
    errno.EROFS: "name another place",
    errno.EEXIST: "name another place",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name another place",
    errno.ENOSPC: "make room or name another place",
    errno.EDQUOT: "make room or name another place",
}


def _line(error: Exception) -> str:
    """The error in one line; the operating system's with the file first and what mends it."""
    if not isinstance(error, OSError) or error.filename is None or error.errno is None:
        return str(error)
    mend = _MENDS.get(error.errno)
    return f"{error.filename}: {error.strerror}" + (f"; {mend}" if mend else "")
