"""How far scores are from being probabilities: reliability bins and the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.bootstrap import match
from pipeline.evaluate.metrics import Sample

BINS = 10
FLOOR = 0.01  # the very many detections below are all but never right, and would hide what the others are


@dataclass(frozen=True)
class Bin:
    """Detections whose score lies in [low, high), or up to 1 in the last: their number, mean score, and share right."""

    low: float
    high: float
    count: int
    score: float
    right: float


@dataclass(frozen=True)
class Reliability:
    """Of the detections from a score of `floor` on: their number, expected calibration error (None of none), bins."""

    floor: float
    count: int
    ece: float | None
    bins: tuple[Bin, ...]

    @classmethod
    def above(cls, floor: float, scores: NDArray[np.floating], right: NDArray[np.bool_]) -> Reliability:
        """Of the detections with `scores` (N,), `right` (N,) or not, that reach `floor`."""
        kept = scores >= floor
        bins = reliability(scores[kept], right[kept])
        return cls(floor, int(kept.sum()), expected_calibration_error(bins), tuple(bins))


def reliability(scores: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """The bins, of equal width, that hold anything. scores (N,) in 0..1, right (N,)."""
    edges = np.arange(bins + 1) / bins  # of ten, exactly what 0.3 and its like are read as
    place = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, bins - 1)
    return [
        Bin(float(edges[k]), float(edges[k + 1]), int(own.sum()), float(scores[own].mean()), float(right[own].mean()))
        for k in range(bins)
        if (own := place == k).any()
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float | None:
    """Mean distance between score and share right, weighted by count; None without detections.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    count = sum(b.count for b in bins)
    return sum(b.count * abs(b.score - b.right) for b in bins) / count if count else None


def scores_and_correct(
    samples: Sequence[Sample], classes: int, iou: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores (N,) of all detections, and whether each is right: on a face of its class at `iou` that no better one has.

    Give it samples with one label a face.
    """
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for k in range(classes):
        found = match(samples, np.array([iou]), k)
        scores.append(found.score)
        right.append(found.hit[0])
    return np.concatenate(scores), np.concatenate(right)
