"""Commands killed (SIGKILL) at random moments: run again, each ends as an unbroken run does, with nothing half-written.

KILLS says how often each is killed (2 when not set; `make kills` has 20). What differs from run to run by design
(seconds it took) is left out of the comparison.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.made_photos import made_photo

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("KILLS", "2"))
SEED = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "tests/stage1_faces", ROOT / "tests/pipeline")))
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
# Seconds and the like: what is measured anew in each run.
MEASURED = re.compile(r'("(?:seconds|images_per_second|photos_per_second|time|ms[a-z_]*)": )[-0-9.e]+')


def start(command: Sequence[str | Path], folder: Path) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, so that what it started dies with it."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, by name, without what is measured anew."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix in (".json", ".jsonl"):
                data = MEASURED.sub(r"\1_", data.decode()).encode()
            found[path.relative_to(folder).as_posix()] = data
    return found


def check_killed(
    command: Callable[[Path], Sequence[str | Path]],
    out: str,
    tmp_path: Path,
    kept: Callable[[str], bool] = lambda name: True,
) -> None:
    """Runs a command unbroken, then one killed again and again, and compares the files in its folder `out`.

    command: its arguments, given the folder in which it runs. kept: which files are compared.
    """
    moments = random.Random(SEED)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    begin = time.monotonic()
    process = start(command(whole), whole)
    _, said = process.communicate()
    took = time.monotonic() - begin
    assert process.returncode == 0, said.decode()
    killed = 0
    for _ in range(KILLS):
        process = start(command(broken), broken)
        try:
            process.communicate(timeout=moments.uniform(0.1, 1.0) * took)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
    process = start(command(broken), broken)
    _, said = process.communicate()
    assert process.returncode == 0, f"seed {SEED}: {said.decode()}"
    expected, got = contents(whole / out), contents(broken / out)
    left = [name for name in got if ".tmp" in name or name not in expected]
    assert not left, f"seed {SEED}, {killed} kills: left behind {left}"
    assert set(got) == set(expected), f"seed {SEED}"
    different = [name for name in got if kept(name) and got[name] != expected[name]]
    assert not different, f"seed {SEED}, {killed} kills: {different} differ"
    assert killed or KILLS < 5, "never killed: it is too quick for this test"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made photos with portraits, some broken ones left out."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    folder.mkdir()
    for k in range(24):
        Image.fromarray(made_photo(320 + 16 * (k % 3), 240, k % 5, seed=k)).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of noise, each with a bright face of either class, as COCO, and splits.csv beside them."""
    root = tmp_path_factory.mktemp("annotated") / "data"
    root.mkdir()
    rows: list[dict[str, Any]] = []
    sides = ("train",) * 8 + ("val",) * 3 + ("test",) * 3
    for i in range(len(sides)):
        image = np.random.default_rng(i).integers(0, 90, (96, 128, 3), np.uint8)
        for k, x in enumerate((10, 70)):
            cv2.ellipse(image, (x + 16, 40), (16, 20), 0, 0, 360, (200, 180 + 5 * i, 170), -1)
            rows.append({"id": len(rows), "image_id": i, "category_id": k, "bbox": [x, 20, 32, 40]})
        cv2.imwrite(str(root / f"p{i}.png"), image)
    coco = {
        "images": [{"id": i, "file_name": f"p{i}.png"} for i in range(len(sides))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(("bare", "masked"))],
        "annotations": rows,
    }
    (root / "_annotations.coco.json").write_text(json.dumps(coco))
    lines = [f"p{i},{side}" for i, side in enumerate(sides)]
    (root.parent / "splits.csv").write_text("\n".join(["image_id,split", *lines, ""]))
    return root


@pytest.mark.slow
def test_detect_on_a_folder(photos: Path, tmp_path: Path) -> None:
    def command(folder: Path) -> list[str | Path]:
        return ["-m", "pipeline.detect", photos, "--out", "out", "--csv", "out/faces.csv", "--workers", "2"]

    check_killed(command, "out", tmp_path)


@pytest.mark.slow
def test_build_crops(data: Path, tmp_path: Path) -> None:
    def command(folder: Path) -> list[str | Path]:
        splits = data.parent / "splits.csv"
        return ["-m", "pipeline.build_crops", "--data", data, "--splits", splits, "--out", "crops"]

    check_killed(command, "crops", tmp_path)


@pytest.mark.slow
def test_finetune(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    made = tmp_path_factory.mktemp("drawn") / "data"
    script = "import sys, pathlib, made_photos as made; made.write_dataset(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, str(made)], env=ENVIRONMENT, check=True)

    def command(folder: Path) -> list[str | Path]:
        return [ROOT / "tests/stage1_faces/quick_finetune.py", made, "run"]

    check_killed(command, "run", tmp_path)


@pytest.mark.slow
def test_train(data: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    splits = data.parent / "splits.csv"
    build = ["-m", "pipeline.build_crops", "--data", data, "--splits", splits, "--out", crops]
    subprocess.run([sys.executable, *map(str, build)], env=ENVIRONMENT, cwd=tmp_path, check=True, capture_output=True)

    def command(folder: Path) -> list[str | Path]:
        quick = [
            "--model",
            "small_cnn_half",
            "--input-size",
            "32",
            "--epochs",
            "12",
            "--batch-size",
            "4",
            "--threads",
            "1",
        ]
        again = ["--resume"] if (folder / "runs" / "quick").exists() else []
        return ["-m", "stage2_classifier.train", "--crops", crops, "--name", "quick", "--runs", "runs", *quick, *again]

    check_killed(command, "runs/quick", tmp_path, kept=lambda name: name.endswith((".safetensors", ".jsonl")))


@pytest.mark.slow
def test_train_all(data: Path, tmp_path: Path) -> None:
    def command(folder: Path) -> list[str | Path]:
        splits = data.parent / "splits.csv"
        return ["-m", "pipeline.train_all", "--data", data, "--splits", splits, "--out", "bundle", "--quick"]

    check_killed(command, "bundle", tmp_path, kept=lambda name: name.endswith((".onnx", "bundle.json")))


@pytest.mark.slow
def test_batch(photos: Path, tmp_path: Path) -> None:
    pyarrow_parquet = pytest.importorskip("pyarrow.parquet")

    def command(folder: Path) -> list[str | Path]:
        return ["-m", "pipeline.batch", photos, folder / "out.parquet", "--chunk", "3", "--workers", "2"]

    def rows(folder: Path) -> list[dict[str, Any]]:
        table = pyarrow_parquet.read_table(folder / "out.parquet").to_pylist()
        return sorted(table, key=lambda row: (row["file"], row["face"] is not None, row["face"] or 0))

    # Parts are named by their chunks, which a resumed run may cut in another way; what they hold is the same.
    check_killed(command, "nothing", tmp_path)
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")
    assert len(rows(tmp_path / "whole")) >= 24
    assert not list((tmp_path / "broken" / "out.parquet").glob("*tmp*"))


def test_ctrl_c_ends_detect_within_two_seconds_and_leaves_nothing_half_written(photos: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for k in range(400):
        shutil.copy(photos / f"{k % 24}.png", many / f"{k}.png")
    process = start(["-m", "pipeline.detect", many, "--out", "out"], tmp_path)
    while not list((tmp_path / "out").glob("*.png")) and process.poll() is None:
        time.sleep(0.02)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said == b"interrupted\n"
    assert time.monotonic() - begin < 6  # three times the aim, for a busy machine
    assert not [path.name for path in (tmp_path / "out").iterdir() if ".tmp" in path.name or path.suffix == ".json"]
