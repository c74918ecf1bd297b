"""Runs a command with a folder on a disk of its own, small or read-only: a file system in memory that only it sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.commands import ENVIRONMENT

UNSHARE = ("unshare", "--mount") if os.name == "posix" and os.geteuid() == 0 else ("unshare", "-Urm")
# Mounts $2 with $1 bytes, which begins with what it holds already; what it holds in the end goes to $3.
MOUNTED = """
size=$1; place=$2; left=$3; how=$4; shift 4
cp -R "$place/." "$left" && mount -t tmpfs -o "size=$size" none "$place" && cp -R "$left/." "$place" || exit 99
test "$how" = rw || mount -o remount,ro "$place" || exit 99
"$@"
code=$?
find "$left" -mindepth 1 -delete
cp -R "$place/." "$left"
exit $code
"""
PAGE = 4096  # bytes that such a disk gives at a time


@dataclass(frozen=True)
class Ended:
    """How a command ended, and a copy of what it left in the folder."""

    code: int
    printed: str
    said: str
    left: Path


def run_on(place: Path, size: int, command: Sequence[str | Path], folder: Path, *, read_only: bool = False) -> Ended:
    """Runs a command of Python's in `folder` while `place` lies on a disk of `size` bytes with what it holds now."""
    _need_mounts()
    left = place.with_name(f"{place.name}-left")
    shutil.rmtree(left, ignore_errors=True)
    left.mkdir()
    how = "ro" if read_only else "rw"
    mounted = [*UNSHARE, "sh", "-c", MOUNTED, "sh", str(size), str(place), str(left), how, sys.executable]
    done = subprocess.run(
        [*mounted, *map(str, command)], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 99, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr, left)


@cache
def _mounts() -> str:
    """Why nothing can be mounted here; empty where it can."""
    if shutil.which("unshare") is None:
        return "needs the program unshare (Linux)"
    mount = "mount -t tmpfs -o size=64k none /mnt && mount -o remount,ro /mnt"
    tried = subprocess.run([*UNSHARE, "sh", "-c", mount], capture_output=True, text=True, check=False)
    return f"may not mount a disk of its own ({tried.stderr.strip()})" if tried.returncode else ""


def _need_mounts() -> None:
    if _mounts():
        pytest.skip(_mounts())


def pages(folder: Path) -> int:
    """Bytes that what a folder holds takes on such a disk."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())
