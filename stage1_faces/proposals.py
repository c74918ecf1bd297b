"""Proposals: the boxes that pass from one net of the cascade to the next, and how overlapping ones are merged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, area, clip, iou, nms
from stage1_faces.cascade import BoxTable

MAX_CELLS_PER_PROPOSAL = 8  # best cells per wanted proposal that NMS compares: its time grows with their square


@dataclass(frozen=True)
class Proposals(BoxTable):
    """Boxes of one image, inside it, best first."""

    boxes: Boxes  # (N, 4) xyxy, pixels
    scores: NDArray[np.float32]  # (N,) face probability by the nets so far
    face_logits: NDArray[np.float32]  # (N,) sum of the nets' face logits, each times its weight


def top_proposals(proposals: Proposals, size: tuple[int, int], max_iou: float, count: int) -> Proposals:
    """Return the `count` best proposals, clipped to an image of `size`, that no better one overlaps by `max_iou`."""
    boxes = clip(proposals.boxes, size)
    order = np.argsort(-proposals.scores, kind="stable")
    order = order[area(boxes)[order] > 0][: count * MAX_CELLS_PER_PROPOSAL]
    kept = order[nms(boxes[order], proposals.scores[order], max_iou)[:count]]
    return replace(proposals, boxes=boxes)[kept]


def vote_boxes(boxes: Boxes, scores: NDArray[np.float32], kept: NDArray[np.intp], min_iou: float) -> Boxes:
    """Return each kept box as the score-weighted mean of the boxes that overlap it (Gidaris & Komodakis 2015)."""
    weights = np.where(iou(boxes[kept], boxes) >= min_iou, scores[None], 0)
    return np.asarray(weights @ boxes / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9), np.float32)
