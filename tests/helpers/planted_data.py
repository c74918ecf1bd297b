"""COCO datasets for the tests of `pipeline.check`; `write_planted` has each kind of finding, with known numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Face = tuple[str, Sequence[float]]  # a class, and x, y, width and height in pixels
FACE = (60, 60, 40, 50)  # x, y, width, height
SIZE = (320, 240)  # (width, height)


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Return a picture of coloured squares; two seeds give very different ones."""
    squares = np.random.default_rng(seed).integers(0, 255, (size[1] // 40, size[0] // 40, 3), np.uint8)
    return Image.fromarray(np.kron(squares, np.ones((40, 40, 1), np.uint8)))


def write_part(folder: Path, photos: Mapping[str, tuple[int, Sequence[Face]]]) -> Path:
    """Write photos and _annotations.coco.json.

    Args:
        folder: where.
        photos: file name -> (seed of the picture, faces).
    """
    folder.mkdir(parents=True)
    names = sorted({label for _, faces in photos.values() for label, _ in faces}) or ["with_mask"]
    images, rows = [], []
    for number, (file, (seed, faces)) in enumerate(photos.items()):
        picture(seed).save(folder / file)
        images.append({"id": number, "file_name": file, "width": SIZE[0], "height": SIZE[1]})
        for label, box in faces:
            rows.append({"id": len(rows), "image_id": number, "category_id": names.index(label), "bbox": list(box)})
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    tables = {"images": images, "categories": categories, "annotations": rows}
    (folder / "_annotations.coco.json").write_text(json.dumps(tables))
    return folder


def write_planted(root: Path) -> Path:
    """Write a dataset with its own splits: 13 photos with 15 annotated faces, and one finding of each kind.

    train/broken.jpg cannot be decoded (2 faces), and a box in train/refused.png is inverted (1 face). train/copy.png
    shows the same as train/plain0.png, valid/leak.png the same as train/plain1.png.
    """
    plain: list[Face] = [("with_mask", FACE)]
    write_part(
        root / "train",
        {
            "broken.jpg": (1, [("with_mask", FACE), ("without_mask", (150, 60, 40, 50))]),
            "copy.png": (10, plain),
            "edge.png": (2, [("with_mask", (300, 150, 40, 60))]),
            "huge.png": (3, [("with_mask", (1, 1, 317, 237))]),
            "long.png": (4, [("without_mask", (60, 60, 20, 100))]),
            "plain0.png": (10, plain),
            "plain1.png": (11, plain),
            "plain2.png": (12, plain),
            "refused.png": (5, [*plain, ("with_mask", (200, 60, -30, 50))]),
            "tiny.png": (6, [("without_mask", (60, 60, 5, 6))]),
            "twice.png": (7, [("with_mask", (60, 60, 60, 60)), ("without_mask", (62, 62, 60, 60))]),
        },
    )
    write_part(root / "valid", {"leak.png": (11, [("without_mask", FACE)])})
    write_part(root / "test", {"empty.png": (8, [])})
    broken = root / "train" / "broken.jpg"
    broken.write_bytes(broken.read_bytes()[:2000])
    return root
