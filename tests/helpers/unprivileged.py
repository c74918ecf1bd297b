"""Run a program that obeys file permissions, also when root runs the tests."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PR_CAPBSET_DROP = 24  # of prctl
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2  # with these capabilities, root ignores permissions


def drop_root_privileges() -> None:
    """Make the process obey file permissions, also as root (Linux); for Popen's preexec_fn."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")


def _run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command without root's privileges."""
    return subprocess.run(
        command, preexec_fn=drop_root_privileges, capture_output=True, text=True, check=False, **options
    )


@cache
def can_drop_privileges() -> bool:
    """Return whether `drop_root_privileges` works here."""
    if os.name != "posix":
        return False
    with TemporaryDirectory() as folder:
        file = Path(folder) / "closed"
        file.touch(mode=0)
        try:
            return _run(["cat", str(file)]).returncode != 0
        except (OSError, subprocess.SubprocessError, AttributeError):
            return False


def run_python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with our packages; skip the test where root's privileges cannot be dropped."""
    if not can_drop_privileges():
        pytest.skip("this system cannot make root's programs obey file permissions")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return _run([sys.executable, *map(str, arguments)], cwd=cwd, env=environment, timeout=120)
