"""The augmentation policy for face crops, and our own implementation of it (numpy and OpenCV).

The policy's ranges serve three implementations: this one, augment_torchvision and augment_albumentations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (S, S, 3) RGB
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Policy:
    """What may happen to a crop, and how often (`*_p` is a probability).

    Half of the faces in the Kaggle set are under 22 px wide, and at test time the boxes are a detector's:
    hence the box jitter and the loss of resolution. The erased patch is small, lest it looks like a mask or
    hides one.
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
    grey_p: float = 0.1
    blur_p: float = 0.15
    blur_sigma: tuple[float, float] = (0.3, 1.2)  # px of a 64 px crop
    low_resolution_p: float = 0.25
    low_resolution: tuple[int, int] = (12, 32)  # px of the side it is shrunk to
    jpeg_p: float = 0.2
    jpeg_quality: tuple[int, int] = (30, 90)
    noise_p: float = 0.2
    noise_std: tuple[float, float] = (2.0, 10.0)  # of 255 levels
    erase_p: float = 0.2  # Zhong et al. 2020, "Random Erasing Data Augmentation"
    erase_area: tuple[float, float] = (0.02, 0.08)  # of the crop
    erase_ratio: tuple[float, float] = (0.5, 2.0)  # height / width

    def low_resolution_for(self, size: int) -> tuple[int, int]:
        """The range of sides a crop of `size` px is shrunk to; below `size` even for tiny inputs."""
        high = max(min(self.low_resolution[1], size - 1), 1)
        return min(self.low_resolution[0], high), high

    def blur_sigma_for(self, size: int) -> tuple[float, float]:
        """The blur's standard deviation in pixels of a crop of `size` px."""
        return self.blur_sigma[0] * size / 64, self.blur_sigma[1] * size / 64


POLICY = Policy()


class OpencvAugment:
    """The policy in numpy and OpenCV: (uint8 (S, S, 3), seed) -> uint8 (S, S, 3), the input left untouched.

    fill: RGB in 0..255 of an erased patch.
    """

    def __init__(self, size: int, fill: tuple[float, float, float], policy: Policy = POLICY) -> None:
        self.size, self.fill, self.policy = size, fill, policy

    def __call__(self, image: Image, seed: int) -> Image:
        policy, rng = self.policy, np.random.default_rng(seed)
        if rng.random() < policy.flip_p:
            image = np.ascontiguousarray(image[:, ::-1])
        if rng.random() < policy.geometry_p:
            image = _move(image, rng, policy)
        if rng.random() < policy.colour_p:
            image = _recolour(image, rng, policy)
        if rng.random() < policy.grey_p:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.uint8)
        if rng.random() < policy.blur_p:
            sigma = rng.uniform(*policy.blur_sigma_for(self.size))
            image = cv2.GaussianBlur(image, (0, 0), sigma).astype(np.uint8)
        if rng.random() < policy.low_resolution_p:
            low = int(rng.integers(*policy.low_resolution_for(self.size), endpoint=True))
            small = cv2.resize(image, (low, low), interpolation=cv2.INTER_AREA)
            image = cv2.resize(small, (self.size, self.size), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        if rng.random() < policy.jpeg_p:
            image = _jpeg(image, int(rng.integers(*policy.jpeg_quality, endpoint=True)))
        if rng.random() < policy.noise_p:
            std = np.float32(rng.uniform(*policy.noise_std))
            image = _to_uint8(image + std * rng.standard_normal(image.shape, dtype=np.float32))
        if rng.random() < policy.erase_p:
            image = _erase(image, rng, policy, self.fill)
        return image


def _move(image: Image, rng: np.random.Generator, policy: Policy) -> Image:
    """Rotation and scale about the centre, then a shift, in one resampling; the border is replicated."""
    size = image.shape[0]
    centre = ((size - 1) / 2, (size - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, rng.uniform(-policy.degrees, policy.degrees), rng.uniform(*policy.scale))
    matrix[:, 2] += rng.uniform(-policy.shift, policy.shift, 2) * size
    moved = cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, dtype=np.uint8)


def _recolour(image: Image, rng: np.random.Generator, policy: Policy) -> Image:
    """Brightness, contrast, saturation and hue as one affine map of RGB, so that values are clipped once."""
    brightness, contrast, saturation = 1 + rng.uniform(-1, 1, 3) * (
        policy.brightness,
        policy.contrast,
        policy.saturation,
    )
    # Hue: a rotation about the grey axis (Rodrigues' formula), close to HSV's for small angles, and cheaper.
    angle = 2 * math.pi * rng.uniform(-policy.hue, policy.hue)
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=np.float32) / math.sqrt(3)
    hue = np.eye(3) * math.cos(angle) + axis * math.sin(angle) + (1 - math.cos(angle)) / 3
    saturate = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1))
    matrix = contrast * brightness * (saturate @ hue)
    # cv2.mean is a tenth of numpy's time on a small picture.
    mean_luma = float(np.dot(cv2.mean(image)[:3], _LUMA)) * brightness
    offset = np.full((3, 1), (1 - contrast) * mean_luma)
    # cv2.transform rounds and saturates to uint8 itself.
    return np.asarray(cv2.transform(image, np.hstack([matrix, offset])), dtype=np.uint8)


def _jpeg(image: Image, quality: int) -> Image:
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)
    return np.ascontiguousarray(decoded[:, :, ::-1])


def _erase(image: Image, rng: np.random.Generator, policy: Policy, fill: tuple[float, float, float]) -> Image:
    size = image.shape[0]
    area = rng.uniform(*policy.erase_area) * size * size
    ratio = math.exp(rng.uniform(math.log(policy.erase_ratio[0]), math.log(policy.erase_ratio[1])))
    height = min(max(round(math.sqrt(area * ratio)), 1), size)
    width = min(max(round(math.sqrt(area / ratio)), 1), size)
    top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    erased = image.copy()
    erased[top : top + height, left : left + width] = np.round(fill)
    return erased


def _to_uint8(values: NDArray[np.float32]) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
