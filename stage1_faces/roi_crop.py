"""Crops many windows from one photo at sub-pixel places: bilinear sampling of mipmaps, the photo's halvings.

Mipmaps: Williams, "Pyramidal Parametrics", 1983. The chosen level is the coarsest that is at least as fine as the
window. It is at most twice as fine, so bilinear sampling skips no pixel. Training and inference share this code.
Halves are exact means of 2x2 pixels, which the exported graph (pipeline.export) makes, too.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes
from common.images import Pixels

GREY = 127  # fills what is outside the photo; the nets' zero
BORDER = (GREY, GREY, GREY)
MAX_WARP_SIDE = 32766  # px, longest side that OpenCV's warps take; a longer photo is read from a halved level


def halved(picture: Pixels) -> Pixels:
    """Return a picture (H, W, 3) at half its size, rounded up: means of 2x2 pixels; an odd side's last count twice."""
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        picture = np.asarray(cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
    size = (picture.shape[1] // 2, picture.shape[0] // 2)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


class Mipmaps:
    """A photo (H, W, 3 uint8) with its halves, quarters and so on, each made when first needed."""

    def __init__(self, image: Pixels) -> None:
        self.image = image
        self.size = (image.shape[1], image.shape[0])  # width, height
        self._levels = [image]
        self._finest = max(math.ceil(math.log2(max(image.shape[:2]) / MAX_WARP_SIDE)), 0)

    def level(self, k: int) -> tuple[Pixels, int]:
        """Return the photo halved k times, or until it has one pixel, and the photo's pixels per pixel of it."""
        while len(self._levels) <= k and max(self._levels[-1].shape[:2]) >= 2:
            self._levels.append(halved(self._levels[-1]))
        k = min(k, len(self._levels) - 1)
        return self._levels[k], 2**k

    def warp_crop(self, matrix: NDArray[np.float64], size: int) -> Pixels:
        """Return one window (size, size, 3) whose pixel at (u, v) shows the photo at matrix (2, 3) @ (u, v, 1).

        Both places count from the outer corner of the first pixel, whose centre is (0.5, 0.5). Pixels outside the
        photo are GREY.
        """
        step = math.sqrt(abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))
        level, shrink = self.level(max(math.floor(math.log2(max(step, 1e-6))), self._finest))
        scaled = matrix / shrink
        # From corner-based places to the pixel indices that OpenCV counts in.
        scaled[:, 2] += scaled[:, :2].sum(axis=1) * 0.5 - 0.5
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        window = cv2.warpAffine(
            level, scaled, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER
        )
        return np.asarray(window, np.uint8)

    def crop_boxes(self, squares: Boxes, size: int) -> Pixels:
        """Return the windows (N, size, size, 3) of upright squares (N, 4), which may stick out of the photo.

        A window equals that of `warp_crop`, but for rounding: one grey level in a few pixels. All windows of a
        mipmap level take one call.
        """
        out = np.empty((len(squares), size, size, 3), np.uint8)
        corners = squares.astype(np.float64)
        steps = (corners[:, 2:] - corners[:, :2]) / size
        mean_steps = np.maximum(np.sqrt(np.abs(steps.prod(axis=1))), 1e-6)
        levels = np.maximum(np.floor(np.log2(mean_steps)).astype(int), self._finest)
        per_call = MAX_WARP_SIDE // size
        for k in np.flatnonzero(np.bincount(levels)):  # not np.unique, which imports all of numpy.ma
            picture, shrink = self.level(int(k))
            (of_level,) = np.nonzero(levels == k)
            for chunk in np.split(of_level, range(per_call, len(of_level), per_call)):
                step = steps[chunk] / shrink
                # The first pixel's centre, as OpenCV counts.
                first = corners[chunk, :2] / shrink + step * 0.5 - 0.5
                out[chunk] = _sample_grids(picture, first, step, size)
        return out


def _sample_grids(picture: Pixels, first: NDArray[np.float64], step: NDArray[np.float64], size: int) -> Pixels:
    """Return N windows of `picture`, sampled on upright grids from `first` (N, 2) with `step` (N, 2) pixels."""
    places = (first[..., None] + step[..., None] * np.arange(size)).astype(np.float32)  # (N, 2, size)
    shape = (len(first), size, size)
    map_x = np.broadcast_to(places[:, 0, None, :], shape).reshape(-1, size)
    map_y = np.broadcast_to(places[:, 1, :, None], shape).reshape(-1, size)
    windows = cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER)
    return np.asarray(windows, np.uint8).reshape(*shape, 3)
