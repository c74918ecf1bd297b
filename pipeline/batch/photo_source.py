"""The bytes of a chunk's photos: from files at an address, read ahead, or from rows of a Parquet file.

A Parquet source has one row per photo; one column holds the picture files' bytes, as in Hugging Face datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import MediaError, first_line
from common.parallel import map_ordered
from pipeline.batch.chunk import Chunk, PhotoContent, PhotoRef
from pipeline.batch.storage import Storage
from pipeline.batch.table import METADATA_KEY

# Files of an address read at a time: an object store answers after 20 to 100 ms, about as long as a photo takes.
READ_THREADS = 4
_ROWS_PER_READ = 16  # photos in memory
_BUFFER_BYTES = 4 << 20  # read at a time; without a buffer, a whole row group is read


@dataclass(frozen=True)
class ParquetColumns:
    """Columns of a Parquet source."""

    image: str | None = None  # the pictures' bytes; None for the only column that has bytes
    id: str | None = None  # the photos' ids, if any


def read_contents(chunk: Chunk, columns: ParquetColumns) -> Iterator[PhotoContent]:
    """Yield the content of each of a chunk's photos, in order; an error for a photo that cannot be read."""
    if chunk.contents is not None:
        yield from chunk.contents
    elif chunk.photos[0].row is None:
        yield from map_ordered(lambda photo: _read_file(chunk, photo), chunk.photos, READ_THREADS)
    else:
        read = 0
        try:
            for content in _read_rows(chunk, columns):
                yield content
                read += 1
        except (OSError, pa.ArrowException, MediaError) as error:
            what = error.reason if isinstance(error, MediaError) else f"cannot be read ({first_line(error)}); check it"
            for _ in range(read, len(chunk)):
                yield PhotoContent(None, what)


def _read_file(chunk: Chunk, photo: PhotoRef) -> PhotoContent:
    try:
        data = chunk.storage.read(photo.path)
    except OSError as error:
        return PhotoContent(None, f"cannot be read ({first_line(error)}); check its name and permissions")
    return PhotoContent(data) if data else PhotoContent(None, "is empty (0 bytes); copy or upload it again")


def find_rows(storage: Storage, path: str, columns: ParquetColumns) -> Iterator[tuple[int, int]]:
    """Yield the row group and the number of each row of a file; nothing for a file that is a result of this command.

    Raises MediaError when the file is not a Parquet file or lacks a column.
    """
    name = storage.name(path)
    try:
        with storage.open(path) as opened, pq.ParquetFile(opened) as file:
            metadata = file.metadata
            if METADATA_KEY in (metadata.metadata or {}):
                return
            _column_paths(file.schema_arrow, columns, name)
            ranges = _row_ranges(metadata)
    except OSError as error:  # pyarrow raises OSError, too
        raise MediaError(name, f"cannot be read ({error.strerror or first_line(error)}); check it") from error
    except pa.ArrowException as error:
        raise MediaError(name, f"is not a readable Parquet file ({first_line(error)}); copy it again") from error
    for group, rows in enumerate(ranges):
        for row in rows:
            yield group, row


def _row_ranges(metadata: pq.FileMetaData) -> list[range]:
    """Return the numbers of the rows in each row group."""
    counts = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    return [range(start, end) for start, end in pairwise(accumulate(counts, initial=0))]


def _read_rows(chunk: Chunk, columns: ParquetColumns) -> Iterator[PhotoContent]:
    """Yield the content of each row of a chunk. Raises OSError or a pyarrow error when the file cannot be read."""
    path = chunk.photos[0].path
    wanted = {photo.row for photo in chunk.photos}
    options = {"buffer_size": _BUFFER_BYTES, "pre_buffer": False}
    with chunk.storage.open(path) as opened, pq.ParquetFile(opened, **options) as file:
        image, ids = _column_paths(file.schema_arrow, columns, path)
        groups = {k: rows for k, rows in enumerate(_row_ranges(file.metadata)) if not wanted.isdisjoint(rows)}
        numbers = chain.from_iterable(groups.values())
        read = [column for column in (image, ids) if column is not None]
        for batch in file.iter_batches(_ROWS_PER_READ, row_groups=list(groups), columns=read, use_threads=False):
            images = _column_values(batch, image)
            names = pa.nulls(batch.num_rows) if ids is None else _column_values(batch, ids)
            for image_value, name, number in zip(images, names, numbers, strict=False):
                if number in wanted:
                    data, photo_id = image_value.as_py(), name.as_py()
                    error = "" if data else "holds no picture (no bytes); leave the row out"
                    yield PhotoContent(data, error, None if photo_id is None else str(photo_id))


def _column_paths(schema: pa.Schema, columns: ParquetColumns, name: str) -> tuple[str, str | None]:
    """Return the paths of the column of bytes and of the id column. Raises MediaError on a missing or unclear one."""
    fields = [each for each in schema if _bytes_suffix(each) is not None]
    if columns.image is not None:
        field = _find_field(schema, columns.image)
        if field is None:
            raise MediaError(name, f"has no column {columns.image!r}; its columns are {', '.join(schema.names)}")
        suffix = _bytes_suffix(field)
        if suffix is None:
            raise MediaError(name, f"column {columns.image!r} holds no bytes; name a column of bytes with --column")
        image = columns.image + suffix
    elif len(fields) == 1:
        image = f"{fields[0].name}{_bytes_suffix(fields[0])}"
    elif fields:
        several = ", ".join(field.name for field in fields)
        raise MediaError(name, f"has several columns of bytes ({several}); name one with --column")
    else:
        raise MediaError(name, "has no column of bytes, so no photos; leave it out or name another file")
    if columns.id is not None and _find_field(schema, columns.id) is None:
        raise MediaError(name, f"has no column {columns.id!r}; its columns are {', '.join(schema.names)}")
    return image, columns.id


def _find_field(schema: pa.Schema, path: str) -> pa.Field | None:
    """Return the field at a path, whose dots lead into structs."""
    first, *inner = path.split(".")
    if first not in schema.names:
        return None
    field = schema.field(first)
    for each in inner:
        if not pa.types.is_struct(field.type) or field.type.get_field_index(each) < 0:
            return None
        field = field.type.field(each)
    return field


def _bytes_suffix(field: pa.Field) -> str | None:
    """Return what follows a field's name in the path of its bytes: "" or ".bytes" (a struct); None without bytes."""
    kind = field.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return ""
    if pa.types.is_struct(kind) and (at := kind.get_field_index("bytes")) >= 0:
        return None if _bytes_suffix(kind.field(at)) != "" else ".bytes"
    return None


def _column_values(batch: pa.RecordBatch, path: str) -> Any:
    """Return the values of a column, or of a field in a struct column."""
    first, *inner = path.split(".")
    values = batch.column(first)
    for each in inner:
        values = pa.compute.struct_field(values, each)  # keeps the struct's nulls
    return values
