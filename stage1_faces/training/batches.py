"""Batches of training samples for each net of the cascade, and the losses on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from common.boxes import BBOX_XFORM_CLIP
from stage1_faces.anchors import box_anchors
from stage1_faces.detector import ONET, RNET
from stage1_faces.training.draws import BACKGROUND_SHARE, background_weights, face_sampling_weights
from stage1_faces.training.mining import MinedWindows, windows_over_ignored
from stage1_faces.training.nets import BoxOffsets
from stage1_faces.training.samples import TrainingPhoto, sample_patch, sample_window

FOCAL_GAMMA = 2.0  # focal loss (Lin et al. 2017)
# Smooth L1 (Girshick, "Fast R-CNN", 2015) is a square under these differences, in anchor units.
BOX_BETA = 0.1
LANDMARK_BETA = 0.05
# Weights of the windows' losses; the box loss has 1. Chosen by hand, not tuned.
FACE_WEIGHT = 2.0
LANDMARK_WEIGHT = 2.0
POSITIVE_SHARE = 0.4  # share of a batch of windows that show a face
MINED_SHARE = 0.6  # share of those that are where the net before put them; the others are near the annotated box
ANCHOR_JITTER = (0.13, 0.18)  # of the others, standard deviations: centre, in units; logarithm of the unit
MIN_HARD_WEIGHT = 0.01  # a window without a face is drawn with its face score as weight, or with this at least

Arrays = tuple[NDArray[Any], ...]


class Batches:
    """Source of a net's batches. A batch depends on seed, epoch, step, and `state` at the epoch's start."""

    def __init__(self, photos: Sequence[TrainingPhoto], size: int, seed: int) -> None:
        self._photos, self._size, self._seed = photos, size, seed
        self._faces, weights = face_sampling_weights(photos)
        # As `Generator.choice` does it, which would add up all weights again at each draw.
        self._cumulated = weights.cumsum() / weights.cumsum()[-1]
        names = sorted({photo.source for photo in photos if photo.edges == "offset"})
        self.offsets = BoxOffsets(names) if names else None  # learned along with the net
        index = {name: k for k, name in enumerate(names)}
        # Of each photo, the index of its source's offset; -1: none.
        self._offset_of = np.array([index[p.source] if p.edges == "offset" else -1 for p in photos], np.int64)
        self.state = torch.zeros(0)  # what a resumed run needs after an epoch

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Draw the samples of the epoch, where `batch` does not."""

    def batch(self, epoch: int, step: int) -> Arrays:
        """Return one batch as arrays: pixels (N, H, W, 3), then the targets.

        Where a source's edges have an offset, the last array is the index (N,) of each sample's offset, or -1.
        """
        raise NotImplementedError

    def loss(self, outputs: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the terms of the loss, by name."""
        raise NotImplementedError

    def after_step(self, step: int, outputs: Tensor) -> None:
        """Take the net's outputs for the batch of a step."""

    def _draw_face(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return the photo and face index of one face."""
        photo, face = self._faces[self._cumulated.searchsorted(rng.random(), side="right")]
        return int(photo), int(face)

    def _with_offsets(self, arrays: Arrays, photos: Sequence[int]) -> Arrays:
        """Return a batch, with the offsets' indices of its samples' photos where there are offsets."""
        return arrays if self.offsets is None else (*arrays, self._offset_of[np.array(photos, np.intp)])

    def _shifted(self, box_deltas: Tensor, offset: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Return a net's box deltas (N, 4) as the annotators of samples `rows` (N,) would draw the boxes."""
        return box_deltas if self.offsets is None else self.offsets(box_deltas, offset[0][rows])


def box_loss(box_deltas: Tensor, target: Tensor) -> Tensor:
    """Return the loss (N,) of box deltas (N, 4): 1 - GIoU (Rezatofighi et al. 2019) + smooth L1."""
    a, b = _corners(box_deltas), _corners(target)
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    giou = shared / (union + 1e-7) - (hull - union) / (hull + 1e-7)
    return 1 - giou + F.smooth_l1_loss(box_deltas, target, beta=BOX_BETA, reduction="none").mean(1)


def _corners(box_deltas: Tensor) -> Tensor:
    """Return xyxy boxes (N, 4) in anchor units from the anchor's centre."""
    half = box_deltas[:, 2:].clamp(-BBOX_XFORM_CLIP, BBOX_XFORM_CLIP).exp() / 2
    return torch.cat([box_deltas[:, :2] - half, box_deltas[:, :2] + half], dim=1)


class PatchBatches(Batches):
    """P-Net's batches: patches around faces drawn by `face_sampling_weights`, and a share from anywhere.

    The share from anywhere is of complete photos only.

    Args:
        photos: the training photos.
        size: patches per batch.
        seed: of the draws.
    """

    def __init__(self, photos: Sequence[TrainingPhoto], size: int, seed: int) -> None:
        super().__init__(photos, size, seed)
        self._complete = [i for i, photo in enumerate(photos) if photo.complete]
        complete = [photos[i] for i in self._complete]
        several = len({photo.source for photo in photos}) > 1 and complete
        self._anywhere = background_weights(complete) if several else None

    def batch(self, epoch: int, step: int) -> Arrays:
        """Return pixels (N, P, P, 3), objectness (N, h, w), box deltas (N, h, w, 4), which are nan if not learned."""
        rng = np.random.default_rng((self._seed, epoch, step))
        samples, drawn = [], []
        for _ in range(self._size):
            if rng.random() < BACKGROUND_SHARE and self._complete:
                count = len(self._complete)
                k = int(rng.integers(count) if self._anywhere is None else rng.choice(count, p=self._anywhere))
                i, face = self._complete[k], None
            else:
                i, face = self._draw_face(rng)
            samples.append(sample_patch(self._photos[i], face, rng))
            drawn.append(i)
        pixels, objectness, box_deltas = zip(*samples, strict=True)
        return self._with_offsets((np.stack(pixels), np.stack(objectness), np.stack(box_deltas)), drawn)

    def loss(self, outputs: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return focal loss of the cells that are not ignored and box loss of the face cells, both per face cell."""
        objectness, box_deltas, *offset = targets
        cells = outputs.permute(0, 2, 3, 1)
        face = objectness == 1
        entropy = F.binary_cross_entropy_with_logits(cells[..., 0], face.float(), reduction="none")
        wrong = 1 - torch.exp(-entropy)
        focal = (wrong**FOCAL_GAMMA * entropy * (objectness >= 0)).sum() / face.sum().clamp(min=1)
        edges = face & ~torch.isnan(box_deltas[..., 0])
        predicted = self._shifted(cells[..., 1:][edges], offset, edges.nonzero()[:, 0])
        box = box_loss(predicted, box_deltas[edges]).sum() / edges.sum().clamp(min=1)
        return {"face": focal, "box": box}


class WindowBatches(Batches):
    """R-Net's or O-Net's batches: windows with a face, and mined ones without, mostly those that fool the net.

    In a photo that is not complete, no box is background.

    Args:
        photos: the training photos.
        mined: windows that the net before proposes on these photos.
        net: "rnet" or "onet".
        size: windows per batch.
        seed: of the draws.
        overlaps: IoU of a mined box with a face below which it is background, and from which it shows that face.
    """

    def __init__(
        self,
        photos: Sequence[TrainingPhoto],
        mined: MinedWindows,
        net: str,
        size: int,
        seed: int,
        overlaps: tuple[float, float],
    ) -> None:
        super().__init__(photos, size, seed)
        self._mined = mined
        self._spec = RNET if net == "rnet" else ONET
        self._anchors = box_anchors(mined.boxes)
        complete = np.array([photo.complete for photo in photos], bool)
        background = (mined.overlap < overlaps[0]) & complete[mined.photo] & ~windows_over_ignored(mined, photos)
        self._negatives = np.nonzero(background)[0]
        factors = np.array([1.0 if photo.face_free else photo.source_factor for photo in photos])
        self._negative_factors = factors[mined.photo[self._negatives]]
        self._mined_by_face: dict[tuple[int, int], list[int]] = {}
        for k in np.nonzero(mined.overlap >= overlaps[1])[0]:
            self._mined_by_face.setdefault((int(mined.photo[k]), int(mined.face[k])), []).append(int(k))
        self.state = torch.from_numpy(mined.scores[self._negatives].astype(np.float64))  # face score of each negative
        # Without a single negative (after a perfect net), every window shows a face.
        self._positives = size if not len(self._negatives) else round(size * POSITIVE_SHARE)
        self._drawn_negatives = np.zeros((0, 0), np.intp)

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Draw the epoch's negatives, weighted by their last face scores."""
        rng = np.random.default_rng((self._seed, epoch))
        weights = np.maximum(self.state.numpy(), MIN_HARD_WEIGHT) * self._negative_factors
        shape = (steps, self._size - self._positives)
        self._drawn_negatives = (
            rng.choice(len(self._negatives), shape, p=weights / weights.sum()) if shape[1] else np.zeros(shape, int)
        )

    def batch(self, epoch: int, step: int) -> Arrays:
        """Return pixels (N, S, S, 3), box deltas (N, 4), landmarks (N, 5, 2); faces first, nan if not learned."""
        rng = np.random.default_rng((self._seed, epoch, step))
        size, context = self._spec.size, self._spec.context
        samples, drawn = [], []
        for _ in range(self._positives):
            i, j = self._draw_face(rng)
            samples.append(sample_window(self._photos[i], self._draw_anchor(i, j, rng), j, context, size, rng))
            drawn.append(i)
        for k in self._negatives[self._drawn_negatives[step]]:
            photo = self._photos[self._mined.photo[k]]
            samples.append(sample_window(photo, self._anchors[k], None, context, size, rng))
            drawn.append(int(self._mined.photo[k]))
        pixels, box_deltas, points = zip(*samples, strict=True)
        return self._with_offsets((np.stack(pixels), np.stack(box_deltas), np.stack(points)), drawn)

    def _draw_anchor(self, photo: int, face: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return an anchor (3,) for a face: a mined one, or one near the annotated box."""
        mined = self._mined_by_face.get((photo, face))
        if mined and rng.random() < MINED_SHARE:
            return self._anchors[mined[rng.integers(len(mined))]]
        anchor = box_anchors(self._photos[photo].boxes[face][None])[0]
        shift = rng.normal(0, ANCHOR_JITTER[0], 2) * anchor[2]
        scale = math.exp(rng.normal(0, ANCHOR_JITTER[1]))
        return np.array([*(anchor[:2] + shift), anchor[2] * scale], np.float32)

    def loss(self, outputs: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return cross entropy of all, box loss of the windows with a face, smooth L1 of the known landmarks."""
        box_deltas, points, *offset = (target[: self._positives] for target in targets)
        positives = outputs[: self._positives]
        face = torch.zeros(len(outputs), device=outputs.device)
        face[: self._positives] = 1
        edges = (~torch.isnan(box_deltas[:, 0])).nonzero()[:, 0]
        predicted = positives[:, 1:5]
        if len(edges) < len(positives):
            predicted, box_deltas = predicted[edges], box_deltas[edges]
        box = box_loss(self._shifted(predicted, offset, edges), box_deltas)
        losses = {
            "face": FACE_WEIGHT * F.binary_cross_entropy_with_logits(outputs[:, 0], face),
            "box": box.mean() if len(edges) else outputs.sum() * 0,
        }
        if outputs.shape[1] > 5:
            known = ~torch.isnan(points)
            found = positives[:, 5:].reshape(-1, 5, 2)
            loss = outputs.sum() * 0
            if known.any():
                loss = F.smooth_l1_loss(found[known], points[known], beta=LANDMARK_BETA)
            losses["landmarks"] = LANDMARK_WEIGHT * loss
        return losses

    def after_step(self, step: int, outputs: Tensor) -> None:
        """Update the face scores of the step's negatives: half the new score, half the old one."""
        drawn = self._drawn_negatives[step]
        if len(drawn):
            scores = torch.sigmoid(outputs[self._positives :, 0]).double()
            self.state[drawn] = (self.state[drawn] + scores) / 2
