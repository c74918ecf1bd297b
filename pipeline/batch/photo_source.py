"""The bytes of a chunk's photos: from files at an address, read ahead, or from rows of a Parquet file.

A Parquet source has one row per photo. One column holds the picture files' bytes, or structs of `bytes` and `path` as
in Hugging Face datasets: a row without bytes is read from its path.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import MediaError, first_line
from common.images import open_image_file
from common.parallel import map_ordered
from common.paths import is_address
from pipeline.batch.chunk import Chunk, PhotoContent, PhotoRef
from pipeline.batch.storage import Storage
from pipeline.batch.table import METADATA_KEY

# os.path, not pathlib, as in storage.py: names are text.
# ruff: noqa: PTH110

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
            _find_columns(file.schema_arrow, columns, name)
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
        image, ids = _find_columns(file.schema_arrow, columns, path)
        groups = {k: rows for k, rows in enumerate(_row_ranges(file.metadata)) if not wanted.isdisjoint(rows)}
        numbers = chain.from_iterable(groups.values())
        read = [".".join(column) for column in (*_fields_of(file.schema_arrow, image), ids) if column is not None]
        for batch in file.iter_batches(_ROWS_PER_READ, row_groups=list(groups), columns=read, use_threads=False):
            images = _column_values(batch, image)
            names = [None] * batch.num_rows if ids is None else _column_values(batch, ids)
            for value, name, number in zip(images, names, numbers, strict=False):
                if number in wanted:
                    content = _row_content(chunk.storage, path, value)
                    yield replace(content, id=None if name is None else str(name))


def _row_content(storage: Storage, table: str, value: Any) -> PhotoContent:
    """Return the content of a row: `value` is the picture's bytes, or a dict of `bytes` and `path`."""
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if data or data == b"" or not isinstance(path, str) or not path:
        return PhotoContent(data) if data else PhotoContent(None, "holds no picture (no bytes); leave the row out")
    if is_address(path):
        return PhotoContent(None, f"holds only the address {path}; download the picture, and store its bytes")
    folder = table.rpartition("/")[0]
    name = path if path.startswith("/") else f"{folder}/{path}"
    try:
        if not storage.is_local:
            return PhotoContent(storage.read(name))
        if not os.path.exists(name) and os.path.exists(name.replace("\\", "/")):  # written on Windows
            name = name.replace("\\", "/")
        with open_image_file(name) as file:  # no pipe or device, which could have no end
            return PhotoContent(file.read())
    except (OSError, MediaError) as error:
        what = error.reason.split(";")[0] if isinstance(error, MediaError) else first_line(error)
        return PhotoContent(None, f"holds no bytes, and its path {path!r}: {what}; put the picture there")


def write_plain_table(file: Path, picture: bytes, columns: ParquetColumns) -> None:
    """Write a Parquet file of one row that has these columns and holds a picture."""
    row: dict[str, Any] = {}
    for path, value in ((columns.id, "plain"), (columns.image or "image.bytes", picture)):
        *outer, last = path.split(".") if path else [""]
        inner = row
        for name in outer:
            inner = inner.setdefault(name, {})
        if isinstance(inner.get(last), dict):
            inner, last = inner[last], "bytes"
        inner[last] = value
    row.pop("", None)
    pq.write_table(pa.Table.from_pylist([row]), file)


# The names of a column, from the outermost struct inwards.
ColumnPath = tuple[str, ...]


def _find_columns(schema: pa.Schema, columns: ParquetColumns, name: str) -> tuple[ColumnPath, ColumnPath | None]:
    """Return the columns of pictures and ids. Raises MediaError on a missing or unclear one."""
    ids = None if columns.id is None else _find_field(schema, columns.id)
    if columns.id is not None and ids is None:
        raise MediaError(name, f"has no column {columns.id!r}; its columns are {', '.join(schema.names)}")
    if columns.image is not None:
        path = _find_field(schema, columns.image)
        if path is None:
            raise MediaError(name, f"has no column {columns.image!r}; its columns are {', '.join(schema.names)}")
        if not _holds_pictures(_type_at(schema, path)):
            raise MediaError(name, f"column {columns.image!r} holds no bytes; name a column of bytes with --column")
        return path, ids
    found = [path for field in schema for path in _picture_columns(field.type, (field.name,))]
    if len(found) > 1:
        declared = _declared_images(schema)
        found = [path for path in found if path[0] in declared] or found
    if len(found) > 1:
        several = ", ".join(".".join(path) for path in found)
        raise MediaError(name, f"has several columns of bytes ({several}); name one with --column")
    if not found:
        lists = [field.name for field in schema if _is_list(field.type)]
        if lists:
            what = f"has no column of bytes, only lists ({', '.join(lists)}); write a file with one row per picture"
            raise MediaError(name, what)
        raise MediaError(name, "has no column of bytes, so no photos; leave it out or name another file")
    return found[0], ids


def _find_field(schema: pa.Schema, path: str) -> ColumnPath | None:
    """Return the names on a path, whose dots lead into structs; a column's own name may have dots, too."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        found: ColumnPath = (".".join(parts[:count]), *parts[count:])
        if _type_at(schema, found) is not None:
            return found
    return None


def _type_at(schema: pa.Schema, path: ColumnPath) -> pa.DataType | None:
    """Return the type of a column; None where there is no such column."""
    if path[0] not in schema.names:
        return None
    kind = schema.field(path[0]).type
    for name in path[1:]:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return kind


def _picture_columns(kind: pa.DataType, path: ColumnPath) -> Iterator[ColumnPath]:
    """Yield the paths of the columns of pictures in a type."""
    if _holds_pictures(kind):
        yield path
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _picture_columns(field.type, (*path, field.name))


def _holds_pictures(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes, or structs of `bytes`."""
    if not pa.types.is_struct(kind):
        return _is_bytes(kind)
    at = kind.get_field_index("bytes")
    if at < 0:
        return False
    # A file in which no row has bytes: the writer knew no type.
    only_paths = pa.types.is_null(kind.field(at).type) and kind.get_field_index("path") >= 0
    return only_paths or _is_bytes(kind.field(at).type)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_list(kind: pa.DataType) -> bool:
    """Return whether a column holds lists of pictures, or of the numbers of their bytes."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    return _holds_pictures(kind.value_type) or kind.value_type == pa.uint8()


def _declared_images(schema: pa.Schema) -> set[str]:
    """Return the columns that the metadata of Hugging Face datasets declare as pictures."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name for name, feature in features.items() if feature["_type"] == "Image"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return set()


def _fields_of(schema: pa.Schema, path: ColumnPath) -> list[ColumnPath]:
    """Return the columns to read for a column of pictures: its bytes and its path, or the column itself."""
    kind = _type_at(schema, path)
    if kind is None or not pa.types.is_struct(kind):
        return [path]
    return [(*path, name) for name in ("bytes", "path") if kind.get_field_index(name) >= 0]


def _column_values(batch: pa.RecordBatch, path: ColumnPath) -> Iterator[Any]:
    """Yield the values of a column as Python's; those of a field in a null struct are None."""
    first, *inner = path
    for scalar in batch.column(first):
        value = scalar.as_py()
        for name in inner:
            value = None if value is None else value.get(name)
        yield value
