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

from stage1_faces.anchors import BBOX_XFORM_CLIP, box_anchors
from stage1_faces.detector import ONET, RNET
from stage1_faces.training.mining import MinedWindows
from stage1_faces.training.samples import TrainingPhoto, sample_patch, sample_window

FOCAL_GAMMA = 2.0  # focal loss (Lin et al. 2017)
BACKGROUND_SHARE = 0.15  # share of P-Net's patches that are cropped anywhere, not around a face
POSITIVE_SHARE = 0.4  # share of a batch of windows that show a face
MINED_SHARE = 0.6  # share of those that are where the net before put them; the others are near the annotated box
ANCHOR_JITTER = (0.13, 0.18)  # of the others, standard deviations: centre, in units; logarithm of the unit
MIN_HARD_WEIGHT = 0.01  # a window without a face is drawn with its face score as weight, or with this at least

Arrays = tuple[NDArray[Any], ...]


class Batches:
    """Source of a net's batches. A batch depends on seed, epoch, step, and `state` at the epoch's start."""

    def __init__(self, photos: Sequence[TrainingPhoto], size: int, seed: int) -> None:
        self._photos, self._size, self._seed = photos, size, seed
        self._faces, self._weights = face_sampling_weights(photos)
        self.state = torch.zeros(0)  # what a resumed run needs after an epoch

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Draw the samples of the epoch, where `batch` does not."""

    def batch(self, epoch: int, step: int) -> Arrays:
        """Return one batch as arrays: pixels (N, H, W, 3), then the targets."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the terms of the loss, by name."""
        raise NotImplementedError

    def after_step(self, step: int, outputs: Tensor) -> None:
        """Take the net's outputs for the batch of a step."""

    def _draw_face(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return the photo and face index of one face."""
        photo, face = self._faces[rng.choice(len(self._faces), p=self._weights)]
        return int(photo), int(face)


def box_loss(box_deltas: Tensor, target: Tensor) -> Tensor:
    """Return the loss (N,) of box deltas (N, 4): 1 - GIoU (Rezatofighi et al. 2019) + smooth L1."""
    a, b = _corners(box_deltas), _corners(target)
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    giou = shared / (union + 1e-7) - (hull - union) / (hull + 1e-7)
    return 1 - giou + F.smooth_l1_loss(box_deltas, target, beta=0.1, reduction="none").mean(1)


def _corners(box_deltas: Tensor) -> Tensor:
    """Return xyxy boxes (N, 4) in anchor units from the anchor's centre."""
    half = box_deltas[:, 2:].clamp(-BBOX_XFORM_CLIP, BBOX_XFORM_CLIP).exp() / 2
    return torch.cat([box_deltas[:, :2] - half, box_deltas[:, :2] + half], dim=1)


def face_sampling_weights(photos: Sequence[TrainingPhoto]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the faces (F, 2) as photo and face index, and the probability (F,) with which each is drawn.

    It is proportional to 1 / sqrt(faces of its class * faces in its photo): bare faces are rare in the Kaggle set.
    """
    faces = [(i, j) for i, photo in enumerate(photos) for j in range(len(photo.boxes))]
    labels = [photos[i].labels[j] for i, j in faces]
    counts = {label: labels.count(label) for label in set(labels)}
    weights = np.array([(counts[photos[i].labels[j]] * len(photos[i].boxes)) ** -0.5 for i, j in faces])
    return np.array(faces, np.intp), weights / weights.sum()


class PatchBatches(Batches):
    """P-Net's batches: patches around faces drawn by `face_sampling_weights`, and a share from anywhere.

    The share from anywhere is of complete photos only.
    """

    def __init__(self, photos: Sequence[TrainingPhoto], size: int, seed: int) -> None:
        super().__init__(photos, size, seed)
        self._complete = [photo for photo in photos if photo.complete]

    def batch(self, epoch: int, step: int) -> Arrays:
        """Return pixels (N, P, P, 3), objectness (N, h, w), box deltas (N, h, w, 4)."""
        rng = np.random.default_rng((self._seed, epoch, step))
        samples = []
        for _ in range(self._size):
            if rng.random() < BACKGROUND_SHARE and self._complete:
                samples.append(sample_patch(self._complete[int(rng.integers(len(self._complete)))], None, rng))
            else:
                i, j = self._draw_face(rng)
                samples.append(sample_patch(self._photos[i], j, rng))
        pixels, objectness, box_deltas = zip(*samples, strict=True)
        return np.stack(pixels), np.stack(objectness), np.stack(box_deltas)

    def loss(self, outputs: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return focal loss of the cells that are not ignored and box loss of the face cells, both per face cell."""
        objectness, box_deltas = targets
        cells = outputs.permute(0, 2, 3, 1)
        face = objectness == 1
        entropy = F.binary_cross_entropy_with_logits(cells[..., 0], face.float(), reduction="none")
        wrong = 1 - torch.exp(-entropy)
        focal = (wrong**FOCAL_GAMMA * entropy * (objectness >= 0)).sum() / face.sum().clamp(min=1)
        box = box_loss(cells[..., 1:][face], box_deltas[face]).sum() / face.sum().clamp(min=1)
        return {"face": focal, "box": box}


class WindowBatches(Batches):
    """R-Net's or O-Net's batches: windows with a face, and mined ones without, mostly those that fool the net.

    `overlaps`: IoU of a mined box with a face below which it is background, and from which it shows that face. In a
    photo that is not complete, no box is background.
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
        self._negatives = np.nonzero((mined.overlap < overlaps[0]) & complete[mined.photo])[0]
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
        weights = np.maximum(self.state.numpy(), MIN_HARD_WEIGHT)
        shape = (steps, self._size - self._positives)
        self._drawn_negatives = (
            rng.choice(len(self._negatives), shape, p=weights / weights.sum()) if shape[1] else np.zeros(shape, int)
        )

    def batch(self, epoch: int, step: int) -> Arrays:
        """Return pixels (N, S, S, 3), box deltas (N, 4), landmarks (N, 5, 2); faces first, nan without a face."""
        rng = np.random.default_rng((self._seed, epoch, step))
        size, context = self._spec.size, self._spec.context
        samples = []
        for _ in range(self._positives):
            i, j = self._draw_face(rng)
            samples.append(sample_window(self._photos[i], self._draw_anchor(i, j, rng), j, context, size, rng))
        for k in self._negatives[self._drawn_negatives[step]]:
            photo = self._photos[self._mined.photo[k]]
            samples.append(sample_window(photo, self._anchors[k], None, context, size, rng))
        pixels, box_deltas, points = zip(*samples, strict=True)
        return np.stack(pixels), np.stack(box_deltas), np.stack(points)

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
        box_deltas, points = (target[: self._positives] for target in targets)
        positives = outputs[: self._positives]
        face = torch.zeros(len(outputs))
        face[: self._positives] = 1
        losses = {
            "face": 2 * F.binary_cross_entropy_with_logits(outputs[:, 0], face),
            "box": box_loss(positives[:, 1:5], box_deltas).mean(),
        }
        if outputs.shape[1] > 5:
            known = ~torch.isnan(points)
            found = positives[:, 5:].reshape(-1, 5, 2)
            loss = F.smooth_l1_loss(found[known], points[known], beta=0.05) if known.any() else outputs.sum() * 0
            losses["landmarks"] = 2 * loss
        return losses

    def after_step(self, step: int, outputs: Tensor) -> None:
        """Update the face scores of the step's negatives: half the new score, half the old one."""
        drawn = self._drawn_negatives[step]
        if len(drawn):
            scores = torch.sigmoid(outputs[self._positives :, 0]).double()
            self.state[drawn] = (self.state[drawn] + scores) / 2
