"""A face's own axes, found by its landmarks: 0 at the line of the eyes, 1 at the line of the mouth."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

# How a mask is worn: over nose and mouth, under the nose, or under the mouth.
MaskPosition = Literal["correct", "nose_out", "chin"]


def face_axes(
    landmarks: NDArray[np.floating], min_height: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the midpoint of the eyes (2,) and the face's axes (2, 2): columns half a face right, and down.

    None when the eyes are too close together, or less than `min_height` pixels from the mouth. `landmarks` (5, 2) are
    pixels: the eye left in the picture, the other eye, nose tip, left and right mouth corner.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    down, right = mouth - eyes, points[1] - points[0]
    height, width = np.hypot(*down), np.hypot(*right)
    if height < min_height or width < 1:
        return None
    # Half a face is about as wide as the eyes' distance. In a turned face the eyes come closer, but the height stays.
    right = right / width * max(width, 0.85 * height) * 1.02
    return eyes, np.stack([right, down], axis=1)
