"""Synthetic photos of any size with any number of faces, made from one portrait, since speed depends on both."""

from __future__ import annotations

import math

import cv2
import numpy as np

from common.images import Pixels
from pipeline.detect.demo.command import portrait

OCTAVES, SPREAD = 5, 32  # of the background's noise: number of scales; standard deviation of the coarsest, grey levels
FILL = 0.9  # side of a portrait, as a share of its grid cell


def synthetic_photo(width: int, height: int, faces: int, seed: int = 0) -> Pixels:
    """Return a photo, uint8 (height, width, 3): portraits on a grid, over a blurred random background.

    Args:
        width, height: size in pixels, 32 or more.
        faces: number of portraits, 0 or more.
        seed: of the background's noise.

    Raises:
        UserError: the portrait is not installed.
        ValueError: width, height or faces is too small.
    """
    if min(width, height) < 32 or faces < 0:
        raise ValueError(f"a photo of {width}x{height} with {faces} faces cannot be made")
    rng = np.random.default_rng(seed)
    # Noise of several scales over a mean grey; as in photos, half the contrast at half the size.
    light = np.full((height, width, 3), 128, np.float32)
    for octave in range(OCTAVES):
        cells = 8 << octave
        noise = rng.normal(0, SPREAD / 2**octave, (cells, cells, 3)).astype(np.float32)
        light += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    photo = np.asarray(light.clip(0, 255), np.uint8)
    if not faces:
        return photo
    face = portrait()
    columns = max(round(math.sqrt(faces * width / height)), 1)
    rows = -(-faces // columns)
    wide, high = width / columns, height / rows
    scale = FILL * min(wide / face.shape[1], high / face.shape[0])
    size = (max(int(face.shape[1] * scale), 1), max(int(face.shape[0] * scale), 1))
    small = cv2.resize(face, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for k in range(faces):
        left, top = int((k % columns) * wide), int((k // columns) * high)
        photo[top : top + size[1], left : left + size[0]] = small
    return photo
