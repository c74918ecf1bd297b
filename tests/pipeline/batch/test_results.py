from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from pipeline.batch.results import BatchResults, DigestSet, ErrorFile, errors_path
from pipeline.batch.table import METADATA_KEY, BatchRecipe, table_schema, to_parquet
from tests.helpers.batch_fakes import fake_job

RECIPE = fake_job().recipe


def part(*names: str, recipe: BatchRecipe = RECIPE) -> bytes:
    rows = [{"file": name, "width": 1, "height": 1, "face": face} for name in names for face in (0, 1)]
    return to_parquet(pa.Table.from_pylist(rows, table_schema(("with_mask",), with_id=False)), recipe.metadata())


@pytest.fixture(params=["local", "address"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "new" / "faces.parquet")
        return
    yield "memory://results/new/faces.parquet"
    memory = fsspec.filesystem("memory")
    if memory.exists("/results"):
        memory.rm("/results", recursive=True)


def read(name: str) -> bytes:
    path = name if "://" in name else f"file://{name}"
    with fsspec.open(path) as file:
        return bytes(file.read())


def test_a_later_run_continues_the_parts(out: str) -> None:
    results = BatchResults(out, RECIPE)
    with results.open() as (processed, _):
        assert len(processed) == 0
        results.add("1", part("a", "b"))
        results.add("2", part("c"))
        results.add("1", part("a", "b"))  # the same chunk replaces its part
    with BatchResults(out + "/", RECIPE).open() as (processed, errors):
        assert len(processed) == 3 and all(name in processed for name in "abc") and "d" not in processed
        errors.add("d", "is broken")
    table = pd.read_parquet(out)
    assert sorted(table["file"]) == ["a", "a", "b", "b", "c", "c"]
    failed = pq.read_table(io.BytesIO(read(out.replace(".parquet", ".errors.parquet"))))
    assert failed.to_pylist() == [{"file": "d", "error": "is broken"}]
    assert METADATA_KEY in failed.schema.metadata
    with BatchResults(out, RECIPE).open():
        pass  # no errors in this run
    with pytest.raises(FileNotFoundError):
        read(out.replace(".parquet", ".errors.parquet"))


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "faces.parquet"
    out.mkdir()
    (out / ".part-1.x1y2.tmp.parquet").write_bytes(b"half")
    (tmp_path / ".faces.errors.x1y2.tmp.parquet").write_bytes(b"half")
    (tmp_path / ".faces.errors.other").write_bytes(b"not ours")
    (out / "_SUCCESS").touch()
    with BatchResults(str(out), RECIPE).open() as (processed, _):
        assert len(processed) == 0
    assert sorted(os.listdir(out)) == ["_SUCCESS"]  # noqa: PTH208
    assert sorted(path.name for path in tmp_path.iterdir()) == [".faces.errors.other", "faces.parquet"]


def refused(out: str, recipe: BatchRecipe = RECIPE) -> str:
    with pytest.raises(UserError) as raised, BatchResults(out, recipe).open():
        pass
    return str(raised.value)


def test_other_results_are_refused(out: str) -> None:
    with BatchResults(out, RECIPE).open():
        BatchResults(out, RECIPE).add("1", part("a"))
    fix = "use the same, or name another place"
    other = BatchRecipe({**RECIPE.bundle, "name": "new", "sha256": "1"}, RECIPE.options)
    assert refused(out, other) == f"{out}: was made with another bundle ('fake'), this is 'new'; {fix}"
    other = BatchRecipe(RECIPE.bundle, {**RECIPE.options, "min_score": 0.3})
    assert refused(out, other) == f"{out}: was made with no --min-score, this is --min-score 0.3; {fix}"


def test_places_that_cannot_take_results(tmp_path: Path) -> None:
    out = tmp_path / "faces.parquet"
    out.touch()
    assert refused(str(out)) == f"{out}: is a file, results are a folder; name another place"
    assert refused(str(tmp_path / "faces")) == (
        f"{tmp_path}/faces: name the folder of results last, ending in .parquet"
    )
    out.unlink()
    out.mkdir()
    (out / "train-0.parquet").touch()
    assert refused(str(out)) == f"{out}: holds 'train-0.parquet', which is not a result; name another place"
    (out / "train-0.parquet").rename(out / "part-0.parquet")
    message = refused(str(out))
    assert message.startswith(f"{out}: part-0.parquet cannot be read (") and "size is 0 bytes" in message
    assert message.endswith("); delete it to process its photos again")
    pq.write_table(pa.table({"file": ["a"]}), out / "part-0.parquet")
    assert refused(str(out)) == (
        f"{out}: was made with a version that this one cannot read; use the same, or name another place"
    )
    assert refused("nosuch://b/faces.parquet") == (
        "nosuch://b/faces.parquet: cannot be opened (Protocol not known: nosuch); check the address"
    )


def test_a_failed_run_keeps_the_errors_of_the_last_run(tmp_path: Path) -> None:
    out = str(tmp_path / "faces.parquet")
    with BatchResults(out, RECIPE).open() as (_, errors):
        errors.add("a.jpg", "is empty")
    before = (tmp_path / "faces.errors.parquet").read_bytes()
    with pytest.raises(UserError), BatchResults(out, RECIPE).open():
        raise UserError("no cluster answers")
    assert (tmp_path / "faces.errors.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["faces.errors.parquet"]  # without an empty folder of results
    with BatchResults(out, RECIPE).open():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_failing_address_names_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise RuntimeError("connection lost")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "mkdir", lost)
    out = "memory://results/faces.parquet"
    assert refused(out) == f"{out}: cannot be used (connection lost); check the place"


@pytest.mark.parametrize("count", [1, 7, 25])
def test_any_number_of_errors(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(ErrorFile, "_ROWS_PER_WRITE", 7)
    file = ErrorFile(io.BytesIO(), RECIPE)
    for i in range(count):
        file.add(str(i), "is broken")
        assert len(file._rows) < 7
    assert pq.read_table(io.BytesIO(file.finish()))["file"].to_pylist() == [str(i) for i in range(count)]


def test_the_path_of_the_error_file() -> None:
    assert errors_path("a/faces.parquet/") == "a/faces.errors.parquet"
    assert errors_path("a?b/faces.parquet") == "a?b/faces.errors.parquet"
    options = "?endpoint_override=h:9000&scheme=http"
    assert errors_path(f"s3://b/faces.parquet/{options}") == f"s3://b/faces.errors.parquet{options}"


def test_an_address_may_have_options() -> None:
    results = BatchResults("s3://KEY:hush@b/faces.parquet?endpoint_override=h:9000&scheme=http", RECIPE)
    assert results.location == "s3://b/faces.parquet?endpoint_override=h:9000&scheme=http"
    assert refused("s3://KEY:hush@b/faces?endpoint_override=h.parquet") == (
        "s3://b/faces?endpoint_override=h.parquet: name the folder of results last, ending in .parquet"
    )


def test_a_set_of_digests_knows_its_names() -> None:
    some = [f"/photos/{i}.jpg" for i in range(0, 3000, 3)] + ["", "ü\ud7ff"]
    names = DigestSet(some)
    assert len(names) == len(some) and all(name in names for name in some)
    assert not any(f"/photos/{i}.jpg" in names for i in range(1, 3000, 3))
    assert "x" not in DigestSet() and 3 not in names


def test_half_a_digest_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    # All names share the first half of their digests, so that the second half decides.
    monkeypatch.setattr("pipeline.batch.results.name_digest", lambda name: bytes(8) + name.encode().rjust(8))
    names = DigestSet(["b", "a", "d"])
    assert [name in names for name in "abcd"] == [True, True, False, True]
