"""The meaning of a network's outputs: class logits, then the logit of being a face, then the box deltas."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

# Label smoothing of "is a face": some of stage 1's false alarms are faces that the annotators left out.
FACE_SMOOTHING = 0.02
FACE_WEIGHT = 0.5
# Beta of smooth L1, in box deltas: errors below a twentieth of the face's side count by their square.
BOX_BETA = 0.05
BOX_WEIGHT = 4.0


@dataclass(frozen=True)
class Heads:
    """The outputs of a network."""

    classes: int  # number of classes; each has a logit
    has_objectness: bool = False  # whether one more output is the logit of being a face
    has_box: bool = False  # whether four more outputs are box deltas

    @property
    def outputs(self) -> int:
        """Number of outputs per crop."""
        return self.classes + int(self.has_objectness) + 4 * int(self.has_box)

    def class_logits(self, outputs: Tensor) -> Tensor:
        """(N, outputs) -> (N, C)."""
        return outputs[:, : self.classes]

    def face_logit(self, outputs: Tensor) -> Tensor:
        """(N, outputs) -> (N,); only with has_objectness."""
        return outputs[:, self.classes]

    def box_deltas(self, outputs: Tensor) -> Tensor:
        """(N, outputs) -> (N, 4) as in stage2_classifier.cropping; only with has_box."""
        return outputs[:, self.outputs - 4 :]


class JointLoss(nn.Module):
    """The class loss on faces, plus the losses of the objectness and box outputs.

    Args:
        criterion: (class logits (N, C), class indices (N,)) -> scalar.
        heads: the outputs of the network.
    """

    def __init__(self, criterion: nn.Module, heads: Heads) -> None:
        super().__init__()
        self.criterion, self.heads = criterion, heads

    def forward(self, outputs: Tensor, targets: Tensor, box_deltas: Tensor) -> Tensor:
        """outputs (N, heads.outputs), targets (N,) with `classes` for a hard negative, box_deltas (N, 4) -> scalar."""
        heads = self.heads
        if not heads.has_objectness and not heads.has_box:
            return self.criterion(outputs, targets)
        is_face = targets < heads.classes
        loss = outputs.sum() * 0.0  # a batch may hold no face
        if is_face.any():
            loss = loss + self.criterion(heads.class_logits(outputs)[is_face], targets[is_face])
            if heads.has_box:
                pred_deltas = heads.box_deltas(outputs)[is_face]
                loss = loss + BOX_WEIGHT * F.smooth_l1_loss(pred_deltas, box_deltas[is_face], beta=BOX_BETA)
        if heads.has_objectness:
            objectness = is_face.float() * (1 - 2 * FACE_SMOOTHING) + FACE_SMOOTHING
            loss = loss + FACE_WEIGHT * F.binary_cross_entropy_with_logits(heads.face_logit(outputs), objectness)
        return loss
