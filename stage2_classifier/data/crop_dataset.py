"""One split of face crops as a PyTorch dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from common.errors import UserError
from stage2_classifier.cropping import crop_window, cut_window
from stage2_classifier.data.box_jitter import (
    NO_JITTER,
    Box,
    BoxJitter,
    jittered_box,
    jittered_view,
    window_deltas,
)
from stage2_classifier.data.crop_manifest import BACKGROUND, CropRecord, CropSet
from stage2_classifier.data.face_edits.mask_recolor import recolor_mask
from stage2_classifier.data.face_edits.occluders import paste_occluder
from stage2_classifier.data.mask_transfer import TransferPosition, transfer_axes, transfer_mask

# The classes of the Kaggle set that say how a mask is worn: mask transfer needs all three.
MASKED, BARE, INCORRECT = "with_mask", "without_mask", "mask_weared_incorrect"
MIN_DONOR_SIDE = 14  # px: smaller masks are a few grey pixels
NOSE_OUT_SHARE = 0.65  # share of wrongly worn masks that uncover the nose alone; the others are on the chin
# How often a transferred mask is worn correctly, as a share of mask_transfer_prob. Without these, a visible seam would
# mean "worn wrongly".
CORRECTLY_WORN_SHARE = 0.2
# (crop uint8 (H, W, 3) RGB, seed) -> float32 tensor (3, S, S); see stage2_classifier.augment.transforms
CropTransform = Callable[[NDArray[np.uint8], int], torch.Tensor]
CLASS_UNKNOWN = -1  # the class index of a face whose class is not learned


class CropView(NamedTuple):
    """One view of a crop, as a network learns it; a loader's batch has the same fields with one more dimension."""

    image: torch.Tensor  # float32 (3, S, S)
    target: int  # class index; CLASS_UNKNOWN, or len(class_names) for a hard negative
    box_deltas: torch.Tensor  # float32 (4,); NaN where the edges are not learned
    # 1 + the index in CropSet.offset_sources, negative in a mirrored view; 0 where the edges are learned as they are.
    edge_offset: int
    teacher_images: tuple[torch.Tensor, ...]  # the same view for each TeacherView, float32 (3, S, S)
    annotated_classes: torch.Tensor  # bool (C,): the classes that the face's annotators used


@dataclass(frozen=True)
class TeacherView:
    """The view that a teacher network gets of the same place."""

    transform: CropTransform
    input_size: int  # px
    margin: float  # context on each side, as a share of the box's longer side


class CropDataset(Dataset[CropView]):
    """One split of a crop set, decoded once and kept in memory.

    `ds[i]` is a CropView. `ds[draw, i]` is the same crop as draw number `draw` of the epoch. The transform's seed comes
    from (seed, epoch, draw) alone. So the augmentation does not depend on the number of workers or on a resumed run.
    Two draws of a crop differ.

    Args:
        crop_set: the crops.
        split: train, val or test.
        transform: makes the network's input of a view.
        seed: of the augmentation.
        margin: context around the face that the network sees, at most that of the crops; None: the crops' margin.
        jitter: random errors of the views' boxes; None: views as inference cuts them.
        hard_negatives: also use the set's hard negatives, with the class index len(class_names).
        mask_transfer_prob: probability that a draw of the rare class is a bare face with another face's mask, worn
            wrongly (stage2_classifier.data.mask_transfer). A masked draw is a bare face with a mask worn correctly with
            a fifth of this probability.
        class_unknown: also use faces whose class is not known, with the class index CLASS_UNKNOWN.
        teacher_views: views for teacher networks.
        mask_hanging_share: share of the wrongly worn transferred masks that hang from one ear.
        occluder_prob: probability that a draw of a bare face has a hand, cup, scarf or microphone before the mouth.
        mask_recolor_prob: probability that the mask of a masked draw, or of a transfer, has another colour or a print.

    Raises:
        UserError: the split is empty, a margin exceeds the crops' margin, or no face can be changed as asked. On
            access: a crop's file cannot be read.
    """

    def __init__(
        self,
        crop_set: CropSet,
        split: str,
        transform: CropTransform,
        seed: int = 0,
        *,
        margin: float | None = None,
        jitter: BoxJitter | None = None,
        hard_negatives: bool = False,
        mask_transfer_prob: float = 0.0,
        class_unknown: bool = False,
        teacher_views: Sequence[TeacherView] = (),
        mask_hanging_share: float = 0.0,
        occluder_prob: float = 0.0,
        mask_recolor_prob: float = 0.0,
    ) -> None:
        faces = tuple(r for r in crop_set.split(split) if r.class_known or class_unknown)
        if not any(r.class_known for r in faces):
            what = f"split {split!r} has no crop whose class is known"
            raise UserError(f"{crop_set.root / 'crops.csv'}: {what}; trust the classes of a source")
        self.records = (*faces, *(r for r in crop_set.hard_negatives if hard_negatives and r.split == split))
        self.class_names, self.sources = crop_set.class_names, crop_set.sources
        index = {name: i for i, name in enumerate(crop_set.class_names)}
        index[BACKGROUND] = len(index)
        indices = [index[r.label] if r.class_known else CLASS_UNKNOWN for r in self.records]
        self.labels: NDArray[np.int64] = np.array(indices, dtype=np.int64)
        self.transform, self.seed, self.epoch = transform, seed, 0
        self.margin = crop_set.margin if margin is None else margin
        for needed in (self.margin, *(view.margin for view in teacher_views)):
            check_margin(crop_set, needed)
        self._teacher_views = tuple(teacher_views)
        self._offsets = {name: k for k, name in enumerate(crop_set.offset_sources, start=1)}
        self._annotated_classes = {
            source.name: torch.tensor([name not in source.absent_classes for name in crop_set.class_names])
            for source in crop_set.sources
        }
        self._all_classes = torch.ones(len(crop_set.class_names), dtype=torch.bool)
        self._no_edges = {source.name for source in crop_set.sources if source.edges == "none"}
        self._jitter, self._mask_transfer_prob = jitter, mask_transfer_prob
        self._donors = _find_donors(crop_set, self.records) if mask_transfer_prob else {}
        self._mask_hanging_share = mask_hanging_share
        self._edit_probs = {BARE: occluder_prob, MASKED: mask_recolor_prob}
        for field, label in (("occluder_prob", BARE), ("mask_recolor_prob", MASKED)):
            if self._edit_probs[label]:
                _check_editable(crop_set, self.records, field, label)
        self._cut_margin, self._root = crop_set.margin, crop_set.root
        self._pixels: list[NDArray[np.uint8] | None] = [None] * len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the augmentation; with worker processes, call this before iterating."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> CropView:
        # Without options: cut the view of crop i, transform it, and return it with its class.
        draw, i = key if isinstance(key, tuple) else (key, key)
        seed = int(np.random.SeedSequence((self.seed, self.epoch, draw)).generate_state(1)[0])
        # A changed face is seen as a jittered one is, if only with a jitter of zero.
        transferred = self._transfer_mask(i, seed) if self._mask_transfer_prob else None
        face, painted = transferred or (i, self._edit(i, seed))
        jitter = self._jitter or (None if painted is None else NO_JITTER)
        pixels, deltas = self._view(face, painted, seed, self.margin, jitter)
        teacher_images = []
        for view in self._teacher_views:
            sized = None if jitter is None else replace(jitter, min_side=view.input_size)
            teacher_images.append(view.transform(self._view(face, painted, seed, view.margin, sized)[0], seed))
        source = self.records[face].source
        offset = self._offsets.get(source, 0)
        if offset and jitter is not None and jittered_box(self.box(face), seed, jitter).mirrored:
            offset = -offset
        if source in self._no_edges:
            deltas = np.full_like(deltas, np.nan)
        image = self.transform(pixels, seed)
        # How a transferred mask is worn is known, whoever annotated the faces.
        annotated = self._all_classes if transferred else self._annotated_classes.get(source, self._all_classes)
        return CropView(image, int(self.labels[i]), torch.from_numpy(deltas), offset, tuple(teacher_images), annotated)

    def _view(
        self, i: int, painted: NDArray[np.uint8] | None, seed: int, margin: float, jitter: BoxJitter | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return one draw's view (H, W, 3) of crop i, and the face's box deltas (4,) in that view.

        `painted` is the stored crop after changes (a mask, another colour, something before the mouth), if it has any.
        """
        if jitter is None:
            return self.pixels(i, margin), window_deltas(self.records[i].box, margin)
        crop = self._stored_crop(i) if painted is None else painted
        return jittered_view(crop, self.box(i), margin, seed, jitter)

    def _transfer_mask(self, i: int, seed: int) -> tuple[int, NDArray[np.uint8]] | None:
        """Return the bare face that replaces the i-th crop: index, and crop with a mask. None keeps the i-th crop."""
        rng = np.random.default_rng((seed, 2))
        if (
            not self.records[i].class_known
            or (position := self._draw_mask_position(self.records[i].label, rng)) is None
        ):
            return None
        bare, masked = (int(rng.choice(self._donors[label])) for label in (BARE, MASKED))
        if not (self._spans_face(bare) and self._spans_face(masked)):
            return None
        bare_face = self._stored_crop(bare), self._landmarks(bare)
        recolored = self._edit(masked, seed)  # dark masks are worn wrongly as often as light ones
        cloth = self._stored_crop(masked) if recolored is None else recolored
        return bare, transfer_mask(*bare_face, cloth, self._landmarks(masked), position, rng)

    def _edit(self, i: int, seed: int) -> NDArray[np.uint8] | None:
        """Return the i-th crop with something before the mouth, or with a mask of another colour; None keeps it."""
        label, rng = self.records[i].label, np.random.default_rng((seed, 3))
        if rng.random() >= self._edit_probs.get(label, 0.0) or not _is_editable(self.records[i]):
            return None
        if not self._spans_face(i):
            return None
        crop, landmarks = self._stored_crop(i), self._landmarks(i)
        return paste_occluder(crop, landmarks, rng) if label == BARE else recolor_mask(crop, landmarks, rng)

    def _spans_face(self, i: int) -> bool:
        """Return whether landmarks span a face in the i-th crop's file, too, which may be smaller than the photo's."""
        return transfer_axes(self._landmarks(i)) is not None

    def _draw_mask_position(self, label: str, rng: np.random.Generator) -> TransferPosition | None:
        """Return how the mask is worn on the face that replaces a crop of that class; None keeps the crop."""
        probs = {INCORRECT: self._mask_transfer_prob, MASKED: CORRECTLY_WORN_SHARE * self._mask_transfer_prob}
        if rng.random() >= probs.get(label, 0.0):
            return None
        if label == MASKED:
            return "correct"
        if self._mask_hanging_share and rng.random() < self._mask_hanging_share:
            return "hanging"
        return "nose_out" if rng.random() < NOSE_OUT_SHARE else "chin"

    def _landmarks(self, i: int) -> NDArray[np.float64]:
        """Return the landmarks (5, 2) in pixels of the i-th crop file."""
        left, top, scale = self._placement(i)
        return (np.array(self.records[i].landmarks).reshape(5, 2) - (left, top)) * scale

    def _placement(self, i: int) -> tuple[int, int, float]:
        """Return left and top of the i-th crop in its photo, and the crop's pixels per pixel of the photo."""
        left, top, right, _ = crop_window(self.records[i].box, self._cut_margin)
        return left, top, self._stored_crop(i).shape[0] / (right - left)

    def box(self, i: int) -> Box:
        """Return the i-th face in pixels of the crop's file, xyxy."""
        x1, y1, x2, y2 = self.records[i].box
        left, top, scale = self._placement(i)
        return (x1 - left) * scale, (y1 - top) * scale, (x2 - left) * scale, (y2 - top) * scale

    def pixels(self, i: int, margin: float | None = None) -> NDArray[np.uint8]:
        """Return the i-th crop as inference would cut it, uint8 (H, W, 3) RGB; margin None is the dataset's."""
        crop = self._stored_crop(i)
        margin = self.margin if margin is None else margin
        if margin == self._cut_margin:
            return crop
        # Windows are rounded to the photo's pixels, so their places come from the photo, not from the crop.
        box = self.records[i].box
        left, top, scale = self._placement(i)
        x1, y1, x2, y2 = (
            round(v * scale) for v in (a - b for a, b in zip(crop_window(box, margin), (left, top) * 2, strict=True))
        )
        return cut_window(crop, (x1, y1, x2, y2))

    def _stored_crop(self, i: int) -> NDArray[np.uint8]:
        """Return the i-th crop as its file holds it, uint8 (H, W, 3) RGB, read-only."""
        if (pixels := self._pixels[i]) is None:
            file = self._root / self.records[i].path
            try:
                with Image.open(file) as image:
                    pixels = np.array(image.convert("RGB"))
            # Pillow reports broken files as OSError, SyntaxError (PNG chunks) or ValueError.
            except (OSError, SyntaxError, ValueError) as error:
                what = "not found" if isinstance(error, FileNotFoundError) else "cannot be read as an image"
                raise UserError(f"{file}: {what}; build the crops again") from error
            if pixels.shape[0] != pixels.shape[1]:
                size = f"{pixels.shape[1]}x{pixels.shape[0]}"
                raise UserError(f"{file}: is {size}, but crops are square; build the crops again")
            pixels.setflags(write=False)
            self._pixels[i] = pixels
        return pixels

    def preload(self) -> None:
        """Decode every crop now, so that worker processes started later share them."""
        for i in range(len(self)):
            self._stored_crop(i)


def _find_donors(crop_set: CropSet, records: Sequence[CropRecord]) -> dict[str, list[int]]:
    """Return the indices of the bare and the masked faces that are large enough and have landmarks, by class.

    Raises UserError when the classes have other names, or a class has no such face.
    """
    if missing := [name for name in (MASKED, BARE, INCORRECT) if name not in crop_set.class_names]:
        raise UserError(f"mask_transfer_prob: the crops have no class {missing[0]!r}; set it to 0")
    donors: dict[str, list[int]] = {MASKED: [], BARE: []}
    for i, r in enumerate(records):
        if r.label in donors and r.class_known and _is_editable(r):
            donors[r.label].append(i)
    if empty := [name for name, indices in donors.items() if not indices]:
        what = f"{crop_set.root} has no {empty[0]} faces of {MIN_DONOR_SIDE} px with landmarks"
        fix = "build crops with `pipeline.build_crops --cascade RUN`, or set it to 0"
        raise UserError(f"mask_transfer_prob: {what}; {fix}")
    return donors


def _is_editable(record: CropRecord) -> bool:
    """Return whether a face is large enough and has landmarks that span a face."""
    x1, y1, x2, y2 = record.box
    if not record.landmarks or max(x2 - x1, y2 - y1) < MIN_DONOR_SIDE:
        return False
    return transfer_axes(np.array(record.landmarks).reshape(5, 2)) is not None


def _check_editable(crop_set: CropSet, records: Sequence[CropRecord], field: str, label: str) -> None:
    """Raise UserError when no face of a class can be changed as the config's `field` asks."""
    if label not in crop_set.class_names:
        raise UserError(f"{field}: the crops have no class {label!r}; set it to 0")
    if not any(r.label == label and _is_editable(r) for r in records):
        what = f"{crop_set.root} has no {label} faces of {MIN_DONOR_SIDE} px with landmarks"
        fix = "build crops with `pipeline.build_crops --cascade RUN`, or set it to 0"
        raise UserError(f"{field}: {what}; {fix}")


def check_margin(crop_set: CropSet, margin: float) -> None:
    """Raise UserError when crops were cut with less context than `margin`."""
    if margin > crop_set.margin:
        what = f"{margin:g} is more than the {crop_set.margin:g} that {crop_set.root} was cut with"
        raise UserError(f"margin: {what}; lower it, or build crops with `pipeline.build_crops --margin {margin:g}`")
