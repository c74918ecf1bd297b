"""How close scores are to probabilities: reliability bins and the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.bootstrap import match
from pipeline.evaluate.metrics import Sample

BINS = 10
MIN_SCORE = 0.01  # most detections have a lower score and are false; they would hide the others


@dataclass(frozen=True)
class Bin:
    """Detections whose score is in [low, high); the last bin includes 1."""

    low: float
    high: float
    count: int
    score: float  # mean score
    right: float  # share of correct detections


@dataclass(frozen=True)
class Reliability:
    """Reliability of the detections from a score of `floor` on."""

    floor: float
    count: int
    ece: float | None  # expected calibration error; None without detections
    bins: tuple[Bin, ...]  # those with detections

    @classmethod
    def above(cls, floor: float, scores: NDArray[np.floating], correct: NDArray[np.bool_]) -> Reliability:
        """Return the reliability of the detections with `scores` (N,) of `floor` or more, `correct` (N,) or not."""
        kept = scores >= floor
        bins = reliability_bins(scores[kept], correct[kept])
        return cls(floor, int(kept.sum()), expected_calibration_error(bins), tuple(bins))


def reliability_bins(scores: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """Return those of `bins` bins of equal width that have detections, from scores (N,) in 0..1 and correct (N,)."""
    edges, bin_index = _edges(bins), bin_indices(scores, bins)
    return [
        Bin(float(edges[k]), float(edges[k + 1]), int(own.sum()), float(scores[own].mean()), float(correct[own].mean()))
        for k in range(bins)
        if (own := bin_index == k).any()
    ]


def bin_indices(scores: NDArray[np.floating], bins: int = BINS) -> NDArray[np.intp]:
    """Return the number of the bin of each of the scores (N,) in 0..1, of `bins` bins of equal width."""
    return np.clip(np.searchsorted(_edges(bins), scores, side="right") - 1, 0, bins - 1)


def _edges(bins: int) -> NDArray[np.float64]:
    return np.arange(bins + 1) / bins  # division gives exactly the number that "0.3" is read as


def expected_calibration_error(bins: Sequence[Bin]) -> float | None:
    """Return the mean distance between score and share of correct detections, weighted by count; None without any.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    count = sum(b.count for b in bins)
    return sum(b.count * abs(b.score - b.right) for b in bins) / count if count else None


def scores_and_correct(
    samples: Sequence[Sample], classes: int, iou: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the scores of all detections, and whether each detection is correct.

    Args:
        samples: with one label per face.
        classes: number of classes.
        iou: IoU at which a detection matches a face.

    Returns:
        Scores (N,) and flags (N,). A detection is correct on a face of its class that no better detection has matched.
    """
    matches = [match(samples, np.array([iou]), k) for k in range(classes)]
    return np.concatenate([m.score for m in matches]), np.concatenate([m.is_hit[0] for m in matches])
