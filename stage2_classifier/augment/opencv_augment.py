"""The augmentation policy with numpy and OpenCV."""

from __future__ import annotations

import math

import cv2
import numpy as np

from stage2_classifier.augment.policy import DEFAULT_POLICY, AugmentPolicy, Image

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


class OpencvAugment:
    """Applies the policy with numpy and OpenCV: (uint8 (S, S, 3), seed) -> a new uint8 (S, S, 3).

    Args:
        size: side of the input in px, by which blur and low resolution are scaled.
        fill: RGB in 0..255 of an erased patch.
        policy: ranges and probabilities.
    """

    def __init__(self, size: int, fill: tuple[float, float, float], policy: AugmentPolicy = DEFAULT_POLICY) -> None:
        self.size, self.fill, self.policy = size, fill, policy

    def __call__(self, image: Image, seed: int) -> Image:
        policy, rng = self.policy, np.random.default_rng(seed)
        if rng.random() < policy.flip_p:
            image = np.ascontiguousarray(image[:, ::-1])
        if rng.random() < policy.geometry_p:
            image = _affine(image, rng, policy)
        if rng.random() < policy.colour_p:
            image = _color_jitter(image, rng, policy)
        if policy.light_p and rng.random() < policy.light_p:  # no draw without it: earlier trainings stay the same
            image = _change_light(image, rng, policy)
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
            noisy = image + std * rng.standard_normal(image.shape, dtype=np.float32)
            image = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        if rng.random() < policy.erase_p:
            image = _erase(image, rng, policy, self.fill)
        return image


def _affine(image: Image, rng: np.random.Generator, policy: AugmentPolicy) -> Image:
    """Rotate and scale about the centre, then shift, in one resampling with a replicated border."""
    size = image.shape[0]
    centre = ((size - 1) / 2, (size - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, rng.uniform(-policy.degrees, policy.degrees), rng.uniform(*policy.scale))
    matrix[:, 2] += rng.uniform(-policy.shift, policy.shift, 2) * size
    moved = cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, dtype=np.uint8)


def _color_jitter(image: Image, rng: np.random.Generator, policy: AugmentPolicy) -> Image:
    """Change brightness, contrast, saturation and hue by one affine map of RGB, so that values are clipped once."""
    spread = (policy.brightness, policy.contrast, policy.saturation)
    brightness, contrast, saturation = 1 + rng.uniform(-1, 1, 3) * spread
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


def _change_light(image: Image, rng: np.random.Generator, policy: AugmentPolicy) -> Image:
    """Darken, lower the contrast about the mean, or colour the light."""
    match int(rng.integers(3)):
        case 0:
            gain, offset = np.full(3, rng.uniform(*policy.dim)), 0.0
        case 1:
            gain = np.full(3, rng.uniform(*policy.haze))
            offset = float(np.dot(cv2.mean(image)[:3], _LUMA)) * (1 - gain[0])
        case _:
            gain, offset = rng.uniform(*policy.cast, 3), 0.0
    matrix = np.hstack([np.diag(gain), np.full((3, 1), offset)])
    return np.asarray(cv2.transform(image, matrix), dtype=np.uint8)


def _jpeg(image: Image, quality: int) -> Image:
    """Compress to JPEG and decode again."""
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)
    return np.ascontiguousarray(decoded[:, :, ::-1])


def _erase(image: Image, rng: np.random.Generator, policy: AugmentPolicy, fill: tuple[float, float, float]) -> Image:
    """Fill a random patch."""
    size = image.shape[0]
    area = rng.uniform(*policy.erase_area) * size * size
    ratio = math.exp(rng.uniform(math.log(policy.erase_ratio[0]), math.log(policy.erase_ratio[1])))
    height = min(max(round(math.sqrt(area * ratio)), 1), size)
    width = min(max(round(math.sqrt(area / ratio)), 1), size)
    top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    erased = image.copy()
    erased[top : top + height, left : left + width] = np.round(fill)
    return erased
