"""Turns scores into probabilities on validation photos: the fine-tuned cascade's, and both stages' together."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage
from common.boxes import Boxes, iou
from common.errors import UserError
from common.images import Pixels, read_image
from pipeline.evaluate.face_free import counted_detections
from pipeline.evaluate.metrics import Sample, score_samples
from pipeline.evaluate.reliability import expected_calibration_error, reliability_bins
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.predictor import ClassifierOutput, Predictor
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.face_logits import log_odds
from stage1_faces.faces import Detector, Faces

MATCH_IOU = 0.5
MIN_DETECTOR_SCORE = 0.01  # very many detections score less, and are of no use
MIN_SAMPLES = 10  # right ones, and wrong ones
TEMPERATURES = tuple(round(float(t), 3) for t in np.geomspace(0.2, 5, 201))
BOX_BLENDS = (0.0, 0.25, 0.5, 0.75)
MIN_SECOND_PASS_GAIN = 0.002  # average precision by which a second pass must be better: it takes time


@dataclass(frozen=True)
class StageOutputs:
    """Both stages' outputs for the N candidates of one validation photo, and its M annotated faces."""

    boxes: Boxes  # (N, 4) stage 1's boxes, best first
    scores: NDArray[np.float32]  # (N,) stage 1's scores
    probs: NDArray[np.float32]  # (N, C) stage 2's class probabilities
    face_logits: NDArray[np.float32] | None  # (N,) stage 2's log odds of a face; None where the classifier gives none
    box_deltas: NDArray[np.float32] | None  # (N, 4) stage 2's box deltas; None where the classifier gives none
    gt_boxes: Boxes  # (M, 4) annotated boxes
    labels: NDArray[np.intp]  # (M,) annotated classes
    size: tuple[int, int]  # the photo's width and height
    # Of a second pass, by box blend: the boxes (N, 4) after it, and stage 2's outputs. Empty: there was no such pass.
    second: Mapping[float, tuple[Boxes, ClassifierOutput]] = field(default_factory=dict)


def counted_faces(found: Faces, image: AnnotatedImage) -> Faces:
    """Return those of the found faces that count: in a photo that may show a face without a box, not all do."""
    if image.complete:
        return found
    keep = counted_detections(image, found.boxes)
    return Faces(found.boxes[keep], found.scores[keep], found.landmarks[keep])


def calibrate_cascade(detector: Detector, config: CascadeConfig, images: Iterable[AnnotatedImage]) -> CascadeConfig:
    """Return the settings with slope and intercept fitted on validation images by Platt scaling (Platt 1999).

    With fewer than MIN_SAMPLES right or wrong detections, a warning is printed and the settings stay. The detector
    works by `config`, slope and intercept included.

    Raises UserError when wrong detections score higher than right ones.
    """
    scores, right = [np.zeros(0, np.float32)], [np.zeros(0, bool)]
    for image in images:
        found = counted_faces(detector.detect(read_image(image.path), min_score=MIN_DETECTOR_SCORE), image)
        scores.append(found.scores)
        right.append(is_true_positive(found.boxes, image.boxes))
    odds, hit = log_odds(np.concatenate(scores)), np.concatenate(right)
    if _too_few(hit, "detections", "calibrate scores; they stay as they are"):
        return config
    (slope,), intercept = fit_platt(odds[:, None], hit)
    intercept += config.intercept * slope
    return replace(config, slope=round(config.slope * slope, 4), intercept=round(intercept, 4))


def collect_outputs(
    predictor: Predictor, detector: Detector, images: Iterable[AnnotatedImage], second_pass: bool = False
) -> list[StageOutputs]:
    """Run both stages on each image and return their outputs, for stage 1's scores from MIN_DETECTOR_SCORE on.

    With `second_pass`, stage 2 also sees the faces that are not settled at their moved boxes, for each box blend.
    """
    names = predictor.bundle.meta.class_names
    outputs = []
    for image in images:
        pixels = read_image(image.path)
        faces = counted_faces(detector.detect(pixels, min_score=MIN_DETECTOR_SCORE), image)
        output = predictor.run_classifier([pixels], [faces.boxes])[0]
        second = _second_passes(predictor, pixels, faces.boxes, output) if second_pass else {}
        labels = np.array([names.index(label) for label in image.labels], np.intp)
        size = (pixels.shape[1], pixels.shape[0])
        outputs.append(StageOutputs(faces.boxes, faces.scores, *output, image.boxes, labels, size, second))
    return outputs


def _second_passes(
    predictor: Predictor, pixels: Pixels, boxes: Boxes, output: ClassifierOutput
) -> dict[float, tuple[Boxes, ClassifierOutput]]:
    """Return the boxes and outputs of a second pass for each box blend; nothing where stage 2 gives no boxes."""
    if output.box_deltas is None:
        return {}
    size, margin = (pixels.shape[1], pixels.shape[0]), predictor.bundle.meta.margin
    passes = {}
    for blend in BOX_BLENDS[1:]:
        fusion = ScoreFusion(box_blend=blend)
        moved = fusion.refine_boxes(boxes, output.box_deltas, margin, size)
        passes[blend] = predictor.second_box_pass(pixels, boxes, moved, output, np.ones(len(boxes), bool), fusion)
    return passes


def fit_fusion(outputs: Sequence[StageOutputs], margin: float, flip_tta: bool) -> ScoreFusion:
    """Return the fusion of both stages' scores that fits validation photos best.

    - Face score: Platt scaling, a logistic regression on both stages' log odds.
    - Class probabilities: temperature scaling by the lowest negative log-likelihood (Guo et al. 2017).
    - Box: the blend and the number of passes with the highest average precision over IoU 0.50 to 0.95, ignoring
      classes. A second pass must be better by MIN_SECOND_PASS_GAIN; scores and temperature are fitted to it then.
    - Margin of `unsure`: the smallest margin that marks half of the wrong labels as unsure.

    With fewer than MIN_SAMPLES right or wrong candidates, a warning is printed and stage 1's face score stays.

    Args:
        outputs: of the validation photos.
        margin: of the classifier's crops.
        flip_tta: whether the classifier sees mirrored crops, too.
    """
    fusion = ScoreFusion(flip_tta=flip_tta, min_detector_score=MIN_DETECTOR_SCORE)
    right = np.concatenate([np.zeros(0, bool), *(is_true_positive(o.boxes, o.gt_boxes) for o in outputs)])
    if _too_few(right, "candidates", "fit stage 2's weight; stage 1's scores stay"):
        return fusion
    probs, labels = _matched_classes(outputs)
    fusion = _fit_temperature(_fit_platt_scaling(fusion, outputs, right), probs, labels)
    precision = box_precision(fusion, outputs, margin)
    # The first one wins a tie: one pass, and the smaller blend.
    passes, blend = max(precision, key=lambda k: precision[k] - MIN_SECOND_PASS_GAIN * (k[0] == 2))
    fusion = replace(fusion, box_passes=passes, box_blend=blend)
    if passes == 2:
        outputs = [second_outputs(o, blend) for o in outputs]
        probs, labels = _matched_classes(outputs)
        fusion = _fit_temperature(_fit_platt_scaling(fusion, outputs, right), probs, labels)
    return replace(fusion, unsure_margin=choose_unsure_margin(fusion.class_probs(probs), labels))


def uncalibrated(config: CascadeConfig) -> ScoreFusion:
    """Return the fusion that undoes stage 1's calibration: its scores are those before any fit."""
    return ScoreFusion(detector_weight=1 / config.slope, intercept=-config.intercept / config.slope)


def calibration_error(
    fusion: ScoreFusion, outputs: Sequence[StageOutputs], min_score: float = MIN_DETECTOR_SCORE
) -> float | None:
    """Return the expected calibration error of `score`, each candidate with its best class; None without candidates.

    Scores below `min_score` do not count.
    """
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for o in outputs:
        probs = fusion.class_probs(o.probs)
        scores.append(fusion.face_scores(o.scores, o.face_logits) * probs.max(axis=1, initial=0))
        matches = match_to_faces(o.boxes, o.gt_boxes)
        right.append((matches >= 0) & (np.append(o.labels, -1)[matches] == probs.argmax(axis=1)))
    every, hit = np.concatenate(scores), np.concatenate(right)
    kept = every >= min_score
    return expected_calibration_error(reliability_bins(every[kept], hit[kept]))


def fit_platt(odds: NDArray[np.float32], right: NDArray[np.bool_]) -> tuple[list[float], float]:
    """Return the weights and the intercept of a logistic regression (Platt scaling).

    `odds` (N, K) are log odds, stage 1's in the first column; `right` (N,) says which detections are right.

    Raises UserError when stage 1's weight is not positive.
    """
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression(C=np.inf).fit(odds, right)
    weights = [float(w) for w in fit.coef_[0]]
    if weights[0] <= 0:
        raise UserError("wrong detections score higher than right ones; train the cascade longer")
    return weights, float(fit.intercept_[0])


def _too_few(right: NDArray[np.bool_], noun: str, purpose: str) -> bool:
    """Return whether right or wrong ones are fewer than MIN_SAMPLES, and print a warning if so."""
    if min(right.sum(), (~right).sum()) >= MIN_SAMPLES:
        return False
    counts = f"only {right.sum()} right and {(~right).sum()} wrong {noun} on the validation photos"
    print(f"warning: {counts}, too few to {purpose}", file=sys.stderr)
    return True


def _fit_platt_scaling(fusion: ScoreFusion, outputs: Sequence[StageOutputs], right: NDArray[np.bool_]) -> ScoreFusion:
    """Fit the weights of both stages' log odds, and their intercept."""
    columns = [np.concatenate([log_odds(o.scores) for o in outputs])]
    face_logits = [o.face_logits for o in outputs if o.face_logits is not None]
    if face_logits:
        columns.append(np.concatenate(face_logits))
    weights, intercept = fit_platt(np.stack(columns, axis=1), right)
    if face_logits and weights[1] < 0:
        # A classifier that knows nothing of faces may get a weight below 0 by chance; then stage 1 is fitted alone.
        weights, intercept = fit_platt(columns[0][:, None], right)
    max_face_logit = max((float(v.max(initial=0.0)) for v in face_logits), default=fusion.max_face_logit)
    classifier_weight = weights[1] if len(weights) > 1 else 0.0
    return replace(
        fusion,
        detector_weight=round(weights[0], 4),
        classifier_weight=round(classifier_weight, 4),
        intercept=round(intercept, 4),
        max_face_logit=round(max_face_logit, 3),
    )


def _fit_temperature(fusion: ScoreFusion, probs: NDArray[np.float32], labels: NDArray[np.intp]) -> ScoreFusion:
    """Fit the temperature of the class probabilities (temperature scaling)."""
    if len(labels) < MIN_SAMPLES:
        return fusion
    rows = np.arange(len(labels))

    def negative_log_likelihood(temperature: float) -> float:
        scaled = replace(fusion, temperature=temperature).class_probs(probs)
        return float(-np.log(np.maximum(scaled[rows, labels], 1e-12)).mean())

    return replace(fusion, temperature=min(TEMPERATURES, key=negative_log_likelihood))


def second_outputs(outputs: StageOutputs, blend: float) -> StageOutputs:
    """Return a photo's outputs with stage 2's of the second pass at a box blend; the boxes stay stage 1's."""
    if blend not in outputs.second:  # a photo without candidates
        return outputs
    _, (probs, face_logits, box_deltas) = outputs.second[blend]
    return replace(outputs, probs=probs, face_logits=face_logits, box_deltas=box_deltas)


def box_precision(
    fusion: ScoreFusion, outputs: Sequence[StageOutputs], margin: float
) -> dict[tuple[int, float], float]:
    """Return the average precision over IoU 0.50 to 0.95, ignoring classes, by number of passes and box blend.

    Without box deltas, only one pass and no blend is there.

    Args:
        fusion: makes the face scores.
        outputs: of the validation photos.
        margin: of the classifier's crops.
    """
    some = [o for o in outputs if len(o.boxes)]
    choices = [(1, blend) for blend in BOX_BLENDS]
    if any(o.box_deltas is None for o in some):
        choices = choices[:1]
    elif some and all(o.second for o in some):
        choices += [(2, blend) for blend in BOX_BLENDS[1:]]
    return {(passes, blend): _average_precision(fusion, outputs, margin, passes, blend) for passes, blend in choices}


def best_precision(precision: Mapping[tuple[int, float], float]) -> dict[str, float]:
    """Return the best average precision of `box_precision` for each number of passes, for a bundle's metrics."""
    passes = sorted({number for number, _ in precision})
    return {str(number): max(ap for (n, _), ap in precision.items() if n == number) for number in passes}


def without_face_logits(outputs: StageOutputs) -> StageOutputs:
    """Return a photo's outputs as of a classifier that does not tell faces from background."""
    second = {blend: (boxes, output._replace(face_logits=None)) for blend, (boxes, output) in outputs.second.items()}
    return replace(outputs, face_logits=None, second=second)


def _average_precision(
    fusion: ScoreFusion, outputs: Sequence[StageOutputs], margin: float, passes: int, blend: float
) -> float:
    """Return the average precision over IoU 0.50 to 0.95, ignoring classes, of boxes after `passes` with a blend."""
    moved = replace(fusion, box_blend=blend)
    samples = []
    for i, o in enumerate(outputs):
        if passes == 2 and o.second:
            boxes, face_logits = o.second[blend][0], o.second[blend][1].face_logits
        else:
            boxes, face_logits = moved.refine_boxes(o.boxes, o.box_deltas, margin, o.size), o.face_logits
        scores = moved.face_scores(o.scores, face_logits).astype(np.float64)
        gt_labels, labels = np.zeros(len(o.gt_boxes), np.intp), np.zeros(len(boxes), np.intp)
        samples.append(Sample(str(i), o.gt_boxes, gt_labels, boxes, scores, labels))
    return score_samples(samples, ["face"]).faces.overall.ap or 0.0


def choose_unsure_margin(probs: NDArray[np.float32], labels: NDArray[np.intp]) -> float:
    """Return the smallest margin between the two best classes that marks half of the wrong labels; 0 without any.

    `probs` (N, C) are the class probabilities of found faces, `labels` (N,) their true classes.
    """
    if probs.shape[1] < 2:
        return 0.0
    best = np.sort(probs, axis=1)
    gaps = (best[:, -1] - best[:, -2])[probs.argmax(axis=1) != labels]
    return round(float(np.quantile(gaps, 0.5)), 3) if len(gaps) else 0.0


def _matched_classes(outputs: Sequence[StageOutputs]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return class probabilities and true classes of the candidates that match a face."""
    probs, labels = [], []
    for o in outputs:
        matches = match_to_faces(o.boxes, o.gt_boxes)
        if (matches >= 0).any():
            probs.append(o.probs[matches >= 0])
            labels.append(o.labels[matches[matches >= 0]])
    if not probs:
        return np.zeros((0, 1), np.float32), np.zeros(0, np.intp)
    return np.concatenate(probs), np.concatenate(labels)


def is_true_positive(boxes: Boxes, gt_boxes: Boxes, threshold: float = MATCH_IOU) -> NDArray[np.bool_]:
    """Return (N,) whether each box, best first, matches a face that no better box matches."""
    return match_to_faces(boxes, gt_boxes, threshold) >= 0


def match_to_faces(boxes: Boxes, gt_boxes: Boxes, threshold: float = MATCH_IOU) -> NDArray[np.intp]:
    """Return (N,) the face that each box, best first, matches and no better box does; -1 without a match."""
    matches = np.full(len(boxes), -1)
    if not len(boxes) or not len(gt_boxes):
        return matches
    overlaps = iou(boxes, gt_boxes)
    for i in range(len(boxes)):
        best = int(overlaps[i].argmax())
        if overlaps[i, best] >= threshold:
            matches[i] = best
            overlaps[:, best] = 0
    return matches
