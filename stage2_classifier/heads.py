"""What a network's outputs mean: class logits first, then whether it is a face at all, then where the face lies."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

# Soft targets for "is a face": stage 1's false alarms hold faces that the annotators left out.
FACE_SMOOTHING = 0.02
FACE_WEIGHT = 0.5
# Smooth L1 in the box's units: errors below a twentieth of the face's side count by their square.
BOX_BETA = 0.05
BOX_WEIGHT = 4.0


@dataclass(frozen=True)
class Heads:
    """classes: how many. judges: one more output, the log odds of being a face. boxes: four more, box numbers."""

    classes: int
    has_objectness: bool = False
    has_box: bool = False

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for a crop."""
        return self.classes + int(self.has_objectness) + 4 * int(self.has_box)

    def class_logits(self, outputs: Tensor) -> Tensor:
        """(N, outputs) -> (N, C)."""
        return outputs[:, : self.classes]

    def face_logit(self, outputs: Tensor) -> Tensor:
        """(N, outputs) -> (N,); only where it judges."""
        return outputs[:, self.classes]

    def box_deltas(self, outputs: Tensor) -> Tensor:
        """(N, outputs) -> (N, 4) as stage2_classifier.cropping has them; only where it gives boxes."""
        return outputs[:, self.outputs - 4 :]


class JointLoss(nn.Module):
    """The class loss on faces, and what the other outputs add to it.

    criterion: (class logits (N, C), class indices (N,)) -> scalar.
    """

    def __init__(self, criterion: nn.Module, heads: Heads) -> None:
        super().__init__()
        self.criterion, self.heads = criterion, heads

    def forward(self, outputs: Tensor, targets: Tensor, numbers: Tensor) -> Tensor:
        """outputs (N, heads.outputs), targets (N,) with `classes` for a reject, box numbers (N, 4) -> scalar."""
        heads = self.heads
        if not heads.has_objectness and not heads.has_box:
            return self.criterion(outputs, targets)
        face = targets < heads.classes
        loss = outputs.sum() * 0.0  # a batch may hold no face
        if face.any():
            loss = loss + self.criterion(heads.class_logits(outputs)[face], targets[face])
            if heads.has_box:
                off = F.smooth_l1_loss(heads.box_deltas(outputs)[face], numbers[face], beta=BOX_BETA)
                loss = loss + BOX_WEIGHT * off
        if heads.has_objectness:
            wanted = face.float() * (1 - 2 * FACE_SMOOTHING) + FACE_SMOOTHING
            loss = loss + FACE_WEIGHT * F.binary_cross_entropy_with_logits(heads.face_logit(outputs), wanted)
        return loss
