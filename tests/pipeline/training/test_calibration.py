"""Calibration: which detections are right, worked by hand, and a known miscalibration found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.annotations import AnnotatedImage
from common.errors import UserError
from pipeline.inference.fusion import ScoreFusion
from pipeline.training.calibration import (
    FEWEST,
    FLOOR,
    Evidence,
    calibrated,
    calibration_error,
    fit_fusion,
    gather,
    hits,
    uncalibrated,
    unsure_margin,
)
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.face_logits import log_odds
from stage1_faces.faces import Faces
from tests.helpers.fake_predictor import Told, picture

SIZE = (640, 480)


def right(boxes: list[list[float]], truths: list[list[float]], *threshold: float) -> list[bool]:
    return hits(np.float32(boxes).reshape(-1, 4), np.float32(truths).reshape(-1, 4), *threshold).tolist()


BOX = [0.0, 0, 10, 10]


def test_hits_by_hand() -> None:
    truths = [BOX, [20, 0, 30, 10]]
    assert right([BOX, [20, 0, 30, 10]], truths) == [True, True]
    assert right([[50, 50, 60, 60], [20, 0, 30, 10]], truths) == [False, True]
    # The second on the same face is a false alarm, however well it fits.
    assert right([[0, 0, 10, 8], BOX], [BOX]) == [True, False]
    # IoU of exactly a half meets it, a hair less does not.
    assert right([[0, 0, 10, 20]], [BOX]) == [True]
    assert right([[0, 0, 10, 20.1]], [BOX]) == [False]
    assert right([[0, 0, 10, 20.1]], [BOX], 0.49) == [True]


def test_a_second_box_may_meet_another_face() -> None:
    # Two faces side by side that overlap: the second box fits the first face best, but that one is taken.
    truths = [BOX, [3, 0, 13, 10]]
    assert right([BOX, [1, 0, 11, 10]], truths) == [True, True]
    assert right([BOX, [1, 0, 11, 10], [2, 0, 12, 10]], truths) == [True, True, False]


def test_hits_without_boxes_or_faces() -> None:
    assert right([], [BOX]) == [] and right([BOX], []) == [False] and right([], []) == []


def photo(folder: Path, name: str, boxes: np.ndarray) -> AnnotatedImage:
    return AnnotatedImage(picture(folder / f"{name}.png", (), SIZE), name, SIZE, boxes, ("face",) * len(boxes))


def simulated(folder: Path, photos: int, slope: float, intercept: float) -> tuple[Told, list[AnnotatedImage]]:
    """Detections of uniform log odds x that are right with the odds of slope * x + intercept."""
    rng = np.random.default_rng(0)
    low = np.stack(np.meshgrid(np.arange(0, 640, 32), np.arange(0, 480, 32)), axis=2).reshape(-1, 2)
    grid = np.concatenate([low, low + 20], axis=1).astype(np.float32)
    images, found = [], []
    for i in range(photos):
        odds = np.sort(rng.uniform(-4, 4, len(grid)))[::-1]
        true = rng.random(len(grid)) < 1 / (1 + np.exp(-(slope * odds + intercept)))
        images.append(photo(folder, f"p{i}", grid[true]))
        scores = (1 / (1 + np.exp(-odds))).astype(np.float32)
        found.append(Faces(grid, scores, np.zeros((len(grid), 5, 2), np.float32)))
    return Told(*found), images


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -1.0), (2.0, 0.75)])
def test_a_known_slope_and_intercept_are_found(tmp_path: Path, slope: float, intercept: float) -> None:
    detector, images = simulated(tmp_path, 20, slope, intercept)
    search = CascadeConfig(min_face=9)
    fitted = calibrated(detector, search, iter(images))  # type: ignore[arg-type]
    assert fitted.slope == pytest.approx(slope, rel=0.08)
    assert fitted.intercept == pytest.approx(intercept, abs=0.1)
    assert replace(fitted, slope=search.slope, intercept=search.intercept) == search
    assert detector.asked == [FLOOR] * 20


def test_the_searchs_own_slope_and_intercept_are_taken_into_account(tmp_path: Path) -> None:
    plain = calibrated(*_by(CascadeConfig(), tmp_path))
    again = calibrated(*_by(CascadeConfig(slope=3.0, intercept=0.5), tmp_path))
    # Scores of a verdict v are 3 v + 0.5; of those, `plain` makes the probability.
    assert again.slope == pytest.approx(3 * plain.slope, abs=2e-3)
    assert again.intercept == pytest.approx(0.5 * plain.slope + plain.intercept, abs=2e-3)


def _by(search: CascadeConfig, folder: Path):
    detector, images = simulated(folder, 8, 0.5, -1.0)
    return detector, search, images


def test_calibrated_scores_are_the_share_that_is_right(tmp_path: Path) -> None:
    detector, images = simulated(tmp_path, 20, 0.6, -0.8)
    found = list(detector.left)
    fitted = calibrated(detector, CascadeConfig(), images)  # type: ignore[arg-type]
    odds = np.concatenate([log_odds(faces.scores) for faces in found])
    chance = 1 / (1 + np.exp(-(fitted.slope * odds + fitted.intercept)))
    is_right = np.concatenate([hits(f.boxes, i.boxes) for f, i in zip(found, images, strict=True)])
    for low in (0.1, 0.3, 0.5, 0.7):
        some = (chance >= low) & (chance < low + 0.1)
        assert is_right[some].mean() == pytest.approx(chance[some].mean(), abs=0.06)


def few(folder: Path, hit: int, missed: int) -> tuple[Told, list[AnnotatedImage]]:
    n = hit + missed
    boxes = np.float32([[20 * i, 0, 20 * i + 10, 10] for i in range(n)]).reshape(-1, 4)
    scores = np.linspace(0.9, 0.1, n).astype(np.float32)
    detector = Told(Faces(boxes, scores, np.zeros((n, 5, 2), np.float32)))
    return detector, [photo(folder, "one", boxes[:hit])]


@pytest.mark.parametrize(("hit", "missed"), [(FEWEST - 1, FEWEST), (FEWEST, FEWEST - 1), (0, 0)])
def test_too_few_to_tell_apart(tmp_path: Path, hit: int, missed: int, capsys: pytest.CaptureFixture[str]) -> None:
    detector, images = few(tmp_path, hit, missed)
    assert calibrated(detector, CascadeConfig(), images) == CascadeConfig()  # type: ignore[arg-type]
    assert f"only {hit} right and {missed} wrong detections" in capsys.readouterr().err


def test_no_photos(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrated(Told(), CascadeConfig(), []) == CascadeConfig()  # type: ignore[arg-type]
    assert "only 0 right and 0 wrong" in capsys.readouterr().err


def test_scores_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    detector, images = few(tmp_path, FEWEST, FEWEST)
    (faces,) = detector.left
    upside_down = Told(Faces(faces.boxes, faces.scores[::-1].copy(), faces.landmarks))
    with pytest.raises(UserError, match="wrong detections score higher than right ones"):
        calibrated(upside_down, CascadeConfig(), images)  # type: ignore[arg-type]


def test_perfectly_told_apart(tmp_path: Path) -> None:
    # No slope is steep enough then: it must come out as a number all the same.
    detector, images = few(tmp_path, FEWEST, FEWEST)
    fitted = calibrated(detector, CascadeConfig(), images)  # type: ignore[arg-type]
    assert np.isfinite([fitted.slope, fitted.intercept]).all() and fitted.slope > 0


def evidence_of(
    rng: np.random.Generator,
    weights: tuple[float, float, float] = (1.0, 0.0, 0.0),
    temperature: float = 1.0,
    numbers: np.ndarray | None = None,
    judges: bool = True,
) -> Evidence:
    """One made photo: 300 candidates in a grid, of which those on faces follow the odds of both stages.

    weights: of stage 1's log odds, of stage 2's, and the intercept. temperature: what labels were drawn with.
    numbers: where stage 2 sees the faces, (300, 4).
    """
    low = np.stack(np.meshgrid(np.arange(0, 640, 32), np.arange(0, 480, 32)), axis=2).reshape(-1, 2).astype(np.float32)
    boxes = np.concatenate([low, low + 20], axis=1)
    odds = np.sort(rng.uniform(-3, 3, len(boxes)))[::-1].astype(np.float32)
    verdicts = rng.uniform(-2, 2, len(boxes)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(weights[0] * odds + weights[1] * verdicts + weights[2])))
    true = rng.random(len(boxes)) < chance
    logits = rng.normal(0, 3, (len(boxes), 3))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    raised = np.exp(logits / temperature)
    labels = (rng.random((len(boxes), 1)) > np.cumsum(raised / raised.sum(axis=1, keepdims=True), axis=1)).sum(axis=1)
    return Evidence(
        boxes,
        (1 / (1 + np.exp(-odds))).astype(np.float32),
        probs.astype(np.float32),
        verdicts if judges else None,
        numbers,
        boxes[true],
        labels[true].astype(np.intp),
        SIZE,
    )


def many(photos: int, **made: Any) -> list[Evidence]:
    rng = np.random.default_rng(0)
    return [evidence_of(rng, **made) for _ in range(photos)]


@pytest.mark.parametrize("weights", [(1.0, 0.5, 0.0), (0.6, 1.2, -1.0)])
def test_the_judge_finds_known_weights(weights: tuple[float, float, float]) -> None:
    evidence = many(20, weights=weights)
    judge = fit_fusion(evidence, 0.2, mirrored=True)
    assert (judge.detector_weight, judge.classifier_weight, judge.intercept) == pytest.approx(weights, abs=0.1)
    assert judge.flip_tta and judge.min_detector_score == FLOOR and judge.box_blend == 0
    assert judge.max_face_logit == pytest.approx(2, abs=0.01)  # the highest verdict seen
    # With them, scores are the share of candidates that are right.
    scores = np.concatenate([judge.face_scores(e.scores, e.face_logits) for e in evidence])
    right = np.concatenate([hits(e.boxes, e.gt_boxes) for e in evidence])
    for low in (0.1, 0.3, 0.5, 0.7):
        some = (scores >= low) & (scores < low + 0.1)
        assert right[some].mean() == pytest.approx(scores[some].mean(), abs=0.06)


def test_a_classifier_that_does_not_judge_leaves_stage_1s_scores_alone_to_weigh() -> None:
    judge = fit_fusion(many(10, weights=(0.7, 0.0, -0.5), judges=False), 0.2, mirrored=False)
    assert judge.detector_weight == pytest.approx(0.7, rel=0.1) and judge.classifier_weight == 0 and not judge.flip_tta


def test_a_verdict_that_misleads_has_no_weight() -> None:
    assert fit_fusion(many(5, weights=(1.0, -0.6, 0.0)), 0.2, mirrored=False).classifier_weight == 0


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_judge_finds_a_known_temperature(temperature: float) -> None:
    judge = fit_fusion(many(20, temperature=temperature), 0.2, mirrored=False)
    assert judge.temperature == pytest.approx(temperature, rel=0.1)


def test_photos_without_candidates_or_faces_do_no_harm() -> None:
    none = np.zeros((0, 4), np.float32)
    nothing = Evidence(none, none[:, 0], none[:, :3], None, None, none, np.zeros(0, np.intp), SIZE)
    missed = replace(nothing, gt_boxes=np.float32([BOX]), labels=np.zeros(1, np.intp))
    evidence = many(6, weights=(1.0, 0.5, 0.0))
    judge = fit_fusion([nothing, *evidence, missed], 0.2, mirrored=True)
    assert judge == fit_fusion(evidence, 0.2, mirrored=True)


def shifted(share: float) -> list[Evidence]:
    """Faces lie to the right of the candidates; stage 2 sees them `share` of the way, most of the time."""
    evidence = []
    rng = np.random.default_rng(1)
    for made in many(3, weights=(1.0, 0.5, 0.0)):
        # A fifth of a side to the right: IoU 0.67 as they are, which average precision counts from 0.50 to 0.65.
        truths = made.gt_boxes + np.float32([4, 0, 4, 0])
        numbers = np.zeros((len(made.boxes), 4), np.float32)
        numbers[:, 0] = share * 0.2 + rng.normal(0, 0.02, len(numbers))
        evidence.append(replace(made, gt_boxes=truths, numbers=numbers))
    return evidence


def test_the_box_moves_as_far_as_it_helps() -> None:
    # Stage 2 sees the face where it is, twice as far away, or where the candidate already lies.
    assert fit_fusion(shifted(1.0), 0.0, mirrored=False).box_blend == 0.75
    assert fit_fusion(shifted(2.0), 0.0, mirrored=False).box_blend == 0.5
    assert fit_fusion(shifted(-1.0), 0.0, mirrored=False).box_blend == 0
    assert fit_fusion(many(3, weights=(1.0, 0.5, 0.0)), 0.0, mirrored=False).box_blend == 0


def test_too_few_candidates_leave_stage_1s_scores(capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = many(1, weights=(1.0, 1.0, 0.0))
    right = hits(one.boxes, one.gt_boxes)
    few = replace(one, gt_boxes=one.boxes[right][: FEWEST - 1], labels=one.labels[: FEWEST - 1])
    assert fit_fusion([few], 0.2, mirrored=True) == ScoreFusion(flip_tta=True, min_detector_score=FLOOR)
    assert f"only {FEWEST - 1} right and {300 - FEWEST + 1} wrong candidates" in capsys.readouterr().err
    assert fit_fusion([], 0.2, mirrored=False) == ScoreFusion(min_detector_score=FLOOR)


def test_stage_1_upside_down_is_refused() -> None:
    with pytest.raises(UserError, match="wrong detections score higher than right ones"):
        fit_fusion(many(3, weights=(-1.0, 0.0, 0.0)), 0.2, mirrored=False)


def test_unsure_margin_by_hand() -> None:
    probs = np.float32([[0.9, 0.1, 0], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1], [0.1, 0.15, 0.75], [0.45, 0.45, 0.1]])
    labels = np.array([0, 1, 2, 0, 0])
    # Wrong are the second, third and fourth, with gaps of 0.1, 0.3 and 0.6: the middle one.
    assert unsure_margin(probs, labels) == pytest.approx(0.3, abs=1e-3)
    assert unsure_margin(probs[:2], labels[:2]) == pytest.approx(0.1, abs=1e-3)
    assert unsure_margin(probs[[0]], labels[[0]]) == 0
    assert unsure_margin(probs[:, :1], np.array([0, 0, 0, 0, 0])) == 0
    assert unsure_margin(probs[:0], labels[:0]) == 0


def test_half_of_the_wrong_labels_are_called_unsure() -> None:
    evidence = many(10)
    judge = fit_fusion(evidence, 0.2, mirrored=False)
    probs = np.concatenate([judge.class_probs(e.probs)[hits(e.boxes, e.gt_boxes)] for e in evidence])
    labels = np.concatenate([e.labels for e in evidence])
    gaps = np.sort(probs, axis=1)[:, -1] - np.sort(probs, axis=1)[:, -2]
    wrong = probs.argmax(axis=1) != labels
    assert wrong.sum() > 100
    assert (gaps[wrong] < judge.unsure_margin).mean() == pytest.approx(0.5, abs=0.02)
    assert (gaps[~wrong] < judge.unsure_margin).mean() < 0.3


def test_uncalibrated_undoes_the_cascades_own_calibration() -> None:
    verdict = np.float32([-2, 0, 1.5])
    search = CascadeConfig(slope=1.6, intercept=-0.7)
    scores = (1 / (1 + np.exp(-(search.slope * verdict + search.intercept)))).astype(np.float32)
    assert log_odds(uncalibrated(search).face_scores(scores, None)) == pytest.approx(verdict, abs=1e-4)
    assert uncalibrated(CascadeConfig()).is_identity


def test_calibration_error_by_hand() -> None:
    boxes = np.float32([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    probs = np.float32([[0.5, 0.3, 0.2]] * 4)
    one = Evidence(boxes, np.float32([0.9, 0.9, 0.9, 0.015]), probs, None, None, boxes[:2], np.array([0, 1]), SIZE)
    # Three scores of 0.45, one of them right in place and class; the fourth, 0.0075, is below the floor.
    assert calibration_error(ScoreFusion(), [one]) == pytest.approx(0.45 - 1 / 3, abs=1e-4)
    assert calibration_error(ScoreFusion(), [one], floor=0.005) == pytest.approx(
        0.75 * (0.45 - 1 / 3) + 0.0075 / 4, abs=1e-4
    )
    # Its class probabilities are the judge's: squared, they are 0.25, 0.09 and 0.04 of 0.38.
    assert calibration_error(ScoreFusion(temperature=0.5), [one]) == pytest.approx(0.9 * 0.25 / 0.38 - 1 / 3, abs=1e-4)
    assert calibration_error(ScoreFusion(), []) is None


class Judging:
    """A predictor that has two classes and judges each box by its left edge."""

    class bundle:  # noqa: N801 (as a predictor's)
        class meta:  # noqa: N801
            class_names = ("face", "mask")

    def judge(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[Any]:
        assert [image.shape for image in images] == [(SIZE[1], SIZE[0], 3)] and len(boxes) == 1
        left = boxes[0][:, 0] / 100
        return [(np.stack([left, 1 - left], axis=1), left, boxes[0] / 100)]


def test_gather_asks_both_stages_of_each_photo(tmp_path: Path) -> None:
    truths = np.float32([[10, 0, 20, 10], [50, 0, 60, 10]])
    first = Faces(np.float32([[10, 0, 20, 10]]), np.float32([0.8]), np.zeros((1, 5, 2), np.float32))
    detector = Told(first, Faces.empty())
    images = [
        replace(photo(tmp_path, "one", truths), labels=("mask", "face")),
        photo(tmp_path, "two", np.zeros((0, 4), np.float32)),
    ]
    one, two = gather(Judging(), detector, iter(images))  # type: ignore[arg-type]
    assert detector.asked == [FLOOR] * 2
    assert one.boxes.tolist() == first.boxes.tolist() and one.scores.tolist() == first.scores.tolist()
    assert one.probs == pytest.approx(np.float32([[0.1, 0.9]]))
    assert one.face_logits == pytest.approx([0.1]) and one.box_deltas == pytest.approx(np.float32([[0.1, 0, 0.2, 0.1]]))
    assert one.gt_boxes.tolist() == truths.tolist() and one.labels.tolist() == [1, 0] and one.size == SIZE
    assert len(two.boxes) == len(two.gt_boxes) == len(two.labels) == 0 and two.size == SIZE
