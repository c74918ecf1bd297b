from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import ProgrammingError, UserError
from pipeline.batch.child_process import ChildProcess
from pipeline.batch.chunk import Chunk, PhotoRef
from pipeline.batch.photo_source import ParquetColumns
from pipeline.batch.storage import LOCAL
from pipeline.batch.work import BatchJob, process_chunk
from pipeline.batch.worker import Worker, WorkerStoppedError, plain_chunk
from tests.helpers.batch_fakes import (
    deadly,
    fake_job,
    files,
    load_broken,
    load_dying,
    load_failing,
    load_killing,
    load_once,
    load_refused,
)
from tests.helpers.fake_predictor import write_picture


@pytest.fixture
def start() -> Iterator[Callable[[BatchJob], Worker]]:
    """Return a function that makes workers, which are stopped after the test."""
    workers: list[Worker] = []

    def make(job: BatchJob) -> Worker:
        workers.append(Worker(job))
        return workers[-1]

    yield make
    for worker in workers:
        worker.stop()


def pid(worker: Worker) -> int:
    assert worker._process is not None
    return worker._process._process.pid


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_chunk_processed_again(start: Any, tmp_path: Path) -> None:
    worker = start(fake_job(load_once(tmp_path / "flag")))
    chunk = files(write_picture(tmp_path / "a.png"), deadly(tmp_path / "b.png"), write_picture(tmp_path / "c.png"))
    result = worker.process(chunk)
    assert (tmp_path / "flag").exists() and result.photos == 3 and result.errors == () and result.key == chunk.key
    first = pid(worker)
    assert worker.process(chunk).photos == 3 and pid(worker) == first  # the process is kept
    os.kill(first, signal.SIGKILL)
    assert worker.process(chunk).photos == 3 and pid(worker) != first


@pytest.mark.slow
def test_a_photo_that_kills_the_worker_is_an_error_and_the_rest_is_one_part(start: Any, tmp_path: Path) -> None:
    worker = start(fake_job(load_deadly))
    chunk = files(write_picture(tmp_path / "a.png"), deadly(tmp_path / "b.png"), write_picture(tmp_path / "c.png"))
    result = worker.process(chunk)
    assert result.errors == (
        (str(tmp_path / "b.png"), "kills the worker (SIGKILL); make it smaller, convert it, or leave it out"),
    )
    assert result.photos == 2 and result.faces.total() == 2 and result.key == chunk.key and result.part


def load_deadly(bundle: Path | None) -> Any:
    from tests.helpers.batch_fakes import BatchPredictor

    return BatchPredictor()


@pytest.mark.slow
def test_a_worker_that_cannot_start(start: Any, tmp_path: Path) -> None:
    chunk = files(write_picture(tmp_path / "a.png"))
    with pytest.raises(UserError, match=r"^bundle: is broken; pack it again$"):
        start(fake_job(load_refused)).process(chunk)
    with pytest.raises(UserError) as raised:
        start(fake_job(load_dying)).process(chunk)
    assert str(raised.value) == "a worker ends as it starts (SIGKILL); try again with fewer workers"


@pytest.mark.slow
def test_an_error_of_our_code_has_its_traceback_and_is_not_tried_again(start: Any, tmp_path: Path) -> None:
    chunk = files(*(write_picture(tmp_path / f"{i}.png", size=(48 + i, 32)) for i in range(4)))
    worker = start(fake_job(load_failing(AttributeError("no 'compute'"))))
    with pytest.raises(ProgrammingError) as raised:
        worker.process(chunk)
    assert raised.value.what == "AttributeError: no 'compute'"
    assert "batch_fakes.py" in raised.value.trace and f"The photo was {tmp_path}/2.png" in raised.value.trace
    with pytest.raises(ProgrammingError, match="has no attribute 'compute'"):  # as the worker starts
        start(fake_job(load_broken)).process(chunk)
    bad_job = replace(fake_job(), recipe=None)
    with pytest.raises(ProgrammingError, match="'NoneType' object has no attribute"):
        start(bad_job).process(chunk)


def test_a_module_that_cannot_be_imported_is_an_error_of_our_code() -> None:
    process = ChildProcess("pipeline.batch.nothing")
    with pytest.raises(ProgrammingError, match="No module named"):
        process.receive()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), [("detect", "files"), ("read", "files"), ("read_from", "rows")])
def test_a_crash_on_every_photo_is_not_the_photos_fault(start: Any, tmp_path: Path, method: str, kind: str) -> None:
    photos = [write_picture(tmp_path / f"{i}.png") for i in range(3)]
    chunk = files(*photos)
    columns = ParquetColumns("a.image", "a.image.path") if kind == "rows" else ParquetColumns()
    if kind == "rows":
        rows = [{"a": {"image": {"bytes": photo.read_bytes(), "path": str(photo)}}} for photo in photos]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
        chunk = Chunk(LOCAL, tuple(PhotoRef(str(tmp_path / "t.parquet"), row) for row in range(3)))
    with pytest.raises(UserError, match=r"on every photo, also on a plain grey one \(SIGKILL\), so no photo"):
        start(fake_job(partial(load_killing, method), columns)).process(chunk)
    assert start(fake_job(columns=columns)).process(chunk).photos == 3


@pytest.mark.parametrize(
    "columns",
    [(None, None), (None, "image.path"), ("image", "image.path"), ("pic", "key"), ("a.b", "a.c"), ("a.b.bytes", "k")],
)
def test_the_plain_photo_has_the_columns_that_are_named(tmp_path: Path, columns: tuple[str | None, str | None]) -> None:
    job = fake_job(columns=ParquetColumns(*columns))
    like = Chunk(LOCAL, (PhotoRef("t.parquet", 0),))
    result = process_chunk(plain_chunk(like, job.columns, tmp_path), job, job.make_predictor())
    assert result.photos == 1 and result.errors == ()


@pytest.mark.slow
def test_every_photo_of_a_chunk_can_be_deadly(start: Any, tmp_path: Path) -> None:
    result = start(fake_job(load_deadly)).process(files(deadly(tmp_path / "a.png"), deadly(tmp_path / "b.png")))
    assert [what.split(";")[0] for _, what in result.errors] == ["kills the worker (SIGKILL)"] * 2


def test_a_stopped_worker_does_nothing_more(start: Any, tmp_path: Path) -> None:
    worker = start(fake_job())
    worker.process(files(write_picture(tmp_path / "a.png")))
    process_id = pid(worker)
    worker.stop()
    with pytest.raises(WorkerStoppedError):
        worker.process(files(tmp_path / "a.png"))
    assert not Path(f"/proc/{process_id}").exists()


def test_stopping_interrupts_a_chunk(start: Any, tmp_path: Path) -> None:
    worker = start(fake_job(load_slow))
    raised: list[Exception] = []

    def process() -> None:
        try:
            worker.process(files(write_picture(tmp_path / "a.png")))
        except WorkerStoppedError as error:
            raised.append(error)

    thread = threading.Thread(target=process)
    thread.start()
    until = time.monotonic() + 30
    while not (tmp_path / "a.png.begun").exists() and time.monotonic() < until:
        time.sleep(0.02)
    start_time = time.monotonic()
    worker.stop()
    thread.join(10)
    assert raised and time.monotonic() - start_time < 5


def load_slow(bundle: Path | None) -> Any:
    from tests.helpers.batch_fakes import BatchPredictor

    predictor = BatchPredictor()

    def read(path: str, min_face: float | None) -> None:
        Path(f"{path}.begun").touch()
        time.sleep(60)

    predictor.read = read  # type: ignore[assignment,method-assign]
    return predictor
