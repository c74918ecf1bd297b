"""A small crop set that a network learns in seconds: squares whose colour is the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stage2_classifier.records import CropRecord, CropSet, write_crop_set

CLASS_COLOURS = {"with_mask": (60, 110, 200), "without_mask": (210, 140, 100), "mask_weared_incorrect": (70, 190, 80)}
# Imbalanced like the real thing, yet with every class in every split.
COUNTS = {"train": (24, 10, 6), "val": (10, 6, 4), "test": (3, 3, 3)}


def make_crop_set(root: Path, counts: dict[str, tuple[int, int, int]] | None = None, seed: int = 0) -> CropSet:
    """Writes crops of 14 to 40 pixels, a coloured centre on noise, and returns the set."""
    rng = np.random.default_rng(seed)
    records = []
    for split, numbers in (counts or COUNTS).items():
        for (label, colour), number in zip(CLASS_COLOURS.items(), numbers, strict=True):
            (root / label).mkdir(parents=True, exist_ok=True)
            for i in range(number):
                side = int(rng.integers(14, 41))
                pixels = rng.integers(0, 256, (side, side, 3))
                inner = slice(side // 5, -(side // 5))
                pixels[inner, inner] = np.array(colour) + rng.integers(-25, 26, 3)
                path = f"{label}/{split}_{i}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(root / path)
                records.append(CropRecord(path, label, split, f"{split}_{label}_{i}", (0.0, 0.0, side, side)))
    crop_set = CropSet(root, tuple(records), tuple(CLASS_COLOURS), margin=0.2)
    write_crop_set(crop_set)
    return crop_set


@pytest.fixture(scope="session")
def tiny_crops(tmp_path_factory: pytest.TempPathFactory) -> CropSet:
    """A read-only crop set of 69 crops in three classes."""
    return make_crop_set(tmp_path_factory.mktemp("crops"))
