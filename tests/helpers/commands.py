"""Run the project's commands as processes, write input for them, and check that their output files are complete."""

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
# Fields that differ in each run.
TIMINGS = re.compile(r'("(?:seconds|images_per_second|photos_per_second|time|ms[a-z_]*)": )[-0-9.e]+')
# A command's exit codes after Ctrl-C; a shell shows 130 for both. Python ends by the signal if KeyboardInterrupt went
# through an `eval` or `exec` of a string, as in the import of a dataclass.
INTERRUPTED = (130, -signal.SIGINT)

Command = Sequence[str | Path]


def start(command: Command, folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command in its own process group and session. options: of Popen."""
    defaults: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=ENVIRONMENT, **(defaults | options))


def run_to_end(command: Command, folder: Path) -> None:
    """Run the command in `folder`; it must end with code 0."""
    process = start(command, folder)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr.decode()


def file_contents(folder: Path) -> dict[str, bytes]:
    """Return {relative path: bytes} of all files below the folder, with the timings in JSON removed."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix in (".json", ".jsonl"):
                data = TIMINGS.sub(r"\1_", data.decode()).encode()
            files[path.relative_to(folder).as_posix()] = data
    return files


def check_files(folder: Path) -> None:
    """Assert that every file below the folder can be read completely, and that no temporary file is there."""
    for path in sorted(folder.rglob("*")):
        assert ".tmp" not in path.name and not path.name.endswith(".old"), path
        if path.is_file():
            try:
                _parse(path)
            except Exception as error:
                raise AssertionError(f"{path} ({path.stat().st_size} bytes) is not complete: {error}") from error


def _parse(path: Path) -> None:
    """Read a file by its suffix."""
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
    """Write synthetic photos with 0 to 4 faces each; return the folder."""
    folder.mkdir(parents=True)
    for k in range(count):
        Image.fromarray(synthetic_photo(320 + 16 * (k % 3), 240, k % 5, seed=k)).save(folder / f"{k}.png")
    return folder


SPLITS = ("train",) * 8 + ("val",) * 3 + ("test",) * 3


def write_data(root: Path, classes: Sequence[str] = ("bare", "masked"), splits: Sequence[str] = SPLITS) -> Path:
    """Write a COCO dataset of noise photos with a bright face of each class, and splits.csv next to its folder.

    splits: the split of each photo.
    """
    root.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for i in range(len(splits)):
        image = np.random.default_rng(i).integers(0, 90, (96, 128, 3), np.uint8)
        for k, x in enumerate((10, 70)):
            cv2.ellipse(image, (x + 16, 40), (16, 20), 0, 0, 360, (200, 180 + 5 * i, 170), -1)
            rows.append({"id": len(rows), "image_id": i, "category_id": k, "bbox": [x, 20, 32, 40]})
        cv2.imwrite(str(root / f"p{i}.png"), image)
    coco = {
        "images": [{"id": i, "file_name": f"p{i}.png"} for i in range(len(splits))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        "annotations": rows,
    }
    (root / "_annotations.coco.json").write_text(json.dumps(coco))
    lines = [f"p{i},{split}" for i, split in enumerate(splits)]
    (root.parent / "splits.csv").write_text("\n".join(["image_id,split", *lines, ""]))
    return root


def write_drawn_photos(root: Path) -> Path:
    """Write the dataset of `finetune`, with splits.csv in its folder."""
    return drawn_photos.write_dataset(root)


def write_distinct_photos(root: Path, count: int = 8, scale: int = 1, first_seed: int = 0) -> Path:
    """Write a COCO dataset of very different photos (128x96, or `scale` times that) with a face of each class.

    Photo i has the seed first_seed + i: another dataset shows other photos from `count` on.
    """
    root.mkdir(parents=True)
    for i in range(count):
        blocks = np.random.default_rng(first_seed + i).integers(0, 255, (6, 8, 3), np.uint8)
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


SMALL_MODEL = ("--model", "small_cnn_half", "--input-size", "32", "--batch-size", "4", "--threads", "1")


def build_crops(data: Path, out: Path | str = "crops") -> Command:
    splits = data.parent / "splits.csv"
    return ["-m", "pipeline.build_crops", "--data", data, "--splits", splits, "--out", out]


def finetune(data: Path, out: Path | str = "run") -> Command:
    return ["-m", "tests.helpers.training.quick_finetune", data, out]


def train(crops: Path, folder: Path, epochs: int = 12, runs: str = "runs") -> Command:
    """Return a training command for folder/RUNS/quick that resumes an existing run."""
    resume = ["--resume"] if (folder / runs / "quick/config.json").exists() else []
    where = ["--crops", crops, "--name", "quick", "--runs", runs, "--epochs", str(epochs), "--warmup-epochs", "1"]
    return ["-m", "stage2_classifier.train", *where, *SMALL_MODEL, *resume]


def train_all(data: Path, out: Path | str = "bundle", work: Path | str = "runs/train_all") -> Command:
    splits = data.parent / "splits.csv"
    return ["-m", "pipeline.train_all", "--data", data, "--splits", splits, "--out", out, "--work-dir", work, "--quick"]
