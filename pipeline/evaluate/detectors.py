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
    """Detections of one detector.

    Attributes:
        samples: one per image.
        seconds: median time per image; None where it is not known.
        threshold: the detector reports a face from this score on; None where it is not known.
        unsure_margin: the detector calls a face unsure below this margin; None where it is not known.
    """

    samples: list[Sample]
    seconds: float | None = None
    threshold: float | None = None
    unsure_margin: float | None = None


def run_bundle(
    predictor: Predictor,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    merge: Mapping[str, str],
    min_score: float,
    stock_threads: int,
    on_image: Callable[[AnnotatedImage, NDArray[np.uint8]], None],
) -> dict[str, DetectorRun]:
    """Detect with the bundle and, on request, with the stock cascade and the bundle's classifier.

    Args:
        predictor: the bundle's.
        images: annotated images.
        class_names: names of the scored classes.
        merge: {the bundle's class: the class that it counts as}.
        min_score: leaves out detections below this score.
        stock_threads: threads for each net of the stock cascade; 0 leaves out the stock cascade.
        on_image: called with each image and its pixels (H, W, 3) RGB.

    Returns:
        Runs by the detector's name.
    """
    meta, runs = predictor.bundle.meta, {}
    predictors = {BUNDLE_NAME: predictor}
    if stock_threads:
        predictors[STOCK_NAME] = Predictor(predictor.bundle, stock_threads, detector=stock_detector(stock_threads))
    with progress() as bar:
        task = bar.add_task("detecting", total=len(images) * len(predictors))
        for name, each in predictors.items():
            advance = partial(bar.advance, task)
            samples, seconds = detect_samples(each, images, class_names, merge, min_score, advance, on_image)
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
) -> DetectorRun:
    """Read another detector's results.

    Args:
        file: COCO results.
        all_images: all images of the dataset, which the file may name.
        images: the images to score.
        class_names: names of the scored classes.
        names: meaning of the ids in the file.
        min_score: leaves out detections below this score.
    """
    results = read_results(file, all_images, class_names, names)
    samples = [results.sample(image, class_names) for image in images]
    return DetectorRun(filter_by_score(samples, min_score) if min_score > 0 else samples)


def free_name(stem: str, taken: Collection[str]) -> str:
    """Return `stem`, with a number where that name is taken or is one of our detectors."""
    name, number = stem, 2
    while name in taken or name in (BUNDLE_NAME, STOCK_NAME):
        name, number = f"{stem}-{number}", number + 1
    return name
