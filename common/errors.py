"""Errors whose one-line messages are for the user: what is wrong, then what to do."""

from __future__ import annotations

import traceback
from pathlib import Path

from common.display import display_name


class UserError(Exception):
    """Input that cannot be used; the message is one line with the file and the fix."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, or the error's type where the message is empty."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class ProgrammingError(Exception):
    """An error in this project's code or its packages, met by a worker process: no fault of the user's files.

    Attributes:
        what: the error as one line.
        trace: the worker's traceback; "" where the worker printed it.
    """

    def __init__(self, what: str, trace: str) -> None:
        super().__init__(what, trace)  # both, so that the error can be sent to another process
        self.what, self.trace = what, trace

    @classmethod
    def of(cls, error: BaseException) -> ProgrammingError:
        """Return an error with its traceback, which a process can send."""
        name = f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
        return cls(name, "".join(traceback.format_exception(error)))


class BundleError(UserError):
    """A bundle that cannot be used."""


class MediaError(UserError):
    """A picture or video that cannot be read or written."""

    def __init__(self, file: str | Path, what: str) -> None:
        self.file = str(file)
        self.reason = " ".join(what.split())  # what is wrong and what to do, as one line without the path
        super().__init__(f"{display_name(file)}: {self.reason}")

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        """Return how to make the error again in another process: `args` holds the message alone."""
        return type(self), (self.file, self.reason)


class TooManyPixelsError(MediaError):
    """A picture with more pixels than allowed; no pixel was decoded."""
