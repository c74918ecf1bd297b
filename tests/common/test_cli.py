"""Bad input is one line and code 1; a programming error keeps its traceback."""

from __future__ import annotations

import errno

import pytest

from common.cli import console, progress, run_cli
from common.errors import UserError


def failing(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a.png: broken; copy it anew"), 1, "error: a.png: broken; copy it anew\n"),
        (FileNotFoundError(2, "No such file", "b.png"), 1, "error: b.png: No such file; check the name\n"),
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
        (OSError("nothing of the system's"), 1, "error: nothing of the system's\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
    ],
)
def test_expected_errors_become_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(lambda: failing(error)) == code
    assert capsys.readouterr() == ("", line)


def test_a_command_that_goes_on_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: failing(KeyboardInterrupt()), interrupted="interrupted; it goes on") == 130
    assert capsys.readouterr().err == "interrupted; it goes on\n"


def test_the_commands_own_code_is_passed_on() -> None:
    assert run_cli(lambda: 3) == 3


@pytest.mark.parametrize("error", [ValueError("a bug"), TypeError("another")])
def test_other_errors_are_not_swallowed(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_cli(lambda: failing(error))


def test_console_prints_long_lines_whole(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("x" * 300)
    assert capsys.readouterr().out == "x" * 300 + "\n"


def test_no_bar_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as bar:
        assert list(bar.track(range(3), description="working")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
