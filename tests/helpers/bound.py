"""Runs a program that file permissions bind, though the tests may run as root, whom they do not."""

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
DROP = 24  # prctl's PR_CAPBSET_DROP
OVERRIDE, SEARCH = 1, 2  # the capabilities that make root stand above permissions: CAP_DAC_OVERRIDE, _READ_SEARCH


def as_anyone() -> None:
    """To be called in a new process before it begins: permissions bind it, also root's (Linux)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (OVERRIDE, SEARCH):
            if libc.prctl(DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")


def _run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, preexec_fn=as_anyone, capture_output=True, text=True, check=False, **options)


@cache
def permissions_bind() -> bool:
    """Whether `as_anyone` does what it should here."""
    if os.name != "posix":
        return False
    with TemporaryDirectory() as folder:
        file = Path(folder) / "closed"
        file.touch(mode=0)
        try:
            return _run(["cat", str(file)]).returncode != 0
        except (OSError, subprocess.SubprocessError, AttributeError):
            return False


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python on our packages; skips the test where root cannot be bound."""
    if not permissions_bind():
        pytest.skip("this system lets no program of root's be bound by permissions")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return _run([sys.executable, *map(str, arguments)], cwd=cwd, env=environment, timeout=120)
