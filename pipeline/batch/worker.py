"""A worker process. When it dies, it is restarted and the chunk is sent again, at last photo by photo."""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from typing import Any, cast

from common.errors import UserError
from pipeline.batch.child_process import ChildProcess, ParentPipe, ProcessDiedError
from pipeline.batch.chunk import Chunk
from pipeline.batch.work import BatchJob, ChunkResult, process_chunk

MAX_ATTEMPTS = 2  # to process a chunk as a whole, and to start the process


class WorkerStoppedError(Exception):
    """`Worker.stop` was called."""


class Worker:
    """One process with one predictor. For one thread at a time, but another thread may call `stop`.

    After that `process` raises WorkerStoppedError.
    """

    def __init__(self, job: BatchJob) -> None:
        self._job = job
        self._process: ChildProcess | None = None
        self._stopped = False

    def process(self, chunk: Chunk) -> ChunkResult:
        """Return the chunk's result, even if the process dies. Raises UserError when no process can be started."""
        for _ in range(MAX_ATTEMPTS):
            with suppress(ProcessDiedError):
                return self._request(chunk)
        results = []
        for single in chunk.split():
            try:
                results.append(self._request(single))
            except ProcessDiedError as error:
                what = f"kills the worker ({error}); make it smaller, convert it, or leave it out"
                now = time.time()
                errors = ((single.names[0], what),)
                results.append(ChunkResult(single.key, errors=errors, start_time=now, end_time=now))
        return ChunkResult.merge(chunk.key, results, self._job.recipe.metadata())

    def stop(self) -> None:
        """End the process at once, and start no other."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def _request(self, chunk: Chunk) -> ChunkResult:
        """Return the process's result. Raises ProcessDiedError when the chunk kills the process."""
        if self._process is None:
            self._start()
        return cast(ChunkResult, self._exchange(chunk))

    def _start(self) -> None:
        """Start the process and wait until it loaded its predictor. Raises UserError when it cannot."""
        how = ""
        for _ in range(MAX_ATTEMPTS):
            try:
                if refused := self._exchange(self._job):
                    raise UserError(refused)
                return
            except ProcessDiedError as error:
                how = str(error)
        raise UserError(f"a worker ends as it starts ({how}); try again with fewer workers")

    def _exchange(self, message: Any) -> Any:
        """Return the process's answer to a message; the first message starts the process."""
        self._check()
        if self._process is None:
            self._process = ChildProcess("pipeline.batch.worker")
        try:
            self._check()  # `stop` may have been called before there was a process
            self._process.send(message)
            return self._process.receive()
        except ProcessDiedError:
            self._process = None
            self._check()
            raise

    def _check(self) -> None:
        if self._stopped:
            if self._process is not None:
                self._process.kill()
            raise WorkerStoppedError


def main() -> None:
    """Run the worker process: receive a Job, then chunks, and send their results.

    It ends at once when the parent does, also in the middle of a chunk.
    """
    import cv2

    from common.memory import limit_malloc_arenas

    pipe = ParentPipe()
    limit_malloc_arenas()
    cv2.setNumThreads(1)  # the other workers use the other cores
    job: BatchJob = pipe.receive()
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()

    def receive_chunks() -> None:
        with suppress(EOFError):
            while True:
                chunks.put(pipe.receive())
        os._exit(0)

    threading.Thread(target=receive_chunks, daemon=True).start()
    try:
        predictor = job.make_predictor()
    except (UserError, OSError) as error:
        pipe.send(str(error))
        os._exit(1)  # not sys.exit: the thread still waits for a chunk
    pipe.send("")
    while True:
        pipe.send(process_chunk(chunks.get(), job, predictor))


if __name__ == "__main__":
    main()
