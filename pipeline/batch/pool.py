"""The process pool: chunks on this machine, in a few worker processes, each with a thread that waits for it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from pipeline.batch.chunk import Chunk
from pipeline.batch.work import BatchJob, ChunkResult
from pipeline.batch.worker import Worker, WorkerStoppedError

_POLL = 0.2  # s; a wait without a limit would delay Ctrl-C on some systems
_JOIN = 1  # s; the longest wait for the threads at the end


def run_pool(job: BatchJob, chunks: Iterable[Chunk], workers: int) -> Iterator[ChunkResult]:
    """Yield each chunk's result as soon as it is there; a chunk is taken when a worker is free.

    When the caller stops, the processes end at once. Raises what `chunks` and `Worker.process` raise.
    """
    source, lock = iter(chunks), threading.Lock()
    results: queue.Queue[ChunkResult | Exception | None] = queue.Queue(maxsize=workers)
    pool = [Worker(job) for _ in range(workers)]

    def next_chunk() -> Chunk | None:
        with lock:
            return next(source, None)

    def work(worker: Worker) -> None:
        try:
            while (chunk := next_chunk()) is not None:
                results.put(worker.process(chunk))
            results.put(None)
        except WorkerStoppedError:
            pass
        except Exception as error:
            results.put(error)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in pool]
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
        for worker in pool:
            worker.stop()
        until = time.monotonic() + _JOIN
        while any(thread.is_alive() for thread in threads) and time.monotonic() < until:
            with suppress(queue.Empty):  # the threads may still want to hand over results
                results.get(timeout=0.01)
