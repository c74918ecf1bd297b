"""From a face box to the classifier's input and back: numpy and OpenCV only.

Inference and evaluation cut with `cut_crop`, bit for bit. Training views with jitter are cut from larger crops by
`stage2_classifier.data.box_jitter`; resizing, normalisation and box deltas are the code of this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import BBOX_XFORM_CLIP


def crop_window(box: Sequence[float] | NDArray[np.floating], margin: float) -> tuple[int, int, int, int]:
    """Return the square window (x1, y1, x2, y2; whole pixels, exclusive ends) that is cut for a face box.

    A square keeps the face's proportions when the crop is resized. The window may reach beyond the image. The context
    on each side is `margin`, a share of the box's longer side.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    side = max(round(max(x2 - x1, y2 - y1) * (1 + 2 * margin)), 1)
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    return left, top, left + side, top + side


def cut_crop(
    image: NDArray[np.uint8], box: Sequence[float] | NDArray[np.floating], margin: float, size: int | None = None
) -> NDArray[np.uint8]:
    """Cut a square face crop with context from an image, and resize it.

    Cutting at native size and a later `resize_crop` give the same pixels as both at once.

    Args:
        image: uint8 (H, W, 3) RGB.
        box: xyxy in pixels of the image.
        margin: context on each side, as a share of the box's longer side.
        size: side of the crop in pixels; None keeps the image's pixels.

    Returns:
        uint8 (S, S, 3). Pixels outside the image repeat the image's edge.

    Raises:
        ValueError: the window does not touch the image.
    """
    crop = cut_window(image, crop_window(box, margin))
    return crop if size is None else resize_crop(crop, size)


def cut_window(image: NDArray[np.uint8], window: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return the pixels of a window (x1, y1, x2, y2; exclusive ends) of `image` (H, W, 3), with repeated edges.

    Raises ValueError when the window does not touch the image.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = window
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if left >= right or top >= bottom:
        raise ValueError(f"window {window} is outside the {width}x{height} image")
    crop = image[top:bottom, left:right]
    if (left, top, right, bottom) != (x1, y1, x2, y2):
        edges = (top - y1, y2 - bottom, left - x1, x2 - right)
        crop = np.asarray(cv2.copyMakeBorder(crop, *edges, cv2.BORDER_REPLICATE), dtype=np.uint8)
    return np.ascontiguousarray(crop)


def resize_crop(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize a crop (H, W, 3) to (size, size, 3): area averaging when shrinking, bilinear when enlarging.

    INTER_LINEAR_EXACT gives the same pixels on every machine, and in the exported graph (pipeline.export).
    """
    if crop.shape[:2] == (size, size):
        return np.ascontiguousarray(crop)
    method = cv2.INTER_AREA if crop.shape[0] > size else cv2.INTER_LINEAR_EXACT
    return np.asarray(cv2.resize(crop, (size, size), interpolation=method), dtype=np.uint8)


def to_input(crops: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return the network's float32 input (N, 3, S, S) of uint8 crops (N, S, S, 3) RGB.

    `mean` and `std` are per channel, of pixel values scaled to 0..1.
    """
    scale = (1.0 / (255.0 * np.asarray(std, dtype=np.float64))).astype(np.float32)
    shift = (np.asarray(mean, dtype=np.float64) / np.asarray(std, dtype=np.float64)).astype(np.float32)
    return np.ascontiguousarray((crops.astype(np.float32) * scale - shift).transpose(0, 3, 1, 2))


# Box deltas are the shift of the box's centre in x and y, and the logarithms of width and height. Their unit is the
# side of the window without margins. All zero means that the face fills the middle of the window.


def box_deltas(box: Sequence[float] | NDArray[np.floating], anchor: tuple[float, float, float]) -> NDArray[np.float32]:
    """Return the deltas (4,) of a face box relative to an anchor (centre x, centre y, unit; pixels)."""
    x1, y1, x2, y2 = (float(v) for v in box)
    x, y, unit = anchor
    sides = np.log(np.maximum((x2 - x1, y2 - y1), 1e-3) / unit)
    return np.array([((x1 + x2) / 2 - x) / unit, ((y1 + y2) / 2 - y) / unit, *sides], dtype=np.float32)


def window_anchor(box: Sequence[float] | NDArray[np.floating], margin: float) -> tuple[float, float, float]:
    """Return the anchor (centre x, centre y, unit; pixels) of the window that is cut for a box."""
    x1, y1, x2, y2 = crop_window(box, margin)
    return (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / (1 + 2 * margin)


def apply_box_deltas(boxes: NDArray[np.float32], deltas: NDArray[np.float32], margin: float) -> NDArray[np.float32]:
    """Return the face boxes (N, 4) of the network's box outputs `deltas` (N, 4) on the windows of `boxes` (N, 4)."""
    anchors = np.array([window_anchor(box, margin) for box in boxes], np.float32).reshape(-1, 3)
    centres = anchors[:, :2] + deltas[:, :2] * anchors[:, 2:]
    halves = np.exp(np.clip(deltas[:, 2:], -BBOX_XFORM_CLIP, BBOX_XFORM_CLIP)) * anchors[:, 2:] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float32)
