"""The joint loss worked by hand: classes, objectness and box, several sources, and teachers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stage2_classifier.heads import Heads
from stage2_classifier.training.joint_loss import (
    BOX_BETA,
    BOX_WEIGHT,
    FACE_SMOOTHING,
    FACE_WEIGHT,
    GIOU_L1_WEIGHT,
    GIOU_WEIGHT,
    Distillation,
    JointLoss,
    TeacherTargets,
)

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


def test_a_label_says_nothing_on_classes_that_the_annotators_did_not_use() -> None:
    """The second face's annotators knew the first two classes alone: its label is one of two."""
    heads = Heads(3, has_objectness=True)
    outputs = torch.tensor([[1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 3.0, 0.0]], requires_grad=True)
    targets, deltas = torch.tensor([0, 1]), torch.zeros(2, 4)
    annotated_classes = torch.tensor([[True, True, True], [True, True, False]])
    loss = JointLoss(nn.CrossEntropyLoss(), heads)(outputs, targets, deltas, None, annotated_classes)
    of_three = math.log(math.exp(1) + math.exp(2) + math.exp(3)) - 1
    of_two = math.log(math.exp(1) + math.exp(2)) - 2
    faces = FACE_WEIGHT * cross_entropy(0.5, YES)
    assert loss.item() == pytest.approx((of_three + of_two) / 2 + faces, rel=1e-5)
    loss.backward()
    assert outputs.grad is not None
    assert (outputs.grad[0, :3] != 0).all()
    assert outputs.grad[1, 2].item() == 0
    assert outputs.grad[1, 1].item() == pytest.approx(-outputs.grad[1, 0].item()) and outputs.grad[1, 1].item() < 0


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.1]))
def test_where_the_annotators_used_all_classes_nothing_changes(seed: int, smoothing: float) -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
    loss = JointLoss(nn.CrossEntropyLoss(label_smoothing=smoothing), Heads(3))
    arguments = logits, torch.tensor([0, 1, 2, 0, 1, 2]), torch.full((6, 4), torch.nan)
    assert loss(*arguments, None, torch.ones(6, 3, dtype=torch.bool)).item() == loss(*arguments).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_absent_class_has_no_gradient_with_label_smoothing(smoothing: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 9.0]], requires_grad=True)
    loss = JointLoss(nn.CrossEntropyLoss(label_smoothing=smoothing), Heads(3))
    loss(logits, torch.tensor([1]), torch.zeros(1, 4), None, torch.tensor([[True, True, False]])).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert logits.grad[0, 2].item() == 0 and logits.grad[0, 1].item() < 0 < logits.grad[0, 0].item()


BOX_ONLY = Heads(2, has_box=True)


def box_part(loss: JointLoss, deltas: list[list[float]], wanted: list[list[float]], edges: list[int]) -> torch.Tensor:
    """Return the box's part of the loss for outputs that know the class."""
    outputs = torch.cat([torch.tensor([[50.0, -50.0]] * len(deltas)), torch.tensor(deltas)], dim=1)
    return loss(outputs, torch.zeros(len(deltas), dtype=torch.int64), torch.tensor(wanted), torch.tensor(edges))


def test_giou_by_hand() -> None:
    loss = JointLoss(nn.CrossEntropyLoss(), BOX_ONLY, "giou")
    # Unit squares that overlap by half: IoU 1/3, and they fill the smallest box around both. Apart by a whole side:
    # IoU 0, and a third of the box around both is empty.
    for shift, giou in ((0.5, 1 / 3), (2.0, -1 / 3)):
        found = box_part(loss, [[shift, 0.0, 0.0, 0.0]], [[0.0] * 4], [0]).item()
        smooth_l1 = (shift - BOX_BETA / 2) / 4
        assert found == pytest.approx(GIOU_WEIGHT * (1 - giou) + GIOU_L1_WEIGHT * smooth_l1, rel=1e-5)
    # Half as wide, half as high: a quarter of the area.
    half = math.log(0.5)
    found = box_part(loss, [[0.0, 0.0, half, half]], [[0.0] * 4], [0]).item()
    smooth_l1 = 2 * (-half - BOX_BETA / 2) / 4
    assert found == pytest.approx(GIOU_WEIGHT * 3 / 4 + GIOU_L1_WEIGHT * smooth_l1, rel=1e-5)
    assert box_part(loss, [[0.1, 0.2, 0.3, -0.1]], [[0.1, 0.2, 0.3, -0.1]], [0]).item() == pytest.approx(0, abs=1e-5)
    outputs = torch.tensor([[0.0, 0.0, 9.0, 9.0, 99.0, 99.0]], requires_grad=True)
    loss(outputs, torch.tensor([0]), torch.zeros(1, 4)).backward()
    assert outputs.grad is not None and torch.isfinite(outputs.grad).all()


def test_an_offset_moves_what_is_compared_and_is_mirrored_with_the_view() -> None:
    loss = JointLoss(nn.CrossEntropyLoss(), BOX_ONLY, "smooth_l1", offsets=2)
    with torch.no_grad():
        loss.offsets.copy_(torch.tensor([[9.0, 9.0, 9.0, 9.0], [0.2, 0.1, 0.3, 0.4]]))
    seen = [[0.0] * 4] * 3
    wanted = [[0.0] * 4, [0.2, 0.1, 0.3, 0.4], [-0.2, 0.1, 0.3, 0.4]]
    assert box_part(loss, seen, wanted, [0, 2, -2]).item() == pytest.approx(0, abs=1e-6)
    assert box_part(loss, seen, wanted, [0, 2, 2]).item() > 0.1
    assert box_part(loss, seen, wanted, [0, 0, 0]).item() > 0.1
    # Without such a face in a batch, and without any face, the offsets have a gradient of zero, not none.
    for targets in (torch.zeros(3, dtype=torch.int64), torch.full((3,), 2)):
        loss.offsets.grad = None
        loss(torch.zeros(3, 6), targets, torch.ones(3, 4), torch.zeros(3, dtype=torch.int64)).backward()
        assert loss.offsets.grad is not None and loss.offsets.grad.tolist() == [[0.0] * 4] * 2


@pytest.mark.slow
def test_offsets_take_up_what_a_source_draws_differently() -> None:
    """Two sources see the same faces; the second draws its boxes lower and wider."""
    generator = torch.Generator().manual_seed(0)
    net, loss = nn.Linear(3, 6), JointLoss(nn.CrossEntropyLoss(), BOX_ONLY, "giou", offsets=1)
    optimizer = torch.optim.Adam([*net.parameters(), loss.offsets], lr=0.02)
    rule = torch.tensor([0.1, 0.15, 0.2, 0.0])
    for _ in range(600):
        seen = torch.rand(64, 3, generator=generator)
        true = torch.cat([seen[:, :2] - 0.5, torch.zeros(64, 2)], dim=1)
        edges = torch.randint(-1, 2, (64,), generator=generator)
        moved = rule * torch.stack([edges.sign().float(), *[edges.abs().float()] * 3], dim=1)
        optimizer.zero_grad()
        loss(net(seen), torch.zeros(64, dtype=torch.int64), true + moved, edges).backward()
        optimizer.step()
    assert loss.offsets[0].tolist() == pytest.approx(rule.tolist(), abs=0.02)
    seen = torch.rand(200, 3, generator=generator)
    assert (net(seen)[:, 2:4] - (seen[:, :2] - 0.5)).abs().mean() < 0.02  # the net keeps the first source's edges


def test_faces_without_class_or_edges_teach_the_rest() -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    deltas = DELTAS.clone()
    deltas[0] = torch.nan
    loss = JointLoss(nn.CrossEntropyLoss(), ALL)(outputs, torch.tensor([0, -1, 2]), deltas)
    box = (0.02**2 / (2 * BOX_BETA)) / 4  # of the second face alone
    assert loss.item() == pytest.approx(math.log(4 / 3) + BOX_WEIGHT * box + FACE_WEIGHT * FACE_LOSS, rel=1e-5)
    loss.backward()
    assert outputs.grad is not None and torch.isfinite(outputs.grad).all()
    assert outputs.grad[1, :2].tolist() == [0, 0] and outputs.grad[1, 2] < 0 and outputs.grad[1, 6] > 0
    assert outputs.grad[0, 3:].tolist() == [0] * 4 and (outputs.grad[0, :2] != 0).all()


def test_distillation_by_hand() -> None:
    share, temperature = 0.25, 2.0
    probs = torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.9, 0.1]])
    faces = torch.tensor([0.9, 0.8, 0.3])
    loss = JointLoss(
        nn.CrossEntropyLoss(), Heads(2, has_objectness=True), distillation=Distillation(share, temperature)
    )
    targets = torch.tensor([0, -1, 2])
    found = loss(OUTPUTS[:, :3], targets, DELTAS, teacher=TeacherTargets(probs, faces)).item()
    # At temperature 2 the logits log 3 and 0 become probabilities root 3 : 1. The hard negative teaches no class.
    own = [math.sqrt(3) / (math.sqrt(3) + 1), 1 / (math.sqrt(3) + 1)]
    divergence = sum(
        sum(p * math.log(p / q) for p, q in zip(row, own, strict=True)) for row in ([0.6, 0.4], [0.5, 0.5])
    ) / 2  # fmt: skip
    wanted = [(1 - share) * hard + share * soft for hard, soft in zip((YES, YES, NO), (0.9, 0.8, 0.3), strict=True)]
    face = sum(cross_entropy(p, w) for p, w in zip((4 / 5, 1 / 2, 1 / 5), wanted, strict=True)) / 3
    by_hand = (1 - share) * math.log(4 / 3) + share * temperature**2 * divergence + FACE_WEIGHT * face
    assert found == pytest.approx(by_hand, rel=1e-5)
    # A teacher that agrees, of classes alone.
    same = TeacherTargets((OUTPUTS[:, :2] / temperature).softmax(dim=1), None)
    found = loss(OUTPUTS[:, :3], targets, DELTAS, teacher=same).item()
    assert found == pytest.approx((1 - share) * math.log(4 / 3) + FACE_WEIGHT * FACE_LOSS, rel=1e-5)
