"""Commands killed (SIGKILL) at random moments: run again, each ends as an unbroken run does, with nothing half-written.

KILLS says how often each is killed while it works (2 when not set; `make kills` has 20); how that went is printed
(`pytest -s`). What differs from run to run by design (seconds it took) is left out of the comparison.
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
    contents,
    finetune,
    run_whole,
    start,
    train,
    train_all,
    write_data,
    write_drawn,
    write_photos,
)

KILLS = int(os.environ.get("KILLS", "2"))
SEED = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
KEPT = 0.5  # the share of a killed command's time that the next one is spared, about
LEAST = 0.3  # the share of the whole time that is left to do when a kill would meet no more than the command's start


def check_killed(
    command: Callable[[Path], Command],
    out: str,
    tmp_path: Path,
    kept: Callable[[str], bool] = lambda name: True,
    rest: Callable[[], None] = lambda: None,
) -> None:
    """Runs a command unbroken, then one that is killed KILLS times, and compares the files in its folder `out`.

    Where one comes to its end before its kill, or has little left to do, they are compared, too, and the next one
    begins with nothing.
    command: its arguments, given the folder in which it runs. kept: which files are compared. rest: compares more.
    """

    def compare(told: str) -> None:
        expected, got = contents(whole / out), contents(broken / out)
        behind = [name for name in got if ".tmp" in name or name not in expected]
        assert not behind, f"{told}: left behind {behind}"
        assert set(got) == set(expected), told
        different = [name for name in got if kept(name) and got[name] != expected[name]]
        assert not different, f"{told}: {different} differ"
        rest()

    moments = random.Random(SEED)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    begin = time.monotonic()
    run_whole(command(whole), whole)
    took = time.monotonic() - begin
    killed = restarts = 0
    left = took  # s of work that are still to be done
    while killed < KILLS:
        process = start(command(broken), broken)
        begin = time.monotonic()
        moment = moments.uniform(0.1, 0.9) * left if left > LEAST * took else None
        try:
            _, said = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
            left -= KEPT * (time.monotonic() - begin)
        else:
            assert process.returncode == 0, f"seed {SEED}: {said.decode()}"
            compare(f"seed {SEED}, {killed} kills")
            restarts, left = restarts + 1, took
            assert restarts <= 2 * KILLS + 2, "it is too quick for this test"
            shutil.rmtree(broken)
            broken.mkdir()
    process = start(command(broken), broken)
    _, said = process.communicate()
    assert process.returncode == 0, f"seed {SEED}: {said.decode()}"
    compare(f"seed {SEED}, {killed} kills")
    print(f"\n{tmp_path.name}: killed {killed} times, begun anew {restarts} times (seed {SEED})")


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
def test_build_crops(data: Path, tmp_path: Path) -> None:
    check_killed(lambda folder: build_crops(data), "crops", tmp_path)


@pytest.mark.slow
def test_finetune(tmp_path: Path) -> None:
    drawn = write_drawn(tmp_path / "data")
    check_killed(lambda folder: finetune(drawn), "run", tmp_path)


@pytest.mark.slow
def test_train(data: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    run_whole(build_crops(data, crops), tmp_path)
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
        assert rows(tmp_path / "whole") == rows(tmp_path / "broken")
        assert len(rows(tmp_path / "whole")) >= 24
        assert not list((tmp_path / "broken" / "out.parquet").glob("*tmp*"))

    # Parts are named by their chunks, which a resumed run may cut in another way; what they hold is the same.
    check_killed(command, "nothing", tmp_path, rest=compare)
