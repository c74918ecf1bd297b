from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import UserError
from pipeline.batch.chunk import Chunk
from pipeline.batch.pool import run_pool
from tests.helpers.batch_fakes import fake_job, files, load_refused
from tests.helpers.fake_predictor import write_picture


@pytest.fixture
def chunk(tmp_path: Path) -> Chunk:
    return files(write_picture(tmp_path / "a.png"))


def test_every_chunk_is_processed_once_and_few_are_taken_ahead(tmp_path: Path) -> None:
    taken = []

    def source() -> Iterator[Chunk]:
        for i in range(20):
            taken.append(i)
            yield files(write_picture(tmp_path / f"{i}.png"))

    keys = []
    for result in run_pool(fake_job(), source(), 2):
        keys.append(result.key)
        time.sleep(0.02)
        assert len(taken) <= len(keys) + 2 * 2 + 1
    assert len(set(keys)) == len(keys) == 20


def test_errors_of_the_scan_are_raised(chunk: Chunk) -> None:
    def source() -> Iterator[Chunk]:
        yield chunk
        raise UserError("the source is gone")

    with pytest.raises(UserError, match="the source is gone"):
        list(run_pool(fake_job(), source(), 1))


def test_a_worker_that_does_not_start_is_an_error(chunk: Chunk) -> None:
    with pytest.raises(UserError, match="bundle: is broken"):
        list(run_pool(fake_job(load_refused), [chunk], 1))


def test_no_chunks_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.batch.worker.ChildProcess", None)
    assert list(run_pool(fake_job(), [], 2)) == []
