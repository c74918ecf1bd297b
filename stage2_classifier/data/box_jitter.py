"""What the network sees of a crop that was cut with more context than it needs: at training a jittered view."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from stage2_classifier.cropping import box_deltas, window_anchor

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Jitter:
    """How a training view strays from its face, as stage 1's boxes do.

    shift: standard deviation of the centre, in the box's longer side. scale: of the logarithm of the side. degrees:
    largest rotation, of which degrees_p is the probability. flip_p: of a mirrored view. least_side: pixels a side of
    the view at least: the network's, so that a small face is enlarged once only.
    """

    shift: float = 0.06
    scale: float = 0.1
    degrees: float = 12.0
    degrees_p: float = 0.5
    flip_p: float = 0.5
    least_side: int = 64

    def scaled(self, factor: float, least_side: int) -> Jitter:
        """The same with `factor` times the shift and scale, for a network of `least_side` pixels."""
        return replace(self, shift=self.shift * factor, scale=self.scale * factor, least_side=least_side)


def plain_numbers(box: Box, margin: float) -> NDArray[np.float32]:
    """The box's numbers (4,) as seen from the window that inference cuts for it."""
    return box_deltas(box, window_anchor(box, margin))


def jittered_view(
    crop: NDArray[np.uint8], box: Box, margin: float, seed: int, jitter: Jitter
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A view near the window of `box` (pixels of the crop), uint8 (S, S, 3), and the box's numbers (4,) seen from it.

    crop: uint8 (H, W, 3). S is the window's side in pixels of the crop, or jitter.least_side if that is more. Rotation
    is left out of the numbers: the annotators' boxes stay upright, and faces are round. What the crop does not hold
    repeats its edge.
    """
    rng = np.random.default_rng((seed, 1))  # the augmentation after it draws from the seed alone
    side = max(box[2] - box[0], box[3] - box[1], 1.0)
    x = (box[0] + box[2]) / 2 + rng.normal(0, jitter.shift) * side
    y = (box[1] + box[3]) / 2 + rng.normal(0, jitter.shift) * side
    unit = side * math.exp(rng.normal(0, jitter.scale))
    turn = math.radians(rng.uniform(-jitter.degrees, jitter.degrees)) if rng.random() < jitter.degrees_p else 0.0
    mirrored = rng.random() < jitter.flip_p
    numbers = box_deltas(box, (x, y, unit))
    whole = unit * (1 + 2 * margin)
    size = max(round(whole), jitter.least_side)
    step = whole / size  # crop pixels per view pixel
    cosine, sine = step * math.cos(turn), step * math.sin(turn)
    sign = -1 if mirrored else 1
    matrix = np.array([[sign * cosine, -sine, 0.0], [sign * sine, cosine, 0.0]])
    # OpenCV counts from pixel centres, we from corners.
    middle = (size - 1) / 2
    matrix[:, 2] = np.array([x - 0.5, y - 0.5]) - matrix[:, :2] @ np.array([middle, middle])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(crop, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    if mirrored:
        numbers[0] = -numbers[0]
    return np.asarray(view, np.uint8), numbers
