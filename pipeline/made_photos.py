"""Photos of any size with any number of faces, made from one portrait: what speed depends on, set at will."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipeline.demo import portrait
from stage1_faces.images import Pixels

SPREAD = 24  # grey levels, standard deviation of the background
FILLED = 0.9  # share of its place on the grid that a portrait takes


def made_photo(width: int, height: int, faces: int, seed: int = 0) -> Pixels:
    """A photo (height, width, 3) of a blurred random background, `faces` portraits on a grid over it.

    Raises PipelineError when the portrait is not installed, ValueError on sizes below 32 px or faces below 0.
    """
    if min(width, height) < 32 or faces < 0:
        raise ValueError(f"a photo of {width}x{height} with {faces} faces cannot be made")
    rng = np.random.default_rng(seed)
    # Coarse noise enlarged: light and colour that change slowly, as behind people.
    coarse = rng.normal(128, SPREAD, (8, 8, 3)).clip(0, 255).astype(np.uint8)
    photo = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8).copy()
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
