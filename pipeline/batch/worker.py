"""A worker process, started anew when it dies: a chunk is asked for again, then photo by photo."""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from typing import Any

from common.errors import UserError
from pipeline.batch.child_process import DiedError, ParentPipe, Process
from pipeline.batch.chunk import Chunk
from pipeline.batch.work import ChunkResult, Job, process_chunk

TRIES = 2  # of a chunk, and of starting, before it is given up


class EndedError(Exception):
    """`Worker.end` was called."""


class Worker:
    """One process with one predictor. For one thread at a time, but `end` may be called from another.

    After that `do` raises EndedError.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._process: Process | None = None
        self._ended = False

    def do(self, chunk: Chunk) -> ChunkResult:
        """What became of the chunk, whatever befalls the process. Raises UserError when none can be started."""
        for _ in range(TRIES):
            with suppress(DiedError):
                return self._ask(chunk)
        done = []
        for single in chunk.singles():
            try:
                done.append(self._ask(single))
            except DiedError as error:
                what = f"kills the worker ({error}); make it smaller, convert it, or leave it out"
                now = time.time()
                done.append(ChunkResult(single.key, errors=((single.names[0], what),), began=now, ended=now))
        return ChunkResult.joined(chunk.key, done, self._job.recipe.metadata())

    def end(self) -> None:
        """Ends the process at once, and for good."""
        self._ended = True
        if self._process is not None:
            self._process.kill()

    def _ask(self, chunk: Chunk) -> ChunkResult:
        """Raises DiedError when the process dies over it."""
        if self._process is None:
            self._start()
        outcome = self._exchange(chunk)
        assert isinstance(outcome, ChunkResult)
        return outcome

    def _start(self) -> None:
        """Starts the process and waits until its predictor is there. Raises UserError when it cannot be."""
        how = ""
        for _ in range(TRIES):
            try:
                refused = self._exchange(self._job)
            except DiedError as error:
                how = str(error)
                continue
            if refused:
                raise UserError(refused)
            return
        raise UserError(f"a worker ends as it starts ({how}); try again with fewer workers")

    def _exchange(self, message: Any) -> Any:
        """The process's answer to a message; the first one starts it."""
        self._check()
        if self._process is None:
            self._process = Process("pipeline.batch.worker")
        try:
            self._check()  # ended while there was no process to end
            self._process.send(message)
            return self._process.receive()
        except DiedError:
            self._process = None
            self._check()
            raise

    def _check(self) -> None:
        if self._ended:
            if self._process is not None:
                self._process.kill()
            raise EndedError


def main() -> None:
    """The process: takes a Job, then chunks, and gives their outcomes.

    It ends when the starting process does, at once also in the middle of a chunk.
    """
    import cv2

    from common.memory import limit_malloc_arenas

    line = ParentPipe()
    limit_malloc_arenas()
    cv2.setNumThreads(1)  # the cores are taken
    job: Job = line.receive()
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()

    def receive() -> None:
        with suppress(EOFError):
            while True:
                chunks.put(line.receive())
        os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    try:
        predictor = job.predictor()
    except (UserError, OSError) as error:
        line.send(str(error))
        os._exit(1)  # the thread waits for what does not come
    line.send("")
    while True:
        line.send(process_chunk(chunks.get(), job, predictor))


if __name__ == "__main__":
    main()
