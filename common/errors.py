"""Errors whose one-line messages are for the user: what is wrong, then what to do."""

from __future__ import annotations

from pathlib import Path

from common.display import display_name


class UserError(Exception):
    """Input that cannot be used; the message is one line with the file and the fix."""


def first_line(error: Exception) -> str:
    """Return the first line of another library's error, or the error's type where the message is empty."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class BundleError(UserError):
    """A bundle that cannot be used."""


class MediaError(UserError):
    """A picture or video that cannot be read or written."""

    def __init__(self, file: str | Path, what: str) -> None:
        self.file = str(file)
        self.reason = " ".join(what.split())  # what is wrong and what to do, as one line without the path
        super().__init__(f"{display_name(file)}: {self.reason}")


class TooManyPixelsError(MediaError):
    """A picture with more pixels than allowed; no pixel was decoded."""
