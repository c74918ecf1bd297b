"""A small crop set that a network learns in seconds: squares whose colour is the class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stage2_classifier.cropping import cut_crop
from stage2_classifier.data.crop_manifest import BACKGROUND, CropRecord, CropSet, write_crop_set

CLASS_COLOURS = {"with_mask": (60, 110, 200), "without_mask": (210, 140, 100), "mask_weared_incorrect": (70, 190, 80)}
# Imbalanced like the real data, but with each class in each split.
COUNTS = {"train": (24, 10, 6), "val": (10, 6, 4), "test": (3, 3, 3)}


def make_crop_set(root: Path, counts: dict[str, tuple[int, int, int]] | None = None, seed: int = 0) -> CropSet:
    """Write crops of 14 to 40 pixels, a coloured centre on noise, and return the set."""
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


def cut_from_photos(
    root: Path,
    splits: Sequence[str] = ("train", "val"),
    faces: int = 30,
    hard_negatives: int = 15,
    margin: float = 0.6,
) -> CropSet:
    """Write crops of noise photos, coloured squares as faces and noise as hard negatives, and return the set.

    Args:
        root: folder of the set.
        splits: names of the splits.
        faces: per split, of the three classes in turn.
        hard_negatives: per split.
        margin: context of the crops.
    """
    rng = np.random.default_rng(0)
    records: dict[bool, list[CropRecord]] = {True: [], False: []}
    for split in splits:
        for i in range(faces + hard_negatives):
            is_face = i < faces
            label = list(CLASS_COLOURS)[i % 3] if is_face else BACKGROUND
            photo = rng.integers(0, 256, (80, 80, 3))
            side, left, top = int(rng.integers(14, 25)), *(int(v) for v in rng.integers(20, 36, 2))
            if is_face:
                colour = np.array(CLASS_COLOURS[label]) + rng.integers(-25, 26, 3)
                photo[top : top + side, left : left + side] = colour
            box = (float(left), float(top), float(left + side), float(top + side))
            folder = f"{split}/{label}" if is_face else f"rejects/{split}"
            (root / folder).mkdir(parents=True, exist_ok=True)
            path = f"{folder}/{i}.png"
            Image.fromarray(cut_crop(photo.astype(np.uint8), box, margin)).save(root / path)
            records[is_face].append(CropRecord(path, label, split, f"{split}_{i}", box))
    crop_set = CropSet(root, tuple(records[True]), tuple(CLASS_COLOURS), margin, tuple(records[False]))
    write_crop_set(crop_set)
    return crop_set
