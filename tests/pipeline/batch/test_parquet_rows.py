"""Parquet sources as people have them: image columns of Hugging Face, by bytes and by path, nested, in many parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import MediaError
from pipeline.batch import command as batch
from pipeline.batch.chunk import Chunk, PhotoRef
from pipeline.batch.photo_source import ParquetColumns, find_rows
from pipeline.batch.storage import LOCAL, resolve_storage
from pipeline.batch.work import process_chunk
from tests.helpers.batch_fakes import fake_job, table
from tests.helpers.cases import CASES, needs_cases
from tests.helpers.fake_predictor import write_picture


def write(path: Path, rows: list[dict[str, Any]] | pa.Table, **options: Any) -> Path:
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path, **options)
    return path


def read(path: Path, columns: ParquetColumns = ParquetColumns()) -> tuple[list[int], dict[int, str]]:  # noqa: B008
    """Return the numbers of the rows that were read, and the errors of the others."""
    rows = tuple(PhotoRef(str(path), row) for _, row in find_rows(LOCAL, str(path), columns))
    job = fake_job(columns=columns)
    result = process_chunk(Chunk(LOCAL, rows), job, job.make_predictor())
    errors = {int(name.rpartition("#")[2]): what for name, what in result.errors}
    return [row.row for row in rows if row.row is not None and row.row not in errors], errors


@pytest.fixture
def photo(tmp_path: Path) -> bytes:
    return write_picture(tmp_path / "photos/a.png").read_bytes()


def test_rows_with_a_path_only(tmp_path: Path, photo: bytes) -> None:
    (tmp_path / "empty.png").touch()
    paths = ["photos/a.png", str(tmp_path / "photos/a.png"), "photos\\a.png", "./photos/../photos/a.png"]
    bad = {
        "https://host/a.png": "holds only the address https://host/a.png",
        "hf://datasets/x/a.png": "holds only the address",
        "gone.png": "holds no bytes, and its path 'gone.png': not found",
        "photos": "is a folder",
        "/dev/zero": "is a pipe or device",
        "empty.png": "is empty",
        "": "holds no picture (no bytes)",
    }
    rows = [{"image": {"bytes": None, "path": path}} for path in [*paths, *bad]]
    found, errors = read(write(tmp_path / "t.parquet", rows))
    assert found == [0, 1, 2, 3]
    for what, part in zip(errors.values(), bad.values(), strict=True):
        assert part in what and ";" in what


def test_bytes_come_before_the_path(tmp_path: Path, photo: bytes) -> None:
    rows = [{"image": {"bytes": photo, "path": "gone.png"}}, {"image": {"bytes": b"", "path": "photos/a.png"}}]
    found, errors = read(write(tmp_path / "t.parquet", rows))
    assert found == [0] and errors == {1: "holds no picture (no bytes); leave the row out"}


@pytest.mark.parametrize("name", ["image", "img", "Photo", "image.jpg"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_struct_column_of_any_name(tmp_path: Path, photo: bytes, name: str, kind: pa.DataType) -> None:
    values = [{"bytes": photo, "path": None}, None, {"bytes": photo, "path": "x.png"}] * 3
    struct = pa.struct([("bytes", kind), ("path", pa.string())])
    column = pa.chunked_array([pa.array(values[:4], struct), pa.array(values[4:], struct)])
    data = pa.table({"label": list(range(9)), name: column})
    found, errors = read(write(tmp_path / "t.parquet", data, row_group_size=2))
    assert found == [0, 2, 3, 5, 6, 8] and list(errors) == [1, 4, 7]


def test_a_dictionary_column(tmp_path: Path, photo: bytes) -> None:
    values = pa.array([photo, None, photo]).dictionary_encode()
    assert read(write(tmp_path / "t.parquet", pa.table({"image": values}))) == (
        [0, 2],
        {1: "holds no picture (no bytes); leave the row out"},
    )


def test_a_struct_in_a_struct(tmp_path: Path, photo: bytes) -> None:
    rows = [{"sample": {"image": {"bytes": photo, "path": "a"}, "id": 7}}, {"sample": None}]
    path = write(tmp_path / "t.parquet", rows)
    assert read(path)[0] == [0]
    assert read(path, ParquetColumns("sample.image", "sample.id"))[0] == [0]


def test_several_columns_of_pictures(tmp_path: Path, photo: bytes) -> None:
    rows = [{"image": {"bytes": photo, "path": None}, "thumbnail": b"x"}]
    with pytest.raises(MediaError, match=r"several columns of bytes \(image, thumbnail\); name one with --column"):
        read(write(tmp_path / "t.parquet", rows))
    features = {"image": {"_type": "Image"}, "thumbnail": {"dtype": "binary", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    declared = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
    assert read(write(tmp_path / "declared.parquet", declared)) == ([0], {})


def test_a_path_at_an_address(tmp_path: Path, photo: bytes) -> None:
    memory = fsspec.filesystem("memory")
    rows = [{"image": {"bytes": None, "path": path}} for path in ("p/a.png", "gone.png")]
    memory.pipe("/w/t.parquet", write(tmp_path / "t.parquet", rows).read_bytes())
    memory.pipe("/w/p/a.png", photo)
    storage, path = resolve_storage("memory://w/t.parquet")
    job = fake_job()
    try:
        result = process_chunk(Chunk(storage, (PhotoRef(path, 0), PhotoRef(path, 1))), job, job.make_predictor())
    finally:
        memory.rm("/w", recursive=True)
    assert result.photos == 1 and "gone.png" in result.errors[0][1]


CASE_ROWS = {
    "good": ([0, 1], []),
    "null_paths": ([0, 1], []),
    "null_struct": ([0], [1]),
    "null_bytes": ([0], [1]),
    "empty_bytes": ([0], [1]),
    "flat_null": ([0], [1]),
}


@needs_cases
@pytest.mark.parametrize("name", CASE_ROWS)
def test_the_cases(name: str) -> None:
    found, errors = read(CASES / f"parquet_hf/{name}.parquet")
    assert (found, list(errors)) == CASE_ROWS[name]


@needs_cases
def test_a_folder_of_the_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real worker processes, which do not import what the tests import."""
    monkeypatch.setattr(batch, "make_job", lambda args: fake_job())
    out = tmp_path / "faces.parquet"
    assert batch.main([str(CASES / "parquet_hf"), str(out), "--workers", "2"]) == 1
    assert len({row["file"] for row in table(out)}) == 8
    lines, err = capsys.readouterr()
    assert "errors:     4," in lines and len(err.splitlines()) == 4
    assert "null_struct.parquet#1: holds no picture" in err and "worker" not in err
