"""Finds the commit of the running project."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def git_revision(root: Path = ROOT) -> str | None:
    """Return the commit of the checkout `root`, with "+changes" where files differ; None if git does not know it."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # A copy installed inside another project's repository is not a checkout of ours.
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(root: Path, *command: str) -> str:
    """Return the output of a git command in `root`."""
    done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
