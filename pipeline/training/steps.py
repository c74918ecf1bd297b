"""Runs long work in steps: each step is a child process, which ends with its parent.

`python -m pipeline.training.steps MODULE ARGS...` is such a child: it runs a module, and ends when its standard input
does.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import with_file_name

UNBUFFERED = {"PYTHONUNBUFFERED": "1"}  # so a log ends with the last line printed
POLL_INTERVAL = 0.2  # s between checks for a stop
RESUMABLE = "interrupted; run the same command to resume"  # the message of a command in steps at Ctrl-C

Log = Callable[[str], None]  # reports one line to the user


@dataclass(frozen=True)
class ExtraArgs:
    """Further arguments of a step's command, which are known only when the step begins."""

    options: tuple[str, ...] = ()  # flags and values
    reasons: tuple[str, ...] = ()  # one line for the user per reason


@dataclass(frozen=True)
class TrainingStep:
    """One command of a longer training."""

    name: str  # name for the user, and of the log file
    command: tuple[str, ...]  # module and arguments
    result: Path | None = None  # the file written last: if it exists, the step is finished; None: the command checks
    extra_args: Callable[[], ExtraArgs] = ExtraArgs  # called when the step begins, to use the results of earlier steps


def run_steps(
    folder: Path, steps: Iterable[TrainingStep], log: Log = lambda _: None, stop: threading.Event | None = None
) -> None:
    """Run the steps that are not finished, in order; their output goes to folder/<name>.log.

    A step that fails after its result was written counts as done: a photo was left out. `log` gets its last line.
    When `stop` is set, the running process is ended and no step begins.

    Raises UserError when a step failed, with its last line.
    """
    stop = stop or threading.Event()
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        if step.result is not None and step.result.is_file():
            continue
        if stop.is_set():
            return
        extra = step.extra_args()
        for reason in extra.reasons:
            log(f"{folder.name}: {step.name}: {reason}")
        file = folder / f"{step.name}.log"
        start, old_size = time.monotonic(), file.stat().st_size if file.is_file() else 0
        code = run_module((*step.command, *extra.options), file, stop)
        if code is None:
            return
        if code:
            check_log(file)
            message = _last_line(file, old_size, code)
            if step.result is None or not step.result.is_file():
                raise UserError(f"{file}: this step failed: {message}")
            log(f"{folder.name}: {step.name}: {message}")
        log(f"{folder.name}: {step.name} done in {time.monotonic() - start:.0f} s")


def run_parallel(
    works: Sequence[tuple[Path, Sequence[TrainingStep]]],
    jobs: int,
    log: Log = lambda _: None,
    finished: Callable[[Path], None] = lambda _: None,
) -> None:
    """Call `run_steps` for each (folder, steps), `jobs` of them at a time.

    When one fails, and at Ctrl-C, the others are ended at once: all of them resume when they are started again.
    `finished` gets each folder whose steps have ended, in the calling thread, while others still run.

    Raises UserError as `run_steps` does.
    """
    stop = threading.Event()

    def work(folder: Path, steps: Sequence[TrainingStep]) -> None:
        try:
            run_steps(folder, steps, log, stop)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        try:  # around the submissions, too: the pool waits for what was submitted before a Ctrl-C
            futures = {pool.submit(work, folder, steps): folder for folder, steps in works}
            for future in as_completed(futures):
                if future.exception() is None and not stop.is_set():
                    finished(futures[future])
        finally:
            stop.set()
    for future in futures:
        future.result()


def run_module(command: Sequence[str], log_file: Path, stop: threading.Event) -> int | None:
    """Run a module in a child process and return its exit code; None when it was stopped."""
    environment = {**os.environ, **UNBUFFERED}
    with log_file.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.training.steps", *command],
            stdin=subprocess.PIPE,  # the other end closes when this process ends, in any way
            stdout=file,
            stderr=file,
            env=environment,
        )
        try:
            while not stop.is_set():
                try:
                    return process.wait(POLL_INTERVAL)
                except subprocess.TimeoutExpired:
                    pass
            return None
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate()


def check_log(log_file: Path) -> None:
    """Raise OSError when the log cannot grow: its last line is not the reason for a failure then."""
    with with_file_name(log_file), log_file.open("ab", buffering=0) as file:
        file.write(b"\n")


def _last_line(log_file: Path, start: int, code: int) -> str:
    """Return the last line of a command that failed, from the log's byte `start` on."""
    if code < 0:
        return f"killed by signal {-code} (out of memory?)"
    lines = log_file.read_bytes()[start:].decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"exit code {code}"


def main(argv: Sequence[str]) -> None:
    """Run the module argv[0] with the arguments argv[1:], and end when standard input does."""

    def exit_with_parent() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    sys.argv = list(argv)
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
