"""File names and counts as text that can be shown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

MAX_NAMES = 5  # in a message


def path_text(path: str | Path) -> str:
    """Return a path as valid Unicode: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def display_name(path: str | Path) -> str:
    """Return a path as one line for a terminal: as `path_text`, with U+FFFD for line breaks and control characters."""
    return printable(path_text(path))


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 photo" or "3 photos"; the plural must end in s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def first_names(names: Sequence[str]) -> str:
    """Return the first MAX_NAMES names, separated by commas; ", ..." follows when there are more."""
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def figure_text(text: str) -> str:
    """Return text that Matplotlib shows as it is: it would read what is between two "$" as a formula."""
    return text.replace("$", r"\$")


def printable(text: str) -> str:
    """Return text as one line of valid Unicode, with U+FFFD for line breaks, control characters and lone surrogates."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
