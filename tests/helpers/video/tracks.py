"""Makes detections of faces, for the tests of tracks and events."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.inference.detections import Detections

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
MASK, BARE = (0.9, 0.08, 0.02), (0.08, 0.9, 0.02)


def make_detections(*faces: tuple[Any, ...]) -> Detections:
    """Return detections, best score first, of faces given as (box, class probabilities, face score)."""
    faces = tuple(sorted(faces, key=lambda face: -face[2] * max(face[1])))
    if not faces:
        return Detections.empty(CLASSES)
    boxes = np.float32([face[0] for face in faces])
    landmarks = np.repeat((boxes[:, None, :2] + boxes[:, None, 2:]) / 2, 5, axis=1)
    return Detections(
        boxes, np.float32([f[2] for f in faces]), np.float32([f[1] for f in faces]), landmarks, CLASSES, 0.3
    )


def box_at(x: float, y: float = 50, side: float = 20) -> tuple[float, ...]:
    return (x, y, x + side, y + side)
