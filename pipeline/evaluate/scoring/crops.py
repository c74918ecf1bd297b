"""The classifier alone: accuracy and macro-F1 on the annotated boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage
from common.images import Pixels
from pipeline.inference.predictor import Predictor


def crop_confusion(
    predictor: Predictor,
    image: AnnotatedImage,
    pixels: Pixels,
    class_names: Sequence[str],
    merge: Mapping[str, str] | None = None,
) -> NDArray[np.intp]:
    """Return how often each class was given to the annotated boxes of one image whose class is known.

    Args:
        predictor: the detector, whose classifier is used.
        image: the annotations; its labels are among `class_names`.
        pixels: the image (H, W, 3).
        class_names: the C scored classes.
        merge: {the predictor's class: the class that it counts as}; the probabilities of both are added.

    Returns:
        Counts (C, C): rows are true classes, columns given ones.
    """
    counts = np.zeros((len(class_names), len(class_names)), np.intp)
    boxes = image.boxes[image.class_known]
    if not len(boxes):
        return counts
    true = [class_names.index(n) for n, known in zip(image.labels, image.class_known, strict=True) if known]
    given = predictor.classify(pixels, boxes)
    probabilities = np.zeros((len(boxes), len(class_names)))
    for k, name in enumerate(predictor.bundle.meta.class_names):
        probabilities[:, class_names.index((merge or {}).get(name, name))] += given[:, k]
    np.add.at(counts, (true, probabilities.argmax(axis=1)), 1)
    return counts


def accuracy(confusion: NDArray[np.intp]) -> float:
    """Return the share of right classes of a confusion matrix (C, C); NaN without faces."""
    return float(np.trace(confusion) / total) if (total := confusion.sum()) else float("nan")


def macro_f1(confusion: NDArray[np.intp]) -> float:
    """Return the mean F1 over the classes that have true faces in a confusion matrix (C, C); NaN without faces."""
    true, given, right = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    present = true > 0
    return float((2 * right / np.maximum(true + given, 1))[present].mean()) if present.any() else float("nan")
