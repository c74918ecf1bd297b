"""The detectors that an evaluation scores: the bundle, the stock cascade, and other detectors' result files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage
from common.cli import progress
from pipeline.evaluate.coco_results import CocoNames, read_results
from pipeline.evaluate.evaluation import detect_samples
from pipeline.evaluate.metrics import Sample
from pipeline.evaluate.tide_errors import filter_by_score
from pipeline.inference.predictor import Predictor
from stage1_faces.stock.reference import stock_detector

BUNDLE_NAME = "ours"
STOCK_NAME = "stock cascade"


@dataclass(frozen=True)
class DetectorRun:
    """Detections of one detector; None is a value that is not known."""

    samples: list[Sample]  # one per image
    seconds: float | None = None  # median time per image
    threshold: float | None = None  # the detector reports a face from this score on
    unsure_margin: float | None = None  # the detector calls a face unsure below this margin


def run_bundle(
    predictor: Predictor,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    merge: Mapping[str, str],
    min_score: float,
    stock_threads: int,
    on_image: Callable[[AnnotatedImage, NDArray[np.uint8]], None],
    match_iou: float = 0.5,
) -> dict[str, DetectorRun]:
    """Return the runs of the bundle and of the stock cascade with the bundle's classifier, by the detector's name.

    Args as in `detect_samples`; `stock_threads` is per net of the stock cascade, 0 leaves out the stock cascade.
    """
    meta, runs = predictor.bundle.meta, {}
    predictors = {BUNDLE_NAME: predictor}
    if stock_threads:
        predictors[STOCK_NAME] = Predictor(predictor.bundle, stock_threads, detector=stock_detector(stock_threads))
    with progress() as bar:
        task = bar.add_task("detecting", total=len(images) * len(predictors))
        for name, each in predictors.items():
            samples, seconds = detect_samples(
                each, images, class_names, merge, min_score, partial(bar.advance, task), on_image, match_iou
            )
            # The bundle's threshold was chosen for the scores of the bundle's own cascade.
            threshold = meta.thresholds["score"] if name == BUNDLE_NAME else None
            runs[name] = DetectorRun(samples, seconds, threshold, meta.fusion.unsure_margin)
    return runs


def read_run(
    file: Path,
    all_images: Sequence[AnnotatedImage],
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    names: CocoNames,
    min_score: float,
    match_iou: float = 0.5,
) -> DetectorRun:
    """Read another detector's COCO results on `images`; the file may also name the others of `all_images`."""
    results = read_results(file, all_images, class_names, names)
    samples = [results.sample(image, class_names, match_iou) for image in images]
    return DetectorRun(filter_by_score(samples, min_score) if min_score > 0 else samples)


def free_name(stem: str, taken: Collection[str]) -> str:
    """Return `stem`, with a number where that name is taken or is one of our detectors."""
    name, number = stem, 2
    while name in taken or name in (BUNDLE_NAME, STOCK_NAME):
        name, number = f"{stem}-{number}", number + 1
    return name
