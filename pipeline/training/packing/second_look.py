"""Chooses on validation photos whether O-Net looks twice, and whether stage 2 has a weight in the face score."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from common.annotations import AnnotatedImage
from common.images import read_image
from pipeline.inference.bundle_meta import BundleMeta
from pipeline.inference.predictor import Predictor
from stage1_faces.cascade_config import CascadeConfig

MAX_LOSS = 0.002  # mAP50-95 below the best by which a quicker choice may be: less than the noise of 100 photos
TIMED_PHOTOS, ROUNDS = 20, 3
# (O-Net's second pass, stage 2's weight in the face score)
CHOICES = ((True, True), (True, False), (False, True), (False, False))


def fit_second_look(
    meta: BundleMeta,
    fit: Callable[..., BundleMeta],
    load: Callable[[BundleMeta], Predictor],
    val: Sequence[AnnotatedImage],
) -> BundleMeta:
    """Return the metadata fitted by the quickest of the best choices, with the figures of all in its metrics.

    Args:
        meta: the metadata before the fit, of a fine-tuned cascade.
        fit: returns the metadata with settings fitted; takes the metadata and `classifier_weight`.
        load: returns a predictor with fitted settings.
        val: the validation photos.
    """
    assert isinstance(meta.search, CascadeConfig)
    fitted, search = {}, meta.search
    for second_look, weight in CHOICES:
        one = replace(meta, search=replace(search, second_look=second_look))
        fitted[_name(second_look, weight)] = fit(one, classifier_weight=weight)
    seconds = time_alternately({name: load(one) for name, one in fitted.items()}, val)
    figures = {
        name: {
            **{key: one.metrics["val"].get(key) for key in ("mAP50-95", "mAP50", "face_recall50")},
            "classifier_weight": one.fusion.classifier_weight,
            "milliseconds": round(seconds[name] * 1e3, 2),
        }
        for name, one in fitted.items()
    }
    chosen = choose(figures)
    metrics = {**fitted[chosen].metrics, "val_second_look": {"chosen": chosen, **figures}}
    return replace(fitted[chosen], metrics=metrics)


def choose(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return the quickest choice whose mAP50-95 is at most MAX_LOSS below the best."""
    best = max(one["mAP50-95"] for one in figures.values())
    good = [name for name, one in figures.items() if one["mAP50-95"] >= best - MAX_LOSS]
    return min(good, key=lambda name: figures[name]["milliseconds"])


def time_alternately(predictors: Mapping[str, Predictor], photos: Sequence[AnnotatedImage]) -> dict[str, float]:
    """Return the mean seconds per photo of each predictor: the best of ROUNDS, in turn, so that all meet the same load.

    At most TIMED_PHOTOS photos are timed, evenly spaced, at each predictor's own threshold.
    """
    step = max(-(-len(photos) // TIMED_PHOTOS), 1)
    best: dict[str, list[float]] = {name: [] for name in predictors}
    for image in photos[::step]:
        pixels = read_image(image.path)
        rounds: dict[str, list[float]] = {name: [] for name in predictors}
        for _ in range(ROUNDS):
            for name, predictor in predictors.items():
                start = time.perf_counter()
                predictor.detect(pixels)
                rounds[name].append(time.perf_counter() - start)
        for name, seconds in rounds.items():
            best[name].append(min(seconds))
    return {name: float(np.mean(seconds)) for name, seconds in best.items()}


def _name(second_look: bool, weight: bool) -> str:
    return f"second look {'on' if second_look else 'off'}, {'fitted' if weight else 'no'} stage-2 weight"
