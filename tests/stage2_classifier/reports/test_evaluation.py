"""Scores of a classifier on crops, worked by hand, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stage2_classifier.augment.transforms import eval_transform
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.reports.evaluation import CropEvaluation, scores
from stage2_classifier.reports.figures import save_mistakes, worst_mistakes
from tests.helpers.training.scored_runs import CLASSES, HALF, make_crops


def evaluation_of(
    tmp_path: Path, targets: list[int], predicted: list[int], photos: Sequence[str] = ()
) -> CropEvaluation:
    crop_set = make_crops(tmp_path / "set", [("test", CLASSES[t]) for t in targets], photos)
    probs = np.full((len(predicted), 3), 0.1, np.float32)
    probs[np.arange(len(predicted)), predicted] = 0.8
    dataset = CropDataset(crop_set, "test", eval_transform(32, HALF, HALF))
    return CropEvaluation("test", dataset, probs, dataset.labels)


def test_scores_by_hand(tmp_path: Path) -> None:
    # True 0 x4: three right, one called 1. True 1 x2: one right, one called 0. Class 2 does not occur.
    evaluation = evaluation_of(tmp_path, [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0])
    assert evaluation.confusion.tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]
    found = scores(evaluation)
    first, second, third = (found["classes"][name] for name in CLASSES)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert (first["precision"], first["recall"], first["f1"]) == pytest.approx((0.75, 0.75, 0.75))
    assert (second["precision"], second["recall"], second["f1"]) == pytest.approx((0.5, 0.5, 0.5))
    assert found["macro_f1"] == pytest.approx(0.625)  # over the two classes that occur
    assert third["support"] == 0 and third["average_precision"] is None


def test_interval_draws_whole_photos(tmp_path: Path) -> None:
    targets, predicted = [0, 1] * 20, [0, 1] * 10 + [1, 0] * 10
    alone = scores(evaluation_of(tmp_path / "a", targets, predicted))["macro_f1_interval_95"]
    photos = ["right"] * 20 + ["wrong"] * 20
    together = scores(evaluation_of(tmp_path / "b", targets, predicted, photos))["macro_f1_interval_95"]
    assert 0.3 < alone[0] < 0.5 < alone[1] < 0.7
    assert together == pytest.approx([0.0, 1.0])  # two photos: both draws may be the same one


def test_interval_of_a_perfect_model_is_a_point(tmp_path: Path) -> None:
    assert scores(evaluation_of(tmp_path, [0, 1, 2], [0, 1, 2]))["macro_f1_interval_95"] == [1.0, 1.0]


def test_worst_mistakes_are_the_most_confident(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, [0, 0, 0, 1], [0, 1, 1, 0])
    evaluation.probs[2, 1], evaluation.probs[1, 1] = 0.95, 0.7
    assert worst_mistakes(evaluation, 5) == [2, 3, 1]
    assert worst_mistakes(evaluation, 1) == [2]


def test_without_mistakes_an_old_picture_is_removed(tmp_path: Path) -> None:
    picture = tmp_path / "mistakes.png"
    picture.write_bytes(b"of an earlier report")
    assert save_mistakes(evaluation_of(tmp_path, [0, 1], [0, 1]), picture) == 0
    assert not picture.exists()
