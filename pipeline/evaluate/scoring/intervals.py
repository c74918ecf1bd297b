"""Bootstrap intervals over photos of figures that bootstrap.py does not have: recall, calibration, crops, counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.bootstrap import Interval, match
from pipeline.evaluate.metrics import Sample, one_label
from pipeline.evaluate.reliability import BINS, MIN_SCORE, bin_indices
from pipeline.evaluate.scoring.crops import accuracy, macro_f1

Statistic = Callable[[NDArray[np.intp]], float]  # of how often each photo counts (I,); NaN where undefined


def interval_over_photos(statistic: Statistic, photos: int, rounds: int, seed: int) -> Interval | None:
    """Return a figure with its 95% percentile interval; None where the figure is undefined.

    Args:
        statistic: the figure, from how often each photo counts.
        photos: number of photos.
        rounds: number of resamples with replacement; 0 gives an interval without width.
        seed: seed of the resamples.
    """
    value = statistic(np.ones(photos, np.intp)) if photos else float("nan")
    if np.isnan(value):
        return None
    generator = np.random.default_rng(seed)
    draws = (np.bincount(generator.integers(photos, size=photos), minlength=photos) for _ in range(rounds))
    spread = [v for weights in draws if not np.isnan(v := statistic(weights))]
    low, high = np.percentile(spread, [2.5, 97.5]) if spread else (value, value)
    return Interval(value, float(low), float(high))


def face_recall(samples: Sequence[Sample], iou: float) -> Statistic:
    """Return the share of faces that any detection finds at that IoU, whatever its score and label."""
    matches = match(one_label(samples), np.array([iou]))
    hits = np.bincount(matches.image_index[matches.is_hit[0]], minlength=len(samples))

    def recall(weights: NDArray[np.intp]) -> float:
        faces = (weights * matches.gt_count).sum()
        return float((weights * hits).sum() / faces) if faces else float("nan")

    return recall


def calibration_error(samples: Sequence[Sample], classes: int, iou: float) -> Statistic:
    """Return the expected calibration error of the detections from MIN_SCORE on, as `reliability` has it.

    A bin's part of the error is the distance between two sums over its detections: of the scores, and of those that
    are right. The total is divided by the number of all detections.
    """
    matches = [match(one_label(samples), np.array([iou]), k) for k in range(classes)]
    image, score = np.concatenate([m.image_index for m in matches]), np.concatenate([m.score for m in matches])
    right = np.concatenate([m.is_hit[0] for m in matches])
    kept = score >= MIN_SCORE
    image, score, right = image[kept], score[kept], right[kept]
    of_bin = bin_indices(score)

    def error(weights: NDArray[np.intp]) -> float:
        weight = weights[image]
        if not (total := weight.sum()):
            return float("nan")
        return float(np.abs(np.bincount(of_bin, weight * (score - right), BINS)).sum() / total)

    return error


def crop_statistics(confusions: Sequence[NDArray[np.intp]]) -> dict[str, Statistic]:
    """Return accuracy and macro-F1 of the crops, from each photo's confusion matrix (C, C)."""
    stacked = np.array(confusions)  # (I, C, C)
    return {
        "crop_accuracy": lambda weights: accuracy(np.tensordot(weights, stacked, 1)),
        "crop_macro_f1": lambda weights: macro_f1(np.tensordot(weights, stacked, 1)),
    }
