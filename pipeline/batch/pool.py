"""Chunks on this machine: a few worker processes, each kept busy by a thread that waits for it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from pipeline.batch.chunk import Chunk
from pipeline.batch.work import ChunkResult, Job
from pipeline.batch.worker import EndedError, Worker

_POLL = 0.2  # s; a wait without end would hold Ctrl-C back on some systems


def run_pool(job: Job, chunks: Iterable[Chunk], workers: int) -> Iterator[ChunkResult]:
    """The outcome of each chunk, as they come; a chunk is taken when a worker is free.

    When the caller stops, the processes end at once. Raises what `chunks` and `Worker.start` raise.
    """
    source, lock = iter(chunks), threading.Lock()
    results: queue.Queue[ChunkResult | Exception | None] = queue.Queue(maxsize=workers)
    crew = [Worker(job) for _ in range(workers)]

    def take() -> Chunk | None:
        with lock:
            return next(source, None)

    def go(worker: Worker) -> None:
        try:
            while (chunk := take()) is not None:
                results.put(worker.do(chunk))
            results.put(None)
        except EndedError:
            pass
        except Exception as error:
            results.put(error)

    threads = [threading.Thread(target=go, args=(worker,), daemon=True) for worker in crew]
    try:
        for thread in threads:
            thread.start()
        busy = workers
        while busy:
            try:
                result = results.get(timeout=_POLL)
            except queue.Empty:
                continue
            if isinstance(result, Exception):
                raise result
            if result is None:
                busy -= 1
            else:
                yield result
    finally:
        for worker in crew:
            worker.end()
        _let_go(threads, results)


def _let_go(threads: Sequence[threading.Thread], results: queue.Queue[Any]) -> None:
    """Waits for the threads a moment; some may wait to hand over what nobody wants any more."""
    until = time.monotonic() + 1
    while any(thread.is_alive() for thread in threads) and time.monotonic() < until:
        with suppress(queue.Empty):
            results.get(timeout=0.01)
