"""Steps in processes: finished steps are skipped, a failure has its log's last line, no process outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import UserError
from pipeline.training import steps
from pipeline.training.steps import RESUMABLE, ExtraArgs, TrainingStep, run_parallel, run_steps
from tests.helpers.commands import INTERRUPTED

ROOT = Path(__file__).resolve().parents[3]
Work = tuple[Path, list[TrainingStep]]
# A module that writes its words to a file and exits with the given code; "for_ever" does not end by itself.
MODULE = """
import sys, time
from pathlib import Path

if __name__ == "__main__":
    out, code, *words = sys.argv[1:]
    print("begins")
    if out != "-":
        with Path(out).open("a") as file:
            print(*words, file=file)
    if code == "for_ever":
        time.sleep(600)
    if code != "0":
        print("error: the reason is here", file=sys.stderr)
    sys.exit(int(code))
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "made_step.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path / "modules"), str(ROOT))))


def step(name: str, out: Path | str = "-", code: str = "0", *words: str, **more: object) -> TrainingStep:
    return TrainingStep(name, ("made_step", str(out), code, *words), **more)  # type: ignore[arg-type]


def test_steps_run_in_order_and_finished_ones_are_skipped(tmp_path: Path) -> None:
    folder, a, b = tmp_path / "a folder", tmp_path / "a.txt", tmp_path / "b.txt"
    lines: list[str] = []
    both = [step("first", a, "0", "one", result=a), step("second", b, "0", "two words")]
    run_steps(folder, both, lines.append)
    assert (a.read_text(), b.read_text()) == ("one\n", "two words\n")
    assert [line.rsplit(" ", 2)[0] for line in lines] == ["a folder: first done in", "a folder: second done in"]
    run_steps(folder, both, lines.append)
    assert (a.read_text(), b.read_text()) == ("one\n", "two words\ntwo words\n")  # the second step has no result
    assert (folder / "first.log").read_text() == "begins\n"
    assert (folder / "second.log").read_text() == "begins\nbegins\n"  # earlier output is kept


def test_extra_args_use_results_of_earlier_steps(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    lines: list[str] = []

    def extra_args() -> ExtraArgs:
        return ExtraArgs((a.read_text().strip(), "more"), ("because of the first",))

    run_steps(
        tmp_path / "w", [step("first", a, "0", "seen"), step("second", b, "0", extra_args=extra_args)], lines.append
    )
    assert b.read_text() == "seen more\n"
    assert lines[1] == "w: second: because of the first"


def test_a_failure_is_the_last_line_of_this_run(tmp_path: Path) -> None:
    (tmp_path / "bad.log").write_text("of the run before\n")
    never = tmp_path / "never.txt"
    with pytest.raises(UserError) as caught:
        run_steps(tmp_path, [step("bad", code="3"), step("next", never)])
    assert str(caught.value) == f"{tmp_path / 'bad.log'}: this step failed: the reason is here"
    assert not never.exists()
    assert steps._last_line(tmp_path / "bad.log", (tmp_path / "bad.log").stat().st_size, 3) == "exit code 3"
    assert steps._last_line(tmp_path / "bad.log", 0, -9) == "killed by signal 9 (out of memory?)"


def test_a_failure_after_the_result_was_written_is_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    run_steps(tmp_path / "w", [step("crops", tmp_path / "a.txt", "1", result=tmp_path / "a.txt")], lines.append)
    assert lines[0] == "w: crops: the reason is here" and lines[1].startswith("w: crops done")


def test_when_one_fails_the_others_are_ended_at_once(tmp_path: Path) -> None:
    alive, never = tmp_path / "alive.txt", tmp_path / "never.txt"

    def wait() -> ExtraArgs:  # until the other step runs
        while not alive.exists():
            time.sleep(0.02)
        return ExtraArgs()

    works = [
        (tmp_path / "a", [step("long", alive, "for_ever", str(os.getpid())), step("after", never)]),
        (tmp_path / "b", [step("bad", code="1", extra_args=wait)]),
    ]
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"bad\.log: this step failed"):
        run_parallel(works, jobs=2)
    assert time.monotonic() - begun < 60
    assert not never.exists()


def test_ctrl_c_while_works_begin_ends_those_that_run(tmp_path: Path) -> None:
    alive = tmp_path / "alive.txt"

    class Interrupted(list[Work]):
        def __iter__(self) -> Iterator[Work]:
            yield from super().__iter__()
            while not alive.exists():
                time.sleep(0.02)
            raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_parallel(Interrupted([(tmp_path / "a", [step("long", alive, "for_ever", str(os.getpid()))])]), jobs=2)
    assert time.monotonic() - begun < 60


def test_with_one_job_the_works_run_in_order(tmp_path: Path) -> None:
    out = tmp_path / "order.txt"
    works = [(tmp_path / k, [step("s", out, "0", k, "1"), step("t", out, "0", k, "2")]) for k in ("a", "b")]
    run_parallel(works, jobs=1)
    assert out.read_text().splitlines() == ["a 1", "a 2", "b 1", "b 2"]


def test_no_step_begins_after_a_stop(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    run_steps(tmp_path, [step("s", tmp_path / "a.txt")], stop=stop)
    assert not (tmp_path / "a.txt").exists()


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_step_ends_with_the_process_that_began_it(tmp_path: Path, how: signal.Signals) -> None:
    pid_file = tmp_path / "pid.txt"
    (tmp_path / "modules" / "long_step.py").write_text(
        "import os, sys, time\nfrom pathlib import Path\n"
        f"Path({str(pid_file) + '.tmp'!r}).write_text(str(os.getpid()))\n"
        f"os.replace({str(pid_file) + '.tmp'!r}, {str(pid_file)!r})\ntime.sleep(600)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(
        "import signal, sys\nfrom pathlib import Path\nfrom common.cli import run_cli\n"
        "from pipeline.training.steps import RESUMABLE, TrainingStep, run_parallel\n"
        # Started in the background, the tests may have inherited that Ctrl-C is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"work = [(Path({str(tmp_path / 'w')!r}), [TrainingStep('long', ('long_step',))])]\n"
        "sys.exit(run_cli(lambda: run_parallel(work, 2) or 0, interrupted=RESUMABLE))\n"
    )
    with subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True) as parent:
        deadline = time.monotonic() + 60
        while not pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        pid = int(pid_file.read_text())
        assert running(pid)
        parent.send_signal(how)  # to the parent only, as a process manager does
        try:
            _, errors = parent.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            parent.kill()  # otherwise the block would wait for it
            raise
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(pid)
    if how == signal.SIGINT:
        assert parent.returncode in INTERRUPTED and errors == f"{RESUMABLE}\n"
