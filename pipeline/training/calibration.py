"""Makes scores probabilities, on validation photos: the fine-tuned cascade's, and both stages' together."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage
from common.boxes import Boxes, iou
from common.errors import UserError
from common.images import read_image
from pipeline.evaluate.metrics import Sample, score_samples
from pipeline.evaluate.reliability import expected_calibration_error, reliability
from pipeline.inference.fusion import ScoreFusion
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.face_logits import log_odds
from stage1_faces.faces import Detector

if TYPE_CHECKING:
    from pipeline.inference.predictor import Predictor

MATCH_IOU = 0.5
FLOOR = 0.01  # scores below this are of no use to anyone, and there are very many
FEWEST = 10  # of each kind
TEMPERATURES = tuple(round(float(t), 3) for t in np.geomspace(0.2, 5, 201))
BOX_SHARES = (0.0, 0.25, 0.5, 0.75)


def calibrated(detector: Detector, search: CascadeConfig, images: Iterable[AnnotatedImage]) -> CascadeConfig:
    """The settings with slope and intercept fitted on what `detector` finds in `images` (Platt 1999).

    `detector` works by `search`, whose own slope and intercept are taken into account. Give it validation images only.
    With fewer than 10 right or 10 wrong detections to tell apart, a warning is printed and the settings stay.
    Raises UserError when wrong detections score higher than right ones.
    """
    scores, right = [np.zeros(0, np.float32)], [np.zeros(0, bool)]
    for image in images:
        found = detector.detect(read_image(image.path), min_score=FLOOR)
        scores.append(found.scores)
        right.append(hits(found.boxes, image.boxes))
    odds, hit = log_odds(np.concatenate(scores)), np.concatenate(right)
    if min(hit.sum(), (~hit).sum()) < FEWEST:
        few = f"only {hit.sum()} right and {(~hit).sum()} wrong detections on the validation photos"
        print(f"warning: {few}, too few to calibrate scores on; they stay as they are", file=sys.stderr)
        return search
    (slope,), intercept = _platt(odds[:, None], hit)
    return replace(
        search, slope=round(search.slope * slope, 4), intercept=round(search.intercept * slope + intercept, 4)
    )


def _platt(odds: NDArray[np.float32], right: NDArray[np.bool_]) -> tuple[list[float], float]:
    """The weights of log odds (N, K) and the intercept that make their sum the log odds of `right` (N,).

    Raises UserError when the first, stage 1's, tells right from wrong the wrong way round.
    """
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression(C=np.inf).fit(odds, right)
    weights = [float(w) for w in fit.coef_[0]]
    if weights[0] <= 0:
        raise UserError("wrong detections score higher than right ones; train the cascade longer")
    return weights, float(fit.intercept_[0])


@dataclass(frozen=True)
class Evidence:
    """What both stages say of one validation photo's candidates, best first by stage 1, and what is true.

    boxes (N, 4), scores (N,): stage 1's. probs, verdicts, numbers: stage 2's, as Predictor.judge gives them. truths
    (M, 4), labels (M,): the annotators'. size: the photo's width and height.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    probs: NDArray[np.float32]
    face_logits: NDArray[np.float32] | None
    box_deltas: NDArray[np.float32] | None
    gt_boxes: Boxes
    labels: NDArray[np.intp]
    size: tuple[int, int]


def gather(predictor: Predictor, detector: Detector, images: Iterable[AnnotatedImage]) -> list[Evidence]:
    """Both stages on each image, from stage 1's score FLOOR on."""
    names = predictor.bundle.meta.class_names
    found = []
    for image in images:
        pixels = read_image(image.path)
        faces = detector.detect(pixels, min_score=FLOOR)
        probs, verdicts, numbers = predictor.run_classifier([pixels], [faces.boxes])[0]
        labels = np.array([names.index(label) for label in image.labels], np.intp)
        size = (pixels.shape[1], pixels.shape[0])
        found.append(Evidence(faces.boxes, faces.scores, probs, verdicts, numbers, image.boxes, labels, size))
    return found


def fit_fusion(evidence: Sequence[Evidence], margin: float, mirrored: bool) -> ScoreFusion:
    """How stage 2 joins stage 1, as validation photos have it.

    The face score is a logistic regression on both stages' log odds; the temperature has the lowest negative
    log-likelihood on faces found (Guo et al. 2017); the box moves as far as average precision over IoU 0.50 to 0.95
    likes best, faces' classes aside; the margin of `unsure` is the smallest that leaves half of the wrong labels.
    margin: of the classifier's crops. mirrored: kept in the result.
    With fewer than 10 right or 10 wrong candidates a warning is printed and the face score stays stage 1's.
    """
    judge = ScoreFusion(flip_tta=mirrored, min_detector_score=FLOOR)
    right = np.concatenate([np.zeros(0, bool), *(hits(e.boxes, e.gt_boxes) for e in evidence)])
    if min(right.sum(), (~right).sum()) < FEWEST:
        few = f"only {right.sum()} right and {(~right).sum()} wrong candidates on the validation photos"
        print(f"warning: {few}, too few to weigh stage 2 on; stage 1's scores stay", file=sys.stderr)
        return judge
    judge = _with_temperature(_with_weights(judge, evidence, right), evidence)
    return _with_margin(_with_box(judge, evidence, margin), evidence)


def uncalibrated(search: CascadeConfig) -> ScoreFusion:
    """The judge that undoes stage 1's calibration and adds none: what scores were before any fitting."""
    return ScoreFusion(detector_weight=1 / search.slope, intercept=-search.intercept / search.slope)


def calibration_error(judge: ScoreFusion, evidence: Sequence[Evidence], floor: float = FLOOR) -> float | None:
    """Expected calibration error of `score`, each candidate with its best class, from `floor` on; None without any."""
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for e in evidence:
        probs = judge.class_probs(e.probs)
        own = judge.face_scores(e.scores, e.face_logits) * probs.max(axis=1, initial=0)
        met = matched(e.boxes, e.gt_boxes)
        right.append((met >= 0) & (np.append(e.labels, -1)[met] == probs.argmax(axis=1)))
        scores.append(own)
    every, hit = np.concatenate(scores), np.concatenate(right)
    kept = every >= floor
    return expected_calibration_error(reliability(every[kept], hit[kept]))


def _with_weights(judge: ScoreFusion, evidence: Sequence[Evidence], right: NDArray[np.bool_]) -> ScoreFusion:
    columns = [np.concatenate([log_odds(e.scores) for e in evidence])]
    verdicts = [e.face_logits for e in evidence if e.face_logits is not None]
    if verdicts:
        columns.append(np.concatenate(verdicts))
    weights, intercept = _platt(np.stack(columns, axis=1), right)
    most = max((float(v.max(initial=0.0)) for v in verdicts), default=judge.max_face_logit)
    # A classifier that tells nothing of faces may get a weight below 0 by chance.
    stage2 = max(weights[1], 0.0) if verdicts else 0.0
    return replace(
        judge,
        detector_weight=round(weights[0], 4),
        classifier_weight=round(stage2, 4),
        intercept=round(intercept, 4),
        max_face_logit=round(most, 3),
    )


def _with_temperature(judge: ScoreFusion, evidence: Sequence[Evidence]) -> ScoreFusion:
    probs, labels = _found_faces(evidence)
    if len(labels) < FEWEST:
        return judge
    rows = np.arange(len(labels))

    def loss(temperature: float) -> float:
        raised = replace(judge, temperature=temperature).class_probs(probs)
        return float(-np.log(np.maximum(raised[rows, labels], 1e-12)).mean())

    return replace(judge, temperature=min(TEMPERATURES, key=loss))


def _with_box(judge: ScoreFusion, evidence: Sequence[Evidence], margin: float) -> ScoreFusion:
    if any(e.box_deltas is None and len(e.boxes) for e in evidence):
        return judge

    def precision(share: float) -> float:
        moved = replace(judge, box_blend=share)
        samples = [
            Sample(
                str(i),
                e.gt_boxes,
                np.zeros(len(e.gt_boxes), np.intp),
                moved.boxes(e.boxes, e.box_deltas, margin, e.size),
                moved.face_scores(e.scores, e.face_logits).astype(np.float64),
                np.zeros(len(e.boxes), np.intp),
            )
            for i, e in enumerate(evidence)
        ]
        return score_samples(samples, ["face"]).faces.overall.ap or 0.0

    return replace(judge, box_blend=max(BOX_SHARES, key=precision))


def _with_margin(judge: ScoreFusion, evidence: Sequence[Evidence]) -> ScoreFusion:
    probs, labels = _found_faces(evidence)
    return replace(judge, unsure_margin=unsure_margin(judge.class_probs(probs), labels))


def unsure_margin(probs: NDArray[np.float32], labels: NDArray[np.intp]) -> float:
    """The smallest margin between the two best classes that leaves out half of the wrong labels; 0 without any.

    probs (N, C), labels (N,): of faces found.
    """
    if probs.shape[1] < 2:
        return 0.0
    best = np.sort(probs, axis=1)
    gaps = (best[:, -1] - best[:, -2])[probs.argmax(axis=1) != labels]
    return round(float(np.quantile(gaps, 0.5)), 3) if len(gaps) else 0.0


def _found_faces(evidence: Sequence[Evidence]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Class probabilities and true classes of the candidates that lie on a face."""
    probs, labels = [], []
    for e in evidence:
        met = matched(e.boxes, e.gt_boxes)
        if (met >= 0).any():
            probs.append(e.probs[met >= 0])
            labels.append(e.labels[met[met >= 0]])
    if not probs:
        return np.zeros((0, 1), np.float32), np.zeros(0, np.intp)
    return np.concatenate(probs), np.concatenate(labels)


def hits(boxes: Boxes, truths: Boxes, threshold: float = MATCH_IOU) -> NDArray[np.bool_]:
    """(N,) whether each box, best first, meets a truth that no better one has met."""
    return matched(boxes, truths, threshold) >= 0


def matched(boxes: Boxes, truths: Boxes, threshold: float = MATCH_IOU) -> NDArray[np.intp]:
    """(N,) the truth that each box, best first, meets and no better one has met; -1 where there is none."""
    right = np.full(len(boxes), -1)
    if not len(boxes) or not len(truths):
        return right
    overlaps = iou(boxes, truths)
    for i in range(len(boxes)):
        best = int(overlaps[i].argmax())
        if overlaps[i, best] >= threshold:
            right[i] = best
            overlaps[:, best] = 0
    return right
