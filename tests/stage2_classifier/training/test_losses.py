"""Losses against hand-worked values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import CrossEntropyLoss
from torch.nn.functional import cross_entropy

from stage2_classifier.config import TrainConfig
from stage2_classifier.heads import Heads
from stage2_classifier.training.losses import EFFECTIVE_BETA, FocalLoss, build_loss, class_weights, heads_of


def test_focal_loss_of_two_crops_by_hand() -> None:
    # Probabilities of the true classes are 0.8 and 0.25 (softmax of log-probabilities is the probabilities).
    logits = torch.tensor([[0.8, 0.2], [0.75, 0.25]]).log()
    expected = (0.2**2 * -math.log(0.8) + 0.75**2 * -math.log(0.25)) / 2
    assert FocalLoss(2.0)(logits, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-5)


def test_weighted_focal_loss_divides_by_the_weights() -> None:
    logits = torch.tensor([[0.8, 0.2], [0.75, 0.25]]).log()
    expected = (1 * 0.2 * -math.log(0.8) + 3 * 0.75 * -math.log(0.25)) / 4
    loss = FocalLoss(1.0, torch.tensor([1.0, 3.0]))(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 2**31), st.booleans())
def test_focal_loss_with_gamma_zero_is_cross_entropy(seed: int, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(7, 3, generator=generator)
    targets = torch.randint(3, (7,), generator=generator)
    weight = torch.rand(3, generator=generator) + 0.1 if weighted else None
    torch.testing.assert_close(FocalLoss(0.0, weight)(logits, targets), cross_entropy(logits, targets, weight))


def test_inverse_weights_are_proportional_to_one_over_count() -> None:
    weights = class_weights("inverse", [100, 50, 25])
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([3 / 7, 6 / 7, 12 / 7]))


def test_effective_weights_follow_the_paper() -> None:
    weights = class_weights("effective", [2000, 100])
    assert weights is not None
    ratio = (1 - EFFECTIVE_BETA**2000) / (1 - EFFECTIVE_BETA**100)
    assert (weights[1] / weights[0]).item() == pytest.approx(ratio, rel=1e-5)
    assert weights.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_an_absent_class_has_no_weight(kind: str) -> None:
    weights = class_weights(kind, [10, 0, 10])
    assert weights is not None and weights.tolist() == pytest.approx([1, 0, 1])


def test_build_loss_follows_the_config() -> None:
    smoothed = build_loss(TrainConfig(label_smoothing=0.2), [1, 1, 1])
    assert smoothed.heads == Heads(3)
    logits = torch.tensor([[0.7, 0.2, 0.1]]).log()
    target = [0.8 + 0.2 / 3, 0.2 / 3, 0.2 / 3]
    expected = -sum(t * math.log(p) for t, p in zip(target, (0.7, 0.2, 0.1), strict=True))
    assert smoothed(logits, torch.tensor([0]), torch.zeros(1, 4)).item() == pytest.approx(expected, rel=1e-5)
    focal = build_loss(TrainConfig(loss="focal", label_smoothing=0, focal_gamma=1.5), [1, 1, 1])
    assert isinstance(focal.criterion, FocalLoss) and focal.criterion.gamma == 1.5


def test_outputs_follow_the_config() -> None:
    assert heads_of(TrainConfig(), 3) == Heads(3)
    assert heads_of(TrainConfig(hard_negatives=0.25), 3) == Heads(3, has_objectness=True)
    assert heads_of(TrainConfig(hard_negatives=0.25, box_head=True), 2) == Heads(2, has_objectness=True, has_box=True)
    weighted = build_loss(TrainConfig(hard_negatives=0.25, class_weights="inverse"), [30, 10])
    assert weighted.heads == Heads(2, has_objectness=True)
    assert isinstance(weighted.criterion, CrossEntropyLoss) and weighted.criterion.weight is not None
    assert weighted.criterion.weight.tolist() == pytest.approx([0.5, 1.5])
