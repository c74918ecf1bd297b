"""The judge: both stages' scores, temperature, boxes and what needs not be asked, worked by hand."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from pipeline.inference.fusion import ScoreFusion

SIZE = (100, 80)


def odds(p: float) -> float:
    return math.log(p / (1 - p))


def chance(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_a_passive_judge_changes_nothing() -> None:
    judge = ScoreFusion()
    assert judge.is_identity
    scores, probs = floats(0.0, 0.3, 1.0), floats(0.7, 0.3).reshape(1, 2)
    boxes, numbers = floats(1, 2, 30, 40).reshape(1, 4), np.ones((1, 4), np.float32)
    assert judge.face_scores(scores, floats(5, -5, 0)).tolist() == scores.tolist()
    assert judge.face_scores(scores, None).tolist() == scores.tolist()
    assert judge.class_probs(probs).tolist() == probs.tolist()
    assert judge.boxes(boxes, numbers, 0.2, SIZE).tolist() == boxes.tolist()
    assert judge.min_detector_score_for(0.4) == 0.4 and judge.min_detector_score_for(0) == 0


@pytest.mark.parametrize("change", [{"stage1": 1.1}, {"stage2": 0.1}, {"intercept": -0.1}])
def test_a_weight_makes_it_active(change: dict[str, float]) -> None:
    assert not ScoreFusion(**change).is_identity


@pytest.mark.parametrize("change", [{"temperature": 2}, {"box_share": 0.5}, {"floor": 0.1}, {"mirrored": True}])
def test_what_leaves_the_face_score_alone_is_passive(change: dict[str, Any]) -> None:
    assert ScoreFusion(**change).is_identity
    assert ScoreFusion(**change).face_scores(floats(0.4), floats(3)).tolist() == floats(0.4).tolist()


def test_face_scores_by_hand() -> None:
    judge = ScoreFusion(detector_weight=0.5, classifier_weight=2.0, intercept=-1.0, max_face_logit=3.0)
    given = judge.face_scores(floats(0.5, 0.9, 0.9, 0.9), floats(0.0, 0.25, -1.5, 7.0))
    assert given.dtype == np.float32
    assert given == pytest.approx(
        [
            chance(-1),
            chance(0.5 * odds(0.9) + 2 * 0.25 - 1),
            chance(0.5 * odds(0.9) - 2 * 1.5 - 1),
            chance(0.5 * odds(0.9) + 2 * 3 - 1),  # 3 is the most that stage 2 may say
        ],
        rel=1e-5,
    )
    # A classifier without verdicts leaves the weights of stage 1.
    assert judge.face_scores(floats(0.9), None) == pytest.approx([chance(0.5 * odds(0.9) - 1)])
    assert judge.face_scores(floats(), floats()).shape == (0,)


def test_certain_scores_give_finite_ones() -> None:
    scores = ScoreFusion(detector_weight=2, classifier_weight=1).face_scores(floats(0, 1), floats(30, -30))
    assert np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()


def test_temperature_by_hand() -> None:
    probs = floats(0.7, 0.2, 0.1, 0.1, 0.8, 0.1).reshape(2, 3)
    # At a half, logits double: probabilities are squared and made to sum to 1.
    cold = ScoreFusion(temperature=0.5).class_probs(probs)
    assert cold.dtype == np.float32
    assert cold == pytest.approx(probs**2 / (probs**2).sum(axis=1, keepdims=True), rel=1e-5)
    hot = ScoreFusion(temperature=2).class_probs(probs)
    assert hot == pytest.approx(probs**0.5 / (probs**0.5).sum(axis=1, keepdims=True), rel=1e-5)
    assert ScoreFusion(temperature=2).class_probs(probs[:0]).shape == (0, 3)
    certain = ScoreFusion(temperature=5).class_probs(floats(1, 0, 0).reshape(1, 3))
    assert np.isfinite(certain).all() and certain.sum() == pytest.approx(1)


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=5), st.floats(0.2, 5))
def test_temperature_keeps_the_order_of_classes(weights: list[float], temperature: float) -> None:
    probs = (np.array(weights) / sum(weights)).astype(np.float32)[None]
    given = ScoreFusion(temperature=temperature).class_probs(probs)
    assert given.sum() == pytest.approx(1, abs=1e-5)
    gaps, before = given[0][:, None] - given[0], probs[0][:, None] - probs[0]
    assert (gaps[before > 1e-4] >= 0).all()


def test_boxes_move_by_hand() -> None:
    # A box of 20 px and a window without margin: numbers count in 20 px from (50, 40).
    boxes = floats(40, 30, 60, 50, 40, 30, 60, 50).reshape(2, 4)
    numbers = floats(0.5, -0.25, math.log(2), 0, 0, 0, 0, 0).reshape(2, 4)
    whole = ScoreFusion(box_blend=1).boxes(boxes, numbers, 0.0, SIZE)
    assert whole.dtype == np.float32
    assert whole == pytest.approx(floats(40, 25, 80, 45, 40, 30, 60, 50).reshape(2, 4), abs=1e-4)
    part = ScoreFusion(box_blend=0.25).boxes(boxes, numbers, 0.0, SIZE)
    assert part[0] == pytest.approx([40, 28.75, 65, 48.75], abs=1e-4)
    assert part[1] == pytest.approx(boxes[1])
    # The margin widens the window, not the unit.
    assert ScoreFusion(box_blend=1).boxes(boxes, numbers, 0.5, SIZE) == pytest.approx(whole, abs=1e-4)


def test_moved_boxes_stay_in_the_image() -> None:
    boxes = floats(80, 60, 100, 80, 0, 0, 20, 20).reshape(2, 4)
    numbers = floats(1, 1, 0, 0, -0.5, 0, 1, 1).reshape(2, 4)
    moved = ScoreFusion(box_blend=1).boxes(boxes, numbers, 0.0, SIZE)
    assert moved[0] == pytest.approx([100, 80, 100, 80])
    assert moved[1] == pytest.approx([0, 0, 20 * math.e / 2, 10 + 20 * math.e / 2], abs=1e-3)
    assert boxes[0].tolist() == [80, 60, 100, 80]  # the caller's stay as they are
    half = ScoreFusion(box_blend=0.5).boxes(boxes, numbers, 0.0, SIZE)
    assert half[0] == pytest.approx([90, 70, 100, 80])


@pytest.mark.parametrize("judge", [ScoreFusion(box_blend=0.5), ScoreFusion()])
def test_boxes_stay_where_nothing_tells_otherwise(judge: ScoreFusion) -> None:
    boxes = floats(40, 30, 60, 50).reshape(1, 4)
    assert judge.boxes(boxes, None, 0.2, SIZE).tolist() == boxes.tolist()
    assert judge.boxes(boxes[:0], np.zeros((0, 4), np.float32), 0.2, SIZE).shape == (0, 4)


JUDGE = ScoreFusion(
    detector_weight=0.8, classifier_weight=0.5, intercept=-0.3, min_detector_score=0.01, max_face_logit=4
)


def test_least_by_hand() -> None:
    # Half needs log odds of 0: 0.8 x + 0.5 * 4 - 0.3 = 0.
    assert JUDGE.min_detector_score_for(0.5) == pytest.approx(chance(-1.7 / 0.8), rel=2e-3)
    assert JUDGE.min_detector_score_for(0.5) < chance(-1.7 / 0.8)
    assert JUDGE.min_detector_score_for(0.0) == JUDGE.min_detector_score_for(1e-9) == 0.01
    assert JUDGE.min_detector_score_for(0.99) > JUDGE.min_detector_score_for(0.9) > JUDGE.min_detector_score_for(0.5)
    assert 0 < JUDGE.min_detector_score_for(1.0) < 1


@given(
    st.floats(0.2, 3), st.floats(0, 2), st.floats(-3, 3), st.floats(0, 8), st.floats(0.001, 0.999), st.floats(0.001, 1)
)
def test_who_is_not_asked_could_not_have_reached_the_score(
    stage1: float, stage2: float, intercept: float, most: float, score: float, share: float
) -> None:
    judge = ScoreFusion(
        detector_weight=stage1,
        classifier_weight=stage2,
        intercept=intercept,
        max_face_logit=most,
        min_detector_score=0.0,
    )
    below = floats(max(judge.min_detector_score_for(score) * share * 0.9999, 1e-6))
    if below[0] >= judge.min_detector_score_for(score):
        return
    assert judge.face_scores(below, floats(99))[0] < score


WRONG = {
    "stage1": (0, -1, math.nan, math.inf),
    "stage2": (-0.1, math.nan, math.inf),
    "intercept": (math.nan, -math.inf),
    "temperature": (0, -1, math.nan),
    "box_share": (-0.1, 1.1, math.nan),
    "floor": (-0.1, 1.1, math.nan),
    "most": (math.nan, math.inf),
    "unsure": (-0.1, 1.1, math.nan),
    "mirrored": (),
}


@pytest.mark.parametrize("name", [f.name for f in fields(ScoreFusion)])
def test_bad_values_are_refused(name: str) -> None:
    for value in WRONG[name]:
        message = "must be|must lie" if math.isfinite(value) else "a value is not a finite number"
        with pytest.raises(UserError, match=message):
            replace(ScoreFusion(), **{name: value})
