from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.locks import locked

ROOT = Path(__file__).resolve().parents[2]
HOLD = "import sys; from pathlib import Path; from common.locks import locked\n" + (
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
)


def test_one_process_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError) as raised, locked(tmp_path):
            pass
        assert str(raised.value) == (
            f"{tmp_path}: process {other.pid} writes there; wait for it or end it, or name another folder"
        )
        other.kill()
    assert (tmp_path / ".lock").read_text() == str(other.pid)  # left behind, and no hindrance
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, locked(tmp_path / "gone"):
        pass
    assert raised.value.filename == str(tmp_path / "gone")
