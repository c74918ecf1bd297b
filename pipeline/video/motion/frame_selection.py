"""Selects the frames of a video in which the detector runs."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from common.images import Pixels
from pipeline.video.reader import Frame

# Frames are compared by the mean grey level of square blocks. In a picture of 640 px, a face of 16 px fills a quarter
# of a block, and the noise of a camera averages out over its 1024 pixels.
COLUMNS = 20  # blocks in a row
# Grey levels, of 255, that a block must change by, beyond the exposure of the whole picture: a face of 16 px that
# differs by 20 from what was there.
MIN_CHANGE = 5.0
MAX_HOLD = 1.0  # s without a run of the detector; slow changes are seen by then


class MotionGate:
    """Tells whether a frame differs from the last one in which the detector ran."""

    def __init__(self) -> None:
        self._blocks: NDArray[np.float32] | None = None  # (rows, columns) of the last frame in which it ran
        self._time = 0.0  # s, of that frame

    def should_detect(self, frame: Frame) -> bool:
        """Return whether the detector should run in a frame; if so, later frames are compared with it."""
        blocks = block_means(frame.pixels)
        last = self._blocks
        if last is not None and last.shape == blocks.shape and frame.time - self._time < MAX_HOLD:
            exposure = np.median(blocks / np.maximum(last, 1))
            if float(np.abs(blocks - exposure * last).max()) < MIN_CHANGE:
                return False
        self._blocks, self._time = blocks, frame.time
        return True


def block_means(pixels: Pixels) -> NDArray[np.float32]:
    """Return the mean grey level of each block of a picture (H, W, 3): (rows, COLUMNS)."""
    height, width = pixels.shape[:2]
    rows = max(round(COLUMNS * height / width), 1)
    coarse = cv2.resize(pixels, (COLUMNS, rows), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(coarse, cv2.COLOR_RGB2GRAY).astype(np.float32)


class FrameSelector:
    """Marks each frame: the detector runs in it, its faces are those of the last run, or its boxes are moved."""

    def __init__(self, stride: int = 1, motion: bool = False) -> None:
        """Set where the detector runs.

        Args:
            stride: every `stride`th frame is a candidate; in the others, boxes are moved.
            motion: run only in candidates that differ from the last frame in which it ran.
        """
        self._stride, self._gate = stride, MotionGate() if motion else None

    def marked(self, frames: Iterable[Frame]) -> Generator[Frame]:
        """Yield the frames with their `action`."""
        for number, frame in enumerate(frames):
            if number % self._stride:
                yield replace(frame, action="follow")
            elif self._gate is None or self._gate.should_detect(frame):
                yield frame
            else:
                yield replace(frame, action="hold")
