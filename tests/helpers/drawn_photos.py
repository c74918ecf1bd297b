"""Drawn photos that tiny nets can learn: faces are bright ellipses with dark eyes and mouth on dark noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from stage1_faces.roi_crop import Mipmaps
from stage1_faces.training.samples import TrainingPhoto

# Landmarks in a box, relative to its sides: eyes, nose, corners of the mouth.
RELATIVE_LANDMARKS = np.float32([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def landmarks_of(boxes: np.ndarray) -> np.ndarray:
    """Return the landmarks (N, 5, 2) that `draw` draws in the boxes."""
    return boxes[:, None, :2] + RELATIVE_LANDMARKS * (boxes[:, None, 2:] - boxes[:, None, :2])


def draw(size: tuple[int, int], boxes: Sequence[Sequence[float]], seed: int = 0) -> np.ndarray:
    """Return a picture of `size` (width, height) with a face in each box."""
    rng = np.random.default_rng(seed)
    image = rng.integers(20, 90, (size[1], size[0], 3), dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        centre, half = ((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) / 2, (y2 - y1) / 2)
        cv2.ellipse(image, (centre, (2 * half[0], 2 * half[1]), 0), (230, 200, 180), -1)
        for px, py in landmarks_of(np.float32([[x1, y1, x2, y2]]))[0]:
            cv2.circle(image, (int(px), int(py)), max(int(half[0] / 6), 0), (40, 30, 30), -1)
    return image


def made_photo(
    image: np.ndarray, boxes: Sequence[Sequence[float]], labels: Sequence[str] = (), landmarks: np.ndarray | None = None
) -> TrainingPhoto:
    """Return a training photo; labels default to "face", landmarks to unknown."""
    array = np.array(boxes, np.float32).reshape(-1, 4)
    unknown = np.full((len(array), 5, 2), np.nan, np.float32)
    names = tuple(labels) or ("face",) * len(array)
    return TrainingPhoto(Mipmaps(image), array, names, unknown if landmarks is None else landmarks)


def scattered(count: int, size: tuple[int, int], seed: int) -> list[list[float]]:
    """Return boxes of 10 to 30 px in a row, without overlap."""
    rng = np.random.default_rng(seed)
    pitch = size[0] / count
    boxes = []
    for k in range(count):
        height = rng.uniform(10, min(30, pitch))
        width = height * 0.8
        x, y = pitch * k + rng.uniform(0, pitch - width), rng.uniform(0, size[1] - height)
        boxes.append([x, y, x + width, y + height])
    return boxes


def write_dataset(root: Path, splits: Sequence[str] = ("train", "train", "val"), faces: int = 4) -> Path:
    """Write a COCO dataset with one 160x120 photo per split, and splits.csv; return the folder."""
    root.mkdir(parents=True, exist_ok=True)
    size = (160, 120)
    images, rows = [], []
    for i in range(len(splits)):
        boxes = scattered(faces, size, seed=i)
        cv2.imwrite(str(root / f"p{i}.png"), draw(size, boxes, seed=i)[..., ::-1])
        images.append({"id": i, "file_name": f"p{i}.png"})
        for k, (x1, y1, x2, y2) in enumerate(boxes):
            bbox = [float(v) for v in (x1, y1, x2 - x1, y2 - y1)]
            rows.append({"id": len(rows), "image_id": i, "category_id": 1 + k % 2, "bbox": bbox})
    categories = [{"id": 1, "name": "with_mask"}, {"id": 2, "name": "without_mask"}]
    coco = {"images": images, "categories": categories, "annotations": rows}
    (root / "_annotations.coco.json").write_text(json.dumps(coco))
    lines = [f"p{i},{split}" for i, split in enumerate(splits)]
    (root / "splits.csv").write_text("\n".join(["image_id,split", *lines, ""]))
    return root
