"""One detector's evaluation as a value: scores, intervals, errors by stage, reliability, slices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.annotations.types import AnnotatedImage
from common.errors import UserError
from common.images import read_image
from pipeline.evaluate.bootstrap import Interval, best_score, bootstrap, mean_ap
from pipeline.evaluate.metrics import CLASS_FLOOR, Sample, Scores, one_label, score_every_class, score_samples
from pipeline.evaluate.reliability import FLOOR, Reliability, scores_and_correct
from pipeline.evaluate.risk_coverage import RiskCoveragePoint, risk_coverage
from pipeline.evaluate.slices import FaceAttributes, Slice, face_attributes, slice_faces
from pipeline.evaluate.tide_errors import (
    KINDS,
    ErrorCounts,
    Kind,
    confusion_matrix,
    count_errors,
    filter_by_score,
    list_mistakes,
    oracle_fixed,
)

if TYPE_CHECKING:
    from pipeline.inference.predictor import Predictor


@dataclass(frozen=True)
class Settings:
    """How to score. iou: at which a box counts as on its face, in all but COCO's own figures.

    rounds: bootstrap resamples (0: no intervals). seed: of the resamples. class_floor: score as a class from which on
    a face counts for it, where every class is scored.
    Raises UserError when a value is out of range.
    """

    iou: float = 0.5
    rounds: int = 200
    seed: int = 0
    class_floor: float = CLASS_FLOOR

    def __post_init__(self) -> None:
        if not 0.1 < self.iou < 1:
            raise UserError(f"--iou is {self.iou}, must lie between 0.1 and 1")
        if self.rounds < 0:
            raise UserError(f"--bootstrap is {self.rounds}, must be 0 or more")
        if not 0 <= self.class_floor <= 1:
            raise UserError(f"the classes' lowest score is {self.class_floor}, must lie in 0..1")


@dataclass(frozen=True)
class DetectionEvaluation:
    """How well one detector did on one set of images.

    scores: each face counts with its best label alone; all but `each_class` and its intervals is of these detections.
    each_class: every class of a face counts with its own score, as one-stage detectors are scored; its `faces` are
    those of `scores`. intervals: keys of resampling.bootstrap.
    threshold: score from which on a detection counts in `confusion`, `errors`, `slices` and `unsure`; threshold_from
    says who chose it. confusion: (C + 1, C + 1) rows, rows true, columns predicted, background last. errors: counts.
    mended: for each kind of error, the mean average precision at settings.iou if it were mended, over the detections
    of any score; None without truths. reliability: of the scores of the detections "found" (from reliability.FLOOR on)
    and "reported" (from the threshold on). unsure: empty where only one score a detection is known.
    silent_images: without any detection. seconds: median of detecting one image.
    """

    name: str
    class_names: tuple[str, ...]
    settings: Settings
    images: int
    silent_images: int
    scores: Scores
    each_class: Scores
    intervals: dict[str, Interval]
    threshold: float
    threshold_from: str
    confusion: tuple[tuple[int, ...], ...]
    errors: ErrorCounts
    oracle_fixed: dict[Kind, float | None]
    reliability: dict[str, Reliability]
    slices: tuple[Slice, ...]
    unsure: tuple[RiskCoveragePoint, ...]
    seconds: float | None


def evaluate(
    predictor: Predictor,
    images: Sequence[AnnotatedImage],
    settings: Settings | None = None,
    min_score: float = 0.0,
    name: str = "ours",
) -> DetectionEvaluation:
    """Runs the predictor over annotated images and scores what it finds.

    Raises UserError on an image that cannot be read or a class that the bundle does not know.
    """
    class_names = predictor.bundle.meta.class_names
    check_classes(images, class_names)
    looks: list[FaceAttributes] = []
    samples, seconds = detect_samples(
        predictor,
        images,
        class_names,
        min_score=min_score,
        seen=lambda image, pixels: looks.append(face_attributes(pixels, image.boxes)),
    )
    meta = predictor.bundle.meta
    threshold, margin = meta.thresholds["score"], meta.fusion.unsure_margin
    return evaluate_samples(
        samples, class_names, settings, name, threshold, "the bundle's", seconds, looks=looks, unsure_margin=margin
    )


def detect_samples(
    predictor: Predictor,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    merge: Mapping[str, str] | None = None,
    min_score: float = 0.0,
    advance: Callable[[], None] | None = None,
    seen: Callable[[AnnotatedImage, NDArray[np.uint8]], None] | None = None,
) -> tuple[list[Sample], float | None]:
    """Each image's truths and detections, and the median seconds of detecting in one (reading it not included).

    merge: {the predictor's class: the class it counts as}; the scores of classes that count as one are added up before
    the label is chosen. min_score: of the label. advance: called after each image; seen: with each image and its pixels
    (H, W, 3 RGB).
    """
    merge = merge or {}
    counts_as = [class_names.index(merge.get(n, n)) for n in predictor.bundle.meta.class_names]
    membership = np.zeros((len(counts_as), len(class_names)))
    membership[np.arange(len(counts_as)), counts_as] = 1
    # The predictor's own score is the best class's, which is at least the merged one's over the number merged.
    floor = min_score / float(membership.sum(axis=0).max())
    samples, seconds = [], []
    for image in images:
        pixels = read_image(image.path)
        if seen:
            seen(image, pixels)
        start = time.perf_counter()
        found = predictor.detect(pixels, min_score=floor)
        seconds.append(time.perf_counter() - start)
        truth_labels = np.array([class_names.index(label) for label in image.labels], np.intp)
        # Multiplied as the predictor does, so that a score is to the last digit the one that it compares and reports.
        class_scores = (found.face_scores[:, None] * found.class_probs).astype(np.float64) @ membership
        scores, labels = class_scores.max(axis=1, initial=0), class_scores.argmax(axis=1)
        sample = Sample(image.image_id, image.boxes, truth_labels, found.boxes, scores, labels, class_scores)
        samples.append(sample.keeping(sample.scores >= min_score))
        if advance:
            advance()
    return samples, float(np.median(seconds)) if seconds else None


def evaluate_samples(
    samples: Sequence[Sample],
    class_names: Sequence[str],
    settings: Settings | None = None,
    name: str = "detector",
    threshold: float | None = None,
    threshold_from: str = "given",
    seconds: float | None = None,
    looks: Sequence[FaceAttributes] | None = None,
    unsure_margin: float | None = None,
) -> DetectionEvaluation:
    """Scores detections. Without a threshold, the one with the best F1 on these very images is taken (it flatters).

    samples: with class scores, or with a row for each class of a box. looks: one for each sample, for the slices by
    light and blur. unsure_margin: the detector's own, shown among the others.
    """
    settings = settings or Settings()
    classes, iou = len(class_names), settings.iou
    given, samples = samples, one_label(samples)
    if threshold is None:
        threshold, threshold_from = best_score(samples, classes, iou), "best F1 on these images"
    kept = filter_by_score(samples, threshold)
    mends = {kind: mean_ap(oracle_fixed(samples, kind, iou), classes, iou) for kind in KINDS}
    scores = score_samples(samples, class_names, iou)
    each_class = score_every_class(given, class_names, scores, settings.class_floor)
    probabilities, right = scores_and_correct(samples, classes, iou)
    return DetectionEvaluation(
        name=name,
        class_names=tuple(class_names),
        settings=settings,
        images=len(samples),
        silent_images=sum(not len(s.boxes) for s in samples),
        scores=scores,
        each_class=each_class,
        intervals=bootstrap(given, class_names, iou, settings.rounds, settings.seed, settings.class_floor),
        threshold=threshold,
        threshold_from=threshold_from,
        confusion=_rows(confusion_matrix(kept, classes, iou)),
        errors=count_errors(kept, list_mistakes(kept, iou)),
        oracle_fixed={kind: None if np.isnan(value) else value for kind, value in mends.items()},
        reliability={
            "found": Reliability.above(FLOOR, probabilities, right),
            "reported": Reliability.above(threshold, probabilities, right),
        },
        slices=slice_faces(kept, class_names, iou, each_class, looks),
        unsure=risk_coverage(kept, iou, unsure_margin),
        seconds=seconds,
    )


def check_classes(images: Sequence[AnnotatedImage], class_names: Sequence[str]) -> None:
    """Raises UserError, naming the first image, when a truth's class is none of `class_names`."""
    for image in images:
        unknown = sorted(set(image.labels) - set(class_names))
        if unknown:
            raise UserError(
                f"{image.path}: class {unknown[0]!r} is none of {', '.join(class_names)}; "
                f"score it as another with --merge {unknown[0]}=NAME"
            )


def merge_classes(images: Sequence[AnnotatedImage], merge: Mapping[str, str]) -> list[AnnotatedImage]:
    """The images with each truth of a class in `merge` counted as the class it maps to."""
    return [replace(image, labels=tuple(merge.get(n, n) for n in image.labels)) for image in images]


def _rows(matrix: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(v) for v in row) for row in matrix)
