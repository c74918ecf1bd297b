"""Figures by photo, and their intervals, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from pipeline.evaluate.metrics import Sample
from pipeline.evaluate.reliability import MIN_SCORE, Reliability, scores_and_correct
from pipeline.evaluate.scoring.crops import accuracy, macro_f1
from pipeline.evaluate.scoring.face_free_photos import summarize_counts
from pipeline.evaluate.scoring.intervals import (
    calibration_error,
    crop_statistics,
    face_recall,
    interval_over_photos,
)

BOX, FAR = (0, 0, 10, 10), (50, 50, 60, 60)


def test_an_interval_is_that_of_resampled_photos() -> None:
    values = np.array([0, 0, 0, 4])
    interval = interval_over_photos(lambda weights: float((weights * values).mean()), 4, 4000, 0)
    assert interval is not None
    # The photo is drawn k times of 4, binomial with p = 1/4: P(k = 0) is 0.32, P(k >= 3) is 0.05.
    assert (interval.value, interval.low, interval.high) == (1, 0, 3)
    assert interval_over_photos(lambda _: float("nan"), 4, 10, 0) is None
    assert interval_over_photos(lambda _: 1.0, 0, 10, 0) is None
    fixed = interval_over_photos(lambda _: 0.5, 3, 0, 0)
    assert fixed is not None and (fixed.low, fixed.high) == (0.5, 0.5)


def test_recall_of_faces_by_hand() -> None:
    both = Sample("a", [BOX, FAR], [0, 0], [BOX], [0.1], [1])
    one = Sample("b", [BOX], [0], [BOX], [0.9], [0])
    recall = face_recall([both, one], 0.5)
    assert recall(np.array([1, 1])) == pytest.approx(2 / 3)
    assert recall(np.array([0, 3])) == 1
    assert np.isnan(face_recall([Sample("c", [], [], [BOX], [0.9], [0])], 0.5)(np.array([1])))


def test_calibration_error_agrees_with_the_report() -> None:
    generator = np.random.default_rng(3)
    samples = [
        Sample(str(i), [BOX], [i % 2], [BOX, FAR], generator.random(2), generator.integers(0, 2, 2)) for i in range(40)
    ]
    error = calibration_error(samples, 2, 0.5)
    expected = Reliability.above(MIN_SCORE, *scores_and_correct(samples, 2, 0.5)).ece
    assert error(np.ones(40, np.intp)) == pytest.approx(expected)
    # By hand: 0.9 and right, 0.9 and wrong in the same bin: |1.8 - 1| / 2.
    right, wrong = Sample("a", [BOX], [0], [BOX], [0.9], [0]), Sample("b", [], [], [BOX], [0.9], [0])
    assert calibration_error([right, wrong], 1, 0.5)(np.array([1, 1])) == pytest.approx(0.4)
    assert calibration_error([right, wrong], 1, 0.5)(np.array([2, 0])) == pytest.approx(0.1)
    assert np.isnan(calibration_error([Sample("c", [BOX], [0], [], [], [])], 1, 0.5)(np.array([1])))


def test_accuracy_and_macro_f1_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    true, given = generator.integers(0, 2, 50), generator.integers(0, 3, 50)  # no true face of the third class
    confusion = np.zeros((3, 3), np.intp)
    np.add.at(confusion, (true, given), 1)
    assert accuracy(confusion) == pytest.approx((true == given).mean())
    assert macro_f1(confusion) == pytest.approx(f1_score(true, given, labels=[0, 1], average="macro"))
    assert np.isnan(accuracy(np.zeros((3, 3), np.intp))) and np.isnan(macro_f1(np.zeros((3, 3), np.intp)))


def test_crops_of_photos_by_weight() -> None:
    statistics = crop_statistics([np.array([[1, 0], [0, 0]]), np.array([[0, 0], [1, 0]])])
    assert statistics["crop_accuracy"](np.array([1, 1])) == 0.5
    assert statistics["crop_accuracy"](np.array([3, 1])) == 0.75
    assert statistics["crop_macro_f1"](np.array([3, 1])) == pytest.approx((6 / 7 + 0) / 2)


def test_false_alarms_of_a_folder() -> None:
    score = summarize_counts("x", [0, 3, 1, 0], 0.4, rounds=50)
    assert (score.photos, score.false_alarms, score.photos_with_one, score.per_photo.value) == (4, 4, 2, 1)
    none = summarize_counts("x", [0] * 100, 0.4).per_photo
    assert (none.value, none.low, none.high) == (0, 0, pytest.approx(-np.log(0.025) / 100, abs=1e-5))
