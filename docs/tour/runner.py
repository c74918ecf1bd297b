"""Runs the tour's steps in its work folder, and keeps the output of each."""

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
from pipeline.training.steps import UNBUFFERED, check_log

RECORDS = "steps"  # folder of the outputs
WIDTH = 110  # characters per line: a page shows about this much without scrolling
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class TourStep:
    """One command of the tour, or a Python snippet."""

    name: str
    """Name of the step's records."""
    command: tuple[str, ...] = ()
    """A module and its arguments; empty for a snippet."""
    snippet: str = ""
    """Python code; empty for a command."""
    outputs: tuple[str, ...] = ()
    """Files and folders in the order of writing; removed before the step begins, so a killed step starts clean."""

    @property
    def command_line(self) -> str:
        """Return the step as a user types it."""
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
    """The result of a step."""

    step: TourStep
    """The step."""
    printed: str
    """Its output, warnings last."""
    seconds: float
    """Its duration."""

    def excerpt(self, head: int = 0, tail: int = 0, until: str = "") -> str:
        """Return the first `head` and last `tail` lines, or all before the line `until`; by default all lines."""
        lines = self.printed.splitlines()
        if until in lines:
            head, tail = lines.index(until), 0
        left_out = len(lines) - head - tail
        if (head or tail) and left_out > 0:
            lines = [*lines[:head], f"... ({left_out} more lines)", *lines[len(lines) - tail :]]
        wrapped = (textwrap.wrap(line, WIDTH) if len(line) > WIDTH and " " in line else [line] for line in lines)
        return "\n".join(line for some in wrapped for line in some)


class StepRunner:
    """Runs steps in a folder; finished steps are not repeated.

    Args:
        folder: the work folder.
        hidden: (folder of this machine, name for it in outputs).
    """

    def __init__(self, folder: Path, hidden: Sequence[tuple[Path, str]] = ()) -> None:
        self.folder = folder
        places = [(folder, "."), *hidden, (PROJECT, ".")]
        self._hidden = [(str(path.resolve()), name) for path, name in places]
        self.done: dict[str, StepResult] = {}

    def run(self, step: TourStep) -> StepResult:
        """Run a step, or load its earlier result. Raise UserError with the last line of a step that fails."""
        record = self.folder / RECORDS / f"{step.name}.json"
        result = self._load(record, step) or self._run(record, step)
        self.done[step.name] = result
        return result

    def _load(self, record: Path, step: TourStep) -> StepResult | None:
        """Return the earlier result of the same step, if its outputs exist."""
        try:
            known = json.loads(record.read_text(encoding="utf-8"))
            same = (known["command"], known["snippet"]) == (list(step.command), step.snippet)
            if same and all((self.folder / name).exists() for name in step.outputs):
                return StepResult(step, str(known["printed"]), float(known["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def _run(self, record: Path, step: TourStep) -> StepResult:
        """Run a step and write its record."""
        if step.outputs:  # later steps depend on them
            for stale in (self.folder / RECORDS).glob("*.json"):
                if stale.stem not in self.done:
                    stale.unlink()
        for name in step.outputs:
            _remove(self.folder / name)
        log_file, error_file = record.with_suffix(".log"), record.with_suffix(".err")
        log_file.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        code = run_step(step, self.folder, log_file, error_file)
        seconds = round(time.monotonic() - start, 1)
        printed, errors = (f.read_text(encoding="utf-8", errors="replace") for f in (log_file, error_file))
        # As in pipeline.training.steps: a step that fails after its result was written (a photo was left out) is done.
        if code and not (step.outputs and (self.folder / step.outputs[-1]).exists()):
            check_log(error_file)
            last = (errors.strip() or printed.strip() or f"exit code {code}").splitlines()[-1]
            raise UserError(f"{error_file}: this step failed: {last.removeprefix('error: ')}")
        warnings = [line for line in errors.splitlines() if line.startswith("warning: ")]
        lines = [line.rstrip() for line in (*printed.splitlines(), *warnings)]
        text = self._relative("\n".join(lines).strip("\n"))
        known = {"command": list(step.command), "snippet": step.snippet, "printed": text, "seconds": seconds}
        write_text(record, json.dumps(known, indent=1) + "\n")
        return StepResult(step, text, seconds)

    def _relative(self, text: str) -> str:
        """Return the text without places of this machine."""
        for path, name in self._hidden:
            text = text.replace(f"{path}/", "" if name == "." else f"{name}/").replace(path, name)
        return text


def run_step(step: TourStep, folder: Path, log_file: Path, error_file: Path) -> int:
    """Run a step in `folder` and return its exit code; its outputs go to the two files."""
    # pipeline.training.steps ends a command when this process ends, in any way.
    argv = ["-m", "pipeline.training.steps", *step.command] if step.command else ["-c", step.snippet]
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "PYTHONUTF8": "1", "COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    with log_file.open("wb") as out, error_file.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *argv],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            env={**os.environ, **UNBUFFERED, **own},
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate()


def _remove(path: Path) -> None:
    """Remove a file or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
