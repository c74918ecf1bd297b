"""Classifies the annotated faces of a dataset with finished bundles, through the only inference path."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage, Annotations
from common.annotations.types import fingerprint
from common.boxes import Boxes
from common.cli import progress
from common.images import read_image
from pipeline.check.suspects.classes import check_knows
from pipeline.inference.predictor import Predictor

BATCH_PHOTOS = 16  # photos in memory at a time


@dataclass(frozen=True)
class Predictions:
    """What the models say of all annotated faces, in the order of the images and their boxes."""

    probs: NDArray[np.float32]  # (M, N, C): of M models for N faces, in the order of the dataset's classes
    detected: tuple[Boxes, ...] | None  # the detector's boxes of each image; None where they were not asked for


def load_predictors(bundles: Sequence[Path], annotations: Annotations) -> list[Predictor]:
    """Load the bundles; warn when one learned from this dataset.

    Raises:
        UserError: a bundle cannot be used, or does not know a class of the dataset.
    """
    known = fingerprint(annotations.images)
    predictors = []
    for path in bundles:
        predictor = Predictor.load(path)
        check_knows(predictor, annotations.class_names)
        if known in _texts(predictor.bundle.meta.provenance):
            print(f"warning: {path}: learned from this dataset, so that it hides wrong labels", file=sys.stderr)
        predictors.append(predictor)
    return predictors


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in JSON values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def predict(annotations: Annotations, predictors: Sequence[Predictor], with_boxes: bool) -> Predictions:
    """Return the class probabilities of all annotated faces.

    Args:
        annotations: a dataset whose photos can be decoded.
        predictors: the models.
        with_boxes: whether the first model also detects the faces of each photo.
    """
    images = annotations.images
    orders = [[each.bundle.meta.class_names.index(name) for name in annotations.class_names] for each in predictors]
    parts: list[list[NDArray[np.float32]]] = [[] for _ in predictors]
    detected: list[Boxes] = []
    with progress() as bar:
        for batch in bar.track(_batches(images), -(-len(images) // BATCH_PHOTOS), description="classifying faces"):
            pixels = [read_image(image.path) if len(image.boxes) else None for image in batch]
            pairs = [(p, image.boxes) for p, image in zip(pixels, batch, strict=True) if p is not None]
            for predictor, order, part in zip(predictors, orders, parts, strict=True):
                outputs = predictor.run_classifier([p for p, _ in pairs], [boxes for _, boxes in pairs])
                fusion = predictor.bundle.meta.fusion
                part.extend(fusion.class_probs(output.class_probs)[:, order] for output in outputs)
            if with_boxes:
                none = np.zeros((0, 4), np.float32)
                detected.extend(none if p is None else predictors[0].detect(p).boxes for p in pixels)
    empty = np.zeros((0, len(annotations.class_names)), np.float32)
    probs = np.stack([np.concatenate([empty, *part]) for part in parts])
    return Predictions(probs, tuple(detected) if with_boxes else None)


def _batches(images: Sequence[AnnotatedImage]) -> Iterable[Sequence[AnnotatedImage]]:
    for start in range(0, len(images), BATCH_PHOTOS):
        yield images[start : start + BATCH_PHOTOS]
