"""Ctrl-C during long work: the command ends within seconds with one line and no process left, and can be resumed.

The signal goes to the process alone, as from a process manager, or to its whole group, as from a terminal. The command
must end within MAX_SECONDS times the present slowdown of the machine by other work. Each test prints both numbers
(`pytest -s`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.bench.synthetic_photos import synthetic_photo
from tests.helpers.commands import (
    INTERRUPTED,
    Command,
    build_crops,
    file_contents,
    finetune,
    run_to_end,
    start,
    train,
    write_data,
    write_distinct_photos,
    write_drawn_photos,
    write_photos,
)

MAX_SECONDS = 2.0  # on an idle machine
MAX_BUSY_SECONDS = 3 * MAX_SECONDS  # on any machine
PROBE_SECONDS = 0.2  # of computing, to measure the slowdown
RESUMABLE = b"interrupted; "  # then how to resume

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")]
for_each_target = pytest.mark.parametrize("target", ["process", "group"])


def machine_slowdown() -> float:
    """Return how many times longer than its CPU seconds some work takes now."""
    begin, begin_work = time.monotonic(), time.thread_time()
    while time.thread_time() - begin_work < PROBE_SECONDS:
        sum(range(1000))
    return max(1.0, (time.monotonic() - begin) / PROBE_SECONDS)


def interrupt(command: Command, folder: Path, begun: str, target: str, delay: float = 0.0) -> bytes:
    """Start a command, send Ctrl-C, check its end, and return its standard error.

    Args:
        command: its arguments.
        folder: its working folder.
        begun: a glob pattern; the delay begins when a file matches, or at the start without a pattern.
        target: "process" or "group".
        delay: seconds until the signal.
    """
    process = start(command, folder)
    deadline = time.monotonic() + 120
    while begun and not any(folder.glob(begun)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    assert process.poll() is None, (process.communicate()[1] or b"it ended too early").decode()
    begin = time.monotonic()
    if target == "group":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        probe = pool.submit(machine_slowdown)
        _, stderr = process.communicate()
        took = time.monotonic() - begin
    slowdown = max(probe.result(), machine_slowdown())
    print(f"\n{command[1]} ({target}, {delay} s after {begun}): ended in {took:.2f} s, machine slowdown {slowdown:.2f}")
    assert process.returncode in INTERRUPTED, stderr.decode()
    assert took < min(MAX_SECONDS * slowdown, MAX_BUSY_SECONDS)
    while session_processes(process.pid) and time.monotonic() < begin + MAX_BUSY_SECONDS:
        time.sleep(0.05)
    assert session_processes(process.pid) == []
    return stderr


def session_processes(session: int) -> list[str]:
    """Return the running processes of a session, where /proc exists."""
    running = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = path.read_text(errors="replace").rsplit(")", 1)
        except OSError:  # it has just ended
            continue
        state, _, _, session_id = rest.split()[:4]
        if int(session_id) == session and state not in "ZX":
            running.append(name)
    return running


def check_resumes(
    command: Callable[[Path], Command], out: str, tmp_path: Path, compared: tuple[str, ...] = ("",)
) -> None:
    """Resume the command in tmp_path/interrupted, run another uninterrupted, and compare the files."""
    run_to_end(command(tmp_path / "interrupted"), tmp_path / "interrupted")
    (tmp_path / "uninterrupted").mkdir()
    run_to_end(command(tmp_path / "uninterrupted"), tmp_path / "uninterrupted")
    expected, got = file_contents(tmp_path / "uninterrupted" / out), file_contents(tmp_path / "interrupted" / out)
    assert set(got) == set(expected)
    assert [name for name in got if name.endswith(compared) and got[name] != expected[name]] == []


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    (tmp_path / "interrupted").mkdir()
    return tmp_path / "interrupted"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with crops and a training run."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_data(folder / "annotated" / "data")
    run_to_end(build_crops(data, folder / "crops"), folder)
    run_to_end(train(folder / "crops", folder, 2), folder)
    return folder


@for_each_target
def test_detect(tmp_path: Path, work_dir: Path, target: str) -> None:
    some = write_photos(tmp_path / "some")
    many = tmp_path / "many"
    many.mkdir()
    for k in range(400):
        shutil.copy(some / f"{k % 24}.png", many / f"{k}.png")
    assert interrupt(["-m", "pipeline.detect", many, "--out", "out"], work_dir, "out/*.png", target) == b"interrupted\n"
    assert not [path.name for path in (work_dir / "out").iterdir() if ".tmp" in path.name or path.suffix == ".json"]


@for_each_target
@pytest.mark.parametrize("command", ["split", "check"])
def test_split_and_check(tmp_path: Path, work_dir: Path, target: str, command: str) -> None:
    data = write_distinct_photos(tmp_path / "data", count=2)
    copied = json.loads((data / "_annotations.coco.json").read_text())
    Image.fromarray(synthetic_photo(1600, 1200, 3, seed=1)).save(data / "p0.png")
    for k in range(2, 400):
        os.link(data / "p0.png", data / f"p{k}.png")
        copied["images"].append({"id": k, "file_name": f"p{k}.png"})
        copied["annotations"].append({"id": k + 2, "image_id": k, "category_id": 0, "bbox": [10, 20, 32, 40]})
    (data / "_annotations.coco.json").write_text(json.dumps(copied))
    # They write only at their end; after this delay they have loaded their packages and read photos.
    assert interrupt(["-m", f"pipeline.{command}", "--data", data], work_dir, "", target, 3.0) == b"interrupted\n"
    assert list(work_dir.iterdir()) == []


@for_each_target
def test_report(trained: Path, tmp_path: Path, work_dir: Path, target: str) -> None:
    where = ["--crops", trained / "crops", "--split", "test", "--out", "out"]
    report = ["-m", "stage2_classifier.report", trained / "runs/quick", *where]
    assert interrupt(report, work_dir, "out/quick/*.json", target) == b"interrupted\n"
    assert not [path.name for path in (work_dir / "out").rglob("*") if ".tmp" in path.name or path.suffix == ".html"]
    if target == "process":
        check_resumes(lambda folder: report, "out", tmp_path, (".json", ".csv", ".png"))


@for_each_target
def test_build_crops(tmp_path: Path, work_dir: Path, target: str) -> None:
    data = write_distinct_photos(tmp_path / "data", count=80, scale=12)
    lines = [f"p{i},{('train', 'val', 'test')[i % 3]}" for i in range(80)]
    (tmp_path / "splits.csv").write_text("\n".join(["image_id,split", *lines, ""]))
    assert interrupt(build_crops(data), work_dir, "crops/*/*/*.png", target) == b"interrupted\n"
    assert not (work_dir / "crops" / "crops.csv").exists()
    check_resumes(lambda folder: build_crops(data), "crops", tmp_path)


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_build_crops_while_its_processes_begin(tmp_path: Path, work_dir: Path, delay: float) -> None:
    data = write_distinct_photos(tmp_path / "data", count=80, scale=12)
    (tmp_path / "splits.csv").write_text("\n".join(["image_id,split", *(f"p{i},train" for i in range(80)), ""]))
    assert interrupt(build_crops(data), work_dir, "crops/.crops", "group", delay) == b"interrupted\n"


@for_each_target
def test_finetune(tmp_path: Path, work_dir: Path, target: str) -> None:
    drawn = write_drawn_photos(tmp_path / "data")
    begun, delay = ("run/config.json", 0.0) if target == "process" else ("run/log.jsonl", 0.5)
    lines = interrupt(finetune(drawn), work_dir, begun, target, delay).splitlines(keepends=True)
    assert lines[-1].startswith(RESUMABLE) and all(b" epoch " in line for line in lines[:-1])
    check_resumes(lambda folder: finetune(drawn), "run", tmp_path)


@for_each_target
def test_train(tmp_path: Path, work_dir: Path, target: str) -> None:
    data = write_data(tmp_path / "annotated" / "data")
    crops = tmp_path / "crops"
    run_to_end(build_crops(data, crops), tmp_path)
    begun = "runs/quick/config.json" if target == "process" else "runs/quick/last.pt"
    assert interrupt(train(crops, work_dir, 20), work_dir, begun, target) == b"interrupted\n"
    check_resumes(lambda folder: train(crops, folder, 20), "runs/quick", tmp_path, (".safetensors", ".jsonl"))


@for_each_target
def test_batch(tmp_path: Path, work_dir: Path, target: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    some = write_photos(tmp_path / "some")
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(240):
        shutil.copy(some / f"{k % 24}.png", photos / f"{k}.png")

    def command(folder: Path) -> Command:
        return ["-m", "pipeline.batch", photos, folder / "out.parquet", "--chunk", "3", "--workers", "2"]

    def rows(folder: Path) -> list[dict[str, Any]]:
        table = parquet.read_table(folder / "out.parquet").to_pylist()
        return sorted(table, key=lambda row: (row["file"], row["face"] or 0))

    assert interrupt(command(work_dir), work_dir, "out.parquet/part-*", target) == b"interrupted\n"
    assert not [path.name for path in (work_dir / "out.parquet").iterdir() if path.name.startswith(".")]
    (tmp_path / "uninterrupted").mkdir()
    for folder in (work_dir, tmp_path / "uninterrupted"):
        run_to_end(command(folder), folder)
    assert rows(work_dir) == rows(tmp_path / "uninterrupted")


@for_each_target
@pytest.mark.parametrize("begun", ["runs/*/train_all.json", "runs/*/part/cascade/log.jsonl"])
def test_train_all(tmp_path: Path, work_dir: Path, target: str, begun: str) -> None:
    data = write_data(tmp_path / "annotated" / "data")
    splits = data.parent / "splits.csv"
    command = ["-m", "pipeline.train_all", "--data", data, "--splits", splits, "--out", "bundle", "--quick"]
    lines = interrupt(command, work_dir, begun, target).splitlines(keepends=True)
    assert b"".join(line for line in lines if not line.startswith(b"note: ")).startswith(RESUMABLE)
    assert not (work_dir / "bundle").exists()  # (test_kills.py tests the resumed result)


@for_each_target
@pytest.mark.parametrize("begun", ["out/crossval_config.json", "out/fold0/cascade/config.json"])
def test_crossval(tmp_path: Path, work_dir: Path, target: str, begun: str) -> None:
    data = write_distinct_photos(tmp_path / "data", count=12)
    command = ["-m", "pipeline.crossval", "--data", data, "--folds", "3", "--out", "out"]
    assert interrupt(command, work_dir, begun, target).startswith(RESUMABLE)
    assert not (work_dir / "out" / "crossval.json").exists()
