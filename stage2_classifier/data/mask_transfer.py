"""Puts the mask of one face on another that wears none, rightly or wrongly, by their landmarks.

The rare class is made from what there is plenty of. MaskedFace-Net (Cabani et al. 2020) draws one mask over bare faces;
here each mask is a real one, of a masked face of the same data, so that colours, folds, light and blur are real, too.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Way = Literal["right", "nose_out", "chin"]

# In a face's own frame 0 is the eyes' line and 1 the mouth's; the nose tip lies near 0.6, the chin's end near 1.8.
# Where a mask's upper edge comes to lie, and where it was on the face that it is taken from.
TOP: dict[Way, tuple[float, float]] = {"right": (0.28, 0.45), "nose_out": (0.72, 1.0), "chin": (1.2, 1.45)}
TAKEN_FROM = (0.4, 0.5)
CHIN = 1.75
LEAST_HEIGHT = 2.0  # px from eyes to mouth, below which landmarks span no face


def face_frame(landmarks: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The eyes' middle (2,) and the axes (2, 2) of a face with `landmarks` (5, 2): columns half a face right, and down.

    landmarks: the eye left in the picture, the other eye, nose tip, the mouth's left and right corner, in pixels. None
    when they span no face.
    """
    points = np.asarray(landmarks, np.float64)
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    down, right = mouth - eyes, points[1] - points[0]
    height, width = np.hypot(*down), np.hypot(*right)
    if height < LEAST_HEIGHT or width < 1:
        return None
    # A face's half width is near its eyes' distance; of a face turned away the eyes come closer, the height stays.
    right = right / width * max(width, 0.85 * height) * 1.02
    axes = np.stack([right, down], axis=1)
    return None if abs(np.linalg.det(axes)) < 1 else (eyes, axes)


def splice(
    bare: NDArray[np.uint8],
    bare_landmarks: NDArray[np.floating],
    masked: NDArray[np.uint8],
    masked_landmarks: NDArray[np.floating],
    way: Way,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """A copy of `bare` (H, W, 3 uint8) with the mask of `masked` (h, w, 3 uint8) over it, worn as `way` says.

    Landmarks (5, 2) are in pixels of the picture that they belong to. Where exactly the mask lies, how soft its edge is
    and how far its light follows the bare face's is drawn from `rng`. Raises ValueError when landmarks span no face.
    """
    target, source = face_frame(bare_landmarks), face_frame(masked_landmarks)
    if target is None or source is None:
        raise ValueError("the landmarks do not span a face")
    (eyes, axes), (other_eyes, other_axes) = target, source
    if rng.random() < 0.5:
        other_axes = other_axes * (-1, 1)  # the mask mirrored
    top, taken = rng.uniform(*TOP[way]), rng.uniform(*TAKEN_FROM)
    stretch = rng.uniform(0.85, 1.1)
    inverse = np.asarray(np.linalg.inv(axes), np.float64)
    # A place of the bare face's frame shows the masked face's frame shifted by how much lower the mask is worn.
    matrix = np.zeros((2, 3))
    matrix[:, :2] = other_axes @ np.diag([1, stretch]) @ inverse
    matrix[:, 2] = other_eyes + other_axes @ (0, taken - top * stretch) - matrix[:, :2] @ eyes
    shrink = max(int(np.sqrt(abs(np.linalg.det(matrix[:, :2])))), 1)
    if shrink > 1:  # bilinear sampling would skip pixels
        size = (max(masked.shape[1] // shrink, 1), max(masked.shape[0] // shrink, 1))
        scale = np.array([[size[0] / masked.shape[1]], [size[1] / masked.shape[0]]])
        masked = np.asarray(cv2.resize(masked, size, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = matrix * scale
    # OpenCV counts from pixel centres, landmarks from corners.
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    height, width = bare.shape[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cloth = cv2.warpAffine(masked, shifted, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    cloth = np.asarray(cloth, np.float32)
    alpha = _outline(height, width, eyes, inverse, top, rng)
    if rng.random() < 0.6:
        light = (bare * alpha).sum() / max(float((cloth * alpha).sum()), 1.0)
        cloth = np.clip(cloth * float(np.clip(light, 0.6, 1.6)) ** rng.uniform(0.3, 1), 0, 255)
    return np.round(bare * (1 - alpha) + cloth * alpha).astype(np.uint8)


def _outline(
    height: int,
    width: int,
    eyes: NDArray[np.float64],
    inverse: NDArray[np.float64],
    top: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """(H, W, 1): how much of the cloth is seen at each pixel, 1 inside the mask, falling to 0 over a soft edge."""
    y, x = np.mgrid[:height, :width] + 0.5
    u = inverse[0, 0] * (x - eyes[0]) + inverse[0, 1] * (y - eyes[1])
    v = inverse[1, 0] * (x - eyes[0]) + inverse[1, 1] * (y - eyes[1])
    soft = rng.uniform(0.02, 0.06)
    edge = top + rng.uniform(-0.05, 0.2) * u**2
    sides = 1.0 - 0.12 * np.clip(v - 0.8, 0, 1) - np.abs(u)
    bottom = CHIN - 0.5 * np.abs(u) ** 3
    alpha = _rise((v - edge) / soft) * _rise(sides / soft) * _rise((bottom - v) / (2 * soft))
    return alpha[..., None].astype(np.float32)


def _rise(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))
