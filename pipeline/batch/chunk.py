"""Chunk: photos that one worker processes together and whose rows become one part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

from pipeline.batch.storage import Storage


@dataclass(frozen=True, slots=True)
class PhotoRef:
    """Where a photo is: a file, or a row of a Parquet file."""

    path: str
    row: int | None = None


@dataclass(frozen=True)
class PhotoContent:
    """What a photo's file or row holds."""

    data: bytes | None  # of the picture file
    error: str = ""  # why there are no bytes
    id: str | None = None  # value of the id column, where one was named


@dataclass(frozen=True)
class Chunk:
    """Photos of one storage: all files, or all rows of one Parquet file."""

    storage: Storage
    photos: tuple[PhotoRef, ...]
    contents: tuple[PhotoContent, ...] | None = None  # one per photo, where no other process can read them

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def names(self) -> list[str]:
        """The photos' names in the results."""
        return [photo_name(self.storage, photo) for photo in self.photos]

    @property
    def key(self) -> str:
        """A hash that is the same for the same photos in every run."""
        return blake2b("\0".join(self.names).encode(), digest_size=8).hexdigest()

    def split(self) -> list[Chunk]:
        """Return one chunk per photo."""
        contents = [None] * len(self) if self.contents is None else [(each,) for each in self.contents]
        return [replace(self, photos=(p,), contents=c) for p, c in zip(self.photos, contents, strict=True)]


def photo_name(storage: Storage, photo: PhotoRef) -> str:
    """Return a photo's name in the results: its path or address, and "#" with the row of a Parquet file."""
    name = storage.name(photo.path)
    return name if photo.row is None else f"{name}#{photo.row}"


def earlier_photo_name(storage: Storage, photo: PhotoRef) -> str:
    """Return a photo's name in results of earlier versions."""
    name = storage.earlier_name(photo.path)
    return name if photo.row is None else f"{name}#{photo.row}"


def name_digest(name: str) -> bytes:
    """Return a name's 16 bytes; two of a billion names share them with a chance of 1 in 10**20."""
    return blake2b(name.encode(), digest_size=16).digest()
