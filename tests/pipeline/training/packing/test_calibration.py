"""Calibration: which detections are right, by hand, and a known miscalibration recovered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.annotations import AnnotatedImage
from common.errors import UserError
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.predictor import ClassifierOutput
from pipeline.training.packing.calibration import (
    BOX_BLENDS,
    MIN_DETECTOR_SCORE,
    MIN_SAMPLES,
    MIN_SECOND_PASS_GAIN,
    StageOutputs,
    best_precision,
    box_precision,
    calibrate_cascade,
    calibration_error,
    choose_unsure_margin,
    collect_outputs,
    fit_fusion,
    is_true_positive,
    uncalibrated,
    without_face_logits,
)
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.face_logits import log_odds
from stage1_faces.faces import Faces
from tests.helpers.fake_predictor import ScriptedDetector, write_picture

SIZE = (640, 480)


def right(boxes: list[list[float]], gt_boxes: list[list[float]], *threshold: float) -> list[bool]:
    return is_true_positive(np.float32(boxes).reshape(-1, 4), np.float32(gt_boxes).reshape(-1, 4), *threshold).tolist()


BOX = [0.0, 0, 10, 10]


def test_true_positives_by_hand() -> None:
    gt_boxes = [BOX, [20, 0, 30, 10]]
    assert right([BOX, [20, 0, 30, 10]], gt_boxes) == [True, True]
    assert right([[50, 50, 60, 60], [20, 0, 30, 10]], gt_boxes) == [False, True]
    # The second box on one face is a false alarm, even with a better overlap.
    assert right([[0, 0, 10, 8], BOX], [BOX]) == [True, False]
    # IoU of exactly 0.5 matches, a little less does not.
    assert right([[0, 0, 10, 20]], [BOX]) == [True]
    assert right([[0, 0, 10, 20.1]], [BOX]) == [False]
    assert right([[0, 0, 10, 20.1]], [BOX], 0.49) == [True]


def test_a_second_box_can_match_another_face() -> None:
    # Two faces overlap. The second box fits the first face best, but that face is matched already.
    gt_boxes = [BOX, [3, 0, 13, 10]]
    assert right([BOX, [1, 0, 11, 10]], gt_boxes) == [True, True]
    assert right([BOX, [1, 0, 11, 10], [2, 0, 12, 10]], gt_boxes) == [True, True, False]


def test_true_positives_without_boxes_or_faces() -> None:
    assert right([], [BOX]) == [] and right([BOX], []) == [False] and right([], []) == []


def photo(folder: Path, name: str, boxes: np.ndarray) -> AnnotatedImage:
    return AnnotatedImage(write_picture(folder / f"{name}.png", (), SIZE), name, SIZE, boxes, ("face",) * len(boxes))


def simulated(
    folder: Path, photos: int, slope: float, intercept: float
) -> tuple[ScriptedDetector, list[AnnotatedImage]]:
    """Return detections of uniform log odds x, right with log odds slope * x + intercept."""
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
    return ScriptedDetector(*found), images


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -1.0), (2.0, 0.75)])
def test_a_known_slope_and_intercept_are_found(tmp_path: Path, slope: float, intercept: float) -> None:
    detector, images = simulated(tmp_path, 20, slope, intercept)
    search = CascadeConfig(min_face=9)
    fitted = calibrate_cascade(detector, search, iter(images))  # type: ignore[arg-type]
    assert fitted.slope == pytest.approx(slope, rel=0.08)
    assert fitted.intercept == pytest.approx(intercept, abs=0.1)
    assert replace(fitted, slope=search.slope, intercept=search.intercept) == search
    assert detector.asked == [MIN_DETECTOR_SCORE] * 20


def test_the_configs_own_slope_and_intercept_are_taken_into_account(tmp_path: Path) -> None:
    plain = calibrate_cascade(*_by(CascadeConfig(), tmp_path))
    again = calibrate_cascade(*_by(CascadeConfig(slope=3.0, intercept=0.5), tmp_path))
    # A logit v has log odds 3 v + 0.5; `plain` turns these into the probability.
    assert again.slope == pytest.approx(3 * plain.slope, abs=2e-3)
    assert again.intercept == pytest.approx(0.5 * plain.slope + plain.intercept, abs=2e-3)


def _by(search: CascadeConfig, folder: Path):
    detector, images = simulated(folder, 8, 0.5, -1.0)
    return detector, search, images


def test_calibrated_scores_are_the_share_of_right_detections(tmp_path: Path) -> None:
    detector, images = simulated(tmp_path, 20, 0.6, -0.8)
    found = list(detector.left)
    fitted = calibrate_cascade(detector, CascadeConfig(), images)  # type: ignore[arg-type]
    odds = np.concatenate([log_odds(faces.scores) for faces in found])
    chance = 1 / (1 + np.exp(-(fitted.slope * odds + fitted.intercept)))
    is_right = np.concatenate([is_true_positive(f.boxes, i.boxes) for f, i in zip(found, images, strict=True)])
    for low in (0.1, 0.3, 0.5, 0.7):
        some = (chance >= low) & (chance < low + 0.1)
        assert is_right[some].mean() == pytest.approx(chance[some].mean(), abs=0.06)


def few(folder: Path, hit: int, missed: int) -> tuple[ScriptedDetector, list[AnnotatedImage]]:
    n = hit + missed
    boxes = np.float32([[20 * i, 0, 20 * i + 10, 10] for i in range(n)]).reshape(-1, 4)
    scores = np.linspace(0.9, 0.1, n).astype(np.float32)
    detector = ScriptedDetector(Faces(boxes, scores, np.zeros((n, 5, 2), np.float32)))
    return detector, [photo(folder, "one", boxes[:hit])]


@pytest.mark.parametrize(("hit", "missed"), [(MIN_SAMPLES - 1, MIN_SAMPLES), (MIN_SAMPLES, MIN_SAMPLES - 1), (0, 0)])
def test_too_few_detections(tmp_path: Path, hit: int, missed: int, capsys: pytest.CaptureFixture[str]) -> None:
    detector, images = few(tmp_path, hit, missed)
    assert calibrate_cascade(detector, CascadeConfig(), images) == CascadeConfig()  # type: ignore[arg-type]
    assert f"only {hit} right and {missed} wrong detections" in capsys.readouterr().err


def test_no_photos(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate_cascade(ScriptedDetector(), CascadeConfig(), []) == CascadeConfig()  # type: ignore[arg-type]
    assert "only 0 right and 0 wrong" in capsys.readouterr().err


def test_inverted_scores_are_refused(tmp_path: Path) -> None:
    detector, images = few(tmp_path, MIN_SAMPLES, MIN_SAMPLES)
    (faces,) = detector.left
    inverted = ScriptedDetector(Faces(faces.boxes, faces.scores[::-1].copy(), faces.landmarks))
    with pytest.raises(UserError, match="wrong detections score higher than right ones"):
        calibrate_cascade(inverted, CascadeConfig(), images)  # type: ignore[arg-type]


def test_perfectly_separated_detections(tmp_path: Path) -> None:
    # No slope is steep enough then; the result must be finite nevertheless.
    detector, images = few(tmp_path, MIN_SAMPLES, MIN_SAMPLES)
    fitted = calibrate_cascade(detector, CascadeConfig(), images)  # type: ignore[arg-type]
    assert np.isfinite([fitted.slope, fitted.intercept]).all() and fitted.slope > 0


def simulated_outputs(
    rng: np.random.Generator,
    weights: tuple[float, float, float] = (1.0, 0.0, 0.0),
    temperature: float = 1.0,
    box_deltas: np.ndarray | None = None,
    has_objectness: bool = True,
) -> StageOutputs:
    """Return the outputs for one simulated photo: 300 candidates in a grid, right by the log odds of both stages.

    Args:
        rng: draws the photo.
        weights: of stage 1's log odds, of stage 2's, and the intercept.
        temperature: of the probabilities that labels are drawn with.
        box_deltas: (300, 4) where stage 2 sees the faces.
        has_objectness: whether stage 2 gives log odds of a face.
    """
    low = np.stack(np.meshgrid(np.arange(0, 640, 32), np.arange(0, 480, 32)), axis=2).reshape(-1, 2).astype(np.float32)
    boxes = np.concatenate([low, low + 20], axis=1)
    odds = np.sort(rng.uniform(-3, 3, len(boxes)))[::-1].astype(np.float32)
    face_logits = rng.uniform(-2, 2, len(boxes)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(weights[0] * odds + weights[1] * face_logits + weights[2])))
    true = rng.random(len(boxes)) < chance
    logits = rng.normal(0, 3, (len(boxes), 3))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    raised = np.exp(logits / temperature)
    labels = (rng.random((len(boxes), 1)) > np.cumsum(raised / raised.sum(axis=1, keepdims=True), axis=1)).sum(axis=1)
    return StageOutputs(
        boxes,
        (1 / (1 + np.exp(-odds))).astype(np.float32),
        probs.astype(np.float32),
        face_logits if has_objectness else None,
        box_deltas,
        boxes[true],
        labels[true].astype(np.intp),
        SIZE,
    )


def many(photos: int, **made: Any) -> list[StageOutputs]:
    rng = np.random.default_rng(0)
    return [simulated_outputs(rng, **made) for _ in range(photos)]


@pytest.mark.parametrize("weights", [(1.0, 0.5, 0.0), (0.6, 1.2, -1.0)])
def test_the_fusion_recovers_known_weights(weights: tuple[float, float, float]) -> None:
    outputs = many(20, weights=weights)
    fusion = fit_fusion(outputs, 0.2, flip_tta=True)
    assert (fusion.detector_weight, fusion.classifier_weight, fusion.intercept) == pytest.approx(weights, abs=0.1)
    assert fusion.flip_tta and fusion.min_detector_score == MIN_DETECTOR_SCORE and fusion.box_blend == 0
    assert fusion.max_face_logit == pytest.approx(2, abs=0.01)  # the highest face logit
    # With these weights, scores are the share of right candidates.
    scores = np.concatenate([fusion.face_scores(e.scores, e.face_logits) for e in outputs])
    right = np.concatenate([is_true_positive(e.boxes, e.gt_boxes) for e in outputs])
    for low in (0.1, 0.3, 0.5, 0.7):
        some = (scores >= low) & (scores < low + 0.1)
        assert right[some].mean() == pytest.approx(scores[some].mean(), abs=0.06)


def test_without_objectness_stage_1s_scores_alone_are_weighted() -> None:
    fusion = fit_fusion(many(10, weights=(0.7, 0.0, -0.5), has_objectness=False), 0.2, flip_tta=False)
    assert (
        fusion.detector_weight == pytest.approx(0.7, rel=0.1) and fusion.classifier_weight == 0 and not fusion.flip_tta
    )


def test_a_misleading_classifier_has_no_weight() -> None:
    made = many(20, weights=(1.0, -0.6, -1.5))
    outputs = [replace(each, face_logits=each.face_logits + np.float32(2)) for each in made]
    fusion = fit_fusion(outputs, 0.2, flip_tta=False)
    assert fusion.classifier_weight == 0
    # Stage 1 is fitted alone: the mean score is the share of right candidates.
    scores = np.concatenate([fusion.face_scores(e.scores, e.face_logits) for e in outputs])
    right = np.concatenate([is_true_positive(e.boxes, e.gt_boxes) for e in outputs])
    assert scores.mean() == pytest.approx(right.mean(), abs=0.01)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_fusion_recovers_a_known_temperature(temperature: float) -> None:
    fusion = fit_fusion(many(20, temperature=temperature), 0.2, flip_tta=False)
    assert fusion.temperature == pytest.approx(temperature, rel=0.1)


def test_photos_without_candidates_or_faces_change_nothing() -> None:
    none = np.zeros((0, 4), np.float32)
    nothing = StageOutputs(none, none[:, 0], none[:, :3], None, None, none, np.zeros(0, np.intp), SIZE)
    missed = replace(nothing, gt_boxes=np.float32([BOX]), labels=np.zeros(1, np.intp))
    outputs = many(6, weights=(1.0, 0.5, 0.0))
    fusion = fit_fusion([nothing, *outputs, missed], 0.2, flip_tta=True)
    assert fusion == fit_fusion(outputs, 0.2, flip_tta=True)


def shifted(share: float) -> list[StageOutputs]:
    """Return outputs with faces to the right of the candidates, where stage 2's deltas cover `share` of the way."""
    outputs = []
    rng = np.random.default_rng(1)
    for made in many(3, weights=(1.0, 0.5, 0.0)):
        # A fifth of a side to the right: IoU 0.67, so right at thresholds from 0.50 to 0.65.
        gt_boxes = made.gt_boxes + np.float32([4, 0, 4, 0])
        box_deltas = np.zeros((len(made.boxes), 4), np.float32)
        box_deltas[:, 0] = share * 0.2 + rng.normal(0, 0.02, len(box_deltas))
        outputs.append(replace(made, gt_boxes=gt_boxes, box_deltas=box_deltas))
    return outputs


def test_the_box_blend_with_the_best_precision_is_chosen() -> None:
    # Stage 2's deltas are right, twice too large, in the wrong direction, or missing.
    assert fit_fusion(shifted(1.0), 0.0, flip_tta=False).box_blend == 0.75
    assert fit_fusion(shifted(2.0), 0.0, flip_tta=False).box_blend == 0.5
    assert fit_fusion(shifted(-1.0), 0.0, flip_tta=False).box_blend == 0
    assert fit_fusion(many(3, weights=(1.0, 0.5, 0.0)), 0.0, flip_tta=False).box_blend == 0


def with_second(outputs: list[StageOutputs], move: float) -> list[StageOutputs]:
    """Return outputs with a second pass, which moves stage 1's boxes to the right, the same at each blend."""
    made = []
    for one in outputs:
        boxes = one.boxes + np.float32([move, 0, move, 0])
        output = ClassifierOutput(one.probs, one.face_logits, one.box_deltas)
        made.append(replace(one, second=dict.fromkeys(BOX_BLENDS[1:], (boxes, output))))
    return made


@pytest.mark.slow
def test_a_second_pass_is_chosen_only_where_its_boxes_are_better() -> None:
    outputs = shifted(1.0)
    once = fit_fusion(outputs, 0.0, flip_tta=False)
    assert once.box_passes == 1
    right, wrong = with_second(outputs, 4), with_second(outputs, -4)
    twice = fit_fusion(right, 0.0, flip_tta=False)
    assert (twice.box_passes, twice.box_blend) == (2, 0.25)  # all blends are as good here
    assert fit_fusion(wrong, 0.0, flip_tta=False) == once
    figures = best_precision(box_precision(once, right, 0.0))
    assert set(figures) == {"1", "2"} and figures["2"] > figures["1"] + MIN_SECOND_PASS_GAIN
    assert set(best_precision(box_precision(once, outputs, 0.0))) == {"1"}
    # A photo without candidates does not matter.
    none = np.zeros((0, 4), np.float32)
    nothing = StageOutputs(none, none[:, 0], none[:, :3], None, None, none, np.zeros(0, np.intp), SIZE)
    assert fit_fusion([nothing, *right], 0.0, flip_tta=False) == twice


@pytest.mark.slow
def test_scores_are_fitted_to_the_second_passes_outputs() -> None:
    outputs = with_second(shifted(1.0), 4)
    assert fit_fusion(outputs, 0.0, flip_tta=False).classifier_weight > 0.2
    # Without the face logits at all, as pack compares it.
    bare = [without_face_logits(o) for o in outputs]
    fitted = fit_fusion(bare, 0.0, flip_tta=False)
    assert (fitted.classifier_weight, fitted.box_passes) == (0, 2)


def test_too_few_candidates_leave_stage_1s_scores(capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = many(1, weights=(1.0, 1.0, 0.0))
    right = is_true_positive(one.boxes, one.gt_boxes)
    few = replace(one, gt_boxes=one.boxes[right][: MIN_SAMPLES - 1], labels=one.labels[: MIN_SAMPLES - 1])
    assert fit_fusion([few], 0.2, flip_tta=True) == ScoreFusion(flip_tta=True, min_detector_score=MIN_DETECTOR_SCORE)
    assert f"only {MIN_SAMPLES - 1} right and {300 - MIN_SAMPLES + 1} wrong candidates" in capsys.readouterr().err
    assert fit_fusion([], 0.2, flip_tta=False) == ScoreFusion(min_detector_score=MIN_DETECTOR_SCORE)


def test_inverted_scores_of_stage_1_are_refused() -> None:
    with pytest.raises(UserError, match="wrong detections score higher than right ones"):
        fit_fusion(many(3, weights=(-1.0, 0.0, 0.0)), 0.2, flip_tta=False)


def test_unsure_margin_by_hand() -> None:
    probs = np.float32([[0.9, 0.1, 0], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1], [0.1, 0.15, 0.75], [0.45, 0.45, 0.1]])
    labels = np.array([0, 1, 2, 0, 0])
    # The second, third and fourth are wrong, with gaps of 0.1, 0.3 and 0.6: the median is 0.3.
    assert choose_unsure_margin(probs, labels) == pytest.approx(0.3, abs=1e-3)
    assert choose_unsure_margin(probs[:2], labels[:2]) == pytest.approx(0.1, abs=1e-3)
    assert choose_unsure_margin(probs[[0]], labels[[0]]) == 0
    assert choose_unsure_margin(probs[:, :1], np.array([0, 0, 0, 0, 0])) == 0
    assert choose_unsure_margin(probs[:0], labels[:0]) == 0


def test_half_of_the_wrong_labels_are_unsure() -> None:
    outputs = many(10)
    fusion = fit_fusion(outputs, 0.2, flip_tta=False)
    probs = np.concatenate([fusion.class_probs(e.probs)[is_true_positive(e.boxes, e.gt_boxes)] for e in outputs])
    labels = np.concatenate([e.labels for e in outputs])
    gaps = np.sort(probs, axis=1)[:, -1] - np.sort(probs, axis=1)[:, -2]
    wrong = probs.argmax(axis=1) != labels
    assert wrong.sum() > 100
    assert (gaps[wrong] < fusion.unsure_margin).mean() == pytest.approx(0.5, abs=0.02)
    assert (gaps[~wrong] < fusion.unsure_margin).mean() < 0.3


def test_uncalibrated_undoes_the_cascades_own_calibration() -> None:
    logits = np.float32([-2, 0, 1.5])
    search = CascadeConfig(slope=1.6, intercept=-0.7)
    scores = (1 / (1 + np.exp(-(search.slope * logits + search.intercept)))).astype(np.float32)
    assert log_odds(uncalibrated(search).face_scores(scores, None)) == pytest.approx(logits, abs=1e-4)
    assert uncalibrated(CascadeConfig()).is_identity


def test_calibration_error_by_hand() -> None:
    boxes = np.float32([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    probs = np.float32([[0.5, 0.3, 0.2]] * 4)
    one = StageOutputs(boxes, np.float32([0.9, 0.9, 0.9, 0.015]), probs, None, None, boxes[:2], np.array([0, 1]), SIZE)
    # Three scores of 0.45, one of them right in place and class; the fourth, 0.0075, is below the floor.
    assert calibration_error(ScoreFusion(), [one]) == pytest.approx(0.45 - 1 / 3, abs=1e-4)
    assert calibration_error(ScoreFusion(), [one], min_score=0.005) == pytest.approx(
        0.75 * (0.45 - 1 / 3) + 0.0075 / 4, abs=1e-4
    )
    # The fusion's class probabilities count: squared, they are 0.25, 0.09 and 0.04 of 0.38.
    assert calibration_error(ScoreFusion(temperature=0.5), [one]) == pytest.approx(0.9 * 0.25 / 0.38 - 1 / 3, abs=1e-4)
    assert calibration_error(ScoreFusion(), []) is None


class FusedPredictor:
    """A predictor with two classes, whose outputs are each box's left edge."""

    class bundle:  # noqa: N801 (as a predictor's)
        class meta:  # noqa: N801
            class_names = ("face", "mask")

    def run_classifier(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[Any]:
        assert [image.shape for image in images] == [(SIZE[1], SIZE[0], 3)] and len(boxes) == 1
        left = boxes[0][:, 0] / 100
        return [(np.stack([left, 1 - left], axis=1), left, boxes[0] / 100)]


def test_outputs_of_both_stages_are_collected_per_photo(tmp_path: Path) -> None:
    gt_boxes = np.float32([[10, 0, 20, 10], [50, 0, 60, 10]])
    first = Faces(np.float32([[10, 0, 20, 10]]), np.float32([0.8]), np.zeros((1, 5, 2), np.float32))
    detector = ScriptedDetector(first, Faces.empty())
    images = [
        replace(photo(tmp_path, "one", gt_boxes), labels=("mask", "face")),
        photo(tmp_path, "two", np.zeros((0, 4), np.float32)),
    ]
    one, two = collect_outputs(FusedPredictor(), detector, iter(images))  # type: ignore[arg-type]
    assert detector.asked == [MIN_DETECTOR_SCORE] * 2
    assert one.boxes.tolist() == first.boxes.tolist() and one.scores.tolist() == first.scores.tolist()
    assert one.probs == pytest.approx(np.float32([[0.1, 0.9]]))
    assert one.face_logits == pytest.approx([0.1]) and one.box_deltas == pytest.approx(np.float32([[0.1, 0, 0.2, 0.1]]))
    assert one.gt_boxes.tolist() == gt_boxes.tolist() and one.labels.tolist() == [1, 0] and one.size == SIZE
    assert one.second == {}
    assert len(two.boxes) == len(two.gt_boxes) == len(two.labels) == 0 and two.size == SIZE
