"""Moves boxes along with the picture, from frame to frame, where the detector does not run."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes
from common.images import Pixels

# Median flow (Kalal et al. 2010, "Forward-Backward Error: Automatic Detection of Tracking Failures"): points of a grid
# in each box are followed by pyramidal Lucas-Kanade, and those that do not come back are left out.
MAX_SIDE = 480  # px of the picture in which points are followed; as exact for boxes, and quicker
GRID, INNER = 5, 0.7  # points a side, and the part of the box that they cover: its rim shows the background
WINDOW, LEVELS = (15, 15), 3  # of Lucas-Kanade
MAX_RETURN_ERROR = 1.0  # px of the small picture
MIN_POINTS = 5
MAX_SCALE = 1.15  # of a box from one frame to the next; more is an error


class BoxFollower:
    """Follows boxes from the frame of `start` on."""

    def __init__(self) -> None:
        self._grey: NDArray[np.uint8] | None = None
        self._scale = 1.0  # small picture / frame
        self._boxes: Boxes = np.zeros((0, 4), np.float32)

    def start(self, pixels: Pixels, boxes: Boxes) -> None:
        """Begin with a frame, uint8 (H, W, 3) RGB, and the boxes (N, 4) in it."""
        self._grey, self._scale = _small_grey(pixels)
        self._boxes = np.asarray(boxes, np.float32)

    def move(self, pixels: Pixels) -> Boxes:
        """Return the boxes (N, 4), in the order of `start`, in the next frame of the same size.

        A box whose points are lost stays where it is. A box may leave the picture.
        """
        previous, grey = self._grey, _small_grey(pixels)[0]
        self._grey = grey
        if previous is None or previous.shape != grey.shape or not len(self._boxes):
            return self._boxes
        points = np.concatenate([_grid(box * self._scale) for box in self._boxes]).astype(np.float32)
        options = {"winSize": WINDOW, "maxLevel": LEVELS}
        found, status, _ = cv2.calcOpticalFlowPyrLK(previous, grey, points, None, **options)  # type: ignore[call-overload]
        back, back_status, _ = cv2.calcOpticalFlowPyrLK(grey, previous, found, None, **options)  # type: ignore[call-overload]
        error = np.linalg.norm(back - points, axis=1)
        good = (status.ravel() == 1) & (back_status.ravel() == 1) & (error <= MAX_RETURN_ERROR)
        moved = [
            _moved(box, points[part][good[part]] / self._scale, found[part][good[part]] / self._scale)
            for box, part in zip(self._boxes, _parts(len(self._boxes)), strict=True)
        ]
        self._boxes = np.stack(moved).astype(np.float32)
        return self._boxes


def _small_grey(pixels: Pixels) -> tuple[NDArray[np.uint8], float]:
    """Return a frame in grey, at most MAX_SIDE px a side, and its size relative to the frame's."""
    height, width = pixels.shape[:2]
    scale = min(MAX_SIDE / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8), scale


def _grid(box: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the points (GRID * GRID, 2) of a box (4,)."""
    steps = (np.linspace(-INNER, INNER, GRID) + 1) / 2
    x, y = (box[k] + steps * (box[k + 2] - box[k]) for k in (0, 1))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)


def _parts(count: int) -> list[slice]:
    """Return where the points of each of `count` boxes are."""
    return [slice(k * GRID * GRID, (k + 1) * GRID * GRID) for k in range(count)]


def _moved(box: NDArray[np.float32], before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a box (4,) moved and scaled as its points (K, 2) were, by medians."""
    if len(before) < MIN_POINTS:
        return box
    shift = np.median(after - before, axis=0)
    first, second = np.triu_indices(len(before), 1)
    distances = np.linalg.norm(before[first] - before[second], axis=1)
    ratios = np.linalg.norm(after[first] - after[second], axis=1) / np.maximum(distances, 1e-6)
    scale = float(np.clip(np.median(ratios), 1 / MAX_SCALE, MAX_SCALE))
    centre, half = (box[:2] + box[2:]) / 2 + shift, (box[2:] - box[:2]) / 2 * scale
    return np.concatenate([centre - half, centre + half])
