"""Converts a video's frames to upright RGB with square pixels."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from common.images import Pixels

if TYPE_CHECKING:
    from av import VideoFrame

BT709, UNSPECIFIED = 1, 2  # FFmpeg's numbers of YUV colour spaces
MAX_STRETCH = 4  # a larger one is a mistake in the header
MIN_STRETCH = Fraction(101, 100)  # a smaller one is not visible, and often comes from rounded sides


def square_pixels(ratio: Fraction | None) -> tuple[Fraction, Fraction]:
    """Return the factors, 1 or more, by which width and height grow so that pixels become square; one of them is 1.

    Args:
        ratio: width of a pixel by its height; None or 0: unknown.
    """
    ratio = ratio or Fraction(1)
    stretch = max(ratio, 1 / ratio)
    if not MIN_STRETCH <= stretch <= MAX_STRETCH:
        return Fraction(1), Fraction(1)
    return (stretch, Fraction(1)) if ratio > 1 else (Fraction(1), stretch)


class Autorotator:
    """Converts PyAV's frames of one video to uint8 (H, W, 3) RGB, turned by the display matrix of phones' videos.

    `ratio` is the width of a stored pixel by its height. The pixels of the results are square.

    It reads side data and converts with one reformatter only where needed. A frame that gave its side data refers to
    itself: it stays in memory, with its own reformatter's threads, until Python's next garbage collection.
    """

    def __init__(self, ratio: Fraction | None = None) -> None:
        from av.video.reformatter import VideoReformatter

        self.stretch = square_pixels(ratio)  # factors of width and height
        self._reformatter = VideoReformatter()
        self._rotation: int | None = None
        self._matrix: NDArray[np.int32] | None = None

    def __call__(self, frame: VideoFrame) -> Pixels:
        """Return the pixels of one frame."""
        if frame.colorspace == UNSPECIFIED and frame.height > 576:
            frame.colorspace = BT709  # as players assume
        if frame.rotation != self._rotation:
            self._rotation, matrix = frame.rotation, frame.side_data.get("DISPLAYMATRIX")
            self._matrix = None if matrix is None else np.frombuffer(cast(Any, matrix), np.int32).copy()
        across, down = self.stretch
        width, height = round(frame.width * across), round(frame.height * down)
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)  # the cores are taken
        pixels = np.asarray(rgb.to_ndarray(), np.uint8)
        if self._matrix is None:
            return pixels
        # The matrix maps one step right to (a, b), one down to (c, d); the third column and row are for shifts.
        a, b, _, c, d = self._matrix[:5].tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            pixels, a, d = pixels.swapaxes(0, 1), c, b
        return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
