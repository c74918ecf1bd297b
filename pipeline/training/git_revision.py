"""Which commit of the project is running."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def git_revision(root: Path = ROOT) -> str | None:
    """The commit that `root` is a checkout of, "+changes" behind it where files differ; None where git cannot tell."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # An installed copy inside another project's repository is no checkout of ours.
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
