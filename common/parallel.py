"""A function over many items in several threads, with results in order; or one function next to the caller."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")
CONTROL_GROUPS = Path("/sys/fs/cgroup")  # Linux's limits of a container
QUEUED_PER_THREAD = 2  # items in work, or done and not yet taken; one slow item then does not stop the other threads


def map_ordered(function: Callable[[T], R], items: Iterable[T], threads: int) -> Generator[R, None, None]:
    """Yield `function(item)` in the items' order; with one thread, each when it is requested.

    Memory does not grow with the number of items: an item is taken only when a result was taken. An exception of
    `function` is raised in its turn. After an exception, or when the caller stops, waiting items are dropped.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # a single photo needs none

    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= QUEUED_PER_THREAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def start_in_thread(function: Callable[[], R]) -> Callable[[], R]:
    """Start `function()` in a thread; return a function that waits for its result, or raises its exception."""
    results: list[R] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    # concurrent.futures imports logging, which takes longer than the work is worth.
    thread = threading.Thread(target=work)
    thread.start()

    def result() -> R:
        # Not `thread.join()`: before Python 3.13, Ctrl-C in it marks a running thread as ended. The process would then
        # exit beneath that thread, and ONNX Runtime would print errors of its own.
        done.wait()
        if errors:
            raise errors[0]
        return results[0]

    return result


def usable_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and by its container's limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(cores, _container_cores()))


def _container_cores() -> float:
    """Return the CPU limit of the container in cores; infinity without one.

    The kernel's files are cpu.max of control groups 2 ("200000 100000": microseconds of each period), and two files of
    control groups 1 (kernel.org, "Control Group v2" and "CFS Bandwidth Control").
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):
            quota, period = " ".join((CONTROL_GROUPS / name).read_text(encoding="ascii") for name in names).split()
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
    return math.inf
