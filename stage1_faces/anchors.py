"""Anchors and box deltas: how the fine-tuned cascade's nets encode boxes.

An anchor is a centre x, y and a unit, in pixels. Box deltas are the shift of the centre in x and y and the logarithms
of width and height, all in anchor units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.boxes import BBOX_XFORM_CLIP, Boxes


def decode(anchors: NDArray[np.float32], box_deltas: NDArray[np.float32]) -> Boxes:
    """Return boxes (N, 4) from anchors (N, 3) and a net's box deltas (N, 4)."""
    unit = anchors[:, 2:]
    centre = anchors[:, :2] + box_deltas[:, :2] * unit
    half = np.exp(np.clip(box_deltas[:, 2:], -BBOX_XFORM_CLIP, BBOX_XFORM_CLIP)) * unit / 2
    return np.asarray(np.concatenate([centre - half, centre + half], axis=1), np.float32)


def box_anchors(boxes: Boxes) -> NDArray[np.float32]:
    """Return R-Net's and O-Net's anchors (N, 3) of boxes (N, 4); the unit is the longer side, at least 1 px."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return stack_anchors((boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum(sides.max(axis=1), 1) if len(boxes) else 1.0)


def stack_anchors(centres: NDArray[np.floating], unit: float | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return anchors (N, 3) from centres (N, 2) and one unit, or a unit for each."""
    units = np.broadcast_to(np.asarray(unit, np.float32), len(centres))
    return np.concatenate([centres.astype(np.float32), units[:, None]], axis=1)
