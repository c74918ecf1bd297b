"""Box algebra on float32 xyxy pixel boxes, 0-based, right and bottom edge exclusive. No argument is changed."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]  # (N, 4)
Overlap = Literal["union", "min"]
MAX_OPENCV_BOXES = 4096  # OpenCV's time grows with the square of the number of boxes

# Largest logarithm of a side in box deltas: no net may scale a side by a factor over 55.
BBOX_XFORM_CLIP = 4.0

# Of a box or of an ignored place, the smaller of the two: with a larger share, the box is not background.
MAX_IGNORED_SHARE = 0.3


def as_boxes(values: Any) -> Boxes:
    """Return a sequence of N boxes as a new float32 (N, 4) array; an empty sequence gives (0, 4).

    Raises ValueError when the shape is not (N, 4) or a value is not finite.
    """
    boxes = np.array(values, dtype=np.float32)
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes have shape {boxes.shape}, expected (N, 4)")
    if not np.isfinite(boxes).all():
        raise ValueError("a box edge is not a finite number")
    return boxes


def area(boxes: Boxes) -> NDArray[np.float32]:
    """Return the areas (N,) in square pixels; the area of an inverted box is 0."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def iou(a: Boxes, b: Boxes, overlap: Overlap = "union") -> NDArray[np.float32]:
    """Return the intersection over union (N, M) of boxes `a` (N, 4) and `b` (M, 4).

    With overlap "min", the denominator is the smaller of the two areas.
    """
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low, 0)
    intersection = sides[..., 0] * sides[..., 1]
    area_a, area_b = area(a)[:, None], area(b)[None, :]
    denominator = np.minimum(area_a, area_b) if overlap == "min" else area_a + area_b - intersection
    valid = (denominator > 0) & np.isfinite(intersection)  # an area that float32 cannot hold counts as 0
    return np.divide(intersection, denominator, out=np.zeros_like(intersection), where=valid)


def max_iou(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Return (N,) the largest intersection over union of each box of `a` (N, 4) with a box of `b`; 0 without any."""
    return iou(a, b).max(axis=1, initial=0)


def over_ignored(boxes: Boxes, ignored: Boxes) -> NDArray[np.bool_]:
    """Return (N,) whether a box may show a face of `ignored` (K, 4): they share over 0.3 of the smaller of the two."""
    return iou(boxes, ignored, "min").max(axis=1, initial=0) > MAX_IGNORED_SHARE


def square(boxes: Boxes) -> Boxes:
    """Return squares (N, 4) with the boxes' centres; each side is the longer side of its box."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def clip(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Return the boxes clipped to an image of `size` (width, height)."""
    width, height = size
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def nms(boxes: Boxes, scores: NDArray[np.float32], threshold: float, overlap: Overlap = "union") -> NDArray[np.intp]:
    """Return the indices of the boxes that greedy non-maximum suppression keeps, highest score first.

    Args:
        boxes: (N, 4).
        scores: (N,); boxes with equal scores keep their order.
        threshold: the most overlap with a kept box of higher score.
        overlap: as in `iou`.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = boxes[order]
    # OpenCV treats boxes without area as copies of one another, and compares all pairs.
    use_opencv = overlap == "union" and len(ranked) <= MAX_OPENCV_BOXES and bool((area(ranked) > 0).all())
    return order[_nms_opencv(ranked, threshold) if use_opencv else _nms_sparse(ranked, threshold, overlap)]


def soft_nms(boxes: Boxes, scores: NDArray[np.float32], sigma: float) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Apply Gaussian soft non-maximum suppression (Bodla et al. 2017) to boxes (N, 4) with scores (N,).

    The best remaining box multiplies the score of each other remaining box by exp(-IoU^2 / sigma); sigma 0 changes
    no score.

    Returns:
        All indices (N,), highest new score first, and the new scores (N,) in that order.
    """
    if sigma <= 0 or len(boxes) < 2:
        order = np.argsort(-scores, kind="stable")
        return order, scores[order]
    decay = np.exp(-(iou(boxes, boxes) ** 2) / np.float32(sigma))
    current = scores.astype(np.float32)
    remaining = np.ones(len(boxes), bool)
    order, decayed = np.zeros(len(boxes), np.intp), np.zeros(len(boxes), np.float32)
    for rank in range(len(boxes)):
        best = int(np.argmax(np.where(remaining, current, -1)))
        order[rank], decayed[rank] = best, current[best]
        remaining[best] = False
        current = np.where(remaining, current * decay[best], current)
    return order, decayed


def _nms_opencv(ranked: Boxes, threshold: float) -> NDArray[np.intp]:
    """Return the ranks that are kept, by IoU: ten times faster than numpy for hundreds of boxes."""
    sides = ranked[:, 2:] - ranked[:, :2]
    rectangles = np.concatenate([ranked[:, :2], sides], axis=1).astype(np.float64)
    descending = np.arange(len(ranked), 0, -1, dtype=np.float32)
    kept = cv2.dnn.NMSBoxes(rectangles, descending, 0.0, threshold)  # type: ignore[arg-type]  # arrays work, too, and are faster
    return np.array(kept, dtype=np.intp).reshape(-1)


def _nms_sparse(ranked: Boxes, threshold: float, overlap: Overlap) -> NDArray[np.intp]:
    """Return the ranks that are kept; compare a kept box only with boxes near its left edge: O(N) memory."""
    areas = area(ranked)
    by_left = np.argsort(ranked[:, 0], kind="stable")
    lefts = ranked[by_left, 0]
    widest = (ranked[:, 2] - ranked[:, 0]).max(initial=0)
    first = np.searchsorted(lefts, ranked[:, 0] - widest, side="left")
    last = np.searchsorted(lefts, ranked[:, 2], side="right")
    alive = np.ones(len(ranked), dtype=bool)
    kept = []
    for i in range(len(ranked)):
        if not alive[i]:
            continue
        kept.append(i)
        near = by_left[first[i] : last[i]]
        low, high = np.maximum(ranked[i, :2], ranked[near, :2]), np.minimum(ranked[i, 2:], ranked[near, 2:])
        sides = np.maximum(high - low, 0)
        intersection = sides[:, 0] * sides[:, 1]
        denominator = np.minimum(areas[i], areas[near]) if overlap == "min" else areas[i] + areas[near] - intersection
        alive[near[intersection > threshold * denominator]] = False
    return np.array(kept, dtype=np.intp)
