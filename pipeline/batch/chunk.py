"""Chunk: photos that one worker does together and whose rows become one part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

from pipeline.batch.storage import Storage


@dataclass(frozen=True, slots=True)
class Item:
    """A photo: a file, or a row of a Parquet file."""

    path: str
    row: int | None = None


@dataclass(frozen=True)
class Content:
    """What a photo's file or row holds. data: the picture file's bytes, or error: why there are none.

    id: what the id column says, where one was named.
    """

    data: bytes | None
    error: str = ""
    id: str | None = None


@dataclass(frozen=True)
class Chunk:
    """Photos of one place: all files, or all rows of one file.

    contents: those of the items, where no other process can read them.
    """

    place: Storage
    items: tuple[Item, ...]
    contents: tuple[Content, ...] | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def names(self) -> list[str]:
        """The photos' names, as results have them."""
        return [item_name(self.place, item) for item in self.items]

    @property
    def key(self) -> str:
        """The same for the same photos, whenever they are done."""
        return blake2b("\0".join(self.names).encode(), digest_size=8).hexdigest()

    def singles(self) -> list[Chunk]:
        """Each photo alone."""
        own = [None] * len(self) if self.contents is None else [(content,) for content in self.contents]
        return [replace(self, items=(item,), contents=each) for item, each in zip(self.items, own, strict=True)]


def item_name(place: Storage, item: Item) -> str:
    """What results call a photo: its path or address; a row of a Parquet file has "#" and its number behind that."""
    name = place.name(item.path)
    return name if item.row is None else f"{name}#{item.row}"
