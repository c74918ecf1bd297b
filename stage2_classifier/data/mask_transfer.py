"""Transfers the mask of one face to a bare face, worn correctly or wrongly, by the landmarks of both (copy-paste).

So the frequent classes give examples of the rare class. MaskedFace-Net (Cabani et al. 2020) draws one mask over bare
faces. Here each mask is a real one from the same data, so colours, folds, light and blur are real, too.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stage2_classifier.data.face_axes import face_axes

# How a transferred mask is worn: over nose and mouth, under the nose, under the mouth, or hanging from one ear.
TransferPosition = Literal["correct", "nose_out", "chin", "hanging"]

# In a face's axes the line of the eyes is 0, that of the mouth 1, the nose tip near 0.6, the chin near 1.8.
# Range of the mask's upper edge, on the bare face and on the masked face.
TOP: dict[TransferPosition, tuple[float, float]] = {
    "correct": (0.28, 0.45),
    "nose_out": (0.72, 1.0),
    "chin": (1.2, 1.45),
    "hanging": (0.35, 0.55),
}
SOURCE_TOP = (0.4, 0.5)
CHIN = 1.75
MAX_FRONTAL_TURN = 0.25  # half faces from the middle to the nose tip; beyond it one ear is hidden
MIN_HEIGHT = 2.0  # px from eyes to mouth; below this, landmarks do not span a face


def transfer_axes(landmarks: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the midpoint of the eyes (2,) and the axes (2, 2) of a face with `landmarks` (5, 2), as face_axes.

    None when the landmarks do not span a face.
    """
    found = face_axes(landmarks, MIN_HEIGHT)
    return None if found is None or abs(np.linalg.det(found[1])) < 1 else found


def transfer_mask(
    bare: NDArray[np.uint8],
    bare_landmarks: NDArray[np.floating],
    masked: NDArray[np.uint8],
    masked_landmarks: NDArray[np.floating],
    position: TransferPosition,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Return a copy of a bare face with the mask of a masked face.

    Args:
        bare: uint8 (H, W, 3).
        bare_landmarks: (5, 2) in pixels of `bare`.
        masked: uint8 (h, w, 3).
        masked_landmarks: (5, 2) in pixels of `masked`.
        position: how the mask is worn.
        rng: decides the exact place, the softness of the edge, and how far the light follows the bare face's.

    Raises:
        ValueError: the landmarks do not span a face.
    """
    target, source = transfer_axes(bare_landmarks), transfer_axes(masked_landmarks)
    if target is None or source is None:
        raise ValueError("the landmarks do not span a face")
    (eyes, axes), (source_eyes, source_axes) = target, source
    if rng.random() < 0.5:
        source_axes = source_axes * (-1, 1)  # the mask mirrored
    if position == "hanging":
        eyes, axes = _hanging_axes(eyes, axes, np.asarray(bare_landmarks[2], np.float64), rng)
    top, source_top = rng.uniform(*TOP[position]), rng.uniform(*SOURCE_TOP)
    stretch = rng.uniform(0.85, 1.1)
    inverse = np.asarray(np.linalg.inv(axes), np.float64)
    # Maps pixels of the bare face to those of the masked face, where the mask may be worn higher.
    matrix = np.zeros((2, 3))
    matrix[:, :2] = source_axes @ np.diag([1, stretch]) @ inverse
    matrix[:, 2] = source_eyes + source_axes @ (0, source_top - top * stretch) - matrix[:, :2] @ eyes
    size = (bare.shape[1], bare.shape[0])
    cloth = _warp(masked, matrix, size)
    alpha = _mask_alpha(size, eyes, inverse, top, rng)
    if rng.random() < 0.6:
        light = (bare * alpha).sum() / max(float((cloth * alpha).sum()), 1.0)
        cloth = np.clip(cloth * float(np.clip(light, 0.6, 1.6)) ** rng.uniform(0.3, 1), 0, 255)
    return np.round(bare * (1 - alpha) + cloth * alpha).astype(np.uint8)


def _hanging_axes(
    eyes: NDArray[np.float64], axes: NDArray[np.float64], nose: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return origin (2,) and axes (2, 2) of a mask that hangs from one ear, turned by some 90 degrees.

    `eyes`, `axes` and `nose` (2,) are the face's; the ear of a turned face is the visible one. The mask's right or left
    end is at the ear. The mask is narrower than when worn, because the cloth folds.
    """
    right, down = axes.T
    side = 1.0 if rng.random() < 0.5 else -1.0
    turn = float((np.linalg.inv(axes) @ (nose - eyes))[0])
    if abs(turn) > MAX_FRONTAL_TURN:
        side = -float(np.sign(turn))
    ear = eyes + side * rng.uniform(0.95, 1.1) * right + rng.uniform(0.2, 0.45) * down
    lean = rng.uniform(-0.15, 0.25)  # radians, away from the mouth
    along = down / np.hypot(*down) * np.cos(lean) + side * right / np.hypot(*right) * np.sin(lean)
    across = right / np.hypot(*right) * (1.0 if rng.random() < 0.5 else -1.0)
    long, short = along * np.hypot(*right) * rng.uniform(0.7, 0.9), across * np.hypot(*down) * rng.uniform(0.45, 0.7)
    middle = (0.45 + CHIN) / 2  # of the mask's height, in its axes
    return ear + long - middle * short, np.stack([long, short], axis=1)


def _warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return float32 pixels of `size` (width, height); `matrix` (2, 3) maps these to pixels of the image."""
    shrink = max(int(np.sqrt(abs(np.linalg.det(matrix[:, :2])))), 1)
    if shrink > 1:  # bilinear sampling would skip pixels
        small = (max(image.shape[1] // shrink, 1), max(image.shape[0] // shrink, 1))
        scale = np.array([[small[0] / image.shape[1]], [small[1] / image.shape[0]]])
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = matrix * scale
    # OpenCV counts from pixel centres, landmarks from pixel corners.
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, shifted, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _mask_alpha(
    size: tuple[int, int], eyes: NDArray[np.float64], inverse: NDArray[np.float64], top: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the opacity (H, W, 1) of the cloth: 1 inside the mask, falling to 0 over a soft edge; `size` is W, H."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    u = inverse[0, 0] * (x - eyes[0]) + inverse[0, 1] * (y - eyes[1])
    v = inverse[1, 0] * (x - eyes[0]) + inverse[1, 1] * (y - eyes[1])
    softness = rng.uniform(0.02, 0.06)
    edge = top + rng.uniform(-0.05, 0.2) * u**2
    sides = 1.0 - 0.12 * np.clip(v - 0.8, 0, 1) - np.abs(u)
    bottom = CHIN - 0.5 * np.abs(u) ** 3
    alpha = _sigmoid((v - edge) / softness) * _sigmoid(sides / softness) * _sigmoid((bottom - v) / (2 * softness))
    return alpha[..., None].astype(np.float32)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))
