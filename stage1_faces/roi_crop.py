"""Cuts many windows from one photo at sub-pixel places: bilinear from a chain of halved photos (mipmaps).

Mipmaps: Williams, "Pyramidal Parametrics", 1983. The nearest level at or above the window's resolution is at most
twice as fine as the window, so bilinear sampling skips no pixel. The same code serves training and inference.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes
from stage1_faces.faces import Pixels

GREY = 127  # what lies outside the photo; the nets' zero
LONGEST = 32766  # px a side that OpenCV's warps read and write; a longer photo is seen from its first level below


class Mipmaps:
    """A photo (H, W, 3 uint8) with its halves, quarters and so on, each made when first needed."""

    def __init__(self, image: Pixels) -> None:
        self.image = image
        self._levels = [image]
        self._finest = max(math.ceil(math.log2(max(image.shape[:2]) / LONGEST)), 0)

    @property
    def size(self) -> tuple[int, int]:
        """The photo's width and height."""
        return self.image.shape[1], self.image.shape[0]

    def level(self, k: int) -> Pixels:
        """The photo shrunk by 2**k, or as often as both sides stay at least one pixel."""
        while len(self._levels) <= k and min(self._levels[-1].shape[:2]) >= 2:
            last = self._levels[-1]
            size = (last.shape[1] // 2, last.shape[0] // 2)
            self._levels.append(np.asarray(cv2.resize(last, size, interpolation=cv2.INTER_AREA), np.uint8))
        return self._levels[min(k, len(self._levels) - 1)]

    def cut(self, matrix: NDArray[np.float64], size: int) -> Pixels:
        """One window (size, size, 3): output pixel centre (u, v) shows the photo at matrix (2, 3) @ (u, v, 1).

        Both places count from the outer corner of the first pixel, so its centre is (0.5, 0.5). What lies outside
        the photo is GREY.
        """
        step = math.sqrt(abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))
        k = max(math.floor(math.log2(max(step, 1e-6))), self._finest)
        level = self.level(k)
        whole = self.image
        shrink = np.array([level.shape[1] / whole.shape[1], level.shape[0] / whole.shape[0]])[:, None]
        scaled = matrix * shrink
        # From corner-based places to the pixel indices that OpenCV counts in.
        scaled[:, 2] += scaled[:, :2].sum(axis=1) * 0.5 - 0.5
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        border = (GREY, GREY, GREY)
        window = cv2.warpAffine(
            level, scaled, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=border
        )
        return np.asarray(window, np.uint8)

    def squares(self, squares: Boxes, size: int) -> Pixels:
        """(N, size, size, 3): upright squares (N, 4) of the photo, which may stick out of it, as windows.

        As `cut` gives them one by one (but for rounding: one grey level in a few pixels), all of a level in one call.
        """
        out = np.empty((len(squares), size, size, 3), np.uint8)
        corners = squares.astype(np.float64)
        steps = (corners[:, 2:] - corners[:, :2]) / size
        mean_steps = np.maximum(np.sqrt(np.abs(steps.prod(axis=1))), 1e-6)
        levels = np.maximum(np.floor(np.log2(mean_steps)).astype(int), self._finest)
        pixels = np.arange(size)
        for k in np.flatnonzero(np.bincount(levels)):  # not np.unique, which imports all of numpy.ma
            picture = self.level(int(k))
            shrink = np.array([picture.shape[1], picture.shape[0]]) / self.size
            (all_of_it,) = np.nonzero(levels == k)
            most = LONGEST // size
            for mine in np.split(all_of_it, range(most, len(all_of_it), most)):
                step = steps[mine] * shrink
                first = corners[mine, :2] * shrink + step * 0.5 - 0.5  # the first pixel's centre, as OpenCV counts
                places = (first[..., None] + step[..., None] * pixels).astype(np.float32)  # (N, 2, size)
                shape = (len(mine), size, size)
                across = np.broadcast_to(places[:, 0, None, :], shape).reshape(-1, size)
                down = np.broadcast_to(places[:, 1, :, None], shape).reshape(-1, size)
                out[mine] = cv2.remap(
                    picture,
                    across,
                    down,
                    cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_CONSTANT,
                    borderValue=(GREY, GREY, GREY),
                ).reshape(*shape, 3)
        return out
