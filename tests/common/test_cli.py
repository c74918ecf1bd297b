"""Commands: one-line errors, exit codes, renamed flags, missing extras, console and progress bar."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import console, progress, requires_extra, requires_package, run_cli
from common.errors import ProgrammingError, UserError
from common.launcher import MAKE_TARGETS


def failing(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a.png: broken; copy it again"), 1, "error: a.png: broken; copy it again\n"),
        (FileNotFoundError(2, "No such file", "b.png"), 1, "error: b.png: No such file; check the name\n"),
        (UserError("a class \x1b[31m\ud800 of two\nlines"), 1, "error: a class \ufffd[31m\ufffd of two lines\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            OSError(errno.EFBIG, "File too large", "c.png"),
            1,
            "error: c.png: File too large; raise the limit (ulimit -f) or name another place\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "error: standard output: No space left on device; make room or name another place\n",
        ),
        (OSError("without a number"), 1, "error: without a number\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
    ],
)
def test_expected_errors_become_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(lambda: failing(error)) == code
    assert capsys.readouterr() == ("", line)


def test_a_command_has_its_own_line_at_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: failing(KeyboardInterrupt()), interrupted="interrupted; it can be resumed") == 130
    assert capsys.readouterr().err == "interrupted; it can be resumed\n"


INTERRUPTED = """
import os, signal, sys, time
from common.cli import run_cli
from common.launcher import install_sigint_exit

class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

def command():
    {work}
    time.sleep(60)
    return 0

install_sigint_exit()
sys.exit(run_cli(command))
"""
# As a package written in C: what is raised during the import becomes another error.
PACKAGE = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
except KeyboardInterrupt as error:
    raise ImportError("initialization failed") from error
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("work", ["Freed()  # Python drops what is raised in __del__", "import package"])
def test_no_ctrl_c_is_lost_or_becomes_another_error(work: str, tmp_path: Path) -> None:
    (tmp_path / "package.py").write_text(PACKAGE)
    command = [sys.executable, "-c", INTERRUPTED.format(work=work)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50, env=environment)
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")


def test_the_exit_code_of_the_command_is_returned() -> None:
    assert run_cli(lambda: 3) == 3


@pytest.mark.parametrize("error", [ValueError("a bug"), TypeError("another")])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_cli(lambda: failing(error))


def test_the_make_targets_that_install_an_extra_exist() -> None:
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}: $(VENV)/" in makefile for target in ("install", *MAKE_TARGETS.values()))


def test_a_missing_package_gives_the_install_command() -> None:
    missing = ModuleNotFoundError(name="ray")
    with (
        pytest.raises(UserError, match=r"'ray'; .* run `make install`, or `pip install '\.\[batch\]'` in an env"),
        requires_extra("batch"),
    ):
        raise missing
    with pytest.raises(UserError, match="'ray'; install it with `pip install ray`"), requires_package("ray"):
        raise missing
    with pytest.raises(ModuleNotFoundError), requires_package("onnx"):
        raise missing


def test_the_console_does_not_wrap_long_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("x" * 300)
    assert capsys.readouterr().out == "x" * 300 + "\n"


def test_the_progress_bar_is_hidden_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as bar:
        assert list(bar.track(range(3), description="working")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_workers_programming_error_has_its_traceback_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        try:
            raise AttributeError("no 'compute'")
        except AttributeError as error:
            raise pickle.loads(pickle.dumps(ProgrammingError.of(error))) from None

    assert run_cli(command) == 1
    err = capsys.readouterr().err
    assert err.count("Traceback") == 1 and "test_cli.py" in err
    assert err.splitlines()[-1].startswith("error: programming error in a worker (AttributeError: no 'compute')")


def test_a_missing_module_of_our_own_is_not_a_missing_extra() -> None:
    with pytest.raises(UserError, match="install"), requires_extra("video"):
        raise ModuleNotFoundError("No module named 'av'", name="av")
    with pytest.raises(ModuleNotFoundError), requires_extra("video"):
        raise ModuleNotFoundError("No module named 'pipeline.x'", name="pipeline.x")


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize(("given", "printed"), [(None, "1 1"), ("2", "2")])
def test_a_command_starts_no_threads_of_blas_unless_asked(tmp_path: Path, given: str | None, printed: str) -> None:
    text = "import os\ndef run():\n    import numpy\n"
    text += "    print(os.environ['OPENBLAS_NUM_THREADS'], len(os.listdir('/proc/self/task')))\n"
    (tmp_path / "own.py").write_text(text)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from common.launcher import start; start('own:run')"
    environment = {name: value for name, value in os.environ.items() if "_NUM_THREADS" not in name}
    environment |= {} if given is None else {"OPENBLAS_NUM_THREADS": given}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True, cwd=root
    )
    assert done.stdout.strip().startswith(printed)
