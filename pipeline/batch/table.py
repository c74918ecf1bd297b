"""The table of results: a row a face, and what made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

METADATA_KEY = b"face_mask_batch"
HASH_KEY = b"face_mask_batch_hash"
_TELLING = ("name", "metrics", "provenance")  # say of a bundle what does not change a result
# Text that repeats; a dictionary of the numbers would be larger than they are.
_REPEATING = ("file", "id", "label", "width", "height")


@dataclass(frozen=True)
class BatchRecipe:
    """What results depend on. bundle: as it describes itself. options: those that change a result."""

    bundle: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """Differs where a result could."""
        bundle = {key: value for key, value in self.bundle.items() if key not in _TELLING}
        return sha256(json.dumps([bundle, self.options], sort_keys=True).encode()).hexdigest()

    def metadata(self) -> dict[bytes, bytes]:
        """What each file's metadata says."""
        record = {"bundle": self.bundle, "options": self.options}
        return {METADATA_KEY: json.dumps(record, sort_keys=True).encode(), HASH_KEY: self.hash.encode()}

    def differs(self, metadata: Mapping[bytes, bytes]) -> str | None:
        """What is another in a file's metadata, to be read after "was made with"; None where nothing is."""
        if metadata.get(HASH_KEY) == self.hash.encode():
            return None
        try:
            before = json.loads(metadata[METADATA_KEY])
            for name, value in self.options.items():
                old = before["options"].get(name)
                if old != value:
                    flag = "--" + name.replace("_", "-")
                    made, now = (f"{flag} {each}" if each is not None else f"no {flag}" for each in (old, value))
                    return f"{made}, this is {now}"
            return f"another bundle ({before['bundle']['name']!r}), this is {self.bundle['name']!r}"
        except (KeyError, ValueError, TypeError, AttributeError):
            return "a version that this one cannot read"


def schema(class_names: Sequence[str], with_id: bool) -> pa.Schema:
    """The columns; those of a face are null for a photo without one.

    width, height, x1 to y2 and landmarks (x, y of five points, one after another) in pixels; face: 0 for the best.
    """
    number = pa.float32()
    return pa.schema(
        [
            pa.field("file", pa.string(), nullable=False),
            *([pa.field("id", pa.string())] if with_id else []),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("face", pa.int32()),
            *(pa.field(name, number) for name in ("x1", "y1", "x2", "y2")),
            pa.field("label", pa.string()),
            *(pa.field(name, number) for name in ("score", "face_score", *(f"p_{name}" for name in class_names))),
            pa.field("unsure", pa.bool_()),
            pa.field("landmarks", pa.list_(number)),
        ]
    )


ERRORS = pa.schema([pa.field("file", pa.string(), nullable=False), pa.field("error", pa.string(), nullable=False)])


def rows(record: Mapping[str, Any], photo_id: str | None) -> list[dict[str, Any]]:
    """The rows of a photo, from its entry in JSON (pipeline.detect.writers): one a face, one in all when there is none."""
    photo = {"file": record["file"], "id": photo_id, "width": record["width"], "height": record["height"]}
    return [
        {
            **photo,
            "face": number,
            **dict(zip(("x1", "y1", "x2", "y2"), face["box"], strict=True)),
            **{name: face[name] for name in ("label", "score", "face_score", "unsure")},
            **{f"p_{name}": probability for name, probability in face["probs"].items()},
            "landmarks": [value for point in face["landmarks"] for value in point],
        }
        for number, face in enumerate(record["faces"])
    ] or [photo]


def to_parquet(table: pa.Table, metadata: Mapping[bytes, bytes]) -> bytes:
    """The table as a Parquet file."""
    sink = pa.BufferOutputStream()
    repeating = [name for name in _REPEATING if name in table.schema.names]
    # Without Arrow's own copy of the schema, which would hold the metadata again.
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", use_dictionary=repeating, store_schema=False
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(dict(metadata))
    return sink.getvalue().to_pybytes()


def from_parquet(parts: Sequence[bytes]) -> pa.Table:
    """Several such files as one table."""
    return pa.concat_tables([pq.read_table(pa.BufferReader(part)) for part in parts])
