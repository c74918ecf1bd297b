"""The augmentation policy for face crops, which three implementations share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (S, S, 3) RGB


@dataclass(frozen=True)
class AugmentPolicy:
    """Range and probability (`*_p`) of each augmentation.

    Half of the faces in the Kaggle set are at most 23 px wide. At test time the boxes are a detector's. So the policy
    shifts boxes and lowers resolutions. The erased patch is small and grey. It may
    cover the mouth: not everything in front of a mouth is a mask.
    """

    flip_p: float = 0.5
    geometry_p: float = 0.8  # a detector's box error, and tilted heads
    shift: float = 0.1  # +- of the crop's side
    scale: tuple[float, float] = (0.85, 1.15)
    degrees: float = 10.0  # +-
    colour_p: float = 0.8
    brightness: float = 0.25  # factors from 1 - x to 1 + x
    contrast: float = 0.25
    saturation: float = 0.3
    hue: float = 0.03  # +- of the full circle
    light_p: float = 0.0  # one of the next three, equally often (TrainConfig.light_prob)
    dim: tuple[float, float] = (0.2, 0.7)  # factor of all values: a dark photo
    haze: tuple[float, float] = (0.3, 0.7)  # factor of the contrast
    cast: tuple[float, float] = (0.35, 1.2)  # factor of each channel: coloured light
    grey_p: float = 0.1
    blur_p: float = 0.15
    blur_sigma: tuple[float, float] = (0.3, 1.2)  # px of a 64 px crop
    low_resolution_p: float = 0.25
    low_resolution: tuple[int, int] = (12, 32)  # px, side of the shrunk crop
    jpeg_p: float = 0.2
    jpeg_quality: tuple[int, int] = (30, 90)
    noise_p: float = 0.2
    noise_std: tuple[float, float] = (2.0, 10.0)  # of 255 levels
    erase_p: float = 0.2  # Zhong et al. 2020, "Random Erasing Data Augmentation"
    erase_area: tuple[float, float] = (0.02, 0.08)  # of the crop
    erase_ratio: tuple[float, float] = (0.5, 2.0)  # height / width

    def low_resolution_for(self, size: int) -> tuple[int, int]:
        """Return the range of sides to which a crop of `size` px is shrunk; below `size` even for tiny inputs."""
        high = max(min(self.low_resolution[1], size - 1), 1)
        return min(self.low_resolution[0], high), high

    def blur_sigma_for(self, size: int) -> tuple[float, float]:
        """Return the range of the blur's standard deviation in pixels of a crop of `size` px."""
        return self.blur_sigma[0] * size / 64, self.blur_sigma[1] * size / 64


DEFAULT_POLICY = AugmentPolicy()
