"""The image pyramid that P-Net searches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from common.images import Pixels
from stage1_faces.cascade_config import MIN_LEVEL_FACE, CascadeConfig
from stage1_faces.roi_crop import GREY

PNET_MULTIPLE = 8  # px: the sides of P-Net's input are multiples of it


@dataclass(frozen=True)
class PyramidLevel:
    """One level of one image's pyramid."""

    image: int  # index
    picture: Pixels  # padded with GREY at the bottom and at the right
    step: NDArray[np.float32]  # (2,) image pixels per pixel of the level, in x and y


def build_pyramid(index: int, image: Pixels, config: CascadeConfig) -> Iterable[PyramidLevel]:
    """Yield octaves of one image, largest first, each padded to sides that P-Net takes; a face fits one of them.

    The last level shows the whole image no larger than a level's largest face.
    """
    height, width = image.shape[:2]
    scale = min(MIN_LEVEL_FACE / config.min_face, config.max_side / max(height, width))
    picture = image
    while True:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        # INTER_LINEAR_EXACT gives the same pixels on every machine, and in the exported graph (pipeline.export).
        interpolation = cv2.INTER_LINEAR_EXACT if size[0] > picture.shape[1] else cv2.INTER_AREA
        picture = np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)
        bottom, right = -size[1] % PNET_MULTIPLE, -size[0] % PNET_MULTIPLE
        padded = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY))
        step = np.array([width / size[0], height / size[1]], np.float32)
        yield PyramidLevel(index, np.asarray(padded, np.uint8), step)
        if max(size) <= 2 * MIN_LEVEL_FACE:
            return
        scale /= 2
