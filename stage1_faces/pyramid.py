"""The image pyramid that P-Net searches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from common.images import Pixels
from stage1_faces.cascade_config import MIN_LEVEL_FACE, CascadeConfig
from stage1_faces.roi_crop import GREY, Mipmaps, halved

PNET_MULTIPLE = 8  # px: the sides of P-Net's input are multiples of it


@dataclass(frozen=True)
class PyramidLevel:
    """One level of one image's pyramid."""

    image: int  # index
    picture: Pixels  # padded with GREY at the bottom and at the right
    step: NDArray[np.float32]  # (2,) image pixels per pixel of the level, in x and y


def build_pyramid(index: int, maps: Mipmaps, config: CascadeConfig) -> Iterable[PyramidLevel]:
    """Yield octaves of one image, largest first, each padded to sides that P-Net takes; a face fits one of them.

    The first is the image, or the smallest of its mipmaps that is at least as large, at the size wanted. Each other one
    is the half of the one before. The last level shows the whole image no larger than a level's largest face.
    """
    width, height = maps.size
    scale = min(MIN_LEVEL_FACE / config.min_face, config.max_side / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    source, shrink = maps.level(max(math.floor(-math.log2(scale)), 0))
    # INTER_LINEAR_EXACT gives the same pixels on every machine, and in the exported graph (pipeline.export).
    picture = np.asarray(cv2.resize(source, size, interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)
    step = np.array([source.shape[1] * shrink / size[0], source.shape[0] * shrink / size[1]], np.float32)
    while True:
        bottom, right = -picture.shape[0] % PNET_MULTIPLE, -picture.shape[1] % PNET_MULTIPLE
        padded = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY))
        yield PyramidLevel(index, np.asarray(padded, np.uint8), step)
        if max(picture.shape[:2]) <= 2 * MIN_LEVEL_FACE:
            return
        picture, step = halved(picture), step * 2
