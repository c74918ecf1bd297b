"""The picture of crops before and after augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from stage2_classifier.crops import CropDataset, CropTransform
from stage2_classifier.errors import ClassifierError
from stage2_classifier.files import replacing
from stage2_classifier.records import CropSet
from stage2_classifier.sheets import Cell, contact_sheet


def save_preview(
    path: Path,
    crops: CropSet,
    transforms: Mapping[str, CropTransform],
    *,
    per_class: int,
    versions: int,
    seed: int,
) -> None:
    """Writes a grid: one row a training crop, first as cut, then `versions` times through each transform.

    transforms: {name: transform made with mean = std = 0.5}. Raises ClassifierError if a crop cannot be read
    or `path` does not end in an image suffix.
    """
    if path.suffix.lower() not in Image.registered_extensions():
        raise ClassifierError(f"{path}: not an image name; end it with .png")
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    first = next(iter(transforms.values()))
    dataset = CropDataset(crops, "train", first)
    for class_index, name in enumerate(crops.class_names):
        members = np.flatnonzero(dataset.labels == class_index)
        for i in rng.permutation(members)[:per_class]:
            before = dataset.pixels(int(i))
            row = [Cell(before, f"{before.shape[1]} px crop")]
            for kind, transform in transforms.items():
                seeds = rng.integers(2**32, size=versions)
                row += [Cell(_pixels(transform(before, int(s))), kind) for s in seeds]
            rows.append(row)
            labels.append(name)
    with replacing(path) as temporary:
        contact_sheet(rows, side=96, row_labels=labels).save(temporary)


def _pixels(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """Undoes the normalisation: float (3, S, S) in -1..1 -> uint8 (S, S, 3)."""
    return (tensor.permute(1, 2, 0) * 127.5 + 127.5).round().clamp(0, 255).byte().numpy()
