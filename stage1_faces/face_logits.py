"""Face probabilities and their log odds (face logits)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PROB_EPS = 1e-6  # probabilities are kept this far from 0 and 1 before their log odds are taken


def log_odds(probability: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return log(p / (1 - p)), which is finite for 0 and 1, too."""
    inside = np.clip(probability.astype(np.float64), PROB_EPS, 1 - PROB_EPS)
    return np.log(inside / (1 - inside)).astype(np.float32)


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the probabilities of logits."""
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), np.float32)


def min_logit(score: float) -> float:
    """Return the logit of a score threshold; minus infinity for 0, so that every box passes."""
    return float(log_odds(np.array([score]))[0]) if score > 0 else -np.inf
