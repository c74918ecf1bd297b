from __future__ import annotations

import io
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.errors import UserError
from common.images import NO_END_NOTE
from pipeline.batch.chunk import Chunk, PhotoContent, PhotoRef
from pipeline.batch.photo_source import ParquetColumns
from pipeline.batch.storage import LOCAL, resolve_storage
from pipeline.batch.table import METADATA_KEY, BatchRecipe
from pipeline.batch.work import BatchJob, ChunkResult, process_chunk, process_peak_megabytes
from tests.helpers.batch_fakes import fake_job, files, load_failing, load_fake, load_out_of_memory
from tests.helpers.fake_predictor import CLASSES, write_picture

BOX = (8, 6, 20, 24)


def process(chunk: Chunk, job: BatchJob | None = None) -> ChunkResult:
    job = job or fake_job()
    return process_chunk(chunk, job, job.make_predictor())


def rows(result: ChunkResult) -> list[dict[str, Any]]:
    return list(pq.read_table(io.BytesIO(result.part)).to_pylist())


def float32(value: float) -> float:
    return float(pa.scalar(value, pa.float32()).as_py())


def test_one_row_per_face(tmp_path: Path) -> None:
    photo = write_picture(tmp_path / "a.png", [BOX, (30, 10, 40, 20)])
    none = write_picture(tmp_path / "none.png", [])
    result = process(files(photo, none))
    first, second, third = rows(result)
    assert first == {
        "file": str(photo),
        "width": 48,
        "height": 32,
        "face": 0,
        **{"x1": 8.0, "y1": 6.0, "x2": 20.0, "y2": 24.0},
        "label": "with_mask",
        "score": float32(0.63),
        "face_score": float32(0.9),
        **dict(zip((f"p_{name}" for name in CLASSES), map(float32, (0.7, 0.2, 0.1)), strict=True)),
        "unsure": False,
        "landmarks": [float32(v) for v in (11.6, 13.2, 16.4, 13.2, 14.0, 16.8, 12.2, 20.4, 15.8, 20.4)],
        "note": None,
    }
    assert (second["file"], second["face"], second["x1"]) == (str(photo), 1, 30.0)
    assert third == {**dict.fromkeys(first), "file": str(none), "width": 48, "height": 32}
    assert (result.photos, result.faces, result.errors) == (2, Counter(with_mask=2), ())
    assert result.key == files(photo, none).key and 10 < result.peak_megabytes < 10_000
    assert result.start_time < result.end_time <= time.time() and result.cpu_seconds > 0


def test_the_metadata_holds_the_recipe(tmp_path: Path) -> None:
    job = fake_job()
    schema = pq.read_schema(io.BytesIO(process(files(write_picture(tmp_path / "a.png")), job).part))
    assert json.loads(schema.metadata[METADATA_KEY]) == {"bundle": job.recipe.bundle, "options": job.recipe.options}
    assert schema.field("landmarks").type == pa.list_(pa.float32()) and schema.field("x1").type == pa.float32()
    assert schema.field("face").type == pa.int32() and not schema.field("file").nullable


def test_a_bad_photo_is_an_error_and_the_rest_is_processed(tmp_path: Path) -> None:
    good, large = write_picture(tmp_path / "a.png"), write_picture(tmp_path / "large.png", size=(50, 32))
    bad, empty = tmp_path / "bad.jpg", tmp_path / "empty.jpg"
    bad.write_bytes(good.read_bytes()[:50])
    empty.touch()
    result = process(files(bad, good, empty, tmp_path / "gone.jpg", large), fake_job(load_out_of_memory))
    assert [row["file"] for row in rows(result)] == [str(good)] and result.photos == 1
    errors = dict(result.errors)
    assert errors.pop(str(bad)).startswith("is truncated or broken (")
    assert errors.pop(str(empty)).startswith("is empty (0 bytes)")
    assert errors.pop(str(tmp_path / "gone.jpg")).startswith("not found")
    assert errors == {str(large): "needs more memory than there is; make it smaller, or leave it out"}
    none = process(files(bad))
    assert none.part == b"" and none.photos == 0 and len(none.errors) == 1


@pytest.mark.parametrize("error", [AttributeError("x"), TypeError("x"), ImportError("x"), AssertionError()])
def test_an_error_of_our_code_is_not_an_error_of_the_photo(tmp_path: Path, error: Exception) -> None:
    photo = write_picture(tmp_path / "wide.png", size=(50, 32))
    with pytest.raises(type(error)) as raised:
        process(files(photo), fake_job(load_failing(error)))
    assert raised.value.__notes__ == [f"The photo was {photo}"]


def test_a_note_is_in_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((32, 48, 3), 128, np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2])
    result = process(files(path, write_picture(tmp_path / "b.png")))
    assert [row["note"] for row in rows(result)] == [NO_END_NOTE, None] and result.notes == 1


def test_options_reach_the_predictor(tmp_path: Path) -> None:
    photo = write_picture(tmp_path / "a.png")
    job = BatchJob(BatchRecipe({"class_names": list(CLASSES)}, {}), min_score=0.2, min_face=12.5, load=load_fake)
    predictor = load_fake(None)
    process_chunk(files(photo), job, predictor)
    assert predictor.calls == [(0.2, 12.5)]


def test_photos_at_an_address_and_in_the_chunk(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/w/a.png", write_picture(tmp_path / "a.png").read_bytes())
    memory.pipe("/w/empty.png", b"")
    memory.pipe("/w/bad.png", b"no picture")
    storage, _ = resolve_storage("memory://w")
    try:
        result = process(Chunk(storage, tuple(PhotoRef(f"/w/{name}.png") for name in ("empty", "a", "gone", "bad"))))
    finally:
        memory.rm("/w", recursive=True)
    assert [row["file"] for row in rows(result)] == ["memory://w/a.png"]
    errors = dict(result.errors)
    assert errors.pop("memory://w/gone.png").startswith("cannot be read (")
    assert errors.pop("memory://w/bad.png").startswith("is not a picture")
    assert errors == {"memory://w/empty.png": "is empty (0 bytes); copy or upload it again"}
    content = PhotoContent((tmp_path / "a.png").read_bytes())
    with_contents = Chunk(storage, (PhotoRef("/x.png"), PhotoRef("/y.png")), (content, PhotoContent(None, "is lost")))
    assert process(with_contents).errors == (("memory://y.png", "is lost"),) and process(with_contents).photos == 1


def parquet(path: Path, **columns: pa.Array) -> Chunk:
    table = pa.table(columns)
    pq.write_table(table, path, row_group_size=4)
    return Chunk(LOCAL, tuple(PhotoRef(str(path), row) for row in range(len(table))))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_rows_with_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    photo = write_picture(tmp_path / "a.png").read_bytes()
    chunk = parquet(
        tmp_path / "t.parquet",
        picture=pa.array([photo, None, b"", photo, b"x", photo, photo, photo, photo, photo], kind),
        key=pa.array([7, 8, 9, None, 1, 2, 3, 4, 5, 6]),
    )
    result = process(chunk, fake_job(columns=ParquetColumns(None, "key")))
    at = f"{tmp_path}/t.parquet#"
    assert [(row["file"], row["id"]) for row in rows(result)] == [
        (f"{at}{row}", None if key is None else str(key))
        for row, key in ((0, 7), (3, None), (5, 2), (6, 3), (7, 4), (8, 5), (9, 6))
    ]
    no_bytes = "holds no picture (no bytes); leave the row out"
    *missing, (bad_name, bad_error) = result.errors
    assert missing == [(f"{at}1", no_bytes), (f"{at}2", no_bytes)]
    assert bad_name == f"{at}4" and bad_error.startswith("is not a picture")
    # Only some rows: rows processed before are not in the chunk.
    some = Chunk(LOCAL, (chunk.photos[3], chunk.photos[6], chunk.photos[9]))
    assert [row["file"] for row in rows(process(some))] == [f"{at}3", f"{at}6", f"{at}9"]


def test_rows_of_a_hugging_face_dataset(tmp_path: Path) -> None:
    photo = write_picture(tmp_path / "a.png").read_bytes()
    write_picture(tmp_path / "b.png")
    image = pa.array([{"bytes": photo, "path": "a.png"}, None, {"bytes": None, "path": "b.png"}])
    chunk = parquet(tmp_path / "t.parquet", image=image, label=pa.array([0, 1, 2]))
    result = process(chunk, fake_job(columns=ParquetColumns(None, "image.path")))
    assert [row["id"] for row in rows(result)] == ["a.png", "b.png"]  # b.png is read from next to the table
    assert result.errors == ((f"{tmp_path}/t.parquet#1", "holds no picture (no bytes); leave the row out"),)


def test_a_missing_table_is_an_error_for_each_row(tmp_path: Path) -> None:
    chunk = parquet(tmp_path / "t.parquet", image=pa.array([b"x", b"y"]))
    (tmp_path / "t.parquet").unlink()
    result = process(chunk)
    assert [name for name, _ in result.errors] == chunk.names
    assert result.errors[0][1].startswith("cannot be read (") and result.part == b""


def test_another_bundle_on_the_workers_machine_is_refused() -> None:
    job = BatchJob(BatchRecipe({"class_names": ["other"]}, {}), load=load_fake)
    with pytest.raises(UserError) as raised:
        job.make_predictor()
    assert str(raised.value) == (
        "the default bundle: is another one where a worker runs; copy the same to all machines"
    )


def test_peak_memory_is_of_this_process() -> None:
    before = process_peak_megabytes()
    block = bytearray(200_000_000)
    assert process_peak_megabytes() > before + 100 or before > 1000
    del block
