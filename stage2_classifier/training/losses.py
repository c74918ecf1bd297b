"""Training losses: cross entropy and focal loss, with optional class weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage2_classifier.config import TrainConfig
from stage2_classifier.heads import Heads
from stage2_classifier.training.joint_loss import Distillation, JointLoss

# Cui et al. 2019 choose beta by cross-validation among 0.9, 0.99, 0.999 and 0.9999; 0.999 suits some thousand crops.
EFFECTIVE_BETA = 0.999


class FocalLoss(nn.Module):
    """Focal loss, -(1 - p)^gamma log p of the true class (Lin et al. 2017, "Focal Loss for Dense Object Detection").

    Args:
        gamma: how strongly easy crops are weighed down.
        weight: (C,) class weights or None; with weights, a batch's mean is weighted as in nn.CrossEntropyLoss.
    """

    weight: Tensor | None

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (N, C) and class indices (N,)."""
        log_p = F.log_softmax(logits, dim=1).gather(1, targets[:, None]).squeeze(1)  # (N,)
        loss = -((1 - log_p.exp()) ** self.gamma) * log_p
        if self.weight is None:
            return loss.mean()
        weight = self.weight[targets]
        return (weight * loss).sum() / weight.sum()


def class_weights(kind: str, counts: Sequence[int]) -> Tensor | None:
    """Return float32 (C,) loss weights with mean 1 over the classes that occur; an absent class has weight 0.

    `kind` is none (the result is None), inverse (1 / n), or effective: (1 - beta) / (1 - beta^n), the inverse effective
    number of samples (Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples"). `counts` are n, the
    training crops of each class.
    """
    if kind == "none":
        return None
    n = torch.tensor(counts, dtype=torch.float64)
    size = n if kind == "inverse" else (1 - EFFECTIVE_BETA**n) / (1 - EFFECTIVE_BETA)
    weights = torch.where(n > 0, 1 / size.clamp(min=1), 0.0)
    return (weights / weights[n > 0].mean()).float()


def build_loss(config: TrainConfig, class_counts: Sequence[int], offset_sources: int = 0) -> JointLoss:
    """Return the loss that `config` names.

    Args:
        config: the settings.
        class_counts: training crops of each class, in class order.
        offset_sources: number of sources whose box edges are learned through an offset.
    """
    weight = class_weights(config.class_weights, class_counts)
    class_loss: nn.Module = nn.CrossEntropyLoss(weight, label_smoothing=config.label_smoothing)
    if config.loss == "focal":
        class_loss = FocalLoss(config.focal_gamma, weight)
    heads = heads_of(config, len(class_counts))
    distillation = Distillation(config.distill_share, config.distill_temperature) if config.teacher else None
    return JointLoss(class_loss, heads, config.box_loss, offset_sources if heads.has_box else 0, distillation)


def heads_of(config: TrainConfig, classes: int) -> Heads:
    """Return the outputs that `config` wants of a network of `classes` classes."""
    return Heads(classes, has_objectness=config.hard_negatives > 0, has_box=config.box_head)
