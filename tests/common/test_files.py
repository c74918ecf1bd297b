"""Files are replaced atomically, and errors name the right file."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common import files
from common.files import atomic_replace, replaced_folder, write_text

ROOT = Path(__file__).resolve().parents[2]


def test_the_new_file_replaces_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "down" / "a.txt"
    write_text(file, "old")
    with atomic_replace(file) as temporary:
        assert temporary.parent == file.parent and temporary.suffix == ".txt" and temporary != file
        temporary.write_text("new ä", encoding="utf-8")
        assert file.read_text() == "old"
    assert file.read_text(encoding="utf-8") == "new ä"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_only(tmp_path: Path, error: type[BaseException]) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(error), atomic_replace(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_is_replaced_as_a_whole(tmp_path: Path, link: bool) -> None:
    out = tmp_path / "deep" / "folder"
    for name in ("first", "second"):
        with replaced_folder(out) as folder:
            (folder / name).write_text("text")
        assert [path.name for path in out.iterdir()] == [name]
        if link and name == "first":
            out = tmp_path / "link"
            out.symlink_to(tmp_path / "deep" / "folder")
    assert out.is_symlink() == link
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["folder"]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "deep" / "folder").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("moment", ["writing", "replacing", "between"])
def test_a_folder_stays_when_its_replacement_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], moment: str
) -> None:
    out = tmp_path / "folder"
    with replaced_folder(out) as folder:
        (folder / "old").write_text("text")
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path == out and moment == "between":
            replace(path, target)
        if path == out or (moment == "replacing" and path.name == "new"):
            raise error("no")
        return replace(path, target)

    if moment != "writing":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(error, match="no"), replaced_folder(out) as folder:
        (folder / "new file").write_text("text")
        if moment == "writing":
            raise error("no")
    assert [path.name for path in out.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_permissions_are_those_of_a_plain_open(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "atomic", "x")
        (tmp_path / "plain").write_text("x")
        assert os.umask(0o027) == 0o027  # unchanged
    finally:
        os.umask(before)
    modes = {(tmp_path / name).stat().st_mode & 0o777 for name in ("atomic", "plain")}
    assert modes == {0o640}


def test_errors_name_the_requested_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=f"'{tmp_path}'"):
        write_text(tmp_path, "x")
    with pytest.raises(OSError, match=r"full\.txt") as raised, atomic_replace(tmp_path / "full.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from common import files
from common.files import atomic_replace
with atomic_replace(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_process_removes_the_files_of_a_killed_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CLEANED_FOLDERS", set())
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.b.txt"], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (stale,) = tmp_path.iterdir()
    similar, other_machine = (
        tmp_path / stale.name.replace(*change) for change in (("-", "x-", 1), (files._MACHINE, "0" * 8))
    )
    hidden = tmp_path / ".hidden.tmp.txt"
    for path in (similar, other_machine, hidden):
        path.touch()
    with atomic_replace(tmp_path / "c.txt") as temporary:
        temporary.touch()
        write_text(tmp_path / "deep" / "d.txt", "x")
    assert not stale.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "c.txt",
        "deep",
        similar.name,
        other_machine.name,
        hidden.name,
    }


KILLED_FOLDER = """
import os, signal, sys
from pathlib import Path
from common import files
from common.files import replaced_folder
plain, moment = Path.replace, sys.argv[2]
def replace(path, target):
    if path.name == "new" and moment == "between":
        os.kill(os.getpid(), signal.SIGKILL)
    plain(path, target)
Path.replace = replace
with replaced_folder(Path(sys.argv[1])) as folder:
    (folder / "new").touch()
    if moment == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["writing", "between"])
def test_a_folder_whose_replacement_was_killed_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    out = tmp_path / "my.folder"
    with replaced_folder(out) as folder:
        (folder / "old").touch()
    done = subprocess.run([sys.executable, "-c", KILLED_FOLDER, out, moment], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == (2 if moment == "writing" else 1)
    monkeypatch.setattr(files, "_CLEANED_FOLDERS", set())
    write_text(tmp_path / "other.txt", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.folder", "other.txt"]
    assert [path.name for path in out.iterdir()] == ["old"]


def test_the_files_of_a_running_process_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_replace(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        monkeypatch.setattr(files, "_CLEANED_FOLDERS", set())
        write_text(tmp_path / "b.txt", "x")
        assert temporary.exists()


def test_threads_do_not_change_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda k: write_text(tmp_path / f"{k}.txt", "x"), range(400)))
        assert os.umask(0o027) == 0o027
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    finally:
        os.umask(before)


def test_an_error_names_the_right_one_of_several_open_files(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs a device that is always full")
    with (
        pytest.raises(OSError, match="No space left") as raised,
        files.streaming_text(full) as outer,
        files.atomic_text(tmp_path / "inner.txt"),
    ):
        outer.write("x")
        outer.flush()
    assert raised.value.filename == str(full)
    assert list(tmp_path.iterdir()) == []


def test_text_is_written_unchanged(tmp_path: Path) -> None:
    with files.atomic_text(tmp_path / "a.csv", newline="") as file:
        file.write("ä\r\n" * 10_000)
        assert not (tmp_path / "a.csv").exists()
    assert (tmp_path / "a.csv").read_bytes() == "ä\r\n".encode() * 10_000


def test_paths_are_checked_before_work_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files.check_writable_file(tmp_path / "not" / "yet" / "a.txt")
    files.check_writable_file(tmp_path / "file")
    files.check_writable_folder(tmp_path / "deep" / "down")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(IsADirectoryError):
        files.check_writable_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for write in (files.check_writable_file, lambda path: files.write_text(path, "text")):
        with pytest.raises(FileExistsError, match="Is a pipe or device"):
            write(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(NotADirectoryError) as raised:
        files.check_writable_file(tmp_path / "file" / "a.txt")
    assert raised.value.filename == str(tmp_path / "file" / "a.txt")


@pytest.mark.parametrize("name", ["n" * 251 + ".txt", "\uac00" * 83 + ".png", "a." + "s" * 253])
def test_a_name_of_the_greatest_length_is_written(tmp_path: Path, name: str) -> None:
    assert 253 <= len(name.encode()) <= 255
    if len(Path(name).suffix) > 200:  # the suffix stays, so that writers know their format
        with pytest.raises(OSError, match="name too long"):
            write_text(tmp_path / name, "x")
    else:
        write_text(tmp_path / name, "x")
    assert {path.name for path in tmp_path.iterdir()} <= {name}


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("old")
    (tmp_path / "second").symlink_to("data/a.csv")
    (tmp_path / "first").symlink_to("second")
    write_text(tmp_path / "first", "new")
    assert (tmp_path / "first").is_symlink() and (tmp_path / "second").is_symlink()
    assert (tmp_path / "data" / "a.csv").read_text() == "new"
    (tmp_path / "to_come").symlink_to("data/b.csv")
    write_text(tmp_path / "to_come", "b")
    assert (tmp_path / "data" / "b.csv").read_text() == "b" and (tmp_path / "to_come").is_symlink()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system has no /proc")
def test_a_link_to_the_standard_output_is_refused(tmp_path: Path) -> None:
    """A shell's `> out.txt` makes a file of /dev/stdout."""
    with (tmp_path / "out.txt").open("w") as out:
        (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{out.fileno()}")
        (tmp_path / "again").symlink_to("stdout")
        for name in (tmp_path / "stdout", tmp_path / "again", Path(f"/proc/self/fd/{out.fileno()}")):
            with pytest.raises(FileExistsError, match="Is a pipe or device"):
                write_text(name, "x")
    assert (tmp_path / "stdout").is_symlink() and (tmp_path / "out.txt").read_text() == ""
