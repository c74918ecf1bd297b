"""Changes to photos, such as those of dark rooms, coloured lamps and poor cameras; faces stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from common.images import Pixels

# (uint8 (H, W, 3) RGB, rng of the noise) -> a new picture of that size
PhotoChange = Callable[[Pixels, np.random.Generator], Pixels]

GREY = 128.0
LIGHT_NOISE = 4.0  # of 255, standard deviation: cameras raise the gain in poor light
NOISE = 15.0
JPEG_QUALITY = 15
SHRINK = 0.5  # factor of the sides
MIN_MOTION, MOTION_SHARE = 3, 0.015  # px, and share of the longer side: length of the blur


def _rounded(values: NDArray[np.floating]) -> Pixels:
    return np.clip(values, 0, 255).round().astype(np.uint8)


def _light(factors: tuple[float, float, float], level: float = 0.0) -> PhotoChange:
    """Return a change that multiplies red, green and blue, measured from a grey level."""
    gain = np.array(factors, np.float32)

    def change(pixels: Pixels, rng: np.random.Generator) -> Pixels:
        noise = np.float32(LIGHT_NOISE) * rng.standard_normal(pixels.shape, dtype=np.float32)
        return _rounded(level + (pixels - np.float32(level)) * gain + noise)

    return change


def _motion_blur(pixels: Pixels, _: np.random.Generator) -> Pixels:
    length = max(MIN_MOTION, round(MOTION_SHARE * max(pixels.shape[:2])))
    kernel = np.full((1, length), 1 / length)
    return np.asarray(cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.uint8)


def _few_pixels(pixels: Pixels, _: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    size = (max(round(width * SHRINK), 1), max(round(height * SHRINK), 1))
    shrunk = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _noise(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return _rounded(pixels + np.float32(NOISE) * rng.standard_normal(pixels.shape, dtype=np.float32))


def _jpeg(pixels: Pixels, _: np.random.Generator) -> Pixels:
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])


CHANGES: Mapping[str, PhotoChange] = {
    "as it is": lambda pixels, _: pixels,
    "dark (0.4)": _light((0.4, 0.4, 0.4)),
    "very dark (0.25)": _light((0.25, 0.25, 0.25)),
    "low contrast (0.3)": _light((0.3, 0.3, 0.3), GREY),
    "blue light": _light((0.35, 0.6, 1.1)),
    "orange light": _light((1.1, 0.6, 0.3)),
    "motion blur": _motion_blur,
    "half the pixels": _few_pixels,
    "noise": _noise,
    "JPEG, quality 15": _jpeg,
}
