"""Training views of a crop, cut at a jittered box; without jitter, `cropping.cut_crop` gives the view."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stage2_classifier.cropping import box_deltas, window_anchor

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxJitter:
    """Random errors of a training view's box, as large as those of stage 1's boxes (EXPERIMENTS.md, 2026-11-25)."""

    shift: float = 0.06  # standard deviation of the centre, as a share of the box's longer side
    scale: float = 0.1  # standard deviation of the logarithm of the side
    degrees: float = 12.0  # largest rotation
    degrees_p: float = 0.5  # probability of a rotation
    flip_p: float = 0.5  # probability of a mirrored view
    min_side: int = 64  # px, least side of the view: the network's input, so that a small face is enlarged only once

    def scaled(self, factor: float, min_side: int) -> BoxJitter:
        """Return the jitter with `factor` times the shift and scale, for a network of `min_side` pixels."""
        return replace(self, shift=self.shift * factor, scale=self.scale * factor, min_side=min_side)


NO_JITTER = BoxJitter(shift=0.0, scale=0.0, degrees=0.0, degrees_p=0.0, flip_p=0.0)


class JitteredBox(NamedTuple):
    """The place of one training view, drawn at random."""

    x: float  # centre of the view in pixels of the crop
    y: float
    unit: float  # side of the view without margins, in pixels of the crop
    turn: float  # rotation in radians
    mirrored: bool


def window_deltas(box: Box, margin: float) -> NDArray[np.float32]:
    """Return the deltas (4,) of a box relative to the window that inference cuts for it."""
    return box_deltas(box, window_anchor(box, margin))


def jittered_box(box: Box, seed: int, jitter: BoxJitter) -> JitteredBox:
    """Return the place that `jittered_view` shows of a face with that box, xyxy in pixels of the crop."""
    rng = np.random.default_rng((seed, 1))  # the augmentation draws from the seed alone
    side = max(box[2] - box[0], box[3] - box[1], 1.0)
    x = (box[0] + box[2]) / 2 + rng.normal(0, jitter.shift) * side
    y = (box[1] + box[3]) / 2 + rng.normal(0, jitter.shift) * side
    unit = side * math.exp(rng.normal(0, jitter.scale))
    turn = math.radians(rng.uniform(-jitter.degrees, jitter.degrees)) if rng.random() < jitter.degrees_p else 0.0
    mirrored = rng.random() < jitter.flip_p
    return JitteredBox(x, y, unit, turn, mirrored)


def jittered_view(
    crop: NDArray[np.uint8], box: Box, margin: float, seed: int, jitter: BoxJitter
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a randomly jittered view of a face, uint8 (S, S, 3), and the deltas (4,) of the face's box in that view.

    Views of one seed with other margins show the same place (`jittered_box`) with more or less context. S is the side
    of the jittered window in pixels of the crop, but at least jitter.min_side. Pixels outside the crop repeat its
    edge. Rotation does not change the deltas: the annotators' boxes are upright, and faces are round.

    Args:
        crop: uint8 (H, W, 3).
        box: the face, xyxy in pixels of the crop.
        margin: the view's context on each side, as a share of the box's longer side.
        seed: of the jitter.
        jitter: how large the random errors are.
    """
    x, y, unit, turn, mirrored = jittered_box(box, seed, jitter)
    deltas = box_deltas(box, (x, y, unit))
    whole = unit * (1 + 2 * margin)
    size = max(round(whole), jitter.min_side)
    step = whole / size  # crop pixels per view pixel
    cosine, sine, sign = step * math.cos(turn), step * math.sin(turn), -1 if mirrored else 1
    matrix = np.array([[sign * cosine, -sine, 0.0], [sign * sine, cosine, 0.0]])
    # OpenCV counts from pixel centres, our boxes from pixel corners.
    middle = (size - 1) / 2
    matrix[:, 2] = np.array([x - 0.5, y - 0.5]) - matrix[:, :2] @ np.array([middle, middle])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(crop, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    if mirrored:
        deltas[0] = -deltas[0]
    return np.asarray(view, np.uint8), deltas
