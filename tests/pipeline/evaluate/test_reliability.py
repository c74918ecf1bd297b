"""Reliability bins and the expected calibration error, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluate.metrics import Sample
from pipeline.evaluate.reliability import (
    Bin,
    Reliability,
    expected_calibration_error,
    reliability_bins,
    scores_and_correct,
)


def test_bins_and_error_by_hand() -> None:
    scores = np.array([0.1, 0.15, 0.3, 0.95, 1.0])
    correct = np.array([False, True, False, True, True])
    bins = reliability_bins(scores, correct)
    assert [(b.low, b.high, b.count, b.right) for b in bins] == [
        (0.1, 0.2, 2, 0.5),
        (0.3, 0.4, 1, 0),  # an edge belongs to the bin above it
        (0.9, 1.0, 2, 1),  # 1 belongs to the last bin
    ]
    assert [b.score for b in bins] == pytest.approx([0.125, 0.3, 0.975])
    # (2 * 0.375 + 1 * 0.3 + 2 * 0.025) / 5
    assert expected_calibration_error(bins) == pytest.approx(0.22)
    assert expected_calibration_error(reliability_bins(scores, correct, bins=1)) == pytest.approx(0.1)  # |0.5 - 0.6|


@pytest.mark.parametrize("k", range(10))
def test_each_tenth_opens_its_bin(k: int) -> None:
    (b,) = reliability_bins(np.array([k / 10]), np.array([True]))
    assert b.low == k / 10


def test_only_scores_from_the_floor_on_count() -> None:
    scores, correct = np.array([0.005, 0.5, 0.7]), np.array([False, True, True])
    part = Reliability.above(0.5, scores, correct)
    assert (part.floor, part.count) == (0.5, 2)
    assert part.bins == (Bin(0.5, 0.6, 1, 0.5, 1.0), Bin(0.7, 0.8, 1, 0.7, 1.0))
    assert part.ece == pytest.approx(0.4)
    assert Reliability.above(0.8, scores, correct) == Reliability(0.8, 0, None, ())


def test_a_detection_is_correct_on_a_free_face_of_its_class() -> None:
    face, other = (0, 0, 100, 100), (200, 0, 300, 100)
    photo = Sample(
        "a",
        np.array([face, other], np.float32),
        np.array([0, 1]),
        # Correct; the face is taken; the wrong class; too little overlap (IoU 0.4); correct.
        np.array([face, (1, 0, 100, 100), other, (200, 0, 300, 40), (200, 0, 300, 90)], np.float32),
        np.array([0.9, 0.8, 0.7, 0.6, 0.5]),
        np.array([0, 0, 0, 1, 1]),
    )
    scores, correct = scores_and_correct([photo], 2, 0.5)
    assert dict(zip(scores.tolist(), correct.tolist(), strict=True)) == {
        0.9: True,
        0.8: False,
        0.7: False,
        0.6: False,
        0.5: True,
    }
    assert dict(zip(*scores_and_correct([photo], 2, 0.4), strict=True))[0.6]  # at IoU 0.4 it matches, and comes first
    assert len(scores_and_correct([], 2, 0.5)[0]) == 0
