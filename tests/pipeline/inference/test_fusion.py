"""Score fusion: face scores, temperature, boxes and the smallest useful detector score, computed by hand."""

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


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def float32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_default_changes_nothing() -> None:
    fusion = ScoreFusion()
    assert fusion.is_identity
    scores, probs = float32(0.0, 0.3, 1.0), float32(0.7, 0.3).reshape(1, 2)
    boxes, box_deltas = float32(1, 2, 30, 40).reshape(1, 4), np.ones((1, 4), np.float32)
    assert fusion.face_scores(scores, float32(5, -5, 0)).tolist() == scores.tolist()
    assert fusion.face_scores(scores, None).tolist() == scores.tolist()
    assert fusion.class_probs(probs).tolist() == probs.tolist()
    assert fusion.refine_boxes(boxes, box_deltas, 0.2, SIZE).tolist() == boxes.tolist()
    assert fusion.min_detector_score_for(0.4) == 0.4 and fusion.min_detector_score_for(0) == 0


@pytest.mark.parametrize("change", [{"detector_weight": 1.1}, {"classifier_weight": 0.1}, {"intercept": -0.1}])
def test_a_weight_changes_the_face_score(change: dict[str, float]) -> None:
    assert not ScoreFusion(**change).is_identity


@pytest.mark.parametrize(
    "change", [{"temperature": 2}, {"box_blend": 0.5}, {"min_detector_score": 0.1}, {"flip_tta": True}]
)
def test_other_settings_keep_the_face_score(change: dict[str, Any]) -> None:
    assert ScoreFusion(**change).is_identity
    assert ScoreFusion(**change).face_scores(float32(0.4), float32(3)).tolist() == float32(0.4).tolist()


def test_face_scores_by_hand() -> None:
    fusion = ScoreFusion(detector_weight=0.5, classifier_weight=2.0, intercept=-1.0, max_face_logit=3.0)
    result = fusion.face_scores(float32(0.5, 0.9, 0.9, 0.9), float32(0.0, 0.25, -1.5, 7.0))
    assert result.dtype == np.float32
    assert result == pytest.approx(
        [
            sigmoid(-1),
            sigmoid(0.5 * logit(0.9) + 2 * 0.25 - 1),
            sigmoid(0.5 * logit(0.9) - 2 * 1.5 - 1),
            sigmoid(0.5 * logit(0.9) + 2 * 3 - 1),  # max_face_logit is 3
        ],
        rel=1e-5,
    )
    # Without face logits, only the detector counts.
    assert fusion.face_scores(float32(0.9), None) == pytest.approx([sigmoid(0.5 * logit(0.9) - 1)])
    assert fusion.face_scores(float32(), float32()).shape == (0,)


def test_certain_scores_give_finite_ones() -> None:
    scores = ScoreFusion(detector_weight=2, classifier_weight=1).face_scores(float32(0, 1), float32(30, -30))
    assert np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()


def test_temperature_by_hand() -> None:
    probs = float32(0.7, 0.2, 0.1, 0.1, 0.8, 0.1).reshape(2, 3)
    # Temperature 0.5 doubles the logits: probabilities are squared, then normalised.
    sharper = ScoreFusion(temperature=0.5).class_probs(probs)
    assert sharper.dtype == np.float32
    assert sharper == pytest.approx(probs**2 / (probs**2).sum(axis=1, keepdims=True), rel=1e-5)
    flatter = ScoreFusion(temperature=2).class_probs(probs)
    assert flatter == pytest.approx(probs**0.5 / (probs**0.5).sum(axis=1, keepdims=True), rel=1e-5)
    assert ScoreFusion(temperature=2).class_probs(probs[:0]).shape == (0, 3)
    certain = ScoreFusion(temperature=5).class_probs(float32(1, 0, 0).reshape(1, 3))
    assert np.isfinite(certain).all() and certain.sum() == pytest.approx(1)


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=5), st.floats(0.2, 5))
def test_temperature_keeps_the_order_of_classes(weights: list[float], temperature: float) -> None:
    probs = (np.array(weights) / sum(weights)).astype(np.float32)[None]
    result = ScoreFusion(temperature=temperature).class_probs(probs)
    assert result.sum() == pytest.approx(1, abs=1e-5)
    gaps, before = result[0][:, None] - result[0], probs[0][:, None] - probs[0]
    assert (gaps[before > 1e-4] >= 0).all()


def test_boxes_move_by_hand() -> None:
    # A box of 20 px and a window without margin: deltas are in units of 20 px from (50, 40).
    boxes = float32(40, 30, 60, 50, 40, 30, 60, 50).reshape(2, 4)
    box_deltas = float32(0.5, -0.25, math.log(2), 0, 0, 0, 0, 0).reshape(2, 4)
    whole = ScoreFusion(box_blend=1).refine_boxes(boxes, box_deltas, 0.0, SIZE)
    assert whole.dtype == np.float32
    assert whole == pytest.approx(float32(40, 25, 80, 45, 40, 30, 60, 50).reshape(2, 4), abs=1e-4)
    part = ScoreFusion(box_blend=0.25).refine_boxes(boxes, box_deltas, 0.0, SIZE)
    assert part[0] == pytest.approx([40, 28.75, 65, 48.75], abs=1e-4)
    assert part[1] == pytest.approx(boxes[1])
    # The margin changes the window, not the unit.
    assert ScoreFusion(box_blend=1).refine_boxes(boxes, box_deltas, 0.5, SIZE) == pytest.approx(whole, abs=1e-4)


def test_moved_boxes_stay_in_the_image() -> None:
    boxes = float32(80, 60, 100, 80, 0, 0, 20, 20).reshape(2, 4)
    box_deltas = float32(1, 1, 0, 0, -0.5, 0, 1, 1).reshape(2, 4)
    moved = ScoreFusion(box_blend=1).refine_boxes(boxes, box_deltas, 0.0, SIZE)
    assert moved[0] == pytest.approx([100, 80, 100, 80])
    assert moved[1] == pytest.approx([0, 0, 20 * math.e / 2, 10 + 20 * math.e / 2], abs=1e-3)
    assert boxes[0].tolist() == [80, 60, 100, 80]  # the caller's boxes do not change
    half = ScoreFusion(box_blend=0.5).refine_boxes(boxes, box_deltas, 0.0, SIZE)
    assert half[0] == pytest.approx([90, 70, 100, 80])


@pytest.mark.parametrize("fusion", [ScoreFusion(box_blend=0.5), ScoreFusion()])
def test_boxes_stay_without_box_deltas(fusion: ScoreFusion) -> None:
    boxes = float32(40, 30, 60, 50).reshape(1, 4)
    assert fusion.refine_boxes(boxes, None, 0.2, SIZE).tolist() == boxes.tolist()
    assert fusion.refine_boxes(boxes[:0], np.zeros((0, 4), np.float32), 0.2, SIZE).shape == (0, 4)


FUSION = ScoreFusion(
    detector_weight=0.8, classifier_weight=0.5, intercept=-0.3, min_detector_score=0.01, max_face_logit=4
)


def test_min_detector_score_by_hand() -> None:
    # A score of 0.5 needs log logit of 0: 0.8 x + 0.5 * 4 - 0.3 = 0.
    assert FUSION.min_detector_score_for(0.5) == pytest.approx(sigmoid(-1.7 / 0.8), rel=2e-3)
    assert FUSION.min_detector_score_for(0.5) < sigmoid(-1.7 / 0.8)
    assert FUSION.min_detector_score_for(0.0) == FUSION.min_detector_score_for(1e-9) == 0.01
    assert FUSION.min_detector_score_for(0.99) > FUSION.min_detector_score_for(0.9) > FUSION.min_detector_score_for(0.5)
    assert 0 < FUSION.min_detector_score_for(1.0) < 1


@given(
    st.floats(0.2, 3),
    st.floats(0, 2),
    st.floats(-3, 3),
    st.floats(0, 8),
    st.floats(0.001, 0.999),
    st.floats(0.001, 1),
)
def test_a_face_that_is_not_classified_could_not_reach_the_score(
    detector_weight: float, classifier_weight: float, intercept: float, max_logit: float, score: float, share: float
) -> None:
    fusion = ScoreFusion(
        detector_weight=detector_weight,
        classifier_weight=classifier_weight,
        intercept=intercept,
        max_face_logit=max_logit,
        min_detector_score=0.0,
    )
    below = float32(max(fusion.min_detector_score_for(score) * share * 0.9999, 1e-6))
    if below[0] >= fusion.min_detector_score_for(score):
        return
    assert fusion.face_scores(below, float32(99))[0] < score


OUT_OF_RANGE = {
    "detector_weight": (0, -1, math.nan, math.inf),
    "classifier_weight": (-0.1, math.nan, math.inf),
    "intercept": (math.nan, -math.inf),
    "temperature": (0, -1, math.nan),
    "box_blend": (-0.1, 1.1, math.nan),
    "min_detector_score": (-0.1, 1.1, math.nan),
    "max_face_logit": (math.nan, math.inf),
    "unsure_margin": (-0.1, 1.1, math.nan),
    "flip_tta": (),
    "box_passes": (0, 3, math.nan),
}


@pytest.mark.parametrize("name", [f.name for f in fields(ScoreFusion)])
def test_bad_values_are_refused(name: str) -> None:
    for value in OUT_OF_RANGE[name]:
        message = "must be" if math.isfinite(value) else "a value is not a finite number"
        with pytest.raises(UserError, match=message):
            replace(ScoreFusion(), **{name: value})
