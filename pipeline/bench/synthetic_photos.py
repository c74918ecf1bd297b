"""Photos of any size with any number of faces, made from one portrait: what speed depends on, set at will."""

from __future__ import annotations

import math

import cv2
import numpy as np

from common.images import Pixels
from pipeline.detect.demo import portrait

OCTAVES, SPREAD = 5, 32  # sizes of the background's noise; grey levels, standard deviation of the coarsest
FILLED = 0.9  # share of its place on the grid that a portrait takes


def synthetic_photo(width: int, height: int, faces: int, seed: int = 0) -> Pixels:
    """A photo (height, width, 3) of a blurred random background, `faces` portraits on a grid over it.

    Raises UserError when the portrait is not installed, ValueError on sizes below 32 px or faces below 0.
    """
    if min(width, height) < 32 or faces < 0:
        raise ValueError(f"a photo of {width}x{height} with {faces} faces cannot be made")
    rng = np.random.default_rng(seed)
    # Noise of several sizes (fractal, as in photos: half the contrast at half the size), over a mean grey.
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
    scale = FILLED * min(wide / face.shape[1], high / face.shape[0])
    size = (max(int(face.shape[1] * scale), 1), max(int(face.shape[0] * scale), 1))
    small = cv2.resize(face, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for k in range(faces):
        left, top = int((k % columns) * wide), int((k // columns) * high)
        photo[top : top + size[1], left : left + size[0]] = small
    return photo
