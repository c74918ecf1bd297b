"""Long work in steps: each in a process of its own that ends with this one, in a folder that one process holds.

As a program, it is such a process: `python -m pipeline.training.steps MODULE ARGS...` runs a module, and ends when its standard
input does.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import naming, write_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The C library gives freed memory back to the system, and training takes the same sizes again in each step: keeping it
# makes a step up to a third faster. (stage1_faces.finetune sees to that itself.)
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
IN_ORDER = {"PYTHONUNBUFFERED": "1"}  # a log's last line is the last one printed
POLL = 0.2  # s between looks at whether to stop
LOCK = ".lock"
RESUMABLE = "interrupted; the same command goes on"  # what a command in steps says at Ctrl-C

Say = Callable[[str], None]


@dataclass(frozen=True)
class ExtraArgs:
    """What a step's command needs besides, known only when it begins: its options, and why, a line for people each."""

    options: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingStep:
    """name: for people, and of the log. command: its module and arguments. result: the file that it writes last.

    A step whose result is there is finished. None: the command itself knows, and is quick when nothing is left.
    fitted: asked when the step begins, for what the steps before it have shown.
    """

    name: str
    command: tuple[str, ...]
    result: Path | None = None
    extra_args: Callable[[], ExtraArgs] = ExtraArgs


def run_steps(
    folder: Path, steps: Iterable[TrainingStep], say: Say = lambda _: None, stop: threading.Event | None = None
) -> None:
    """Runs the steps that are not finished, one after the other; what they print goes to folder/<name>.log.

    say: told when a step is done. stop: when it is set, the process at work is ended, and nothing more is begun.
    Raises UserError with the log's last line when a step fails; one that complains after its result was written (of
    a photo that it left out) is done, and the line is said.
    """
    stop = stop or threading.Event()
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        if step.result is not None and step.result.is_file():
            continue
        if stop.is_set():
            return
        fitted = step.extra_args()
        for line in fitted.reasons:
            say(f"{folder.name}: {step.name}: {line}")
        log = folder / f"{step.name}.log"
        start, begun = time.monotonic(), log.stat().st_size if log.is_file() else 0
        code = _run((*step.command, *fitted.options), log, stop)
        if code is None:
            return
        if code:
            check_log(log)
            complaint = _last_line(log, begun, code)
            if step.result is None or not step.result.is_file():
                raise UserError(f"{log}: this step failed: {complaint}")
            say(f"{folder.name}: {step.name}: {complaint}")
        say(f"{folder.name}: {step.name} done in {time.monotonic() - start:.0f} s")


def run_parallel(works: Sequence[tuple[Path, Sequence[TrainingStep]]], jobs: int, say: Say = lambda _: None) -> None:
    """`run_steps` for each (folder, steps), `jobs` of them at a time.

    When one fails, and at Ctrl-C, the others are ended at once, for all of them go on when they are started again.
    Raises UserError as `run_steps` does.
    """
    stop = threading.Event()

    def work(folder: Path, steps: Sequence[TrainingStep]) -> None:
        try:
            run_steps(folder, steps, say, stop)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, folder, steps) for folder, steps in works]
        try:
            wait(futures)
        finally:
            stop.set()
    for future in futures:
        future.result()


def _run(command: Sequence[str], log: Path, stop: threading.Event) -> int | None:
    """Runs a module with its arguments and gives its exit code; None when it was stopped."""
    environment = {**os.environ, **KEEP_MEMORY, **IN_ORDER}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.training.steps", *command],
            stdin=subprocess.PIPE,  # its other end closes with this process, however that ends
            stdout=file,
            stderr=file,
            env=environment,
        )
        try:
            while not stop.is_set():
                try:
                    return process.wait(POLL)
                except subprocess.TimeoutExpired:
                    pass
            return None
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate()


def check_log(log: Path) -> None:
    """Raises OSError when the log takes no more: what it says last is not why its step failed then."""
    with naming(log), log.open("ab", buffering=0) as file:
        file.write(b"\n")


def _last_line(log: Path, begun: int, code: int) -> str:
    """What a command that failed said last, of the log's bytes from `begun` on."""
    if code < 0:
        return f"killed by signal {-code} (out of memory?)"
    lines = log.read_bytes()[begun:].decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"exit code {code}"


@contextmanager
def locked_workdir(folder: Path, name: str, record: Mapping[str, Any], what: str, flag: str) -> Iterator[bool]:
    """Takes a folder for the work that `record`, kept as its file `name`, describes, or goes on with that work.

    Gives whether it goes on. what: the work's name, and flag: the folder's option, for messages. Raises UserError
    when the folder holds other work or other files, or another process works there (not told on Windows).
    """
    file = folder / name
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give another {flag}")
    # Hidden files are what a process leaves that was killed while it took the folder.
    begun = folder.is_dir() and any(path != file and not path.name.startswith(".") for path in folder.iterdir())
    if begun and not file.is_file():
        raise UserError(f"{folder}: holds other files; give another {flag}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"{folder}: another process works here; wait for it or end it") from error
        if begun:
            _check_same(file, json.loads(json.dumps(record)), f"{folder}: holds a {what}", flag)
        else:  # what was refused before it began may begin otherwise
            write_text(file, json.dumps(record, indent=1) + "\n")
        yield begun


def _check_same(file: Path, record: Mapping[str, Any], holds: str, flag: str) -> None:
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); give another {flag}") from error
    for name, value in record.items():
        if before.get(name) != value:
            raise UserError(f"{holds} with another {name}; give another {flag}")


def main(argv: Sequence[str]) -> None:
    """Runs the module argv[0] with the arguments argv[1:], and ends when standard input does."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    sys.argv = list(argv)
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
