"""Train and eval transforms of face crops: (crop uint8 (H, W, 3) RGB, seed) -> float32 tensor (3, S, S)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError
from stage2_classifier.augment.opencv_augment import OpencvAugment
from stage2_classifier.augment.policy import DEFAULT_POLICY, AugmentPolicy
from stage2_classifier.config import CHOICES
from stage2_classifier.cropping import resize_crop, to_input

AUGMENTATIONS = CHOICES["augment"]

Augment = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


class CropPreprocess:
    """Resizes, augments and normalises a crop: (uint8 (H, W, 3) RGB, seed) -> float32 tensor (3, S, S).

    Args:
        input_size: side S of the network's input in px.
        mean: of each channel, in 0..1, subtracted from pixels in 0..1.
        std: of each channel, by which the difference is divided.
        augment: changes the resized crop; None for validation and test.
    """

    def __init__(self, input_size: int, mean: Sequence[float], std: Sequence[float], augment: Augment | None) -> None:
        self.input_size, self.mean, self.std, self.augment = input_size, tuple(mean), tuple(std), augment

    def __call__(self, crop: NDArray[np.uint8], seed: int) -> torch.Tensor:
        image = resize_crop(crop, self.input_size)
        if self.augment is not None:
            image = self.augment(image, seed)
        return torch.from_numpy(to_input(image[None], self.mean, self.std)[0])


def train_transform(
    kind: str, input_size: int, mean: Sequence[float], std: Sequence[float], policy: AugmentPolicy = DEFAULT_POLICY
) -> CropPreprocess:
    """Return the transform for training; the same seed gives the same pixels.

    `kind` is one of AUGMENTATIONS; `mean` and `std` are per channel, of pixel values scaled to 0..1. Raises UserError
    when the kind is unknown.
    """
    return CropPreprocess(input_size, mean, std, _augment(kind, input_size, mean, policy))


def eval_transform(input_size: int, mean: Sequence[float], std: Sequence[float]) -> CropPreprocess:
    """Return the transform for validation and test, bit for bit the network's input at inference."""
    return CropPreprocess(input_size, mean, std, None)


def _augment(kind: str, size: int, mean: Sequence[float], policy: AugmentPolicy) -> Augment | None:
    """Return the implementation of that name."""
    red, green, blue = (255 * float(v) for v in mean)
    fill = (red, green, blue)
    # Each library takes a second or two to import, so only the chosen one is imported.
    match kind:
        case "none":
            return None
        case "opencv":
            return OpencvAugment(size, fill, policy)
        case "torchvision":
            from stage2_classifier.augment.torchvision_augment import TorchvisionAugment

            return TorchvisionAugment(size, fill, policy)
        case "albumentations":
            from stage2_classifier.augment.albumentations_augment import AlbumentationsAugment

            return AlbumentationsAugment(size, fill, policy)
    raise UserError(f"augmentation {kind!r} is unknown; use one of {', '.join(AUGMENTATIONS)}")
