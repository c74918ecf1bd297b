"""One-line errors, exit codes, Ctrl-C, console, progress bars and missing extras of all commands."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from common.display import printable
from common.errors import ProgrammingError, UserError
from common.launcher import install_sigint_exit, missing_package, restore_sigint

if TYPE_CHECKING:
    from rich.progress import Progress

OWN_PACKAGES = ("common", "stage1_faces", "stage2_classifier", "pipeline")


def console() -> Console:
    """Return a console on the present standard output, which tests and pipes replace."""
    return Console(soft_wrap=True)


def progress() -> Progress:
    """Return a progress bar on standard error; it is shown only on a terminal, never in a log file."""
    # Here, because a command that processes one photo shows no bar.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


@contextmanager
def requires_extra(extra: str) -> Iterator[None]:
    """Turn a missing package in the block into a UserError that says how to install the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OWN_PACKAGES:  # a programming error
            raise
        raise UserError(missing_package(error.name, extra)) from error


@contextmanager
def requires_package(name: str, requirement: str = "") -> Iterator[None]:
    """Turn the missing package `name`, which is in no extra, into a UserError that says how to install it.

    `requirement` follows `pip install` where it is not the package's name.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        install = f"pip install {requirement or name}"
        raise UserError(f"this needs the package {name!r}; install it with `{install}`") from error


def run_cli(command: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Run a command and return its exit code.

    A UserError or OSError, also of standard output, becomes one line on standard error and code 1. A pipe whose reader
    has ended (`| head -1`) gives code 1 without a line. A worker's ProgrammingError prints the worker's traceback and
    one line. Other errors keep their traceback.

    Args:
        command: does the work and returns the exit code.
        interrupted: the line printed at Ctrl-C, which gives code 130.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the terminal may be unable to show a file name
    failure: Exception | None = None
    installed = False
    try:
        installed = restore_sigint()
        code = command()
    except (UserError, OSError, ProgrammingError) as error:
        code, failure = 1, error
    except KeyboardInterrupt:
        code = 130
        gc.freeze()  # with torch loaded, the last garbage collection would take seconds
    except SystemExit:
        _flush(sys.stdout)  # such as the text of --help
        raise
    finally:
        if installed:
            install_sigint_exit()  # until the process has ended
    flush_error = _flush(sys.stdout)
    if failure is None and flush_error is not None and code != 130:
        code, failure = code or 1, flush_error
    with suppress(OSError):  # standard error may be closed
        if code == 130:
            print(interrupted, file=sys.stderr)
        elif failure is not None and not (isinstance(failure, BrokenPipeError) and failure.filename is None):
            if isinstance(failure, ProgrammingError) and failure.trace:
                print(failure.trace.rstrip(), file=sys.stderr)
            line = " ".join(_error_line(failure).splitlines())  # a library's message may have several
            print(f"error: {printable(line)}", file=sys.stderr)
    _flush(sys.stderr)
    return code


def _flush(stream: TextIO | None) -> OSError | None:
    """Flush a stream; on failure return the error and drop the text, which Python would write again at exit."""
    if stream is None or stream.closed:
        return None
    try:
        stream.flush()
    except OSError as error:
        # ValueError: the stream has no file descriptor.
        with suppress(OSError, ValueError), Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), stream.fileno())
        return error
    return None


# What to do about the most frequent errors of the operating system.
_FIXES = {
    errno.ENOENT: "check the name",
    errno.EISDIR: "name a file",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change its permissions or name another place"),
    **dict.fromkeys((errno.EROFS, errno.EEXIST, errno.ENOTDIR), "name another place"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room or name another place"),
    errno.EFBIG: "raise the limit (ulimit -f) or name another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit (ulimit -n)",
}


def _error_line(error: Exception) -> str:
    """Return the error as one line; that of an OSError has the file first and the fix last."""
    if isinstance(error, ProgrammingError):
        report = "report the traceback above" if error.trace else "report it with the text above, if any"
        return f"programming error in a worker ({error.what}), not a fault of your files; {report}"
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    name, fix = error.filename, _FIXES.get(error.errno)
    if name is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        name = "standard output"  # errors of all other writes carry their file's name
    return str(error) if name is None else f"{name}: {error.strerror}" + (f"; {fix}" if fix else "")
