"""Moves the results of the detector's last run along with the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.boxes import Boxes, area, clip
from pipeline.inference.detections import Detections
from pipeline.video.motion.box_follower import BoxFollower
from pipeline.video.outputs import FrameResult
from pipeline.video.reader import Frame


class FaceFollower:
    """Gives each frame between two runs of the detector the tracks of the first one, at moved places, and no events."""

    def __init__(self) -> None:
        self._boxes = BoxFollower()
        self._last: FrameResult | None = None

    def start(self, result: FrameResult) -> None:
        """Begin with the results of a frame."""
        self._last = result
        self._boxes.start(result.frame.pixels, result.faces.boxes)

    def move(self, frame: Frame) -> FrameResult:
        """Return the results of the next frame; faces that left the picture are left out.

        Raises:
            ValueError: `start` was not called.
        """
        last = self._last
        if last is None:
            raise ValueError("a frame is followed before the detector ran in one")
        size = (frame.pixels.shape[1], frame.pixels.shape[0])
        boxes = self._boxes.move(frame.pixels)
        inside = np.flatnonzero(area(clip(boxes, size)) > 0)
        tracks = [last.tracks[i] for i in inside.tolist()]
        # What only --blur uses is left out: it searches each frame.
        nothing = Detections.empty(last.detections.class_names)
        return FrameResult(frame, nothing, tracks, _at(last.faces, boxes, size)[inside], nothing.boxes, ())


def _at(faces: Detections, boxes: Boxes, size: tuple[int, int]) -> Detections:
    """Return faces at new boxes (N, 4), clipped to a picture of `size` (width, height); the landmarks move along."""
    before = faces.boxes
    scale = (boxes[:, 2:] - boxes[:, :2]) / np.maximum(before[:, 2:] - before[:, :2], 1e-6)
    landmarks = (faces.landmarks - before[:, None, :2]) * scale[:, None] + boxes[:, None, :2]
    return replace(faces, boxes=clip(boxes, size), landmarks=landmarks.astype(np.float32))
