"""What all commands share: one-line errors, exit codes, Ctrl-C, a console, progress bars, missing extras."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.errors import UserError
from common.interrupts import install_sigint_exit, restore_sigint
from common.launcher import missing_package


def console() -> Console:
    """A console on standard output; made when used, so that tests and pipes see their own stream."""
    return Console(soft_wrap=True)


def progress() -> Progress:
    """A progress bar on standard error, shown only on a terminal (a log file gets no half-drawn bars)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def program_name(module: str) -> str:
    """Return what the user typed to start a command: "facemask detect" or "python -m pipeline.detect".

    Args:
        module: the command's module, such as "pipeline.detect".
    """
    return sys.argv[0] if sys.argv[0].startswith("facemask ") else f"python -m {module}"


def refuse_renamed(argv: Sequence[str] | None, renamed: Mapping[str, str]) -> None:
    """Refuse flags under the name that an earlier version had.

    Args:
        argv: a command's arguments; those of the process when None.
        renamed: the present flag by the earlier one, each with its dashes.

    Raises:
        UserError: names the present flag.
    """
    for argument in sys.argv[1:] if argv is None else argv:
        flag = argument.partition("=")[0]
        if flag in renamed:
            raise UserError(f"{flag}: has a new name; use {renamed[flag]}")


@contextmanager
def requires_extra(extra: str) -> Iterator[None]:
    """Turn a missing package inside the block into a UserError that says how to install the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(missing_package(error.name, extra)) from error


@contextmanager
def requires_package(name: str) -> Iterator[None]:
    """Turn a missing package that no extra of ours installs into a UserError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f"this needs the package {name!r}; install it with `pip install {name}`") from error


def run_cli(command: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Run a command and return its exit code: a UserError or OSError becomes one line and code 1.

    Ctrl-C gives code 130 and the line `interrupted`. Printed text that cannot be written is an error, too, but a pipe
    whose reader has ended (`| head -1`) ends the command in silence. A programming error keeps its traceback.

    Args:
        command: does the work and returns an exit code.
        interrupted: the line printed at Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a file name that the terminal cannot show is no reason to fail
    failed: Exception | None = None
    installed = False
    try:
        installed = restore_sigint()
        code = command()
    except (UserError, OSError) as error:
        code, failed = 1, error
    except KeyboardInterrupt:
        code = 130
        gc.freeze()  # with torch loaded, Python would look for seconds for what it can still free before it ends
    except SystemExit:
        _unwritten(sys.stdout)  # such as the text of --help
        raise
    finally:
        if installed:
            install_sigint_exit()  # the rest takes a moment, too
    unwritten = _unwritten(sys.stdout)
    if failed is None and unwritten is not None and code != 130:
        code, failed = code or 1, unwritten
    with suppress(OSError):  # nobody can be told
        if code == 130:
            print(interrupted, file=sys.stderr)
        elif failed is not None and not (isinstance(failed, BrokenPipeError) and failed.filename is None):
            print(f"error: {_line(failed)}", file=sys.stderr)
    _unwritten(sys.stderr)
    return code


def _unwritten(stream: TextIO | None) -> OSError | None:
    """Why what was printed cannot be written, if it cannot; it is dropped then, for Python would try again at the end.

    None where there is no such stream.
    """
    if stream is None or stream.closed:
        return None
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # ValueError: no file of the system
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return error
    return None


# What fixs the operating system's commonest refusals.
_FIXES = {
    errno.ENOENT: "check the name",
    errno.EACCES: "change its permissions or name another place",
    errno.EPERM: "change its permissions or name another place",
    errno.EROFS: "name another place",
    errno.EEXIST: "name another place",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name another place",
    errno.ENOSPC: "make room or name another place",
    errno.EDQUOT: "make room or name another place",
    errno.EFBIG: "raise the limit (ulimit -f) or name another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit (ulimit -n)",
}


def _line(error: Exception) -> str:
    """The error in one line; the operating system's with the file first and what fixs it."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    name, fix = error.filename, _FIXES.get(error.errno)
    if name is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        name = "standard output"  # what is written elsewhere bears its file's name
    return str(error) if name is None else f"{name}: {error.strerror}" + (f"; {fix}" if fix else "")
