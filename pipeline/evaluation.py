"""One detector's evaluation as a value: scores, intervals, confusion matrix and errors by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.errors_by_stage import (
    KINDS,
    ErrorCounts,
    Kind,
    above,
    confusion_matrix,
    count_errors,
    list_mistakes,
    mended,
)
from pipeline.metrics import Sample, Scores, score_samples
from pipeline.resampling import Interval, best_score, bootstrap, mean_ap
from stage1_faces.annotations.types import AnnotatedImage
from stage1_faces.images import read_image

if TYPE_CHECKING:
    from pipeline.predictor import Predictor


@dataclass(frozen=True)
class Settings:
    """How to score. iou: at which a box counts as on its face, in all but COCO's own figures.

    rounds: bootstrap resamples (0: no intervals). seed: of the resamples.
    Raises PipelineError when a value is out of range.
    """

    iou: float = 0.5
    rounds: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.1 < self.iou < 1:
            raise PipelineError(f"--iou is {self.iou}, must lie between 0.1 and 1")
        if self.rounds < 0:
            raise PipelineError(f"--bootstrap is {self.rounds}, must be 0 or more")


@dataclass(frozen=True)
class Evaluation:
    """How well one detector did on one set of images.

    threshold: score from which on a detection counts in `confusion` and `errors`; threshold_from says who chose it.
    confusion: (C + 1, C + 1) rows, rows true, columns predicted, background last. errors: counts at the threshold.
    mended: for each kind of error, the mean average precision at settings.iou if it were mended, over the detections
    of any score; None without truths. silent_images: without any detection. seconds: median of detecting one image.
    """

    name: str
    class_names: tuple[str, ...]
    settings: Settings
    images: int
    silent_images: int
    scores: Scores
    intervals: dict[str, Interval]
    threshold: float
    threshold_from: str
    confusion: tuple[tuple[int, ...], ...]
    errors: ErrorCounts
    mended: dict[Kind, float | None]
    seconds: float | None


def evaluate(
    predictor: Predictor,
    images: Sequence[AnnotatedImage],
    settings: Settings | None = None,
    min_score: float = 0.0,
    name: str = "ours",
) -> Evaluation:
    """Runs the predictor over annotated images and scores what it finds, each face with its best label.

    Raises PipelineError on an image that cannot be read or a class that the bundle does not know.
    """
    class_names = predictor.bundle.meta.class_names
    check_classes(images, class_names)
    samples, seconds = detect_samples(predictor, images, class_names, min_score=min_score)
    threshold = predictor.bundle.meta.thresholds["score"]
    return evaluate_samples(samples, class_names, settings, name, threshold, "the bundle's", seconds)


def detect_samples(
    predictor: Predictor,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    merge: Mapping[str, str] | None = None,
    min_score: float = 0.0,
    advance: Callable[[], None] | None = None,
) -> tuple[list[Sample], float | None]:
    """Each image's truths and detections, and the median seconds of detecting in one (reading it not included).

    merge: {the predictor's class: the class it counts as}. advance: called after each image.
    """
    merge = merge or {}
    order = [class_names.index(merge.get(n, n)) for n in predictor.bundle.meta.class_names]
    samples, seconds = [], []
    for image in images:
        pixels = read_image(image.path)
        start = time.perf_counter()
        found = predictor.detect(pixels, min_score=min_score)
        seconds.append(time.perf_counter() - start)
        truth_labels = np.array([class_names.index(label) for label in image.labels], np.intp)
        labels = np.array(order, np.intp)[found.label_ids]
        scores = np.asarray(found.scores, np.float64)
        samples.append(Sample(image.image_id, image.boxes, truth_labels, found.boxes, scores, labels))
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
) -> Evaluation:
    """Scores detections. Without a threshold, the one with the best F1 on these very images is taken (it flatters)."""
    settings = settings or Settings()
    classes, iou = len(class_names), settings.iou
    if threshold is None:
        threshold, threshold_from = best_score(samples, classes, iou), "best F1 on these images"
    kept = above(samples, threshold)
    mends = {kind: mean_ap(mended(samples, kind, iou), classes, iou) for kind in KINDS}
    return Evaluation(
        name=name,
        class_names=tuple(class_names),
        settings=settings,
        images=len(samples),
        silent_images=sum(not len(s.boxes) for s in samples),
        scores=score_samples(samples, class_names, iou),
        intervals=bootstrap(samples, class_names, iou, settings.rounds, settings.seed),
        threshold=threshold,
        threshold_from=threshold_from,
        confusion=_rows(confusion_matrix(kept, classes, iou)),
        errors=count_errors(kept, list_mistakes(kept, iou)),
        mended={kind: None if np.isnan(value) else value for kind, value in mends.items()},
        seconds=seconds,
    )


def check_classes(images: Sequence[AnnotatedImage], class_names: Sequence[str]) -> None:
    """Raises PipelineError, naming the first image, when a truth's class is none of `class_names`."""
    for image in images:
        unknown = sorted(set(image.labels) - set(class_names))
        if unknown:
            raise PipelineError(
                f"{image.path}: class {unknown[0]!r} is none of {', '.join(class_names)}; "
                f"score it as another with --merge {unknown[0]}=NAME"
            )


def merge_classes(images: Sequence[AnnotatedImage], merge: Mapping[str, str]) -> list[AnnotatedImage]:
    """The images with each truth of a class in `merge` counted as the class it maps to."""
    return [replace(image, labels=tuple(merge.get(n, n) for n in image.labels)) for image in images]


def _rows(matrix: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(v) for v in row) for row in matrix)
