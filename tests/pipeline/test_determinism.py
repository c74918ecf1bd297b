"""The same input gives the same bits: in one process or two, with one worker or several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.inference.detections import Detections
from pipeline.inference.predictor import Predictor

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("boxes", "face_scores", "class_probs", "landmarks")


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    sizes = ((400, 300, 2), (300, 400, 6), (512, 366, 12), (64, 48, 1), (401, 157, 0))
    return [synthetic_photo(*size, seed=k) for k, size in enumerate(sizes)]


def assert_same(one: Detections, other: Detections) -> None:
    for name in FIELDS:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


@pytest.mark.slow
def test_two_predictors_and_two_calls_give_the_same_bits(photos: list[np.ndarray]) -> None:
    one, other = Predictor.default(), Predictor.default()
    assert sum(len(one.detect(photo, 0.01)) for photo in photos) > 10
    for photo in photos:
        first = one.detect(photo, 0.01)
        assert_same(first, one.detect(photo, 0.01))
        assert_same(first, other.detect(photo, 0.01))
        assert_same(first, one.detect(photo.copy(order="F"), 0.01))


@pytest.mark.slow
def test_two_processes_and_any_number_of_workers_write_the_same_bytes(photos: list[np.ndarray], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for k, photo in enumerate(photos):
        Image.fromarray(photo).save(folder / f"{k}.png")
    written = []
    for k, (workers, seed) in enumerate((("1", "0"), ("1", "7"), ("3", "0"))):
        out = tmp_path / f"out{k}"
        options = ("--workers", workers, "--min-score", "0.01", "--csv", str(out / "faces.csv"))
        subprocess.run(
            [sys.executable, "-m", "pipeline.detect", str(folder), "--out", str(out), *options],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert set(written[0]) == {"detections.json", "faces.csv", *(f"{k}.png" for k in range(len(photos)))}
    assert written[0] == written[1] == written[2]
