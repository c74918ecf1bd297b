"""How one net of the cascade learns: its losses, its batches, and one epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from stage1_faces.detector import BBOX_XFORM_CLIP, O_CONTEXT, O_SIZE, R_CONTEXT, R_SIZE, anchors
from stage1_faces.training.mining import MinedWindows
from stage1_faces.training.nets import normalised
from stage1_faces.training.samples import TrainingPhoto, patch, window

WARM_UP = 200  # steps over which the learning rate rises
LAST_RATE = 0.005  # share of the learning rate that is left at the end
CLIP_NORM = 5.0
# timm's warm-up of the average: 1 - (1 + step) ** -power, up to the decay.
AVERAGE_DECAY, AVERAGE_POWER = 0.998, 0.75
FOCUS = 2.0  # focal loss's gamma (Lin et al. 2017)
BACKGROUND = 0.15  # share of P-Net's patches that are cut anywhere, not around a face
POSITIVES = 0.4  # share of a batch of windows that show a face
FROM_MINED = 0.6  # share of those that stand where the net before put them; the others stand near the annotated box
JITTER = (0.13, 0.18)  # of the others: centre, in units; logarithm of the unit (standard deviations)
EASIEST = 0.01  # a window without face is drawn by its face score, but at least as if this were it

Arrays = tuple[NDArray[Any], ...]


class Batches(Protocol):
    """Where a net's samples come from. A batch depends on seed, epoch, step, and `state` at the epoch's start."""

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Draws what the epoch will show."""

    def batch(self, epoch: int, step: int) -> Arrays:
        """One batch as arrays, pixels (N, H, W, 3) first."""

    def loss(self, outputs: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """The parts of the loss, by name, to be added up."""

    def learned(self, step: int, outputs: Tensor) -> None:
        """Told after each step what the net answered."""

    @property
    def state(self) -> Tensor:
        """What must be kept to go on after an epoch."""

    @state.setter
    def state(self, value: Tensor) -> None: ...


@dataclass(frozen=True)
class StepSchedule:
    """Steps in all, steps an epoch, and the largest learning rate."""

    steps: int
    per_epoch: int
    rate: float

    @property
    def epochs(self) -> int:
        """How many epochs; the last may be shorter."""
        return -(-self.steps // self.per_epoch)

    def steps_in(self, epoch: int) -> int:
        """Steps of an epoch, counted from 0."""
        return min(self.per_epoch, self.steps - epoch * self.per_epoch)

    def rate_at(self, step: int) -> float:
        """Warm-up, then a cosine (Loshchilov & Hutter 2017)."""
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.rate * min(1.0, (step + 1) / WARM_UP) * (cosine + LAST_RATE)


def train_epoch(
    net: nn.Module,
    average: ModelEmaV3,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    schedule: StepSchedule,
    epoch: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """One epoch, counted from 0; the mean of each part of the loss. advance: called after each step."""
    net.train()
    torch.manual_seed(1000 * seed + epoch)  # dropout
    steps = schedule.steps_in(epoch)
    batches.start_epoch(epoch, steps)
    sums: dict[str, float] = {}
    # The next batch is cut while the net learns from this one; OpenCV lets go of the interpreter's lock.
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches.batch, epoch, 0)
        for step in range(steps):
            arrays = coming.result()
            if step + 1 < steps:
                coming = pool.submit(batches.batch, epoch, step + 1)
            done = epoch * schedule.per_epoch + step
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate_at(done)
            pixels, *targets = (torch.from_numpy(a) for a in arrays)
            outputs = net(normalised(pixels.permute(0, 3, 1, 2).float()))
            parts = batches.loss(outputs, targets)
            optimizer.zero_grad()
            torch.stack(list(parts.values())).sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
            optimizer.step()
            average.update(net, step=done)
            batches.learned(step, outputs.detach())
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + part.item() / steps
            advance()
    return sums


def box_loss(found: Tensor, true: Tensor) -> Tensor:
    """(N,) how far box numbers (N, 4) are from the true ones: 1 - GIoU (Rezatofighi et al. 2019) + smooth L1."""
    a, b = _corners(found), _corners(true)
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    giou = shared / (union + 1e-7) - (hull - union) / (hull + 1e-7)
    return 1 - giou + F.smooth_l1_loss(found, true, beta=0.1, reduction="none").mean(1)


def _corners(numbers: Tensor) -> Tensor:
    half = numbers[:, 2:].clamp(-BBOX_XFORM_CLIP, BBOX_XFORM_CLIP).exp() / 2
    return torch.cat([numbers[:, :2] - half, numbers[:, :2] + half], dim=1)


def face_weights(photos: Sequence[TrainingPhoto]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(F, 2) photo and face index of every face, and the chance (F,) with which it is drawn.

    By one over the root of its class's count (bare faces are rare in the Kaggle set) and of its photo's face count.
    """
    faces = [(i, j) for i, photo in enumerate(photos) for j in range(len(photo.boxes))]
    labels = [photos[i].labels[j] for i, j in faces]
    counts = {label: labels.count(label) for label in set(labels)}
    weights = np.array([(counts[photos[i].labels[j]] * len(photos[i].boxes)) ** -0.5 for i, j in faces])
    return np.array(faces, np.intp), weights / weights.sum()


class PatchBatches:
    """P-Net's batches: patches around faces drawn by `face_weights`, and a share from anywhere."""

    def __init__(self, photos: Sequence[TrainingPhoto], size: int, seed: int) -> None:
        self._photos, self._size, self._seed = photos, size, seed
        self._faces, self._weights = face_weights(photos)
        self.state = torch.zeros(0)

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Nothing to draw ahead."""

    def batch(self, epoch: int, step: int) -> Arrays:
        """(N, P, P, 3) pixels; (N, h, w) told; (N, h, w, 4) box numbers."""
        rng = np.random.default_rng((self._seed, epoch, step))
        samples = []
        for _ in range(self._size):
            if rng.random() < BACKGROUND:
                samples.append(patch(self._photos[int(rng.integers(len(self._photos)))], None, rng))
            else:
                i, j = self._faces[rng.choice(len(self._faces), p=self._weights)]
                samples.append(patch(self._photos[i], int(j), rng))
        pixels, told, numbers = zip(*samples, strict=True)
        return np.stack(pixels), np.stack(told), np.stack(numbers)

    def loss(self, outputs: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Focal loss of the cells that are told, a face's share of it each; box loss of those with a face."""
        told, numbers = targets
        cells = outputs.permute(0, 2, 3, 1)
        face = told == 1
        entropy = F.binary_cross_entropy_with_logits(cells[..., 0], face.float(), reduction="none")
        wrong = 1 - torch.exp(-entropy)
        focal = (wrong**FOCUS * entropy * (told >= 0)).sum() / face.sum().clamp(min=1)
        box = box_loss(cells[..., 1:][face], numbers[face]).sum() / face.sum().clamp(min=1)
        return {"face": focal, "box": box}

    def learned(self, step: int, outputs: Tensor) -> None:
        """Every patch is drawn afresh: nothing to keep."""


class WindowBatches:
    """R-Net's or O-Net's batches: windows with a face, and mined ones without, those that still fool the net most.

    overlaps: IoU of a mined box with a face below which it shows none, and from which it shows that face.
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
        self._photos, self._mined, self._size, self._seed = photos, mined, size, seed
        self._side, self._context = (R_SIZE, R_CONTEXT) if net == "rnet" else (O_SIZE, O_CONTEXT)
        self._frames = anchors(mined.boxes)
        self._faces, self._weights = face_weights(photos)
        self._without = np.nonzero(mined.overlap < overlaps[0])[0]
        self._near: dict[tuple[int, int], list[int]] = {}
        for k in np.nonzero(mined.overlap >= overlaps[1])[0]:
            self._near.setdefault((int(mined.photo[k]), int(mined.face[k])), []).append(int(k))
        self.state = torch.from_numpy(mined.scores[self._without].astype(np.float64))  # face score of each
        # Without a single mined window (a perfect net before), every window shows a face.
        self._with = size if not len(self._without) else round(size * POSITIVES)
        self._drawn = np.zeros((0, 0), np.intp)

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Draws the windows without a face, by the scores that the net gave them last."""
        rng = np.random.default_rng((self._seed, epoch))
        weights = np.maximum(self.state.numpy(), EASIEST)
        shape = (steps, self._size - self._with)
        self._drawn = (
            rng.choice(len(self._without), shape, p=weights / weights.sum()) if shape[1] else np.zeros(shape, int)
        )

    def batch(self, epoch: int, step: int) -> Arrays:
        """(N, S, S, 3) pixels, those with a face first; (N, 4) box numbers; (N, 5, 2) landmarks; nan where none."""
        rng = np.random.default_rng((self._seed, epoch, step))
        samples = []
        for _ in range(self._with):
            i, j = (int(v) for v in self._faces[rng.choice(len(self._faces), p=self._weights)])
            near = self._near.get((i, j))
            if near and rng.random() < FROM_MINED:
                frame = self._frames[near[rng.integers(len(near))]]
            else:
                frame = anchors(self._photos[i].boxes[j][None])[0]
                shift, scale = rng.normal(0, JITTER[0], 2) * frame[2], math.exp(rng.normal(0, JITTER[1]))
                frame = np.array([*(frame[:2] + shift), frame[2] * scale], np.float32)
            samples.append(window(self._photos[i], frame, j, self._context, self._side, rng))
        for k in self._without[self._drawn[step]]:
            photo = self._photos[self._mined.photo[k]]
            samples.append(window(photo, self._frames[k], None, self._context, self._side, rng))
        pixels, numbers, points = zip(*samples, strict=True)
        return np.stack(pixels), np.stack(numbers), np.stack(points)

    def loss(self, outputs: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Cross entropy of all; box loss of the windows with a face; smooth L1 of the landmarks that are known."""
        numbers, points = targets
        face = torch.zeros(len(outputs))
        face[: self._with] = 1
        parts = {
            "face": 2 * F.binary_cross_entropy_with_logits(outputs[:, 0], face),
            "box": box_loss(outputs[: self._with, 1:5], numbers[: self._with]).mean(),
        }
        if outputs.shape[1] > 5:
            known = ~torch.isnan(points[: self._with])
            found = outputs[: self._with, 5:].reshape(-1, 5, 2)
            zero = outputs.sum() * 0
            miss = F.smooth_l1_loss(found[known], points[: self._with][known], beta=0.05) if known.any() else zero
            parts["landmarks"] = 2 * miss
        return parts

    def learned(self, step: int, outputs: Tensor) -> None:
        """Keeps what score each window without a face got: half of it counts, half of the score before."""
        drawn = self._drawn[step]
        if len(drawn):
            scores = torch.sigmoid(outputs[self._with :, 0]).double()
            self.state[drawn] = (self.state[drawn] + scores) / 2
