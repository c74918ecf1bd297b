"""The rule that tells which labels are doubtful: confident learning (Northcutt et al. 2021, "Confident Learning").

A label is a suspect when another class is as probable as it is on average for faces labelled so, while the label's own
class is less probable than it is on average. A class without a labelled face gets the mean of the other thresholds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, area, iou

PART_IOU = 0.5  # a box that overlaps the detector's box less may be of a part of the face, such as the mask
INSIDE = 0.9  # share of such a box that is inside the detector's box


def class_thresholds(probs: NDArray[np.float32], labels: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the mean probability of each class among the faces labelled so.

    Args:
        probs: (N, C) class probabilities, N at least 1.
        labels: (N,) index of each face's labelled class.

    Returns:
        (C,) thresholds, by equation 2 of the paper.
    """
    own = probs[np.arange(len(labels)), labels].astype(np.float64)
    counts = np.bincount(labels, minlength=probs.shape[1])
    sums = np.bincount(labels, weights=own, minlength=probs.shape[1])
    found = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return np.where(counts > 0, found, np.nanmean(found))


def doubted_classes(
    probs: NDArray[np.float32], labels: NDArray[np.intp], thresholds: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the class that contradicts each label, or -1 where the label is not a suspect.

    Of two classes over their thresholds, the more probable one is taken. A class less probable than the label does not
    contradict it, however low its threshold is.

    Args:
        probs: (N, C) class probabilities.
        labels: (N,) index of each face's labelled class.
        thresholds: (C,) as from `class_thresholds`.
    """
    rows = np.arange(len(labels))
    own = probs[rows, labels]
    over = (probs >= thresholds) & (probs > own[:, None])
    over[rows, labels] = False
    suspect = over.any(axis=1) & (own < thresholds[labels])
    return np.where(suspect, np.where(over, probs, -1).argmax(axis=1), -1)


def box_overlaps(boxes: Boxes, detected: Boxes) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each box's best IoU with the detector's boxes, and whether it is only a part of a detected face.

    Args:
        boxes: (N, 4) annotated boxes, xyxy in pixels.
        detected: (M, 4) boxes of the detector, as `boxes`.

    Returns:
        (N,) IoU, 0 without a detected box; and (N,) True where no detected box has PART_IOU, but one contains it.
    """
    if not len(boxes) or not len(detected):
        return np.zeros(len(boxes)), np.zeros(len(boxes), bool)
    overlaps = iou(boxes, detected).astype(np.float64)
    low = np.maximum(boxes[:, None, :2], detected[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], detected[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    inside = shared >= INSIDE * area(boxes)[:, None]
    best = overlaps.max(axis=1)
    return best, (best < PART_IOU) & inside.any(axis=1)
