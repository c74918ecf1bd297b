"""Draws crops before and after augmentation: the implementations side by side, or the views of one training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from common.errors import UserError
from common.files import atomic_replace
from stage2_classifier.config import TrainConfig
from stage2_classifier.data.crop_dataset import BARE, CLASS_UNKNOWN, INCORRECT, MASKED, CropDataset, CropTransform
from stage2_classifier.data.crop_manifest import BACKGROUND, CropSet
from stage2_classifier.reports.contact_sheet import Cell, contact_sheet
from stage2_classifier.training.setup import Stats, build_sampler, training_crops

SIDE = 96  # px, approximate side of a picture
MAX_EPOCHS = 200  # epochs of a training that are searched for views of a crop
MAX_SEARCHED_DRAWS = 400  # draws of a class that are searched for changed faces


class FaceEdit(NamedTuple):
    """A change to the pixels of faces."""

    off: Mapping[str, Any]  # config fields that turn it off; the first one turns it on
    classes: tuple[str, ...]  # whose draws it changes
    same_face: bool  # whether the view is still of the drawn crop


FACE_EDITS = {
    "mask transfer": FaceEdit({"mask_transfer_prob": 0.0, "mask_hanging_share": 0.0}, (MASKED, INCORRECT), False),
    "occluder": FaceEdit({"occluder_prob": 0.0}, (BARE,), True),
    "recoloured mask": FaceEdit({"mask_recolor_prob": 0.0}, (MASKED,), True),
}
HALVES = (0.5, 0.5, 0.5)


def save_preview(
    path: Path, crops: CropSet, transforms: Mapping[str, CropTransform], *, per_class: int, versions: int, seed: int
) -> None:
    """Write a grid with one row per training crop: the crop as cut, then `versions` times by each transform.

    The crops have the baseline's margin, or their own if that is less.

    Args:
        path: the picture to write.
        crops: the crops, of which training crops are shown.
        transforms: {caption: transform with mean = std = 0.5}.
        per_class: crops shown of each class.
        versions: augmented versions by each transform.
        seed: of the choice of crops and of the augmentation.

    Raises:
        UserError: a crop cannot be read, or `path` does not end in an image suffix.
    """
    _check_image_name(path)
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
    A row has `versions` views, fewer where the epochs draw the crop less often. Faces may be changed (a transferred
    mask, an occluder, a mask of another colour): their class has one more row for each change. Where the
    view is still of the drawn crop, the crop comes before it. Hard negatives are last.

    Args:
        path: the picture to write.
        config: the experiment.
        crops: the crops that it trains on.
        stats: the network's mean and std of each channel.
        per_class: crops shown of each class.
        versions: most views of a crop.
        seed: of the choice of crops.

    Raises:
        UserError: `config` and crops do not fit, or `path` does not end in an image suffix.
    """
    _check_image_name(path)
    views = _TrainingViews(config, crops, stats)
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, list[Cell]]] = []
    for name, members in _classes(views.dataset):
        for i in rng.permutation(members)[:per_class]:
            before = views.dataset.pixels(int(i))
            rows.append((name, [Cell(before, f"inference, {before.shape[1]} px"), *views.of_crop(int(i), versions)]))
        edited = (
            (edit, views.with_edit(edit, members, versions)) for edit in views.edits if name in FACE_EDITS[edit].classes
        )
        rows += [(f"{name}, {edit}", [Cell(None), *cells]) for edit, cells in edited if cells]
    shown = min(config.input_size, 2 * SIDE)
    side = shown * max(round(SIDE / shown), 1)  # whole pixels of a small input
    _save(path, rows, side, caption_lines=2 if views.edits else 1)


class _TrainingViews:
    """The views that a training draws, by epoch and draw."""

    def __init__(self, config: TrainConfig, crops: CropSet, stats: tuple[Stats, Stats]) -> None:
        self.dataset, self._stats = training_crops(config, crops, stats), stats
        # The same draws without one change to faces: a view that differs has it.
        self.edits: dict[str, CropDataset] = {
            name: training_crops(replace(config, **edit.off), crops, stats)
            for name, edit in FACE_EDITS.items()
            if getattr(config, next(iter(edit.off)))
        }
        sampler = build_sampler(config, self.dataset)
        order = []
        for epoch in range(min(config.epochs, MAX_EPOCHS)):
            sampler.set_epoch(epoch)
            order.append([i for _, i in sampler])
        self._order = np.array(order)  # (epochs, draws) index of the crop

    def of_crop(self, i: int, count: int) -> list[Cell]:
        """Return the first `count` views of the i-th crop, fewer if it is drawn less often."""
        places = np.argwhere(self._order == i)[:count].tolist()
        return [self._view(epoch, draw)[0] for epoch, draw in places]

    def with_edit(self, edit: str, members: NDArray[np.int64], count: int) -> list[Cell]:
        """Return views of `members` with a change to the face, `count` cells at most.

        Where the view shows the drawn crop, the crop as inference sees it comes before the view.
        """
        places = np.argwhere(np.isin(self._order, members))[:MAX_SEARCHED_DRAWS].tolist()
        pairs = FACE_EDITS[edit].same_face
        cells: list[Cell] = []
        for epoch, draw in places:
            cell, edits = self._view(epoch, draw)
            if edit in edits and (edits == [edit] or not pairs):
                before = [Cell(self.dataset.pixels(int(self._order[epoch, draw])), "before")] if pairs else []
                cells += [*before, cell]
            if len(cells) + pairs >= count:
                break
        return cells

    def _view(self, epoch: int, draw: int) -> tuple[Cell, list[str]]:
        """Return a view, and the names of the changes to its face, which the view's caption has, too."""
        i = int(self._order[epoch, draw])
        self.dataset.set_epoch(epoch)
        view, edits = self.dataset[draw, i][0], []
        for edit, without in self.edits.items():
            without.set_epoch(epoch)
            if not torch.equal(view, without[draw, i][0]):
                edits.append(edit)
        caption = f"epoch {epoch + 1}" + (f"\n{', '.join(edits)}" if edits else "")
        return Cell(_pixels(view, *self._stats), caption), edits


def _classes(dataset: CropDataset) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield each class and the indices of its crops; faces whose class is not known and the hard negatives last."""
    names = dict(enumerate(dataset.class_names)) | {
        CLASS_UNKNOWN: "class not known",
        len(dataset.class_names): BACKGROUND,
    }
    for label, name in names.items():
        yield name, np.flatnonzero(dataset.labels == label)


def _check_image_name(path: Path) -> None:
    """Raise UserError when a path does not end in the suffix of a picture format that can be written."""
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise UserError(f"{path}: not the name of a picture that can be written; end it with .png")


def _save(path: Path, rows: Sequence[tuple[str, list[Cell]]], side: int, caption_lines: int) -> None:
    """Write labelled rows as a contact sheet."""
    labels, cells = [label for label, _ in rows], [row for _, row in rows]
    with atomic_replace(path) as temporary:
        contact_sheet(cells, side, labels, caption_lines).save(temporary)


def _pixels(tensor: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Undo the normalisation: float (3, S, S) -> uint8 (S, S, 3)."""
    scaled = tensor.permute(1, 2, 0) * torch.tensor(std) + torch.tensor(mean)
    return (scaled * 255).round().clamp(0, 255).byte().numpy()
