"""The bytes of a chunk's photos: from an address's files, read ahead, or from rows of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from common.errors import MediaError, first_line
from common.parallel import map_ordered
from pipeline.batch.chunk import Chunk, Content, Item
from pipeline.batch.parquet_source import Columns, read_rows

# Files of an address on the way at a time: an object store answers after 20 to 100 ms, about as long as a photo takes.
READERS = 4


def contents(chunk: Chunk, columns: Columns) -> Iterator[Content]:
    """What each of a chunk's photos holds, in order; an error for what cannot be read."""
    if chunk.contents is not None:
        yield from chunk.contents
    elif chunk.items[0].row is None:
        yield from map_ordered(lambda item: _read(chunk, item), chunk.items, READERS)
    else:
        given = 0
        try:
            for content in read_rows(chunk, columns):
                yield content
                given += 1
        except (OSError, pa.ArrowException, MediaError) as error:
            what = error.what if isinstance(error, MediaError) else f"cannot be read ({first_line(error)}); check it"
            for _ in range(given, len(chunk)):
                yield Content(None, what)


def _read(chunk: Chunk, item: Item) -> Content:
    try:
        data = chunk.place.read(item.path)
    except OSError as error:
        return Content(None, f"cannot be read ({first_line(error)}); check its name and permissions")
    return Content(data) if data else Content(None, "is empty (0 bytes); copy or upload it again")
