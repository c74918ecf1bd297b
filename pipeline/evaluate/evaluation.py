"""One detector's evaluation as a value: scores, intervals, errors by stage, reliability, slices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.annotations.types import AnnotatedImage
from common.errors import UserError
from common.images import read_image
from pipeline.evaluate.bootstrap import Interval, best_f1_threshold, bootstrap, mean_ap
from pipeline.evaluate.metrics import (
    MAX_IOU,
    MIN_CLASS_SCORE,
    MIN_IOU,
    Sample,
    Scores,
    make_sample,
    one_label,
    score_every_class,
    score_samples,
)
from pipeline.evaluate.reliability import MIN_SCORE, Reliability, scores_and_correct
from pipeline.evaluate.risk_coverage import RiskCoveragePoint, risk_coverage
from pipeline.evaluate.slices import FaceAttributes, Slice, slice_faces
from pipeline.evaluate.tide_errors import (
    ERROR_KINDS,
    ErrorCounts,
    ErrorKind,
    confusion_matrix,
    count_errors,
    filter_by_score,
    list_errors,
    oracle_fixed,
)
from pipeline.inference.predictor import Predictor


@dataclass(frozen=True)
class EvaluationSettings:
    """How to score. Raises UserError when a value is out of range."""

    iou: float = 0.5  # at which a box is on a face, in all scores but COCO's own
    rounds: int = 200  # bootstrap resamples; 0 for no intervals
    seed: int = 0  # of the resamples
    class_floor: float = MIN_CLASS_SCORE  # where every class is scored, a class of a face counts from this score on

    def __post_init__(self) -> None:
        if not MIN_IOU < self.iou < MAX_IOU:
            raise UserError(f"--iou is {self.iou}, must be between {MIN_IOU:g} and {MAX_IOU:g}")
        if self.rounds < 0:
            raise UserError(f"--bootstrap is {self.rounds}, must be 0 or more")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}, must be 0 or more")
        if not 0 <= self.class_floor <= 1:
            raise UserError(f"the classes' lowest score is {self.class_floor}, must be in 0..1")


@dataclass(frozen=True)
class DetectionEvaluation:
    """How well one detector did on one set of images.

    Each face counts with its best label alone, except in `each_class` and its intervals.
    """

    name: str
    class_names: tuple[str, ...]
    settings: EvaluationSettings
    images: int
    silent_images: int  # without any detection
    scores: Scores
    each_class: Scores  # every class counts with its own score, as for one-stage detectors; `faces` as in `scores`
    intervals: dict[str, Interval]  # by the names of bootstrap.bootstrap
    threshold: float  # a detection counts in `confusion`, `errors`, `slices` and `unsure` from this score on
    threshold_from: str  # who chose the threshold
    confusion: tuple[tuple[int, ...], ...]  # (C + 1, C + 1): rows are true classes, columns predicted, background last
    errors: ErrorCounts
    # For each kind of error the mean average precision at settings.iou without that kind, over the detections of any
    # score; None without annotated faces.
    oracle_fixed: dict[ErrorKind, float | None]
    reliability: dict[
        str, Reliability
    ]  # "found" (from reliability.MIN_SCORE on) and "reported" (from the threshold on)
    slices: tuple[Slice, ...]
    unsure: tuple[RiskCoveragePoint, ...]  # empty where only one score per detection is known
    seconds: float | None  # median time to detect in one image


def detect_samples(
    predictor: Predictor,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    merge: Mapping[str, str] | None = None,
    min_score: float = 0.0,
    advance: Callable[[], None] | None = None,
    on_image: Callable[[AnnotatedImage, NDArray[np.uint8]], None] | None = None,
    match_iou: float = 0.5,
    change: Callable[[AnnotatedImage, NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
) -> tuple[list[Sample], float | None]:
    """Detect in each image.

    Args:
        predictor: the detector.
        images: annotated images.
        class_names: the scored classes.
        merge: {the predictor's class: the class that it counts as}. The scores of classes that count as one are added
            before the label is chosen.
        min_score: leaves out detections whose label has a lower score.
        advance: called after each image.
        on_image: called with each image and its pixels (H, W, 3) RGB, which `change` has changed.
        match_iou: IoU at which a detection is on its face.
        change: gives the pixels that are searched, of the same size; None searches the image as it is.

    Returns:
        One sample per image, and the median seconds to detect in one image (without reading it).
    """
    merge = merge or {}
    counts_as = [class_names.index(merge.get(n, n)) for n in predictor.bundle.meta.class_names]
    membership = np.zeros((len(counts_as), len(class_names)))
    membership[np.arange(len(counts_as)), counts_as] = 1
    # The predictor compares the best class's score, which is at least the merged score over the number merged.
    predictor_min_score = min_score / float(membership.sum(axis=0).max())
    samples, seconds = [], []
    for image in images:
        pixels = read_image(image.path)
        if change is not None:
            pixels = change(image, pixels)
        if on_image:
            on_image(image, pixels)
        start = time.perf_counter()
        detections = predictor.detect(pixels, min_score=predictor_min_score)
        seconds.append(time.perf_counter() - start)
        # Multiplied in the predictor's order, so that each score equals the predictor's to the last digit.
        class_scores = (detections.face_scores[:, None] * detections.class_probs).astype(np.float64) @ membership
        scores, labels = class_scores.max(axis=1, initial=0), class_scores.argmax(axis=1)
        sample = make_sample(image, class_names, detections.boxes, scores, labels, class_scores, match_iou)
        samples.append(sample.keeping(sample.scores >= min_score))
        if advance:
            advance()
    return samples, float(np.median(seconds)) if seconds else None


def evaluate_samples(
    samples: Sequence[Sample],
    class_names: Sequence[str],
    settings: EvaluationSettings | None = None,
    name: str = "detector",
    threshold: float | None = None,
    threshold_from: str = "given",
    seconds: float | None = None,
    attributes: Sequence[FaceAttributes] | None = None,
    unsure_margin: float | None = None,
) -> DetectionEvaluation:
    """Score detections.

    Args:
        samples: with class scores, or with one row for each class of a box.
        class_names: in the order of the label indices.
        settings: how to score.
        name: the detector's name in the report.
        threshold: a detection is reported from this score on; None takes the best F1 on these images, which flatters.
        threshold_from: who chose the threshold.
        seconds: median time to detect in one image.
        attributes: one per sample, for the slices by light and blur.
        unsure_margin: the detector's margin, shown among the others.
    """
    settings = settings or EvaluationSettings()
    classes, iou = len(class_names), settings.iou
    all_classes, samples = samples, one_label(samples)
    if threshold is None:
        threshold, threshold_from = best_f1_threshold(samples, classes, iou), "best F1 on these images"
    reported = filter_by_score(samples, threshold)
    fixed_ap = {kind: mean_ap(oracle_fixed(samples, kind, iou), classes, iou) for kind in ERROR_KINDS}
    scores = score_samples(samples, class_names, iou)
    each_class = score_every_class(all_classes, class_names, scores, settings.class_floor)
    label_scores, correct = scores_and_correct(samples, classes, iou)
    return DetectionEvaluation(
        name=name,
        class_names=tuple(class_names),
        settings=settings,
        images=len(samples),
        silent_images=sum(not len(s.boxes) for s in samples),
        scores=scores,
        each_class=each_class,
        intervals=bootstrap(all_classes, class_names, iou, settings.rounds, settings.seed, settings.class_floor),
        threshold=threshold,
        threshold_from=threshold_from,
        confusion=tuple(tuple(row) for row in confusion_matrix(reported, classes, iou).tolist()),
        errors=count_errors(reported, list_errors(reported, iou)),
        oracle_fixed={kind: None if np.isnan(value) else value for kind, value in fixed_ap.items()},
        reliability={
            "found": Reliability.above(MIN_SCORE, label_scores, correct),
            "reported": Reliability.above(threshold, label_scores, correct),
        },
        slices=slice_faces(reported, class_names, iou, each_class, attributes),
        unsure=risk_coverage(reported, iou, unsure_margin),
        seconds=seconds,
    )
