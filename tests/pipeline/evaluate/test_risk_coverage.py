"""What calling faces unsure brings, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluate.metrics import Sample
from pipeline.evaluate.risk_coverage import label_margins, risk_coverage


def photo(probs: list[list[float]], gt_labels: list[int], face_score: float = 0.8) -> Sample:
    """Return faces side by side, each with a box, and a false alarm far from all of them."""
    count = len(probs)
    boxes = np.array([(100 * i, 0, 100 * i + 50, 50) for i in range(count)], np.float32).reshape(-1, 4)
    alarm = np.array([(0, 500, 50, 550)], np.float32)
    class_scores = face_score * np.array([*probs, [0.5, 0.5, 0]])
    return Sample(
        "a",
        boxes,
        np.array(gt_labels),
        np.concatenate([boxes, alarm]),
        class_scores.max(axis=1),
        class_scores.argmax(axis=1),
        class_scores,
    )


# Margins 0.85, 0.35, 0.15 and 0.02; the second and the last have the wrong label.
FOUR = photo([[0.9, 0.05, 0.05], [0.6, 0.25, 0.15], [0.3, 0.45, 0.25], [0.3, 0.36, 0.34]], [0, 1, 1, 0])


def test_the_margin_is_of_class_probabilities_not_of_scores() -> None:
    found = photo([[0.7, 0.2, 0.1]], [0], face_score=0.1)
    assert label_margins(found).tolist() == pytest.approx([0.5, 0])  # the second is the false alarm
    one_class = Sample("a", [], [], [(0, 0, 9, 9)], [0.3], [0], [[0.3]])
    assert label_margins(one_class).tolist() == [1]
    zero = Sample("a", [], [], [(0, 0, 9, 9)], [0], [0], [[0.0, 0.0]])
    assert label_margins(zero).tolist() == [0]


def test_share_of_unsure_faces_and_wrong_labels_among_the_others() -> None:
    by_margin = {p.margin: p for p in risk_coverage([FOUR], 0.5, bundle_margin=0.36)}
    assert sorted(by_margin) == [0, 0.1, 0.2, 0.3, 0.36, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    values = {m: (p.unsure, p.unsure_share, p.wrong, p.wrong_share) for m, p in by_margin.items()}
    assert values[0] == (0, 0, 2, 0.5)
    assert values[0.1] == (1, 0.25, 1, pytest.approx(1 / 3))
    assert values[0.3] == (2, 0.5, 1, 0.5)
    assert values[0.36] == (3, 0.75, 0, 0)
    assert values[0.9] == (4, 1, 0, None)  # no face is sure
    assert {p.found for p in by_margin.values()} == {4}
    assert [m for m, p in by_margin.items() if p.own] == [0.36]


def test_a_bundle_margin_among_the_usual_ones_is_marked() -> None:
    marked = [t.margin for t in risk_coverage([FOUR], 0.5, bundle_margin=0.3) if t.own]
    assert (
        marked == [0.3] and len(risk_coverage([FOUR], 0.5, bundle_margin=0.3)) == len(risk_coverage([FOUR], 0.5)) == 10
    )


def test_faces_at_the_margin_are_sure() -> None:
    even = photo([[0.75, 0.25, 0]], [0], face_score=1)
    assert [t.unsure for t in risk_coverage([even], 0.5) if t.margin in (0.5, 0.6)] == [0, 1]


def test_without_class_scores_there_are_no_points() -> None:
    plain = Sample("b", [], [], [(0, 0, 9, 9)], [0.3], [0])
    assert risk_coverage([FOUR, plain], 0.5) == ()
    empty = risk_coverage([photo([], [])], 0.5)
    assert (empty[0].found, empty[0].unsure_share, empty[0].wrong_share) == (0, None, None)
