"""Anchors and box deltas worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stage1_faces.anchors import box_anchors, decode


def test_decode_by_hand() -> None:
    anchor = np.float32([[100, 50, 20], [0, 0, 8]])
    box_deltas = np.float32([[0.5, -0.25, math.log(2), math.log(0.5)], [0, 0, 0, 0]])
    # Centre (100 + 0.5 * 20, 50 - 0.25 * 20), sides 40 and 10.
    assert decode(anchor, box_deltas) == pytest.approx(np.float32([[90, 40, 130, 50], [-4, -4, 4, 4]]), abs=1e-4)
    assert decode(anchor[:0], box_deltas[:0]).shape == (0, 4)


def test_decode_bounds_the_sides() -> None:
    wild = decode(np.float32([[0, 0, 2], [0, 0, 2]]), np.float32([[0, 0, 1000, -1000], [0, 0, np.inf, -np.inf]]))
    assert wild[:, 2] == pytest.approx([math.exp(4)] * 2)
    assert wild[:, 3] == pytest.approx([math.exp(-4)] * 2)


def test_the_anchor_unit_is_the_longer_side_of_at_least_a_pixel() -> None:
    boxes = np.float32([[10, 20, 30, 25], [10, 20, 15, 60], [5, 5, 5.25, 5.5]])
    assert box_anchors(boxes) == pytest.approx(np.float32([[20, 22.5, 20], [12.5, 40, 40], [5.125, 5.25, 1]]))
    assert box_anchors(boxes[:0]).shape == (0, 3)
