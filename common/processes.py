"""Worker processes: a function over many jobs; the processes end with the process that started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import TypeVar, cast

from common.errors import ProgrammingError, UserError

T = TypeVar("T")
R = TypeVar("R")


def map_jobs(function: Callable[[T], R], jobs: Sequence[T], workers: int, chunksize: int = 4) -> Iterator[R]:
    """Yield `function(job)` in the jobs' order, computed by worker processes; one worker is this process.

    At Ctrl-C, and when the caller stops, each worker finishes its present job and starts no other.

    Args:
        function: a module's function, so that it can be sent to a process.
        chunksize: jobs sent to a worker at a time.

    Raises:
        UserError: a worker process was killed, or `function` raised it.
        ProgrammingError: a worker ended by itself, or `function` raised an error of our code there.
        OSError: `function` raised it.
    """
    if workers <= 1:
        yield from map(function, jobs)
        return
    context = get_context("spawn")  # not fork: a progress bar's thread may be running
    stop = context.Event()
    processes: list[BaseProcess] = []
    try:
        with ProcessPoolExecutor(workers, context, initializer=_init_worker, initargs=(stop,)) as pool:
            try:
                with _sigint_held():
                    results = pool.map(partial(_run_unless_stopped, function), jobs, chunksize=chunksize)
                processes += (getattr(pool, "_processes", None) or {}).values()
                for result in results:
                    yield cast(R, result)  # None only after the caller stopped
            finally:
                stop.set()
    except BrokenProcessPool as error:
        codes = [process.exitcode for process in processes if process.exitcode]
        if own := [code for code in codes if code > 0]:  # not a signal: such as an import that failed
            raise ProgrammingError(f"it ended with exit code {own[0]}", trace="") from error
        raise UserError("a worker process was killed (out of memory?); try again with fewer workers") from error


def turn_off_opencv_threads(_worker: int) -> None:
    """Turn off OpenCV's threads in a worker process of PyTorch's DataLoader: one process per core is enough."""
    import cv2  # the other functions need none

    cv2.setNumThreads(0)


@contextmanager
def _sigint_held() -> Iterator[None]:
    """Handle a Ctrl-C of the block after it; processes that start in the block never receive Ctrl-C.

    A terminal sends Ctrl-C to all processes. The mask of blocked signals passes to a new process, but it holds for this
    thread alone: with another thread, as that of a progress bar, Python would still call its handler here and leave a
    process half-started. So the block has a handler that only notes Ctrl-C.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    if callable(handler):  # neither ignored nor unknown to Python
        signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # notes a Ctrl-C that was sent to this thread
        if callable(handler):
            signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)


_STOP: list[Event] = []  # in a worker process: one event, set when no further job may start


def _run_unless_stopped(function: Callable[[T], R], job: T) -> R | None:
    """Call the function in a worker process, unless the work was stopped."""
    try:
        return None if _STOP[0].is_set() else function(job)
    except (UserError, OSError, MemoryError, ProgrammingError):
        raise
    except Exception as error:  # with its traceback, which would be lost or printed twice
        raise ProgrammingError.of(error) from None


def _init_worker(stop: Event) -> None:
    """Prepare a worker process: `stop` ends its work; a killed parent ends the process, which would wait forever."""
    _STOP.append(stop)

    def wait() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
