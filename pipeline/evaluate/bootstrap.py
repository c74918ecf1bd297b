"""Bootstrap intervals over images (Efron & Tibshirani, 1993): how far the scores would move with other photos.

Matching is per image, so it is done once; a resample only changes how often each image counts. Average precision is
then a weighted cumulative sum over the detections in score order, the same figure that re-scoring the resampled
images would give (a test holds it against the scoring library) but for the order of equal scores within one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics import (
    CLASS_FLOOR,
    COCO_IOUS,
    RECALLS,
    Sample,
    every_class,
    index_of,
    one_label,
    with_iou,
)
from pipeline.evaluate.tide_errors import overlaps

ONE_LABEL = ", one label"  # ends the name of a figure that counts each face with its best label alone


@dataclass(frozen=True)
class Interval:
    """A 95% percentile interval of a score, and the score itself."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Matches:
    """One category's detections over all images, best score first (M of them), and what each matched.

    image: (M,) index of the image. score: (M,). hit: (T, M) whether it matched a truth at each of T IoUs.
    truths: (I,) truths in each image.
    """

    image: NDArray[np.intp]
    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    gt_count: NDArray[np.intp]

    def average_precision(self, weights: NDArray[np.intp]) -> NDArray[np.float64]:
        """(T,) average precision when image i counts weights[i] times; NaN when no truth is left."""
        truths = int((weights * self.gt_count).sum())
        if not truths:
            return np.full(len(self.hit), np.nan)
        if not len(self.score):
            return np.zeros(len(self.hit))
        weight = weights[self.image]
        found = np.cumsum(weight * self.hit, axis=1)
        precision = found / np.maximum(np.cumsum(weight), 1)
        # The best precision at this recall or any higher one.
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        padded = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)  # unreached recalls score 0
        first = [np.searchsorted(row, RECALLS) for row in found / truths]
        return np.take_along_axis(padded, np.array(first), axis=1).mean(axis=1)


def match(samples: Sequence[Sample], ious: NDArray[np.float64], label: int | None = None) -> Matches:
    """COCO's matching of one class (or, without `label`, of faces whatever their class) at each of (T,) `ious`.

    Best score first, each detection takes the free truth that it overlaps most, if at least at the threshold.
    """
    images, scores, hits = [np.zeros(0, np.intp)], [np.zeros(0)], [np.zeros((len(ious), 0), bool)]
    truths = np.zeros(len(samples), np.intp)
    for i, s in enumerate(samples):
        boxes, own_scores, own_truths = s.boxes, s.scores, s.gt_boxes
        if label is not None:
            boxes, own_scores = boxes[s.labels == label], own_scores[s.labels == label]
            own_truths = own_truths[s.gt_labels == label]
        truths[i] = len(own_truths)
        images.append(np.full(len(boxes), i))
        scores.append(own_scores)
        hits.append(_hits(overlaps(boxes, own_truths), ious))
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    return Matches(np.concatenate(images)[order], score[order], np.concatenate(hits, axis=1)[:, order], truths)


def mean_ap(samples: Sequence[Sample], classes: int, iou: float) -> float:
    """The mean over the classes that have truths of average precision at one IoU; NaN without truths."""
    once = np.ones(len(samples), np.intp)
    return _mean([float(match(samples, np.array([iou]), k).average_precision(once)[0]) for k in range(classes)])


def bootstrap(
    samples: Sequence[Sample],
    class_names: Sequence[str],
    iou: float = 0.5,
    rounds: int = 200,
    seed: int = 0,
    floor: float = CLASS_FLOOR,
) -> dict[str, Interval]:
    """95% intervals from `rounds` resamples of the images with replacement; empty when rounds is 0.

    Keys: mAP50, mAP50-95, AP50/<class>, and mAP@<iou> where `iou` is not 0.5, each with every class scored from `floor`
    on; the same ones ending in ONE_LABEL, with one label a face; face_AP50, and face_AP@<iou>. A resample without a
    truth of some class leaves that class out of its mean, as COCO does. Scores without truths are left out.
    """
    if rounds < 1 or not samples:
        return {}
    ious = with_iou(iou)
    ways = {"": every_class(samples, floor), ONE_LABEL: one_label(samples)}
    categories = {way: {n: match(own, ious, k) for k, n in enumerate(class_names)} for way, own in ways.items()}
    faces = match(ways[ONE_LABEL], ious)
    generator = np.random.default_rng(seed)

    def scores(weights: NDArray[np.intp]) -> dict[str, float]:
        at, own = index_of(iou), iou != 0.5
        figures: dict[str, float] = {}
        for way, by_class in categories.items():
            ap = {name: matches.average_precision(weights) for name, matches in by_class.items()}
            figures[f"mAP50{way}"] = _mean([float(v[0]) for v in ap.values()])
            figures[f"mAP50-95{way}"] = _mean([float(v[: len(COCO_IOUS)].mean()) for v in ap.values()])
            figures |= {f"AP50/{name}{way}": float(v[0]) for name, v in ap.items()}
            if own:
                figures[f"mAP@{iou:g}{way}"] = _mean([float(v[at]) for v in ap.values()])
        face = faces.average_precision(weights)
        figures["face_AP50"] = float(face[0])
        if own:
            figures[f"face_AP@{iou:g}"] = float(face[at])
        return figures

    point = scores(np.ones(len(samples), np.intp))
    drawn = []
    for _ in range(rounds):
        picked = generator.integers(len(samples), size=len(samples))
        drawn.append(scores(np.bincount(picked, minlength=len(samples))))
    intervals = {}
    for name, value in point.items():
        values = np.array([d[name] for d in drawn])
        values = values[~np.isnan(values)]
        if not np.isnan(value) and len(values):
            intervals[name] = Interval(value, *(float(v) for v in np.percentile(values, [2.5, 97.5])))
    return intervals


def best_score(samples: Sequence[Sample], classes: int, iou: float) -> float:
    """The score threshold with the best F1 over all classes at one IoU; 0 without detections or hits.

    Chosen on the very images that are scored, so it flatters: only for detectors whose own threshold is unknown.
    """
    matches = [match(samples, np.array([iou]), k) for k in range(classes)]
    score = np.concatenate([m.score for m in matches])
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(np.concatenate([m.hit[0] for m in matches])[order])
    if not len(found) or not found[-1]:
        return 0.0
    truths = sum(int(m.gt_count.sum()) for m in matches)
    f1 = 2 * found / (np.arange(1, len(found) + 1) + truths)
    # A threshold keeps every detection of an equal score: judge each score at its last one.
    last = np.append(np.diff(score[order]) != 0, True)
    return float(score[order][np.argmax(np.where(last, f1, -1))])


def _hits(overlap: NDArray[np.float64], ious: NDArray[np.float64]) -> NDArray[np.bool_]:
    """overlap (M, N), detections best score first -> (T, M)."""
    count, truths = overlap.shape
    hits = np.zeros((len(ious), count), bool)
    if not truths:
        return hits
    free = np.ones((len(ious), truths), bool)
    rows = np.arange(len(ious))
    for d in np.flatnonzero(overlap.max(axis=1) >= ious.min()):
        candidates = np.where(free, overlap[d], -1.0)
        # Of equal overlaps the scoring library takes the last.
        best = truths - 1 - np.argmax(candidates[:, ::-1], axis=1)
        hits[:, d] = candidates[rows, best] >= ious
        free[rows[hits[:, d]], best[hits[:, d]]] = False
    return hits


def _mean(values: Sequence[float]) -> float:
    counted = [v for v in values if not np.isnan(v)]
    return float(np.mean(counted)) if counted else float("nan")
