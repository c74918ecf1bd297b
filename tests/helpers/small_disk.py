"""Run a command with a folder on a small or read-only disk: a file system in memory, in a private mount namespace."""

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
# Mount a disk of $1 bytes at $2 with the folder's present files, run the command, and copy the final files to $3.
MOUNT_SCRIPT = """
size=$1; folder=$2; files=$3; mode=$4; shift 4
cp -R "$folder/." "$files" && mount -t tmpfs -o "size=$size" none "$folder" && cp -R "$files/." "$folder" || exit 99
test "$mode" = rw || mount -o remount,ro "$folder" || exit 99
"$@"
code=$?
find "$files" -mindepth 1 -delete
cp -R "$folder/." "$files"
exit $code
"""
PAGE = 4096  # bytes; such a disk allocates whole pages


@dataclass(frozen=True)
class CommandResult:
    """How a command ended: exit code, output, and a copy of the disk's files."""

    code: int
    stdout: str
    stderr: str
    files: Path


def run_on_disk(
    folder: Path, size: int, command: Sequence[str | Path], cwd: Path, *, read_only: bool = False
) -> CommandResult:
    """Run a Python command in `cwd` while `folder` is on a disk of `size` bytes with the folder's present files."""
    _require_mounts()
    files = folder.with_name(f"{folder.name}-files")
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    mode = "ro" if read_only else "rw"
    mounted = [*UNSHARE, "sh", "-c", MOUNT_SCRIPT, "sh", str(size), str(folder), str(files), mode, sys.executable]
    done = subprocess.run(
        [*mounted, *map(str, command)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 99, done.stderr
    return CommandResult(done.returncode, done.stdout, done.stderr, files)


@cache
def _reason_against_mounts() -> str:
    """Return why no disk can be mounted here, or an empty string."""
    if shutil.which("unshare") is None:
        return "needs the program unshare (Linux)"
    mount = "mount -t tmpfs -o size=64k none /mnt && mount -o remount,ro /mnt"
    tried = subprocess.run([*UNSHARE, "sh", "-c", mount], capture_output=True, text=True, check=False)
    return f"may not mount a disk ({tried.stderr.strip()})" if tried.returncode else ""


def _require_mounts() -> None:
    """Skip the test where no disk can be mounted."""
    if _reason_against_mounts():
        pytest.skip(_reason_against_mounts())


def disk_usage(folder: Path) -> int:
    """Return the bytes that the files of a folder take on such a disk."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())
