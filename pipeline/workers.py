"""A function over many jobs in several processes, which end with the one that started them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

from pipeline.errors import PipelineError

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, chunksize: int = 4
) -> Iterator[Result]:
    """The results in the jobs' order; with one worker in this process. `function` must be a module's own.

    Raises PipelineError when a worker process was killed.
    """
    if workers <= 1:
        yield from map(function, jobs)
        return
    try:
        # spawn, not fork: a progress bar's thread may be running by now
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent) as pool:
            yield from pool.map(function, jobs, chunksize=chunksize)
    except BrokenProcessPool as error:
        raise PipelineError("a worker process was killed (out of memory?); try again with fewer workers") from error


def _end_with_parent() -> None:
    """A worker whose parent is killed would wait for its next job for ever."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
