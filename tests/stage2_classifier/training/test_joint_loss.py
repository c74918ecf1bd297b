"""The joint loss worked by hand: classes, objectness and box, several sources, and teachers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stage2_classifier.heads import Heads
from stage2_classifier.training.joint_loss import BOX_BETA, BOX_WEIGHT, FACE_SMOOTHING, FACE_WEIGHT, JointLoss

ALL = Heads(2, has_objectness=True, has_box=True)
# Class logits, face logit, box deltas: a face of class 0, one of class 1, and a hard negative.
OUTPUTS = torch.tensor(
    [
        [math.log(3), 0.0, math.log(4), 0.0, 0.1, 0.0, 0.0],
        [math.log(3), 0.0, 0.0, 0.0, 0.0, 0.0, 0.02],
        [-50.0, 50.0, -math.log(4), 9.0, 9.0, 9.0, 9.0],
    ]
)
TARGETS = torch.tensor([0, 1, 2])
DELTAS = torch.zeros(3, 4)
# The two faces have probabilities 3/4 and 1/4 of their classes.
CLASS_LOSS = -(math.log(3 / 4) + math.log(1 / 4)) / 2
# Of eight deltas, one is off by more than beta and one by less.
BOX_LOSS = ((0.1 - BOX_BETA / 2) + 0.02**2 / (2 * BOX_BETA)) / 8


def cross_entropy(p: float, wanted: float) -> float:
    return -(wanted * math.log(p) + (1 - wanted) * math.log(1 - p))


YES, NO = 1 - FACE_SMOOTHING, FACE_SMOOTHING
FACE_LOSS = (cross_entropy(4 / 5, YES) + cross_entropy(1 / 2, YES) + cross_entropy(1 / 5, NO)) / 3


def test_joint_loss_by_hand() -> None:
    loss = JointLoss(nn.CrossEntropyLoss(), ALL)(OUTPUTS, TARGETS, DELTAS)
    assert loss.item() == pytest.approx(CLASS_LOSS + BOX_WEIGHT * BOX_LOSS + FACE_WEIGHT * FACE_LOSS, rel=1e-5)


def test_without_box_outputs_deltas_do_not_count() -> None:
    heads = Heads(2, has_objectness=True)
    loss = JointLoss(nn.CrossEntropyLoss(), heads)(OUTPUTS[:, :3], TARGETS, DELTAS + 7)
    assert loss.item() == pytest.approx(CLASS_LOSS + FACE_WEIGHT * FACE_LOSS, rel=1e-5)


def test_hard_negatives_teach_neither_classes_nor_boxes() -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    JointLoss(nn.CrossEntropyLoss(), ALL)(outputs, TARGETS, DELTAS).backward()
    assert outputs.grad is not None
    face, negative = outputs.grad[:2], outputs.grad[2]
    assert negative[[0, 1, 3, 4, 5, 6]].tolist() == [0] * 6 and negative[2] > 0  # the face logit must fall
    assert (face[:, :2] != 0).all() and (face[:, 2] < 0).all() and face[0, 4] > 0


def test_a_batch_without_faces_has_a_loss() -> None:
    outputs = OUTPUTS[2:].clone().requires_grad_()
    loss = JointLoss(nn.CrossEntropyLoss(), ALL)(outputs, TARGETS[2:], DELTAS[2:])
    assert loss.item() == pytest.approx(FACE_WEIGHT * cross_entropy(1 / 5, NO), rel=1e-5)
    loss.backward()
    assert outputs.grad is not None and torch.isfinite(outputs.grad).all()


def test_a_batch_of_faces_alone_has_all_parts() -> None:
    loss = JointLoss(nn.CrossEntropyLoss(), ALL)(OUTPUTS[:2], TARGETS[:2], DELTAS[:2])
    faces = (cross_entropy(4 / 5, YES) + cross_entropy(1 / 2, YES)) / 2
    assert loss.item() == pytest.approx(CLASS_LOSS + BOX_WEIGHT * BOX_LOSS + FACE_WEIGHT * faces, rel=1e-5)


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.1]))
def test_without_other_outputs_it_is_the_criterion(seed: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, targets = torch.randn(6, 3, generator=generator), torch.randint(3, (6,), generator=generator)
    criterion = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]), label_smoothing=smoothing)
    loss = JointLoss(criterion, Heads(3))(logits, targets, torch.full((6, 4), torch.nan))
    assert loss.item() == criterion(logits, targets).item()
