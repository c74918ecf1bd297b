"""Draws a surgical mask over a bare face by the face's landmarks, worn correctly or wrongly.

The idea of masks placed by landmarks, correctly and in wrong ways, is MaskedFace-Net's (Cabani et al.,
"MaskedFace-Net - A dataset of correctly/incorrectly masked face images in the context of COVID-19", 2020). The drawing
is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stage2_classifier.data.face_axes import MaskPosition, face_axes

# Height of the mask's upper edge in the middle and at the sides, in the face's axes. The line of the eyes is 0, that of
# the mouth 1, the nose tip near 0.6, the chin near 1.8.
_TOP: dict[MaskPosition, tuple[float, float]] = {
    "correct": (0.28, 0.42),
    "nose_out": (0.80, 0.72),
    "chin": (1.22, 1.12),
}
_BOTTOM = 1.75
_SUPERSAMPLE = 4
_MIN_HEIGHT = 1.0  # px from eyes to mouth

Curve = NDArray[np.floating]  # (P, 2) pixels


class _MaskCurves(NamedTuple):
    """Outlines of a mask in pixels of the image."""

    outline: Curve
    straps: list[Curve]
    pleats: list[Curve]


def draw_mask(
    image: NDArray[np.uint8],
    landmarks: NDArray[np.floating],
    position: MaskPosition = "correct",
    colour: tuple[int, int, int] = (176, 208, 226),
) -> NDArray[np.uint8]:
    """Return a copy of an image with a mask drawn over a face.

    Args:
        image: uint8 (H, W, 3) RGB.
        landmarks: (5, 2) pixels: the eye left in the picture, the other eye, nose tip, left and right mouth corner.
        position: over nose and mouth, under the nose, or under the mouth.
        colour: RGB of the cloth.

    Raises:
        ValueError: the landmarks do not span a face (eyes and mouth on one spot).
    """
    if (found := face_axes(landmarks, _MIN_HEIGHT)) is None:
        raise ValueError("the landmarks do not span a face")
    eyes, axes = found
    curves = _mask_curves(eyes, axes, position)
    face_width = float(np.hypot(*axes[:, 0]))
    pad = 0.8 * face_width
    height, width = image.shape[:2]
    x1, y1 = np.maximum(np.floor(curves.outline.min(axis=0) - pad), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(curves.outline.max(axis=0) + pad), (width, height)).astype(int)
    out = image.copy()
    if x1 < x2 and y1 < y2:
        patch = image[y1:y2, x1:x2]
        out[y1:y2, x1:x2] = _paint(patch, curves, (x1, y1), face_width * _SUPERSAMPLE, np.array(colour, np.float32))
    return out


def _mask_curves(eyes: NDArray[np.float64], axes: NDArray[np.float64], position: MaskPosition) -> _MaskCurves:
    """Return the curves of a mask on a face with these axes."""
    right, down = axes.T

    def place(u: NDArray[np.floating], v: NDArray[np.floating]) -> Curve:
        return np.asarray(eyes + u[:, None] * right + v[:, None] * down)

    middle, side = _TOP[position]
    across = np.linspace(-1, 1, 33)
    top = place(across * 0.98, side + (middle - side) * (1 - across**2) ** 2)
    # From cheek to cheek below the chin, narrower than the upper edge, as a jaw is.
    turn = np.linspace(0, np.pi, 33)
    bottom = place(np.cos(turn) * (0.98 - 0.22 * np.sin(turn)), side + (_BOTTOM - side) * np.sin(turn) ** 0.6)
    straps = [
        place(np.array([u * 0.95, u * 1.12]), np.array([start, end]))
        for u in (-1.0, 1.0)
        for start, end in ((side, 0.15), (side + 0.6 * (_BOTTOM - side), 0.55))
    ]
    pleats = [
        place(across * (0.9 - 0.2 * share), side + share * (_BOTTOM - side) + 0.06 * (1 - across**2))
        for share in (0.3, 0.5, 0.7)
    ]
    return _MaskCurves(np.concatenate([top, bottom]), straps, pleats)


def _paint(
    patch: NDArray[np.uint8], curves: _MaskCurves, origin: tuple[int, int], scale: float, colour: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Return the patch (h, w, 3) at `origin` (x, y) with the mask; `scale` is half a face in supersampled pixels."""
    height, width = patch.shape[:2]

    def pixels(curve: Curve) -> NDArray[np.int32]:
        return np.round((curve - origin) * _SUPERSAMPLE).astype(np.int32)

    def opacity(layer: NDArray[np.uint8]) -> NDArray[np.float32]:
        shrunk = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(shrunk, np.float32)[..., None] / np.float32(255)

    def lines(drawn: Sequence[Curve], thickness: float) -> NDArray[np.float32]:
        layer = np.zeros((height * _SUPERSAMPLE, width * _SUPERSAMPLE), np.uint8)
        for curve in drawn:
            cv2.polylines(layer, [pixels(curve)], False, 255, max(round(thickness * scale), 1))
        return opacity(layer)

    cloth = np.zeros((height * _SUPERSAMPLE, width * _SUPERSAMPLE), np.uint8)
    cv2.fillPoly(cloth, [pixels(curves.outline)], 255)
    inside = opacity(cloth)
    # The face's coarse brightness shades the cloth, which is darker towards the cheeks.
    light = cv2.GaussianBlur(patch, (0, 0), max(0.35 * scale / _SUPERSAMPLE, 1)).astype(np.float32).mean(axis=2)
    mean_light = float((light[..., None] * inside).sum() / max(inside.sum(), 1e-6))
    shade = np.clip(0.55 + 0.45 * light / max(mean_light, 1.0), 0.45, 1.15)[..., None]
    exposure = np.clip(mean_light / 150, 0.35, 1.1)
    paint = np.clip(colour * shade * exposure * (1 - 0.22 * lines(curves.pleats, 0.02)), 0, 255)
    result = patch.astype(np.float32)
    strap_alpha = lines(curves.straps, 0.035) * 0.8
    result = result * (1 - strap_alpha) + np.clip(colour * exposure, 0, 255) * strap_alpha
    result = result * (1 - inside) + paint * inside
    return np.asarray(np.round(result).astype(np.uint8))
