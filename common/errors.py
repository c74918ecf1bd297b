"""Errors whose messages are meant for the person at the keyboard."""

from __future__ import annotations

from pathlib import Path

from common.display import shown


class UserError(Exception):
    """Input that cannot be used: the message is one line that names the file and the fix."""


def first_line(error: Exception) -> str:
    """Return the first line of another library's error, or the error's type where the message is empty."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class BundleError(UserError):
    """A bundle that cannot be used: the message names the file and the fix."""


class MediaError(UserError):
    """A picture that cannot be read or written: `file` is its path, `what` the matter and the mend (one line)."""

    def __init__(self, file: str | Path, what: str) -> None:
        self.file, self.what = str(file), " ".join(what.split())
        super().__init__(f"{shown(file)}: {self.what}")


class TooManyPixelsError(MediaError):
    """A picture with more pixels than are allowed; nothing of it was decoded."""
