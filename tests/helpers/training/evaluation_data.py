"""A small annotated set, another detector's results on it, and calls of pipeline.evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.evaluate.command import main

FACES = {  # file stem -> [(class, box)]
    "a": [("with_mask", (10, 10, 40, 50)), ("without_mask", (60, 10, 90, 50))],
    "b": [("without_mask", (5, 5, 25, 25))],
    "c": [],
    "d": [("mask_weared_incorrect", (20, 20, 80, 80))],
}
SIDES = {"a": "test", "b": "test", "c": "test", "d": "train"}


def write_data(folder: Path) -> Path:
    """Write a small Pascal VOC set of noise to folder/data, and splits.csv next to it; return the set's folder."""
    root = folder / "data"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    generator = np.random.default_rng(0)
    for stem, faces in FACES.items():
        Image.fromarray(generator.integers(0, 255, (100, 120, 3), np.uint8)).save(root / "images" / f"{stem}.png")
        objects = "".join(
            # VOC pixels count from 1 and include the last.
            f"<object><name>{name}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for name, (x1, y1, x2, y2) in faces
        )
        size = "<size><width>120</width><height>100</height><depth>3</depth></size>"
        xml = f"<annotation><filename>{stem}.png</filename>{size}{objects}</annotation>"
        (root / "annotations" / f"{stem}.xml").write_text(xml)
    rows = "".join(f"{stem},{side}\n" for stem, side in SIDES.items())
    (folder / "splits.csv").write_text("image_id,split\n" + rows)
    return root


def detection(image: Any, category: Any, box: tuple[float, ...], score: float) -> dict[str, Any]:
    """Return one entry of a COCO results list; `box` is xyxy."""
    x1, y1, x2, y2 = box
    return {"image_id": image, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}


CATEGORIES = [{"id": 1, "name": "with_mask"}, {"id": 2, "name": "without_mask"}]
# Photo a: both faces found, the second with the wrong class. Photo b: found, and a false alarm. d is not in test.
RESULTS = [
    detection("a.png", 1, (10, 10, 40, 50), 0.9),
    detection("somewhere/a.png", 1, (60, 10, 90, 50), 0.8),
    detection("b", 2, (5, 5, 25, 25), 0.7),
    detection("b", 2, (80, 60, 110, 90), 0.6),
    detection("d", 2, (20, 20, 80, 80), 0.9),
]


def evaluate_results(data: Path, results: Any, *options: str, split: str = "test") -> int:
    """Score `results`, another detector's, on the photos in `data`; return the exit code."""
    file = data.parent / "other.json"
    file.write_text(json.dumps(results))
    argv = ["--data", str(data), "--splits", str(data.parent / "splits.csv"), "--split", split, "--skip-bundle"]
    argv += ["--predictions", str(file), "--out", str(data.parent / "out"), "--bootstrap", "10", *options]
    return main(argv)


def read_report(data: Path) -> dict[str, Any]:
    """Return evaluation.json next to the photos in `data`."""
    record: dict[str, Any] = json.loads((data.parent / "out" / "evaluation.json").read_text())
    return record
