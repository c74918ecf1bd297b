"""Photos in Parquet files: a row a photo, its file's bytes in one column, as Hugging Face datasets have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import MediaError, first_line
from pipeline.batch.chunk import Chunk, Content
from pipeline.batch.storage import Storage
from pipeline.batch.table import METADATA_KEY

_AT_A_TIME = 16  # photos in memory
_BUFFER = 4 << 20  # bytes read at a time; without it a whole row group's would be


@dataclass(frozen=True)
class Columns:
    """Where in a row what is. picture: the column of the bytes, None for the only one that has bytes. id: or none."""

    picture: str | None = None
    id: str | None = None


def find_rows(place: Storage, path: str, columns: Columns) -> Iterator[tuple[int, int]]:
    """The row group and number of each row of a file; none where it is a result of this command, not photos.

    Raises MediaError when it is no Parquet file or lacks a column.
    """
    name = place.name(path)
    try:
        with place.open(path) as opened, pq.ParquetFile(opened) as file:
            metadata = file.metadata
            if METADATA_KEY in (metadata.metadata or {}):
                return
            _leaves(file.schema_arrow, columns, name)
            counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except OSError as error:  # pyarrow's own, too
        raise MediaError(name, f"cannot be read ({error.strerror or first_line(error)}); check it") from error
    except pa.ArrowException as error:
        raise MediaError(name, f"is no Parquet file that can be read ({first_line(error)}); copy it again") from error
    row = 0
    for group, count in enumerate(counts):
        for _ in range(count):
            yield group, row
            row += 1


def read_rows(chunk: Chunk, columns: Columns) -> Iterator[Content]:
    """What each row of a chunk holds. Raises OSError or pyarrow's errors when the file cannot be read any more."""
    path = chunk.items[0].path
    wanted = {item.row for item in chunk.items}
    with (
        chunk.place.open(path) as opened,
        pq.ParquetFile(opened, buffer_size=_BUFFER, pre_buffer=False) as file,
    ):
        picture, ids = _leaves(file.schema_arrow, columns, path)
        groups: list[int] = []
        rows: list[int] = []
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if any(row in wanted for row in range(start, end)):
                groups.append(group)
                rows += range(start, end)
            start = end
        numbers = iter(rows)
        leaves = [leaf for leaf in (picture, ids) if leaf is not None]
        for batch in file.iter_batches(_AT_A_TIME, row_groups=groups, columns=leaves, use_threads=False):
            pictures = _values(batch, picture)
            names = None if ids is None else _values(batch, ids)
            for i in range(batch.num_rows):
                if next(numbers) in wanted:
                    own = None if names is None or names[i].as_py() is None else str(names[i].as_py())
                    data = pictures[i].as_py()
                    yield Content(data, "" if data else "holds no picture (no bytes); leave the row out", own)


def _leaves(schema: pa.Schema, columns: Columns, name: str) -> tuple[str, str | None]:
    """The full names of the column of bytes and of that of ids. Raises MediaError when one is missing or unclear."""
    fields = [each for each in schema if _bytes_of(each) is not None]
    if columns.picture is not None:
        field = _field(schema, columns.picture)
        if field is None:
            raise MediaError(name, f"has no column {columns.picture!r}; its columns are {', '.join(schema.names)}")
        inner = _bytes_of(field)
        if inner is None:
            raise MediaError(name, f"column {columns.picture!r} holds no bytes; name one of bytes with --column")
        leaf = columns.picture + inner
    elif len(fields) == 1:
        leaf = f"{fields[0].name}{_bytes_of(fields[0])}"
    elif fields:
        raise MediaError(
            name, f"has several columns of bytes ({', '.join(f.name for f in fields)}); name one with --column"
        )
    else:
        raise MediaError(name, "has no column of bytes, so no photos; leave it out or name another file")
    if columns.id is not None and _field(schema, columns.id) is None:
        raise MediaError(name, f"has no column {columns.id!r}; its columns are {', '.join(schema.names)}")
    return leaf, columns.id


def _field(schema: pa.Schema, name: str) -> pa.Field | None:
    """The field of a name, with dots into structs."""
    first, *inner = name.split(".")
    if first not in schema.names:
        return None
    field = schema.field(first)
    for each in inner:
        if not pa.types.is_struct(field.type) or field.type.get_field_index(each) < 0:
            return None
        field = field.type.field(each)
    return field


def _bytes_of(field: pa.Field) -> str | None:
    """What follows a field's name for its bytes: nothing, ".bytes" in a struct, None where it has none."""
    kind = field.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return ""
    if pa.types.is_struct(kind) and (at := kind.get_field_index("bytes")) >= 0:
        return None if _bytes_of(kind.field(at)) != "" else ".bytes"
    return None


def _values(batch: pa.RecordBatch, leaf: str) -> Any:
    """A column, or a field inside one."""
    first, *inner = leaf.split(".")
    values = batch.column(first)
    for each in inner:
        values = pa.compute.struct_field(values, each)  # with the struct's own nulls
    return values
