"""Runs the tour's commands one after the other in its work folder, and keeps what each printed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import write_text
from pipeline.training.steps import UNBUFFERED, KEEP_FREED_MEMORY, check_log

RECORDS = "steps"  # folder of what was printed
WIDTH = 110  # characters a line: what a page shows without scrolling, about
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class TourStep:
    """One command of the tour, or a few lines of Python.

    command: a module and its arguments, or empty. snippet: Python, where there is no command. makes: files and folders
    that it writes, the last one last; they are removed before it begins, so that a killed one starts clean.
    """

    name: str
    command: tuple[str, ...] = ()
    snippet: str = ""
    outputs: tuple[str, ...] = ()

    @property
    def command_line(self) -> str:
        """As a user types it."""
        if self.snippet:
            return self.snippet.strip()
        lines, group = [f"python -m {self.command[0]}"], ""
        for word, following in zip(self.command[1:], (*self.command[2:], "--"), strict=False):
            group += f" {shlex.quote(word)}"
            if following.startswith("--"):  # an option and its values stay together
                if len(lines[-1]) + len(group) > WIDTH - 2:
                    lines.append("   ")
                lines[-1] += group
                group = ""
        return " \\\n".join(lines)


@dataclass(frozen=True)
class StepResult:
    """A step that is done: what it printed, warnings last, and how long it took."""

    step: TourStep
    printed: str
    seconds: float

    def excerpt(self, head: int = 0, tail: int = 0, until: str = "") -> str:
        """The first `head` and the last `tail` lines, or those before the first that is `until`; all without either."""
        lines = self.printed.splitlines()
        if until in lines:
            head, tail = lines.index(until), 0
        left_out = len(lines) - head - tail
        if (head or tail) and left_out > 0:
            lines = [*lines[:head], f"... ({left_out} more lines)", *lines[len(lines) - tail :]]
        wrapped = (textwrap.wrap(line, WIDTH) if len(line) > WIDTH and " " in line else [line] for line in lines)
        return "\n".join(line for some in wrapped for line in some)


class StepRunner:
    """Runs steps in a folder; a step that an earlier run has finished is not repeated.

    hidden: how folders of this machine are called in what is printed.
    """

    def __init__(self, folder: Path, hidden: Sequence[tuple[Path, str]] = ()) -> None:
        self.folder = folder
        places = [(folder, "."), *hidden, (PROJECT, ".")]
        self._hidden = [(str(path.resolve()), name) for path, name in places]
        self.done: dict[str, StepResult] = {}

    def run(self, step: TourStep) -> StepResult:
        """Runs a step, or recalls it. Raises UserError with what it said last when it fails."""
        record = self.folder / RECORDS / f"{step.name}.json"
        ran = self._recall(record, step) or self._begin(record, step)
        self.done[step.name] = ran
        return ran

    def _recall(self, record: Path, step: TourStep) -> StepResult | None:
        try:
            known = json.loads(record.read_text(encoding="utf-8"))
            same = (known["command"], known["snippet"]) == (list(step.command), step.snippet)
            if same and all((self.folder / name).exists() for name in step.outputs):
                return StepResult(step, str(known["printed"]), float(known["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def _begin(self, record: Path, step: TourStep) -> StepResult:
        if step.outputs:  # later steps build on it
            for stale in (self.folder / RECORDS).glob("*.json"):
                if stale.stem not in self.done:
                    stale.unlink()
        for name in step.outputs:
            _remove(self.folder / name)
        log, complaints = record.with_suffix(".log"), record.with_suffix(".err")
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        code = run_step(step, self.folder, log, complaints)
        seconds = round(time.monotonic() - start, 1)
        printed, said = (file.read_text(encoding="utf-8", errors="replace") for file in (log, complaints))
        # As in pipeline.training.steps: one that complains of a photo after its result was written is done.
        if code and not (step.outputs and (self.folder / step.outputs[-1]).exists()):
            check_log(complaints)
            last = (said.strip() or printed.strip() or f"exit code {code}").splitlines()[-1]
            raise UserError(f"{complaints}: this step failed: {last.removeprefix('error: ')}")
        warnings = [line for line in said.splitlines() if line.startswith("warning: ")]
        lines = [line.rstrip() for line in (*printed.splitlines(), *warnings)]
        text = self._relative("\n".join(lines).strip("\n"))
        known = {"command": list(step.command), "snippet": step.snippet, "printed": text, "seconds": seconds}
        write_text(record, json.dumps(known, indent=1) + "\n")
        return StepResult(step, text, seconds)

    def _relative(self, text: str) -> str:
        for path, name in self._hidden:
            text = text.replace(f"{path}/", "" if name == "." else f"{name}/").replace(path, name)
        return text


def run_step(step: TourStep, folder: Path, log: Path, complaints: Path) -> int:
    """Runs a step in `folder` and gives its exit code; standard output goes to `log`, the rest to `complaints`."""
    # pipeline.training.steps ends a command when this process ends, however it does.
    argv = ["-m", "pipeline.training.steps", *step.command] if step.command else ["-c", step.snippet]
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "PYTHONUTF8": "1", "COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    with log.open("wb") as out, complaints.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *argv],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            env={**os.environ, **KEEP_FREED_MEMORY, **UNBUFFERED, **own},
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
