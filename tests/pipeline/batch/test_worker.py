from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from pipeline.batch.work import BatchJob
from pipeline.batch.worker import Worker, WorkerStoppedError
from tests.helpers.batch_fakes import deadly, fake_job, files, load_dying, load_once, load_refused
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


def test_a_killed_worker_is_replaced_and_its_chunk_processed_again(start: Any, tmp_path: Path) -> None:
    worker = start(fake_job(load_once(tmp_path / "flag")))
    chunk = files(write_picture(tmp_path / "a.png"), deadly(tmp_path / "b.png"), write_picture(tmp_path / "c.png"))
    result = worker.process(chunk)
    assert (tmp_path / "flag").exists() and result.photos == 3 and result.errors == () and result.key == chunk.key
    first = pid(worker)
    assert worker.process(chunk).photos == 3 and pid(worker) == first  # the process is kept
    os.kill(first, signal.SIGKILL)
    assert worker.process(chunk).photos == 3 and pid(worker) != first


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


def test_a_worker_that_cannot_start(start: Any, tmp_path: Path) -> None:
    chunk = files(write_picture(tmp_path / "a.png"))
    with pytest.raises(UserError, match=r"^bundle: is broken; pack it again$"):
        start(fake_job(load_refused)).process(chunk)
    with pytest.raises(UserError) as raised:
        start(fake_job(load_dying)).process(chunk)
    assert str(raised.value) == "a worker ends as it starts (SIGKILL); try again with fewer workers"


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
