"""Which commit is running, by repositories made for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipeline.training.packing.git_revision import git_revision


def git(folder: Path, *command: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *identity, *command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_checkout_its_changes_and_what_is_none(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_revision(tmp_path) is None
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "copy").mkdir()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_revision(tmp_path) == head
    assert git_revision(tmp_path / "copy") is None
    (tmp_path / "new.txt").write_text("new")
    assert git_revision(tmp_path) == head
    (tmp_path / "a.txt").write_text("b")
    assert git_revision(tmp_path) == head + "+changes"
