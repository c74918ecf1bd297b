"""The augmentation policy with albumentations."""

from __future__ import annotations

import os

import cv2
import numpy as np

from stage2_classifier.augment.policy import DEFAULT_POLICY, AugmentPolicy, Image

# Without this the import asks the network for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A


class AlbumentationsAugment:
    """Applies the policy with albumentations: (uint8 (S, S, 3), seed) -> a new uint8 (S, S, 3).

    An erased patch is a square: the policy's `erase_ratio` is not used.

    Args:
        size: side of the input in px, by which blur and low resolution are scaled.
        fill: RGB in 0..255 of an erased patch.
        policy: ranges and probabilities.
    """

    def __init__(self, size: int, fill: tuple[float, float, float], policy: AugmentPolicy = DEFAULT_POLICY) -> None:
        low, high = policy.low_resolution_for(size)
        # Sides of a square patch of the policy's smallest and largest area.
        patch = (policy.erase_area[0] ** 0.5, policy.erase_area[1] ** 0.5)
        self._compose = A.Compose(
            [
                A.HorizontalFlip(p=policy.flip_p),
                A.Affine(
                    scale=policy.scale,
                    translate_percent=(-policy.shift, policy.shift),
                    rotate=(-policy.degrees, policy.degrees),
                    keep_ratio=True,
                    interpolation=cv2.INTER_LINEAR,
                    border_mode=cv2.BORDER_REPLICATE,
                    p=policy.geometry_p,
                ),
                A.ColorJitter(
                    brightness=_around_one(policy.brightness),
                    contrast=_around_one(policy.contrast),
                    saturation=_around_one(policy.saturation),
                    hue=(-policy.hue, policy.hue),
                    p=policy.colour_p,
                ),
                A.OneOf(
                    [
                        A.MultiplicativeNoise(policy.dim, per_channel=False),
                        A.ColorJitter(brightness=(1, 1), contrast=policy.haze, saturation=(1, 1), hue=(0, 0)),
                        A.MultiplicativeNoise(policy.cast, per_channel=True),
                    ],
                    p=policy.light_p,
                ),
                A.ToGray(p=policy.grey_p),
                A.GaussianBlur(blur_limit=0, sigma_limit=policy.blur_sigma_for(size), p=policy.blur_p),
                A.Downscale(
                    scale_range=(low / size, high / size),
                    interpolation_pair={"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR},
                    p=policy.low_resolution_p,
                ),
                A.ImageCompression(quality_range=policy.jpeg_quality, p=policy.jpeg_p),
                A.GaussNoise(std_range=(policy.noise_std[0] / 255, policy.noise_std[1] / 255), p=policy.noise_p),
                A.CoarseDropout(
                    num_holes_range=(1, 1),
                    hole_height_range=patch,
                    hole_width_range=patch,
                    fill=tuple(float(round(v)) for v in fill),
                    p=policy.erase_p,
                ),
            ],
            seed=0,
        )

    def __call__(self, image: Image, seed: int) -> Image:
        self._compose.set_random_seed(seed)
        return np.ascontiguousarray(self._compose(image=image)["image"])


def _around_one(spread: float) -> tuple[float, float]:
    return 1 - spread, 1 + spread
