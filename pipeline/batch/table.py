"""The table of results, one row per face, and the recipe that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inference.bundle_meta import upgrade_description

METADATA_KEY = b"face_mask_batch"
HASH_KEY = b"face_mask_batch_hash"
_NOT_HASHED = ("name", "metrics", "provenance")  # parts of a bundle's description that change no result
# Columns whose text repeats; a dictionary of the other columns would be larger than their values.
_REPEATING = ("file", "id", "label", "width", "height")


@dataclass(frozen=True)
class BatchRecipe:
    """What results depend on."""

    bundle: Mapping[str, Any]  # the bundle's description (`Bundle.describe`)
    options: Mapping[str, Any]  # options of the command that change a result

    @property
    def hash(self) -> str:
        """A hash that differs where a result can differ."""
        bundle = {key: value for key, value in self.bundle.items() if key not in _NOT_HASHED}
        return sha256(json.dumps([bundle, self.options], sort_keys=True).encode()).hexdigest()

    def metadata(self) -> dict[bytes, bytes]:
        """Return the metadata of each Parquet file."""
        record = {"bundle": self.bundle, "options": self.options}
        return {METADATA_KEY: json.dumps(record, sort_keys=True).encode(), HASH_KEY: self.hash.encode()}

    def difference(self, metadata: Mapping[bytes, bytes]) -> str | None:
        """Return what differs in a file's metadata, as the end of "was made with"; None where nothing differs."""
        if metadata.get(HASH_KEY) == self.hash.encode():
            return None
        try:
            recorded = json.loads(metadata[METADATA_KEY])
            bundle, options = recorded["bundle"], recorded["options"]
            if BatchRecipe(upgrade_description(bundle), options).hash == self.hash:
                return None
            for name in {**options, **self.options}:
                old, value = options.get(name), self.options.get(name)
                if old != value:
                    flag = "--" + name.replace("_", "-")
                    made, now = (f"{flag} {each}" if each is not None else f"no {flag}" for each in (old, value))
                    return f"{made}, this is {now}"
            return f"another bundle ({bundle['name']!r}), this is {self.bundle['name']!r}"
        except (KeyError, ValueError, TypeError, AttributeError):
            return "a version that this one cannot read"


def table_schema(class_names: Sequence[str], with_id: bool) -> pa.Schema:
    """Return the columns; those of a face are null for a photo without faces.

    width, height, x1 to y2 and landmarks (x, y of five points, one after another) are in pixels; face: 0 for the best.
    note: what to know of a file that was read all the same, such as a JPEG without its end marker.
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
            pa.field("note", pa.string()),
        ]
    )


ERROR_SCHEMA = pa.schema(
    [pa.field("file", pa.string(), nullable=False), pa.field("error", pa.string(), nullable=False)]
)


def photo_rows(record: Mapping[str, Any], photo_id: str | None) -> list[dict[str, Any]]:
    """Return a photo's rows, from its JSON entry (pipeline.detect.writers): one per face, or one without a face."""
    photo = {"file": record["file"], "id": photo_id, "width": record["width"], "height": record["height"]}
    photo["note"] = record.get("note")
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
    """Return the table as a Parquet file."""
    sink = pa.BufferOutputStream()
    repeating = [name for name in _REPEATING if name in table.schema.names]
    # store_schema=False: Arrow's copy of the schema would hold the metadata a second time.
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", use_dictionary=repeating, store_schema=False
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(dict(metadata))
    return sink.getvalue().to_pybytes()
