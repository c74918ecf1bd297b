"""What a command line of stage 1 shares with the others: one clear line for bad input, an end in peace.

The functions are those of stage2_classifier.console, letter for letter (a test compares them): the stages know nothing
of each other.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from stage1_faces.early import end_at_ctrl_c, raise_at_ctrl_c


def guarded(command: Callable[[], int], *errors: type[Exception], interrupted: str = "interrupted") -> int:
    """Runs a command and returns its exit code: one of `errors` or an OSError becomes one line and code 1.

    Ctrl-C gives 130 and the line `interrupted`. What was printed and cannot be written is an error, too; a pipe whose
    reader has left (`| head -1`) ends the command in silence. A programming error keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a file name that the terminal cannot show is no reason to fail
    expected: tuple[type[Exception], ...] = (*errors, OSError)
    failed: Exception | None = None
    ours = False
    try:
        ours = raise_at_ctrl_c()
        code = command()
    except expected as error:
        code, failed = 1, error
    except KeyboardInterrupt:
        code = 130
        gc.freeze()  # with torch loaded, Python would look for seconds for what it can still free before it ends
    except SystemExit:
        _unwritten(sys.stdout)  # such as the text of --help
        raise
    finally:
        if ours:
            end_at_ctrl_c()  # what is still to be done takes a moment, too
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


# What mends the operating system's commonest refusals.
_MENDS = {
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
    """The error in one line; the operating system's with the file first and what mends it."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    name, mend = error.filename, _MENDS.get(error.errno)
    if name is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        name = "standard output"  # what is written elsewhere bears its file's name
    return str(error) if name is None else f"{name}: {error.strerror}" + (f"; {mend}" if mend else "")
