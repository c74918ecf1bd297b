"""How a dataset is read: the options that every command with --data has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ReadingArgs:
    """Options of reading a dataset; commands inherit them."""

    rename: tuple[str, ...] = ()
    """OLD=NEW: give a class of the data another name, such as Mask=with_mask."""
    unlabelled: Literal["face-free", "skip"] = "face-free"
    """A photo without a label file has no faces (YOLO's convention), or is not used."""

    def reading_flags(self) -> list[str]:
        """Return the options as arguments of another command; none for the defaults."""
        flags = ["--rename", *self.rename] if self.rename else []
        return flags if self.unlabelled == "face-free" else [*flags, "--unlabelled", self.unlabelled]


DEFAULT_READING = ReadingArgs()
