"""Ray Data: one run tests several things, since its start takes seconds."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.errors import ProgrammingError, UserError
from pipeline.batch import command as batch
from pipeline.batch.ray_pool import WorkerActor, run_ray
from tests.helpers.batch_fakes import (
    KILLS_PARENT,
    deadly,
    fake_job,
    files,
    load_broken,
    load_failing,
    load_parent_killer,
    load_refused,
    table,
)
from tests.helpers.fake_predictor import write_picture

ROOT = Path(__file__).resolve().parents[3]


def run(*args: str | Path | int) -> int:
    return batch.main([str(arg) for arg in args])


@pytest.mark.slow
def test_killed_workers_and_actors_lose_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(12):
        write_picture(tmp_path / f"p/{i:02}.png")
    deadly(tmp_path / "p/03.png", KILLS_PARENT)  # kills its actor, once
    deadly(tmp_path / "p/07.png")  # kills its worker process, always
    monkeypatch.setattr(batch, "make_job", lambda args: fake_job(load_parent_killer(tmp_path / "flag")))
    out = tmp_path / "faces.parquet"
    assert run(tmp_path / "p", out, "--engine", "ray", "--workers", "2", "--chunk", "3") == 1
    assert (tmp_path / "flag").exists()
    every = sorted(str(path) for path in (tmp_path / "p").iterdir())
    assert [row["file"] for row in table(out)] == [name for name in every if not name.endswith("07.png")]
    error = {
        "file": f"{tmp_path}/p/07.png",
        "error": "kills the worker (SIGKILL); make it smaller, convert it, or leave it out",
    }
    assert pq.read_table(tmp_path / "faces.errors.parquet").to_pylist() == [error]
    assert len(list(out.iterdir())) == 4
    out_text, err = capfd.readouterr()
    assert err == "error: {file}: {error}\n".format(**error)  # no output of Ray
    assert out_text.startswith("photos:     11\n")


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_ray_ends_when_the_command_is_killed_and_the_run_resumes(tmp_path: Path) -> None:
    for i in range(60):
        write_picture(tmp_path / f"p/{i:03}.png")
    out = tmp_path / "faces.parquet"
    args = ["-m", "pipeline.batch", tmp_path / "p", out, "--chunk", "1"]
    with subprocess.Popen([sys.executable, *args, "--engine", "ray", "--workers", "1"], cwd=ROOT) as process:
        until = time.monotonic() + 90
        while not any(out.glob("part-*")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        (driver,) = children(process.pid)
        rays = children(driver)
        process.kill()
    finished = len(list(out.glob("part-*")))
    assert rays and 0 < finished < 60
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in (driver, *rays)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in (driver, *rays))
    assert subprocess.run([sys.executable, *args], cwd=ROOT, check=False).returncode == 0
    assert [row["file"] for row in table(out)] == [f"{tmp_path}/p/{i:03}.png" for i in range(60)]


def test_no_cluster_at_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    photo = write_picture(tmp_path / "a.png")
    monkeypatch.setattr(batch, "make_job", lambda args: fake_job())
    with socket.socket() as taken:  # a port where nothing listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert run(photo, tmp_path / "faces.parquet", "--address", address) == 1
    refused = "no cluster answers there ([Errno 111] Connection refused); check that it runs"
    assert capfd.readouterr() == ("", f"error: --address {address}: {refused}\n")


@pytest.mark.parametrize("address", ["nonsense", "host:", ":1", "ray://host"])
def test_invalid_addresses(address: str) -> None:
    with pytest.raises(UserError) as raised:
        next(run_ray(fake_job(), [], 1, address))
    assert str(raised.value) == f"--address {address}: use auto, or HOST:PORT as `ray start --head` prints it"


def test_an_actor_returns_why_its_worker_does_not_start(tmp_path: Path) -> None:
    chunk = files(write_picture(tmp_path / "a.png"))
    row = WorkerActor(fake_job(load_refused))({"chunk": pickle.dumps(chunk)})
    assert row == {"result": b"", "refused": "bundle: is broken; pack it again"}


def test_an_actor_returns_an_error_of_our_code(tmp_path: Path) -> None:
    chunk = files(write_picture(tmp_path / "a.png"))
    row = WorkerActor(fake_job(load_broken))({"chunk": pickle.dumps(chunk)})
    assert "no attribute 'compute'" in row["refused"]
    assert isinstance(pickle.loads(row["result"]), ProgrammingError)


@pytest.mark.slow
def test_an_error_of_our_code_ends_a_run_of_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    photo = write_picture(tmp_path / "a.png")
    monkeypatch.setattr(batch, "make_job", lambda args: fake_job(load_failing(TypeError("nothing"), None)))
    assert run(photo, tmp_path / "faces.parquet", "--engine", "ray", "--workers", "1") == 1
    err = capfd.readouterr().err
    assert err.count("Traceback") == 1 and err.count("batch_fakes.py") == 1
    assert err.splitlines()[-1].startswith("error: programming error in a worker (TypeError: nothing)")
