"""The folder of a run: who may use it, what overwriting removes, which files are whole, and damage named by file."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common import run_folder
from common.errors import UserError
from common.run_folder import RunFolder, lock_folder

ROOT = Path(__file__).resolve().parents[2]
RECORD = {"format": 1, "recipe": {"steps": 3, "rate": 0.001}, "data": "abc"}
OUTPUTS = ("log.jsonl", "weights.bin", "state.pt")
HOLD = (
    "import sys; from pathlib import Path; from common.run_folder import lock_folder\n"
    "with lock_folder(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
)

needs_locks = pytest.mark.skipif(run_folder.fcntl is None, reason="no file locks here")


def make(path: Path, **more: Any) -> RunFolder:
    return RunFolder(path, "test run", outputs=OUTPUTS, **more)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A folder whose run has begun."""
    folder = make(tmp_path / "run")
    assert not folder.claim(RECORD)
    folder.write("log.jsonl", b"")
    return folder


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


# Who may use the folder


def test_a_claim_makes_the_folder_and_the_same_run_resumes(tmp_path: Path) -> None:
    folder = make(tmp_path / "deep" / "run")
    assert not folder.claim(RECORD)
    assert json.loads((folder.path / "config.json").read_text()) == RECORD
    folder.write("log.jsonl", b"")
    assert folder.claim(json.loads(json.dumps(RECORD)))
    assert names(folder) == ["config.json", "log.jsonl"]


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    make(tmp_path).claim(RECORD)
    assert (tmp_path / "config.json").is_file()


@pytest.mark.parametrize(
    ("change", "name"), [({"data": "xyz"}, "data"), ({"recipe": {"steps": 4}}, "recipe"), ({"format": 2}, "format")]
)
def test_another_run_is_refused(folder: RunFolder, change: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=f"run: holds a test run with another {name} .*--overwrite or another --out"):
        folder.claim({**RECORD, **change})
    assert json.loads((folder.path / "config.json").read_text()) == RECORD


def test_a_run_that_did_nothing_yet_gives_way(tmp_path: Path) -> None:
    folder = make(tmp_path)
    folder.claim(RECORD)
    (tmp_path / ".config.abc.tmp.json").touch()  # hidden files are what a killed process leaves
    assert not folder.claim({**RECORD, "data": "xyz"})
    assert folder.read_record()["data"] == "xyz"


def test_free_keys_may_differ(tmp_path: Path) -> None:
    folder = make(tmp_path, free_keys=("data",))
    folder.claim(RECORD)
    folder.write("log.jsonl", b"")
    assert folder.claim({**RECORD, "data": "elsewhere"})
    assert folder.read_record()["data"] == "abc"


def test_another_kind_of_run_is_refused_even_to_be_overwritten(folder: RunFolder) -> None:
    other = make(folder.path, marker="other")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds a run of another kind; give another --out"):
            other.claim({"other": 1, **RECORD}, overwrite)
    assert names(folder) == ["config.json", "log.jsonl"]


def test_a_run_without_outputs_cannot_be_overwritten(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="another data") as raised:
        RunFolder(folder.path, "work", "--work-dir").claim({**RECORD, "data": "xyz"})
    assert "--overwrite" not in str(raised.value) and str(raised.value).endswith("give another --work-dir")


def test_tuples_in_a_record_are_the_lists_that_json_makes_of_them(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    folder.claim({"sides": (1, 2)})
    folder.write("log.jsonl", b"")
    assert folder.claim({"sides": (1, 2)})


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_left_as_they_are(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    folder = make(tmp_path)
    for claim in (folder.claim, lambda *given: folder.held(*given).__enter__()):
        with pytest.raises(UserError, match="holds other files and no test run; give another --out"):
            claim(RECORD, overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(UserError, match=r"photo\.jpg: is a file; give another --out"):
        make(tmp_path / "photo.jpg").claim(RECORD, overwrite)


@pytest.mark.parametrize("others", [[], ["notes.txt", "best.safetensors"]])
def test_overwrite_removes_only_the_files_of_the_run(folder: RunFolder, others: list[str]) -> None:
    for name in (*OUTPUTS, *others):
        (folder.path / name).write_text("old")
    assert not folder.claim({**RECORD, "data": "new"}, overwrite=True)
    assert names(folder) == sorted(["config.json", *others])
    assert all((folder.path / name).read_text() == "old" for name in others)
    assert folder.read_record()["data"] == "new"


@pytest.mark.parametrize("text", ["{", "", "[1, 2]", "3", "\xff"])
def test_a_damaged_record_is_named(folder: RunFolder, text: str) -> None:
    (folder.path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as error:
        folder.claim(RECORD)
    line = str(error.value)
    assert line.startswith(f"{folder.path}/config.json: damaged (") and "\n" not in line
    assert line.endswith("give --overwrite or another --out")
    with pytest.raises(UserError, match=r"damaged \(.*\); give another --out"):  # it may be of another kind
        make(folder.path, marker="format").claim(RECORD, overwrite=True)
    assert not folder.claim(RECORD, overwrite=True)


def test_a_kill_while_overwriting_leaves_a_run_that_can_be_overwritten(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in OUTPUTS:
        (folder.path / name).write_text("old")
    unlink, left = Path.unlink, 2

    def killed(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        left -= path.exists()
        if left < 0:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.claim(RECORD, overwrite=True)
    monkeypatch.setattr(Path, "unlink", unlink)
    assert names(folder) == ["config.json", OUTPUTS[-1]]
    folder.claim(RECORD, overwrite=True)
    assert names(folder) == ["config.json"]


# One process at a time


@needs_locks
def test_one_process_holds_a_folder_and_a_killed_one_releases_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        refusal = f"process {other.pid} works here; wait for it or end it"
        with pytest.raises(UserError, match=refusal), lock_folder(tmp_path):
            pass
        with pytest.raises(UserError, match=refusal), make(tmp_path).held(RECORD):
            pass
        other.kill()
    assert (tmp_path / ".lock").read_text() == str(other.pid)  # left behind, and taken over
    with make(tmp_path).held(RECORD) as resumed:
        assert not resumed and (tmp_path / ".lock").read_text() == str(os.getpid())
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@needs_locks
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, lock_folder(tmp_path / "gone"):
        pass
    assert raised.value.filename == str(tmp_path / "gone")


@needs_locks
def test_a_file_system_without_locks_is_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_folder.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)) as raised, lock_folder(tmp_path):
        pass
    assert raised.value.filename == str(tmp_path)


# Files


def test_a_failed_write_leaves_the_old_file_and_no_temporary(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("state.pt", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*run/state\.pt'"):
        folder.write("state.pt", b"new")
    assert (folder.path / "state.pt").read_bytes() == b"old"
    assert names(folder) == ["config.json", "log.jsonl", "state.pt"]


def test_rows_read_back(folder: RunFolder) -> None:
    assert folder.rows() == []
    rows = [{"epoch": 1, "loss": 0.5}, {"recall": {"5": 0.25}}]
    folder.write_rows(rows)
    assert folder.rows() == rows
    text = (folder.path / "log.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == rows and text.endswith("\n")


@pytest.mark.parametrize("text", ["{", '{"epoch": 1}\nhalf', "3\n", "\xff"])
def test_a_damaged_log_is_named(folder: RunFolder, text: str) -> None:
    (folder.path / "log.jsonl").write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as error:
        folder.rows()
    assert str(error.value).startswith(f"{folder.path}/log.jsonl: damaged (") and "\n" not in str(error.value)
