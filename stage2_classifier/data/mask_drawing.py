"""Draws a surgical mask over a bare face by its five landmarks, worn rightly or wrongly.

The idea of placing masks by landmarks, rightly and in wrong ways, is MaskedFace-Net's (Cabani et al., "MaskedFace-Net -
A dataset of correctly/incorrectly masked face images in the context of COVID-19", 2020); the drawing is our own.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Way = Literal["right", "nose_out", "chin"]

# Height of the mask's upper edge in the middle and at the sides, in the face's own frame: 0 at the eyes' line, 1 at
# the mouth's. The nose tip lies near 0.6, the chin's end near 1.8.
_TOP: dict[Way, tuple[float, float]] = {"right": (0.28, 0.42), "nose_out": (0.80, 0.72), "chin": (1.22, 1.12)}
_BOTTOM = 1.75
_SUPERSAMPLE = 4


def draw_mask(
    image: NDArray[np.uint8],
    landmarks: NDArray[np.floating],
    way: Way = "right",
    colour: tuple[int, int, int] = (176, 208, 226),
) -> NDArray[np.uint8]:
    """A copy of `image` (H, W, 3 uint8 RGB) with a mask drawn over the face with `landmarks` (5, 2) pixels.

    landmarks: the eye left in the picture, the other eye, nose tip, the mouth's left and right corner. way: over
    nose and mouth, under the nose, or under the mouth. colour: RGB of the cloth.

    Raises ValueError when the landmarks do not span a face (eyes and mouth on one spot).
    """
    points = np.asarray(landmarks, dtype=np.float64)
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    down = mouth - eyes
    right = points[1] - points[0]
    if np.hypot(*down) < 1 or np.hypot(*right) < 1:
        raise ValueError("the landmarks do not span a face")
    # A face's half width is near its eyes' distance; of a face turned away the eyes come closer, the height stays.
    right = right / np.hypot(*right) * max(np.hypot(*right), 0.85 * np.hypot(*down)) * 1.02

    def place(u: NDArray[np.floating], v: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray(eyes + u[:, None] * right + v[:, None] * down)

    middle, side = _TOP[way]
    across = np.linspace(-1, 1, 33)
    top = place(across * 0.98, side + (middle - side) * (1 - across**2) ** 2)
    # From cheek to cheek below the chin, narrower than the upper edge, as a jaw is.
    turn = np.linspace(0, np.pi, 33)
    low = side + (_BOTTOM - side) * np.sin(turn) ** 0.6
    bottom = place(np.cos(turn) * (0.98 - 0.22 * np.sin(turn)), low)
    outline = np.concatenate([top, bottom])

    pad = 0.8 * np.hypot(*right)
    height, width = image.shape[:2]
    x1, y1 = np.maximum(np.floor(outline.min(axis=0) - pad), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(outline.max(axis=0) + pad), (width, height)).astype(int)
    if x1 >= x2 or y1 >= y2:
        return image.copy()
    patch = image[y1:y2, x1:x2]
    size = ((x2 - x1) * _SUPERSAMPLE, (y2 - y1) * _SUPERSAMPLE)
    scale = float(np.hypot(*right)) * _SUPERSAMPLE

    def pixels(curve: NDArray[np.floating]) -> NDArray[np.int32]:
        return np.round((curve - (x1, y1)) * _SUPERSAMPLE).astype(np.int32)

    def averaged(layer: NDArray[np.uint8]) -> NDArray[np.float32]:
        shrunk = cv2.resize(layer, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)
        return np.asarray(shrunk, np.float32)[..., None] / np.float32(255)

    cloth = np.zeros(size[::-1], np.uint8)
    cv2.fillPoly(cloth, [pixels(outline)], 255)
    straps = np.zeros_like(cloth)
    thickness = max(round(0.035 * scale), 1)
    for u in (-1.0, 1.0):
        for start, end in ((side, 0.15), (side + 0.6 * (_BOTTOM - side), 0.55)):
            line = place(np.array([u * 0.95, u * 1.12]), np.array([start, end]))
            cv2.polylines(straps, [pixels(line)], False, 255, thickness)
    pleats = np.zeros_like(cloth)
    for share in (0.3, 0.5, 0.7):
        level = side + share * (_BOTTOM - side)
        fold = place(across * (0.9 - 0.2 * share), level + 0.06 * (1 - across**2))
        cv2.polylines(pleats, [pixels(fold)], False, 255, max(round(0.02 * scale), 1))

    # Cloth takes the light of the face below: the patch's coarse brightness shades it, darker towards the cheeks.
    light = cv2.GaussianBlur(patch, (0, 0), max(0.35 * scale / _SUPERSAMPLE, 1)).astype(np.float32).mean(axis=2)
    inside = averaged(cloth)
    mean_light = float((light[..., None] * inside).sum() / max(inside.sum(), 1e-6))
    shade = np.clip(0.55 + 0.45 * light / max(mean_light, 1.0), 0.45, 1.15)[..., None]
    exposure = np.clip(mean_light / 150, 0.35, 1.1)
    paint = np.clip(np.array(colour, np.float32) * shade * exposure * (1 - 0.22 * averaged(pleats)), 0, 255)
    result = patch.astype(np.float32)
    strap_alpha = averaged(straps) * 0.8
    result = result * (1 - strap_alpha) + np.clip(np.array(colour, np.float32) * exposure, 0, 255) * strap_alpha
    result = result * (1 - inside) + paint * inside
    out = image.copy()
    out[y1:y2, x1:x2] = np.round(result).astype(np.uint8)
    return out
