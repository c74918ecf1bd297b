"""Draws crops before and after augmentation: the implementations side by side, or the views of one training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from common.errors import UserError
from common.files import atomic_replace
from stage2_classifier.config import TrainConfig
from stage2_classifier.data.crop_dataset import CLASS_UNKNOWN, CropDataset, CropTransform
from stage2_classifier.data.crop_manifest import BACKGROUND, CropSet
from stage2_classifier.reports.contact_sheet import Cell, contact_sheet
from stage2_classifier.training.setup import Stats, build_sampler, training_crops

SIDE = 96  # px, approximate side of a picture
MAX_EPOCHS = 200  # epochs of a training that are searched for views of a crop
MAX_SEARCHED_DRAWS = 400  # draws of a class that are searched for transferred masks
HALVES = (0.5, 0.5, 0.5)


def save_preview(
    path: Path, crops: CropSet, transforms: Mapping[str, CropTransform], *, per_class: int, versions: int, seed: int
) -> None:
    """Write a grid with one row per training crop: the crop as cut, then `versions` times by each transform.

    The crops have the baseline's margin, or their own if that is less. Transforms have mean = std = 0.5. Raises
    UserError when a crop cannot be read, or `path` does not end in an image suffix.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, list[Cell]]] = []
    first = next(iter(transforms.values()))
    dataset = CropDataset(crops, "train", first, margin=min(TrainConfig.margin, crops.margin))
    for name, members in _classes(dataset):
        for i in rng.permutation(members)[:per_class]:
            before = dataset.pixels(int(i))
            row = [Cell(before, f"{before.shape[1]} px crop")]
            for kind, transform in transforms.items():
                seeds = rng.integers(2**32, size=versions)
                row += [Cell(_pixels(transform(before, int(s)), HALVES, HALVES), kind) for s in seeds]
            rows.append((name, row))
    _save(path, rows, SIDE, caption_lines=1)


def save_training_views(
    path: Path,
    config: TrainConfig,
    crops: CropSet,
    stats: tuple[Stats, Stats],
    *,
    per_class: int,
    versions: int,
    seed: int = 0,
) -> None:
    """Write a grid with one row per training crop: as inference sees it, then as the training draws it.

    The views come from the training's own code, seed and order, pixel for pixel (mixup comes later and is not shown).
    A row has `versions` views, fewer where the epochs draw the crop less often. With mask transfer, each class has one
    more row of faces with a transferred mask. Hard negatives are last. `stats` are the network's mean and std. Raises
    UserError when `config` and crops do not fit, or `path` does not end in an image suffix.
    """
    views = _TrainingViews(config, crops, stats)
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, list[Cell]]] = []
    for name, members in _classes(views.dataset):
        for i in rng.permutation(members)[:per_class]:
            before = views.dataset.pixels(int(i))
            rows.append((name, [Cell(before, f"inference, {before.shape[1]} px"), *views.of_crop(int(i), versions)]))
        if transferred := views.with_transferred_mask(members, versions):
            rows.append((f"{name}, mask transfer", [Cell(None), *transferred]))
    shown = min(config.input_size, 2 * SIDE)
    side = shown * max(round(SIDE / shown), 1)  # whole pixels of a small input
    _save(path, rows, side, caption_lines=2 if config.mask_transfer_prob else 1)


class _TrainingViews:
    """The views that a training draws, by epoch and draw."""

    def __init__(self, config: TrainConfig, crops: CropSet, stats: tuple[Stats, Stats]) -> None:
        self.dataset, self._stats = training_crops(config, crops, stats), stats
        # The same draws without mask transfer: a view that differs has a transferred mask.
        plain = replace(config, mask_transfer_prob=0.0)
        self._plain = training_crops(plain, crops, stats) if config.mask_transfer_prob else None
        sampler = build_sampler(config, self.dataset)
        order = []
        for epoch in range(min(config.epochs, MAX_EPOCHS)):
            sampler.set_epoch(epoch)
            order.append([i for _, i in sampler])
        self._order = np.array(order)  # (epochs, draws) index of the crop

    def of_crop(self, i: int, count: int) -> list[Cell]:
        """Return the first `count` views of the i-th crop, fewer if it is drawn less often."""
        places = np.argwhere(self._order == i)[:count].tolist()
        return [self._view(epoch, draw, "\nmask transfer")[0] for epoch, draw in places]

    def with_transferred_mask(self, members: NDArray[np.int64], count: int) -> list[Cell]:
        """Return the first `count` views of `members` that show a transferred mask."""
        if self._plain is None:
            return []
        places = np.argwhere(np.isin(self._order, members))[:MAX_SEARCHED_DRAWS].tolist()
        views = (self._view(epoch, draw) for epoch, draw in places)
        return list(islice((cell for cell, transferred in views if transferred), count))

    def _view(self, epoch: int, draw: int, note: str = "") -> tuple[Cell, bool]:
        """Return a view, with a note if it shows a transferred mask, and whether it does."""
        i = int(self._order[epoch, draw])
        self.dataset.set_epoch(epoch)
        view, transferred = self.dataset[draw, i][0], False
        if self._plain is not None:
            self._plain.set_epoch(epoch)
            transferred = not torch.equal(view, self._plain[draw, i][0])
        return Cell(_pixels(view, *self._stats), f"epoch {epoch + 1}{note if transferred else ''}"), transferred


def _classes(dataset: CropDataset) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield each class and the indices of its crops; faces whose class is not known and the hard negatives last."""
    names = dict(enumerate(dataset.class_names)) | {
        CLASS_UNKNOWN: "class not known",
        len(dataset.class_names): BACKGROUND,
    }
    for label, name in names.items():
        yield name, np.flatnonzero(dataset.labels == label)


def _save(path: Path, rows: Sequence[tuple[str, list[Cell]]], side: int, caption_lines: int) -> None:
    """Write labelled rows as a contact sheet; raise UserError when `path` does not end in an image suffix."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise UserError(f"{path}: not an image name; end it with .png")
    labels, cells = [label for label, _ in rows], [row for _, row in rows]
    with atomic_replace(path) as temporary:
        contact_sheet(cells, side, labels, caption_lines).save(temporary)


def _pixels(tensor: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Undo the normalisation: float (3, S, S) -> uint8 (S, S, 3)."""
    scaled = tensor.permute(1, 2, 0) * torch.tensor(std) + torch.tensor(mean)
    return (scaled * 255).round().clamp(0, 255).byte().numpy()
