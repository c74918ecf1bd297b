"""The project's commands as real processes, something for them to work on, and whether what they leave is whole."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipeline.bench.synthetic_photos import synthetic_photo
from tests.helpers import drawn_photos

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
# Seconds and the like: what is measured anew in each run.
MEASURED = re.compile(r'("(?:seconds|images_per_second|photos_per_second|time|ms[a-z_]*)": )[-0-9.e]+')
# How a command ends at Ctrl-C; to a shell both are 130. Python dies by the signal, whatever code it is given, where
# KeyboardInterrupt once went through its `eval` or `exec` of a string (as in an import of a class).
INTERRUPTED = (130, -signal.SIGINT)

Command = Sequence[str | Path]


def start(command: Command, folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, so that what it started dies with it. options: of Popen."""
    usual: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=ENVIRONMENT, **(usual | options))


def run_whole(command: Command, folder: Path) -> None:
    """Runs the command in `folder` to its end, which must be a good one."""
    process = start(command, folder)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()


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


def check_whole(folder: Path) -> None:
    """Every file below the folder can be read to its end, and none is a temporary one."""
    for path in sorted(folder.rglob("*")):
        assert ".tmp" not in path.name and not path.name.endswith(".old"), path
        if path.is_file():
            try:
                _read(path)
            except Exception as error:
                raise AssertionError(f"{path} ({path.stat().st_size} bytes) is not whole: {error}") from error


def _read(path: Path) -> None:
    data, suffix = path.read_bytes(), path.suffix
    if suffix == ".json":
        json.loads(data)
    elif suffix == ".jsonl":
        for line in data.decode().splitlines():
            json.loads(line)
    elif suffix == ".csv":
        rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
        assert data.endswith(b"\n") and len({len(row) for row in rows}) == 1
    elif suffix in (".png", ".jpg"):
        with Image.open(path) as image:
            image.load()
    elif suffix == ".npz":
        with np.load(io.BytesIO(data)) as arrays:
            assert [arrays[name] for name in arrays]
    elif suffix in (".pt", ".state"):
        import torch

        torch.load(io.BytesIO(data), weights_only=True)
    elif suffix == ".safetensors":
        from safetensors.torch import load

        load(data)
    elif suffix == ".onnx":
        import onnx

        onnx.checker.check_model(onnx.load_from_string(data))
    elif suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.read_table(pyarrow.BufferReader(data))
    elif suffix == ".mp4":
        import av

        with av.open(io.BytesIO(data)) as container:
            assert list(container.decode(video=0))


def write_photos(folder: Path, count: int = 24) -> Path:
    """Made photos with portraits, and without."""
    folder.mkdir(parents=True)
    for k in range(count):
        Image.fromarray(synthetic_photo(320 + 16 * (k % 3), 240, k % 5, seed=k)).save(folder / f"{k}.png")
    return folder


SIDES = ("train",) * 8 + ("val",) * 3 + ("test",) * 3


def write_data(root: Path, classes: Sequence[str] = ("bare", "masked"), sides: Sequence[str] = SIDES) -> Path:
    """Photos of noise, each with a bright face of either class, as COCO, and splits.csv beside the folder.

    sides: the split of each photo.
    """
    root.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for i in range(len(sides)):
        image = np.random.default_rng(i).integers(0, 90, (96, 128, 3), np.uint8)
        for k, x in enumerate((10, 70)):
            cv2.ellipse(image, (x + 16, 40), (16, 20), 0, 0, 360, (200, 180 + 5 * i, 170), -1)
            rows.append({"id": len(rows), "image_id": i, "category_id": k, "bbox": [x, 20, 32, 40]})
        cv2.imwrite(str(root / f"p{i}.png"), image)
    coco = {
        "images": [{"id": i, "file_name": f"p{i}.png"} for i in range(len(sides))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        "annotations": rows,
    }
    (root / "_annotations.coco.json").write_text(json.dumps(coco))
    lines = [f"p{i},{side}" for i, side in enumerate(sides)]
    (root.parent / "splits.csv").write_text("\n".join(["image_id,split", *lines, ""]))
    return root


def write_drawn(root: Path) -> Path:
    """Drawn photos that the quick fine-tuning learns from (tests/stage1_faces), and splits.csv in the folder."""
    return drawn_photos.write_dataset(root)


def write_different(root: Path, count: int = 8, scale: int = 1) -> Path:
    """Photos (128x96, or `scale` times larger), none like another, each with a face of either class, as COCO."""
    root.mkdir(parents=True)
    for i in range(count):
        blocks = np.random.default_rng(i).integers(0, 255, (6, 8, 3), np.uint8)
        cv2.imwrite(str(root / f"p{i}.png"), np.kron(blocks, np.ones((16 * scale, 16 * scale, 1), np.uint8)))
    boxes = [[10, 20, 32, 40], [70, 20, 32, 40]]
    rows = [{"image_id": i, "category_id": k, "bbox": boxes[k]} for i in range(count) for k in range(2)]
    coco = {
        "images": [{"id": i, "file_name": f"p{i}.png"} for i in range(count)],
        "categories": [{"id": 0, "name": "with_mask"}, {"id": 1, "name": "without_mask"}],
        "annotations": [{"id": number, **row} for number, row in enumerate(rows)],
    }
    (root / "_annotations.coco.json").write_text(json.dumps(coco))
    return root


QUICK = ("--model", "small_cnn_half", "--input-size", "32", "--batch-size", "4", "--threads", "1")


def build_crops(data: Path, out: Path | str = "crops") -> Command:
    splits = data.parent / "splits.csv"
    return ["-m", "pipeline.build_crops", "--data", data, "--splits", splits, "--out", out]


def finetune(drawn: Path, out: Path | str = "run") -> Command:
    return ["-m", "tests.helpers.quick_finetune", drawn, out]


def train(crops: Path, folder: Path, epochs: int = 12, runs: str = "runs") -> Command:
    """A training in folder/RUNS/quick that goes on when it has begun."""
    again = ["--resume"] if (folder / runs / "quick/config.json").exists() else []
    where = ["--crops", crops, "--name", "quick", "--runs", runs, "--epochs", str(epochs), "--warmup-epochs", "1"]
    return ["-m", "stage2_classifier.train", *where, *QUICK, *again]


def train_all(data: Path, out: Path | str = "bundle", work: Path | str = "runs/train_all") -> Command:
    splits = data.parent / "splits.csv"
    return ["-m", "pipeline.train_all", "--data", data, "--splits", splits, "--out", out, "--work-dir", work, "--quick"]
