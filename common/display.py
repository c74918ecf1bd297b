"""File names as text for people."""

from __future__ import annotations

import os
from pathlib import Path


def as_text(path: str | Path) -> str:
    """A path as valid Unicode: bytes of a file name that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def shown(path: str | Path) -> str:
    """A path fit for one line on a terminal: `as_text`, and no line breaks or control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in as_text(path))
