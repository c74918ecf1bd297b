"""Lets classifiers with different inputs share one crop: those with less context see its middle, at their own size."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stage2_classifier.training.checkpoint import ModelMeta


class InnerView(nn.Module):
    """A classifier that sees the middle of a larger crop.

    It takes (N, 3, S, S) normalised pixels, and gives its classifier (N, 3, s, s) of these.
    """

    weights: Tensor

    def __init__(self, model: nn.Module, weights: NDArray[np.float32]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weights", torch.from_numpy(weights))

    def forward(self, pixels: Tensor) -> Tensor:
        outputs: Tensor = self.model(self.weights @ pixels @ self.weights.T)
        return outputs


def inner_view(model: nn.Module, own: ModelMeta, shared: ModelMeta) -> nn.Module:
    """Return a classifier that takes the crops of another one, whose margin is at least its own.

    Args:
        model: the classifier.
        own: its input.
        shared: the input of the other one; where both are the same, the classifier is returned.

    Raises:
        ValueError: the other one's crops do not hold what the classifier sees.
    """
    if (own.input_size, own.margin) == (shared.input_size, shared.margin):
        return model
    if own.margin > shared.margin:
        raise ValueError(f"a crop with the margin {shared.margin} does not hold one with {own.margin}")
    share = (1 + 2 * own.margin) / (1 + 2 * shared.margin)
    return InnerView(model, view_weights(shared.input_size, share, own.input_size))


def view_weights(given: int, share: float, wanted: int) -> NDArray[np.float32]:
    """Return the weights (wanted, given) with which pixels in the middle of a row become a row of `wanted` pixels.

    As crops are resized (stage2_classifier.cropping): area averaging when shrinking, bilinear when enlarging.

    Args:
        given: pixels of the row.
        share: of the row that is seen, its middle; at most 1.
        wanted: pixels of the new row.
    """
    ratio = given * share / wanted  # given pixels per new pixel
    start = given * (1 - share) / 2
    low = start + np.arange(wanted)[:, None] * ratio
    source = np.arange(given)[None, :]
    if ratio >= 1:
        covered = np.minimum(low + ratio, source + 1) - np.maximum(low, source)
        weights = np.maximum(covered, 0) / ratio
    else:
        middle = np.clip(low + ratio / 2 - 0.5, 0, given - 1)
        weights = np.maximum(1 - np.abs(middle - source), 0)
    return np.asarray(weights, np.float32)
