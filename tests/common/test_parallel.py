"""Ordered map over threads; speed is not tested."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.parallel import QUEUED_PER_THREAD, map_ordered, start_in_thread, usable_cores
from tests.helpers.commands import ENVIRONMENT


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_keep_the_items_order(threads: int) -> None:
    def late_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert list(map_ordered(late_first, range(20), threads)) == [item * item for item in range(20)]
    assert list(map_ordered(late_first, [], threads)) == []


def test_threads_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=20)
    list(map_ordered(lambda _: both.wait(), range(4), 2))  # one thread alone would wait until the timeout


def test_one_thread_is_the_present_thread() -> None:
    present = threading.get_ident()
    assert set(map_ordered(lambda _: threading.get_ident(), range(3), 1)) == {present}


@pytest.mark.parametrize("threads", [1, 3])
def test_items_are_taken_only_as_results_are_taken(threads: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(100):
            taken += 1
            yield item

    queued = 1 if threads == 1 else QUEUED_PER_THREAD * threads
    for got, _ in enumerate(map_ordered(lambda item: item, items(), threads), start=1):
        assert taken <= got - 1 + queued


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_is_raised_in_its_turn(threads: int) -> None:
    def third(item: int) -> int:
        if item == 2:
            raise ValueError("third")
        return item

    got = []
    with pytest.raises(ValueError, match="third"):
        for result in map_ordered(third, range(50), threads):
            got.append(result)  # noqa: PERF402  # the results before the error are needed
    assert got == [0, 1]


def test_no_thread_runs_after_an_early_stop() -> None:
    begun = []

    def slow(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        return item

    before = threading.active_count()
    results = map_ordered(slow, range(100), 2)
    next(results)
    results.close()
    assert threading.active_count() == before
    assert len(begun) <= 2 * QUEUED_PER_THREAD


def test_a_function_runs_beside_the_caller() -> None:
    started, go = threading.Event(), threading.Event()

    def work() -> int:
        started.set()
        assert go.wait(10)
        return 7

    result = start_in_thread(work)
    assert started.wait(10)  # before its result is asked for
    go.set()
    assert result() == 7 and result() == 7


def test_an_error_of_a_function_next_to_the_caller_is_raised_where_its_result_is_used() -> None:
    def work() -> int:
        raise KeyError("gone")

    result = start_in_thread(work)
    with pytest.raises(KeyError, match="gone"):
        result()


def test_at_least_one_core_is_usable() -> None:
    assert usable_cores() >= 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "unknown\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_a_containers_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("common.parallel.CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == cores


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_while_a_function_runs_in_a_thread_lets_it_end() -> None:
    # In a bare process, whose exit waits for the thread.
    code = """
import os, signal, threading, time
from common.parallel import start_in_thread
may_end = threading.Event()
result = start_in_thread(lambda: (may_end.wait(20), time.sleep(0.3), print("the function has ended", flush=True)))
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    result()
except KeyboardInterrupt:
    print("interrupted", flush=True)
    may_end.set()
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["interrupted", "the function has ended"]
