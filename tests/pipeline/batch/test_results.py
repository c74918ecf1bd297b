from __future__ import annotations

import errno
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
from pipeline.batch import results as batch_out
from pipeline.batch.results import BatchResults, ErrorFile
from pipeline.batch.table import METADATA_KEY, BatchRecipe, schema, to_parquet
from tests.helpers.batch_fakes import fake_job

RECIPE = fake_job().recipe


def part(*names: str, recipe: BatchRecipe = RECIPE) -> bytes:
    rows = [{"file": name, "width": 1, "height": 1, "face": face} for name in names for face in (0, 1)]
    return to_parquet(pa.Table.from_pylist(rows, schema(("with_mask",), with_id=False)), recipe.metadata())


@pytest.fixture(params=["here", "address"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "here":
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


def test_parts_are_gone_on_with(out: str) -> None:
    results = BatchResults(out, RECIPE)
    with results.opened() as (answered, _):
        assert len(answered) == 0
        results.add("1", part("a", "b"))
        results.add("2", part("c"))
        results.add("1", part("a", "b"))  # the same chunk again takes its own place
    with BatchResults(out + "/", RECIPE).opened() as (answered, errors):
        assert len(answered) == 3 and all(name in answered for name in "abc") and "d" not in answered
        errors.add("d", "is broken")
    table = pd.read_parquet(out)
    assert sorted(table["file"]) == ["a", "a", "b", "b", "c", "c"]
    failed = pq.read_table(io.BytesIO(read(out.replace(".parquet", ".errors.parquet"))))
    assert failed.to_pylist() == [{"file": "d", "error": "is broken"}]
    assert METADATA_KEY in failed.schema.metadata
    with BatchResults(out, RECIPE).opened():
        pass  # no errors any more
    with pytest.raises(FileNotFoundError):
        read(out.replace(".parquet", ".errors.parquet"))


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "faces.parquet"
    out.mkdir()
    (out / ".part-1.x1y2.tmp.parquet").write_bytes(b"half")
    (tmp_path / ".faces.errors.x1y2.tmp.parquet").write_bytes(b"half")
    (tmp_path / ".faces.errors.other").write_bytes(b"not ours")
    (out / "_SUCCESS").touch()
    with BatchResults(str(out), RECIPE).opened() as (answered, _):
        assert len(answered) == 0
    assert sorted(os.listdir(out)) == ["_SUCCESS"]  # noqa: PTH208
    assert sorted(path.name for path in tmp_path.iterdir()) == [".faces.errors.other", "faces.parquet"]


def refused(out: str, recipe: BatchRecipe = RECIPE) -> str:
    with pytest.raises(UserError) as raised, BatchResults(out, recipe).opened():
        pass
    return str(raised.value)


def test_other_results_are_refused(out: str) -> None:
    with BatchResults(out, RECIPE).opened():
        BatchResults(out, RECIPE).add("1", part("a"))
    name = "go on with the same, or name another place"
    other = BatchRecipe({**RECIPE.bundle, "name": "new", "sha256": "1"}, RECIPE.options)
    assert refused(out, other) == f"{out}: was made with another bundle ('fake'), this is 'new'; {name}"
    other = BatchRecipe(RECIPE.bundle, {**RECIPE.options, "min_score": 0.3})
    assert refused(out, other) == f"{out}: was made with no --min-score, this is --min-score 0.3; {name}"


def test_what_is_no_place_for_results(tmp_path: Path) -> None:
    out = tmp_path / "faces.parquet"
    out.touch()
    assert refused(str(out)) == f"{out}: is a file, results are a folder; name another place"
    assert refused(str(tmp_path / "faces")) == (
        f"{tmp_path}/faces: name the folder of results last, ending in .parquet"
    )
    out.unlink()
    out.mkdir()
    (out / "train-0.parquet").touch()
    assert refused(str(out)) == f"{out}: holds 'train-0.parquet' beside results; name another place"
    (out / "train-0.parquet").rename(out / "part-0.parquet")
    said = refused(str(out))
    assert said.startswith(f"{out}: part-0.parquet cannot be read (") and "size is 0 bytes" in said
    assert said.endswith("); delete it, and its photos are done again")
    pq.write_table(pa.table({"file": ["a"]}), out / "part-0.parquet")
    assert refused(str(out)) == (
        f"{out}: was made with a version that this one cannot read; go on with the same, or name another place"
    )
    assert refused("nosuch://b/faces.parquet") == (
        "nosuch://b/faces.parquet: cannot be opened (Protocol not known: nosuch); check the address"
    )


def test_a_full_disk_names_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = BatchResults(str(tmp_path / "faces.parquet"), RECIPE)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with results.opened():
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left") as raised:
            results.add("1", part("a"))
        assert raised.value.filename == str(tmp_path / "faces.parquet" / "part-1.parquet")
    assert not (tmp_path / "faces.parquet").exists()


def test_a_run_that_does_not_come_to_its_end_keeps_the_errors_of_the_one_before(tmp_path: Path) -> None:
    out = str(tmp_path / "faces.parquet")
    with BatchResults(out, RECIPE).opened() as (_, errors):
        errors.add("a.jpg", "is empty")
    before = (tmp_path / "faces.errors.parquet").read_bytes()
    with pytest.raises(UserError), BatchResults(out, RECIPE).opened():
        raise UserError("no cluster answers")
    assert (tmp_path / "faces.errors.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["faces.errors.parquet"]  # no empty folder of results
    with BatchResults(out, RECIPE).opened():
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise RuntimeError("connection lost")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "mkdir", lost)
    out = "memory://results/faces.parquet"
    assert refused(out) == f"{out}: cannot be used (connection lost); check the place"


@pytest.mark.parametrize("count", [1, 7, 25])
def test_any_number_of_errors(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(ErrorFile, "_AT_A_TIME", 7)
    file = ErrorFile(io.BytesIO(), RECIPE)
    for i in range(count):
        file.add(str(i), "is broken")
        assert len(file._waiting) < 7
    assert pq.read_table(io.BytesIO(file.finish()))["file"].to_pylist() == [str(i) for i in range(count)]


def test_the_name_of_the_errors() -> None:
    assert batch_out.errors_of("a/faces.parquet/") == "a/faces.errors.parquet"
