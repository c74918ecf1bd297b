"""The loss of all outputs of a network together: class, face or not, and box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from common.boxes import BBOX_XFORM_CLIP
from stage2_classifier.heads import Heads

# Label smoothing of "is a face": some of stage 1's false alarms are faces that the annotators left out.
FACE_SMOOTHING = 0.02
# Weights of the losses other than the class loss, which has weight 1. They were chosen by hand, so that the losses are
# of similar size, and not tuned.
FACE_WEIGHT = 0.5
# Beta of smooth L1, in box deltas: errors below a twentieth of the face's side count by their square.
BOX_BETA = 0.05
BOX_WEIGHT = 4.0
# Weight of 1 - GIoU, as in DETR (Carion et al. 2020, "End-to-End Object Detection with Transformers").
GIOU_WEIGHT = 2.0
# Weight of smooth L1 next to it: a quarter of BOX_WEIGHT, for boxes whose IoU hardly changes with an edge.
GIOU_L1_WEIGHT = 1.0
# How far the logit of a class that the annotators did not use is below the highest one: a share of 1e-9. It is finite,
# so that label smoothing adds a constant, not infinity.
ABSENT_MARGIN = 20.0


@dataclass(frozen=True)
class Distillation:
    """How much a teacher's outputs count (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network")."""

    share: float  # of the teacher in the loss; the rest is the labels'
    temperature: float  # divides the class logits of both


class TeacherTargets(NamedTuple):
    """The outputs of one or more teachers for a batch, averaged."""

    class_probs: Tensor  # (N, C), softmax of the logits over the temperature
    face_probs: Tensor | None  # (N,), or None where no teacher tells faces from false alarms


class JointLoss(nn.Module):
    """The class loss on faces, plus the losses of the objectness and box outputs.

    Args:
        criterion: (class logits (N, C), class indices (N,)) -> scalar.
        heads: the outputs of the network.
        box_loss: "smooth_l1", or "giou": 1 - GIoU (Rezatofighi et al. 2019) plus a little smooth L1.
        offsets: number of sources whose box edges are learned through an offset. The parameter `offsets` (K, 4) is
            trained along: the network's deltas plus a source's row are compared with that source's boxes.
        distillation: how much teachers count; None without teachers.
    """

    def __init__(
        self,
        criterion: nn.Module,
        heads: Heads,
        box_loss: str = "smooth_l1",
        offsets: int = 0,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        self.criterion, self.heads, self.box_loss, self.distillation = criterion, heads, box_loss, distillation
        self.offsets = nn.Parameter(torch.zeros(offsets, 4))

    def forward(
        self,
        outputs: Tensor,
        targets: Tensor,
        box_deltas: Tensor,
        edge_offsets: Tensor | None = None,
        annotated_classes: Tensor | None = None,
        teacher: TeacherTargets | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            outputs: (N, heads.outputs).
            targets: (N,) class indices: `classes` for a hard negative, below 0 for a face whose class is not learned.
            box_deltas: (N, 4); NaN where the edges are not learned.
            edge_offsets: (N,) 1 + the row of `offsets`, negative in a mirrored view, 0 for none; None: all 0.
            annotated_classes: bool (N, C): the classes that each face's annotators used. The label is compared with
                these alone, and says nothing on the others; None: all.
            teacher: the teachers' outputs.
        """
        heads = self.heads
        if not heads.has_objectness and not heads.has_box and teacher is None:
            return self.criterion(_mask_absent_classes(outputs, annotated_classes), targets)
        is_face = targets < heads.classes
        known = is_face & (targets >= 0)
        label_share = 1.0 if teacher is None or self.distillation is None else 1 - self.distillation.share
        loss = outputs.sum() * 0.0  # a batch may hold no face
        if known.any():
            logits = _mask_absent_classes(heads.class_logits(outputs), annotated_classes)
            loss = loss + label_share * self.criterion(logits[known], targets[known])
        if heads.has_box:
            loss = loss + self._box_loss(outputs, box_deltas, edge_offsets, is_face)
        if heads.has_objectness:
            objectness = is_face.float() * (1 - 2 * FACE_SMOOTHING) + FACE_SMOOTHING
            if teacher is not None and teacher.face_probs is not None:
                objectness = label_share * objectness + (1 - label_share) * teacher.face_probs
            loss = loss + FACE_WEIGHT * F.binary_cross_entropy_with_logits(heads.face_logit(outputs), objectness)
        if teacher is not None and is_face.any():
            loss = loss + self._class_distillation(heads.class_logits(outputs)[is_face], teacher.class_probs[is_face])
        return loss

    def _box_loss(self, outputs: Tensor, box_deltas: Tensor, edge_offsets: Tensor | None, is_face: Tensor) -> Tensor:
        """Return the loss of the faces whose edges are learned."""
        learned = is_face & ~box_deltas.isnan().any(dim=1)
        loss = self.offsets.sum() * 0.0  # so that the offsets always have a gradient, in each process
        if not learned.any():
            return loss
        predicted, wanted = self.heads.box_deltas(outputs)[learned], box_deltas[learned]
        if len(self.offsets) and edge_offsets is not None:
            predicted = predicted + self._offsets_of(edge_offsets[learned])
        smooth_l1 = F.smooth_l1_loss(predicted, wanted, beta=BOX_BETA)
        if self.box_loss == "smooth_l1":
            return loss + BOX_WEIGHT * smooth_l1
        giou = generalized_box_iou_loss(_unit_boxes(predicted.float()), _unit_boxes(wanted), reduction="mean")
        return loss + GIOU_WEIGHT * giou + GIOU_L1_WEIGHT * smooth_l1

    def _offsets_of(self, edge_offsets: Tensor) -> Tensor:
        """Return the offset (N, 4) of each view: in a mirrored one, the shift in x changes its sign."""
        rows = torch.cat([torch.zeros_like(self.offsets[:1]), self.offsets])[edge_offsets.abs()]
        signs = torch.ones_like(rows)
        signs[:, 0] = torch.where(edge_offsets < 0, -1.0, 1.0)
        return rows * signs

    def _class_distillation(self, logits: Tensor, teacher_probs: Tensor) -> Tensor:
        """Return the teachers' part of the class loss; T^2 keeps its gradients as large as those of the labels."""
        assert self.distillation is not None, "a teacher without a share"
        t = self.distillation.temperature
        divergence = F.kl_div(F.log_softmax(logits / t, dim=1), teacher_probs, reduction="batchmean")
        return self.distillation.share * t**2 * divergence


def _mask_absent_classes(logits: Tensor, annotated_classes: Tensor | None) -> Tensor:
    """Return logits (N, C) that leave no probability, and no gradient, to classes that the annotators did not use."""
    if annotated_classes is None:
        return logits
    lowest = logits.detach().amax(dim=1, keepdim=True) - ABSENT_MARGIN
    return torch.where(annotated_classes, logits, lowest)


def _unit_boxes(deltas: Tensor) -> Tensor:
    """Return the boxes (N, 4), xyxy in units of the window without margins, of deltas (N, 4) as in cropping."""
    halves = deltas[:, 2:].clamp(-BBOX_XFORM_CLIP, BBOX_XFORM_CLIP).exp() / 2
    return torch.cat([deltas[:, :2] - halves, deltas[:, :2] + halves], dim=1)
