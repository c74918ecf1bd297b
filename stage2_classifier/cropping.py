"""From a face box to the classifier's input: the same code at training and inference (numpy and OpenCV only)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


def crop_window(box: Sequence[float] | NDArray[np.floating], margin: float) -> tuple[int, int, int, int]:
    """The square window (x1, y1, x2, y2; whole pixels, exclusive ends) that is cut for a face box.

    Its side is the box's longer side enlarged by `margin` of itself on each of the two sides, its centre the
    box's. A square keeps the face's proportions when the crop is resized. It may stick out of the image.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    side = max(round(max(x2 - x1, y2 - y1) * (1 + 2 * margin)), 1)
    left = round((x1 + x2 - side) / 2)
    top = round((y1 + y2 - side) / 2)
    return left, top, left + side, top + side


def cut_crop(
    image: NDArray[np.uint8], box: Sequence[float] | NDArray[np.floating], margin: float, size: int | None = None
) -> NDArray[np.uint8]:
    """Cuts a face from `image` (H, W, 3 RGB) with context, square, and resizes it to (size, size, 3).

    Without `size` the crop keeps the photo's pixels. What lies outside the image repeats the image's edge.
    Cutting natively and resizing later with `resize_crop` gives the same pixels as doing both at once.

    Raises ValueError when the window does not touch the image.
    """
    crop = cut_window(image, crop_window(box, margin))
    return crop if size is None else resize_crop(crop, size)


def cut_window(image: NDArray[np.uint8], window: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """The pixels of a window (x1, y1, x2, y2; exclusive ends) of `image` (H, W, 3), edges repeated outside it.

    Raises ValueError when the window does not touch the image.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = window
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if left >= right or top >= bottom:
        raise ValueError(f"window {window} lies outside the {width}x{height} image")
    crop = image[top:bottom, left:right]
    if (left, top, right, bottom) != (x1, y1, x2, y2):
        edges = (top - y1, y2 - bottom, left - x1, x2 - right)
        crop = np.asarray(cv2.copyMakeBorder(crop, *edges, cv2.BORDER_REPLICATE), dtype=np.uint8)
    return np.ascontiguousarray(crop)


def resize_crop(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes a crop (H, W, 3) to (size, size, 3): area averaging when shrinking, bilinear when enlarging."""
    if crop.shape[:2] == (size, size):
        return np.ascontiguousarray(crop)
    shrinks = crop.shape[0] > size
    resized = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def to_input(crops: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Turns uint8 crops (N, S, S, 3) RGB into the network's float32 input (N, 3, S, S).

    `mean` and `std` are per channel, of pixel values scaled to 0..1.
    """
    scale = (1.0 / (255.0 * np.asarray(std, dtype=np.float64))).astype(np.float32)
    shift = (np.asarray(mean, dtype=np.float64) / np.asarray(std, dtype=np.float64)).astype(np.float32)
    return np.ascontiguousarray((crops.astype(np.float32) * scale - shift).transpose(0, 3, 1, 2))


# Box numbers are a centre's shift in x and y and the logarithms of width and height, in units of the window's side
# without its margins: all zero says that the face fills the window's middle.


def box_deltas(box: Sequence[float] | NDArray[np.floating], frame: tuple[float, float, float]) -> NDArray[np.float32]:
    """(4,) box numbers of a face box as seen from a frame (centre x, y and unit, pixels)."""
    x1, y1, x2, y2 = (float(v) for v in box)
    x, y, unit = frame
    sides = np.log(np.maximum((x2 - x1, y2 - y1), 1e-3) / unit)
    return np.array([((x1 + x2) / 2 - x) / unit, ((y1 + y2) / 2 - y) / unit, *sides], dtype=np.float32)


def window_anchor(box: Sequence[float] | NDArray[np.floating], margin: float) -> tuple[float, float, float]:
    """The frame (centre x, y and unit, pixels) of the window that is cut for a box."""
    x1, y1, x2, y2 = crop_window(box, margin)
    return (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / (1 + 2 * margin)


def apply_box_deltas(boxes: NDArray[np.float32], numbers: NDArray[np.float32], margin: float) -> NDArray[np.float32]:
    """The face boxes (N, 4) that box numbers (N, 4) tell of, given the boxes (N, 4) whose windows the network saw."""
    frames = np.array([window_anchor(box, margin) for box in boxes], np.float32).reshape(-1, 3)
    centres = frames[:, :2] + numbers[:, :2] * frames[:, 2:]
    halves = np.exp(np.clip(numbers[:, 2:], -4, 4)) * frames[:, 2:] / 2  # no side changes by a factor over 55
    return np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float32)
