"""A function over many items in several threads: results come in the items' order, few wait at a time."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING, TypeVar, cast

from common.errors import UserError

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 2  # items under way or done and waiting, per thread: enough that a slow one does not stop the others at once


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result, None, None]:
    """The results in the items' order; with one thread in this one, each when it is asked for.

    Memory does not grow with the number of items: an item is taken when a result was. What `function` raises is raised
    here in its turn, and items not yet begun are dropped then, as they are when the caller stops.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # a single photo needs none

    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Job = TypeVar("Job")


def map_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, chunksize: int = 4
) -> Iterator[Result]:
    """The results in the jobs' order; with one worker in this process. `function` must be a module's own.

    When the caller stops, and at Ctrl-C, each worker finishes the job that it is at, and no other. Raises
    UserError when a worker process was killed.
    """
    if workers <= 1:
        yield from map(function, jobs)
        return
    context = get_context("spawn")  # not fork: a progress bar's thread may be running by now
    stop = context.Event()
    try:
        with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(stop,)) as pool:
            try:
                with _unheard():
                    results = pool.map(partial(_unless_stopped, function), jobs, chunksize=chunksize)
                for result in results:
                    yield cast(Result, result)  # None only where nobody takes it any more
            finally:
                stop.set()
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed (out of memory?); try again with fewer workers") from error


@contextmanager
def _unheard() -> Iterator[None]:
    """What is started inside never hears Ctrl-C, which a terminal sends to all: it is the starting process's to handle.

    Held back by this thread, not ignored: the starting process itself hears it afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_STOP: list[Event] = []  # of a worker process, the one that tells it to do no more


def _unless_stopped(function: Callable[[Job], Result], job: Job) -> Result | None:
    return None if _STOP[0].is_set() else function(job)


def _begin(stop: Event) -> None:
    """Readies a worker process: it does no more once `stop` is set, and ends when its parent does.

    One whose parent is killed would wait for its next job for ever.
    """
    _STOP.append(stop)
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
