"""Box algebra on float32 xyxy pixel boxes, 0-based, right and bottom edge exclusive. Nothing is edited in place."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]  # (N, 4)
Overlap = Literal["union", "min"]
OPENCV_MOST = 4096  # boxes; its time grows with the square of their number


def as_boxes(values: Any) -> Boxes:
    """Any sequence of boxes as a new float32 (N, 4) array; an empty one becomes (0, 4).

    Raises ValueError when the shape does not fit or a value is not finite.
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
    """(N,) areas in square pixels; an inverted box has none."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def iou(a: Boxes, b: Boxes, overlap: Overlap = "union") -> NDArray[np.float32]:
    """(N, M) intersection over union, or over the smaller of the two areas with overlap="min"."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    area_a, area_b = area(a)[:, None], area(b)[None, :]
    whole = np.minimum(area_a, area_b) if overlap == "min" else area_a + area_b - shared
    counted = (whole > 0) & np.isfinite(shared)  # an area that float32 cannot hold is taken for none
    return np.divide(shared, whole, out=np.zeros_like(shared), where=counted)


def square(boxes: Boxes) -> Boxes:
    """The squares with the same centres whose side is each box's longer side."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def clip(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """The boxes cut to an image of `size` (width, height)."""
    width, height = size
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def nms(boxes: Boxes, scores: NDArray[np.float32], threshold: float, overlap: Overlap = "union") -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the boxes kept, best score first.

    A box goes when its overlap with a better kept one exceeds `threshold`. Equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = boxes[order]
    # OpenCV's suppression takes boxes without area for copies of one another, and all pairs of very many.
    plain = overlap == "union" and len(ranked) <= OPENCV_MOST and bool((area(ranked) > 0).all())
    return order[_nms_opencv(ranked, threshold) if plain else _nms_sparse(ranked, threshold, overlap)]


def soft_nms(boxes: Boxes, scores: NDArray[np.float32], sigma: float) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Gaussian soft non-maximum suppression (Bodla et al. 2017): the boxes' order, and their lowered scores in it.

    The best box left lowers every other's score by exp(-IoU^2 / sigma); none goes. With sigma 0 scores stay.
    """
    if sigma <= 0 or len(boxes) < 2:
        order = np.argsort(-scores, kind="stable")
        return order, scores[order]
    decay = np.exp(-(iou(boxes, boxes) ** 2) / np.float32(sigma))
    left = scores.astype(np.float32)
    waiting = np.ones(len(boxes), bool)
    order, lowered = np.zeros(len(boxes), np.intp), np.zeros(len(boxes), np.float32)
    for rank in range(len(boxes)):
        best = int(np.argmax(np.where(waiting, left, -1)))
        order[rank], lowered[rank] = best, left[best]
        waiting[best] = False
        left = np.where(waiting, left * decay[best], left)
    return order, lowered


def _nms_opencv(ranked: Boxes, threshold: float) -> NDArray[np.intp]:
    """Ranks kept, by IoU: ten times quicker than numpy for hundreds of boxes."""
    sides = ranked[:, 2:] - ranked[:, :2]
    rectangles = np.concatenate([ranked[:, :2], sides], axis=1).astype(np.float64)
    falling = np.arange(len(ranked), 0, -1, dtype=np.float32)
    kept = cv2.dnn.NMSBoxes(rectangles, falling, 0.0, threshold)  # type: ignore[arg-type]  # arrays do, and quicker
    return np.array(kept, dtype=np.intp).reshape(-1)


def _nms_sparse(ranked: Boxes, threshold: float, overlap: Overlap) -> NDArray[np.intp]:
    """Ranks kept, comparing each kept box at once with those whose left edge lets them touch it: O(N) memory."""
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
        shared = sides[:, 0] * sides[:, 1]
        whole = np.minimum(areas[i], areas[near]) if overlap == "min" else areas[i] + areas[near] - shared
        alive[near[shared > threshold * whole]] = False
    return np.array(kept, dtype=np.intp)
