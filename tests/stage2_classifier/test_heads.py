"""The meaning of a network's outputs."""

from __future__ import annotations

import pytest
import torch

from stage2_classifier.heads import Heads


@pytest.mark.parametrize(
    ("heads", "outputs"),
    [
        (Heads(3), 3),
        (Heads(3, has_objectness=True), 4),
        (Heads(3, has_box=True), 7),
        (Heads(3, has_objectness=True, has_box=True), 8),
    ],
)
def test_outputs_are_the_classes_objectness_and_box(heads: Heads, outputs: int) -> None:
    assert heads.outputs == outputs
    given = torch.arange(2 * outputs).reshape(2, outputs)
    assert heads.class_logits(given).tolist() == [[0, 1, 2], [outputs, outputs + 1, outputs + 2]]
    if heads.has_objectness:
        assert heads.face_logit(given).tolist() == [3, outputs + 3]
    if heads.has_box:
        assert heads.box_deltas(given).tolist() == [
            list(range(outputs - 4, outputs)), list(range(2 * outputs - 4, 2 * outputs)),
        ]  # fmt: skip
