"""Commands killed (SIGKILL) at random moments: run again, each gives the files of an uninterrupted run.

KILLS is the number of kills per command (default 2; `make kills` uses 20). Each test prints the numbers of kills and
restarts (`pytest -s`). Files that differ in each run by design, such as timings, are not compared.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.commands import (
    Command,
    build_crops,
    file_contents,
    finetune,
    run_to_end,
    start,
    train,
    train_all,
    write_data,
    write_drawn_photos,
    write_photos,
)

KILLS = int(os.environ.get("KILLS", "2"))
SEED = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
SAVED_SHARE = 0.5  # about this share of a killed command's time is saved in the next run
MIN_REMAINING_SHARE = 0.3  # below this share of the time, a kill would only meet the start of the command


def check_killed(
    command: Callable[[Path], Command],
    out: str,
    tmp_path: Path,
    is_compared: Callable[[str], bool] = lambda name: True,
    compare_more: Callable[[], None] = lambda: None,
) -> None:
    """Run a command without kills, then one with KILLS kills, and compare the files in the folder `out`.

    A run that ends before its kill is compared, too; the next run starts in an empty folder.

    Args:
        command: returns the arguments for a working folder.
        out: the folder of the results, below the working folder.
        tmp_path: holds the working folders.
        is_compared: whether a file, by name, must be equal in both runs.
        compare_more: further checks of the results.
    """

    def compare(report: str) -> None:
        expected, got = file_contents(reference_dir / out), file_contents(killed_dir / out)
        extra = [name for name in got if ".tmp" in name or name not in expected]
        assert not extra, f"{report}: unexpected files {extra}"
        assert set(got) == set(expected), report
        different = [name for name in got if is_compared(name) and got[name] != expected[name]]
        assert not different, f"{report}: {different} differ"
        compare_more()

    rng = random.Random(SEED)
    reference_dir, killed_dir = tmp_path / "uninterrupted", tmp_path / "killed"
    for folder in (reference_dir, killed_dir):
        folder.mkdir()
    begin = time.monotonic()
    run_to_end(command(reference_dir), reference_dir)
    took = time.monotonic() - begin
    kills = restarts = 0
    remaining = took  # s of work
    while kills < KILLS:
        process = start(command(killed_dir), killed_dir)
        begin = time.monotonic()
        delay = rng.uniform(0.1, 0.9) * remaining if remaining > MIN_REMAINING_SHARE * took else None
        try:
            _, stderr = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            remaining -= SAVED_SHARE * (time.monotonic() - begin)
        else:
            assert process.returncode == 0, f"seed {SEED}: {stderr.decode()}"
            compare(f"seed {SEED}, {kills} kills")
            restarts, remaining = restarts + 1, took
            assert restarts <= 2 * KILLS + 2, "the command is too fast for this test"
            shutil.rmtree(killed_dir)
            killed_dir.mkdir()
    process = start(command(killed_dir), killed_dir)
    _, stderr = process.communicate()
    assert process.returncode == 0, f"seed {SEED}: {stderr.decode()}"
    compare(f"seed {SEED}, {kills} kills")
    print(f"\n{tmp_path.name}: killed {kills} times, restarted {restarts} times (seed {SEED})")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("annotated") / "data")


@pytest.mark.slow
def test_detect_on_a_folder(photos: Path, tmp_path: Path) -> None:
    def command(folder: Path) -> Command:
        return ["-m", "pipeline.detect", photos, "--out", "out", "--csv", "out/faces.csv", "--workers", "2"]

    check_killed(command, "out", tmp_path)


@pytest.mark.slow
def test_export(tmp_path: Path) -> None:
    command = ["-m", "pipeline.export", "--out", "out/detector.onnx", "--hub", "out/hub"]
    check_killed(lambda folder: command, "out", tmp_path)


@pytest.mark.slow
def test_build_crops(data: Path, tmp_path: Path) -> None:
    check_killed(lambda folder: build_crops(data), "crops", tmp_path)


@pytest.mark.slow
def test_finetune(tmp_path: Path) -> None:
    drawn = write_drawn_photos(tmp_path / "data")
    check_killed(lambda folder: finetune(drawn), "run", tmp_path)


@pytest.mark.slow
def test_train(data: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    run_to_end(build_crops(data, crops), tmp_path)
    compared = (".safetensors", ".jsonl")
    check_killed(lambda folder: train(crops, folder), "runs/quick", tmp_path, lambda name: name.endswith(compared))


@pytest.mark.slow
def test_train_all(data: Path, tmp_path: Path) -> None:
    compared = (".onnx", "bundle.json")
    check_killed(lambda folder: train_all(data), "bundle", tmp_path, lambda name: name.endswith(compared))


@pytest.mark.slow
def test_batch(photos: Path, tmp_path: Path) -> None:
    pyarrow_parquet = pytest.importorskip("pyarrow.parquet")

    def command(folder: Path) -> Command:
        return ["-m", "pipeline.batch", photos, folder / "out.parquet", "--chunk", "3", "--workers", "2"]

    def rows(folder: Path) -> list[dict[str, Any]]:
        table = pyarrow_parquet.read_table(folder / "out.parquet").to_pylist()
        return sorted(table, key=lambda row: (row["file"], row["face"] is not None, row["face"] or 0))

    def compare() -> None:
        assert rows(tmp_path / "uninterrupted") == rows(tmp_path / "killed")
        assert len(rows(tmp_path / "uninterrupted")) >= 24
        assert not list((tmp_path / "killed" / "out.parquet").glob("*tmp*"))

    # A resumed run may use other chunks, and so other file names; the rows are the same.
    check_killed(command, "nothing", tmp_path, compare_more=compare)
