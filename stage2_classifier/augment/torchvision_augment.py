"""The augmentation policy with torchvision.transforms.v2."""

from __future__ import annotations

import math

import numpy as np
import torch
from torchvision.transforms import v2

from stage2_classifier.augment.policy import DEFAULT_POLICY, AugmentPolicy, Image


class TorchvisionAugment:
    """Applies the policy with torchvision: (uint8 (S, S, 3), seed) -> a new uint8 (S, S, 3).

    Args:
        size: side of the input in px, by which blur and low resolution are scaled.
        fill: RGB in 0..255 of an erased patch.
        policy: ranges and probabilities.
    """

    def __init__(self, size: int, fill: tuple[float, float, float], policy: AugmentPolicy = DEFAULT_POLICY) -> None:
        # RandomAffine fills with one colour only: pad with the edge's pixels first, crop the centre after.
        # The padding reaches the farthest corner that rotation, shift and scale together can bring in.
        angle = math.radians(policy.degrees)
        reach = ((math.cos(angle) + math.sin(angle)) / 2 + policy.shift) / policy.scale[0]
        pad = math.ceil(size * (reach - 0.5)) + 1
        shift = policy.shift * size / (size + 2 * pad)
        low, high = policy.low_resolution_for(size)
        sigma = policy.blur_sigma_for(size)
        noise = np.linspace(*policy.noise_std, 4) / 255  # GaussianNoise takes no range
        self._transform = v2.Compose(
            [
                v2.RandomHorizontalFlip(policy.flip_p),
                v2.RandomApply(
                    [
                        v2.Pad(pad, padding_mode="edge"),
                        v2.RandomAffine(
                            policy.degrees,
                            translate=(shift, shift),
                            scale=policy.scale,
                            interpolation=v2.InterpolationMode.BILINEAR,
                        ),
                        v2.CenterCrop(size),
                    ],
                    policy.geometry_p,
                ),
                v2.RandomApply(
                    [v2.ColorJitter(policy.brightness, policy.contrast, policy.saturation, policy.hue)], policy.colour_p
                ),
                v2.RandomApply(
                    [
                        v2.RandomChoice(
                            [
                                v2.ColorJitter(brightness=policy.dim),
                                v2.ColorJitter(contrast=policy.haze),
                                v2.Lambda(_Cast(policy.cast)),
                            ]
                        )
                    ],
                    policy.light_p,
                ),
                v2.RandomGrayscale(policy.grey_p),
                v2.RandomApply([v2.GaussianBlur(_kernel(sigma[1], size), sigma)], policy.blur_p),
                v2.RandomApply([v2.RandomResize(low, high + 1), v2.Resize((size, size))], policy.low_resolution_p),
                v2.RandomApply([v2.JPEG(policy.jpeg_quality)], policy.jpeg_p),
                v2.RandomApply(
                    [v2.RandomChoice([v2.GaussianNoise(sigma=float(std)) for std in noise])], policy.noise_p
                ),
                v2.RandomErasing(
                    policy.erase_p,
                    scale=policy.erase_area,
                    ratio=policy.erase_ratio,
                    value=[float(round(v)) for v in fill],
                ),
            ]
        )

    def __call__(self, image: Image, seed: int) -> Image:
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also reseed the GPU's generators, which fork_rng does not restore here.
            torch.default_generator.manual_seed(seed)
            augmented = self._transform(tensor)
        return np.ascontiguousarray(augmented.numpy().transpose(1, 2, 0))


class _Cast:
    """Multiplies each channel of a uint8 picture (3, H, W) by a factor of its own within a range."""

    def __init__(self, factors: tuple[float, float]) -> None:
        self._low, self._high = factors

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        factors = self._low + (self._high - self._low) * torch.rand(3, 1, 1)
        return (picture * factors).round().clamp(0, 255).to(torch.uint8)


def _kernel(sigma: float, size: int) -> int:
    """Return an odd kernel size of three standard deviations on each side, not wider than the crop."""
    return min(2 * max(round(3 * sigma), 1) + 1, size - 1 + size % 2)
