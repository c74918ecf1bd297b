"""Bootstrap intervals over images (Efron & Tibshirani, 1993): how much the scores would change with other photos.

Matching is per image, so it runs once; a resample only changes how often each image counts. Average precision is then
a weighted cumulative sum over the detections in score order. A test compares it with the scoring library on the
resampled images: both agree, except for the order of equal scores within one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics import (
    COCO_IOUS,
    MIN_CLASS_SCORE,
    RECALLS,
    Sample,
    every_class,
    iou_index,
    iou_thresholds,
    one_label,
)
from pipeline.evaluate.tide_errors import iou_matrix, match_greedily

ONE_LABEL = ", one label"  # ends the name of a score that counts each face with its best label alone


@dataclass(frozen=True)
class Interval:
    """A score and its 95% percentile interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Matches:
    """One category's detections (M) over all images (I), best score first, and their matches at T IoUs."""

    image_index: NDArray[np.intp]  # (M,)
    score: NDArray[np.float64]  # (M,)
    is_hit: NDArray[np.bool_]  # (T, M)
    gt_count: NDArray[np.intp]  # (I,) annotated faces of each image

    def average_precision(self, weights: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return average precision (T,) when image i counts weights[i] times; NaN when no face is left."""
        gt_count = int((weights * self.gt_count).sum())
        if not gt_count:
            return np.full(len(self.is_hit), np.nan)
        if not len(self.score):
            return np.zeros(len(self.is_hit))
        weight = weights[self.image_index]
        hits = np.cumsum(weight * self.is_hit, axis=1)
        precision = hits / np.maximum(np.cumsum(weight), 1)
        # The best precision at this recall or any higher one.
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        padded = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)  # unreached recalls score 0
        first = [np.searchsorted(row, RECALLS) for row in hits / gt_count]
        return np.take_along_axis(padded, np.array(first), axis=1).mean(axis=1)


def match(samples: Sequence[Sample], ious: NDArray[np.float64], label: int | None = None) -> Matches:
    """Match detections to faces as COCO does (see `match_greedily`).

    Args:
        samples: one per image.
        ious: (T,) IoU thresholds.
        label: index of the class; None matches faces whatever their class.
    """
    images, scores, hits = [np.zeros(0, np.intp)], [np.zeros(0)], [np.zeros((len(ious), 0), bool)]
    gt_count = np.zeros(len(samples), np.intp)
    for i, s in enumerate(samples):
        boxes, image_scores, gt_boxes = s.boxes, s.scores, s.gt_boxes
        if label is not None:
            boxes, image_scores = boxes[s.labels == label], image_scores[s.labels == label]
            gt_boxes = gt_boxes[s.gt_labels == label]
        gt_count[i] = len(gt_boxes)
        images.append(np.full(len(boxes), i))
        scores.append(image_scores)
        overlap = iou_matrix(boxes, gt_boxes)
        is_hit = np.zeros((len(ious), len(boxes)), bool)
        for t, iou in enumerate(ious):
            is_hit[t, [d for _, d in match_greedily(overlap, iou)]] = True
        hits.append(is_hit)
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    return Matches(np.concatenate(images)[order], score[order], np.concatenate(hits, axis=1)[:, order], gt_count)


def mean_ap(samples: Sequence[Sample], classes: int, iou: float) -> float:
    """Return the mean average precision at one IoU over the classes with annotated faces; NaN without any."""
    once = np.ones(len(samples), np.intp)
    return _mean([float(match(samples, np.array([iou]), k).average_precision(once)[0]) for k in range(classes)])


def bootstrap(
    samples: Sequence[Sample],
    class_names: Sequence[str],
    iou: float = 0.5,
    rounds: int = 200,
    seed: int = 0,
    min_score: float = MIN_CLASS_SCORE,
) -> dict[str, Interval]:
    """Return 95% intervals of the scores from resamples of the images with replacement.

    A resample without a face of some class leaves that class out of its mean, as COCO does.

    Args:
        samples: one per image.
        class_names: in the order of the label indices.
        iou: IoU of the run.
        rounds: number of resamples.
        seed: seed of the resamples.
        min_score: a class of a box counts from this score on.

    Returns:
        Intervals by name; empty when `rounds` is 0. Every class counts in mAP50, mAP50-95, AP50/<class>, and mAP@<iou>
        where `iou` is not 0.5. The same names ending in ONE_LABEL have one label per face. face_AP50 and
        face_AP@<iou> ignore classes. Scores without annotated faces are left out.
    """
    if rounds < 1 or not samples:
        return {}
    ious = iou_thresholds(iou)
    views = {"": every_class(samples, min_score), ONE_LABEL: one_label(samples)}
    by_view = {end: {n: match(view, ious, k) for k, n in enumerate(class_names)} for end, view in views.items()}
    faces = match(views[ONE_LABEL], ious)
    generator = np.random.default_rng(seed)
    count = len(samples)
    values = _weighted_scores(by_view, faces, iou, np.ones(count, np.intp))
    resampled = [
        _weighted_scores(by_view, faces, iou, np.bincount(generator.integers(count, size=count), minlength=count))
        for _ in range(rounds)
    ]
    intervals = {}
    for name, value in values.items():
        spread = np.array([scores[name] for scores in resampled])
        spread = spread[~np.isnan(spread)]
        if not np.isnan(value) and len(spread):
            intervals[name] = Interval(value, *(float(v) for v in np.percentile(spread, [2.5, 97.5])))
    return intervals


def best_f1_threshold(samples: Sequence[Sample], classes: int, iou: float, tolerance: float = 0.0) -> float:
    """Return the score threshold with the best F1 over all classes at one IoU; 0 without detections or hits.

    The threshold is chosen on these images, so their own scores with it look better than they are.

    Args:
        samples: the images' faces and detections.
        classes: their number.
        iou: from which a detection is right.
        tolerance: how far F1 may be below the best. The result is the middle of the thresholds within it. Where F1 is
            poor there, it is the nearest of them. A flat F1 makes the best threshold a matter of chance.
    """
    matches = [match(samples, np.array([iou]), k) for k in range(classes)]
    score = np.concatenate([m.score for m in matches])
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(np.concatenate([m.is_hit[0] for m in matches])[order])
    if not len(hits) or not hits[-1]:
        return 0.0
    gt_count = sum(int(m.gt_count.sum()) for m in matches)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + gt_count)
    # A threshold keeps every detection of an equal score: take F1 at the last one of each score.
    last = np.append(np.diff(score[order]) != 0, True)
    scores, f1 = score[order][last], f1[last]
    is_good = f1 >= f1.max() - tolerance
    good = scores[is_good]
    middle = (good[0] + good[-1]) / 2 if tolerance else good[0]
    if is_good[np.searchsorted(-scores, -middle, side="right") - 1]:
        return float(middle)
    return float(good[np.abs(good - middle).argmin()])


def _weighted_scores(
    by_view: dict[str, dict[str, Matches]], faces: Matches, iou: float, weights: NDArray[np.intp]
) -> dict[str, float]:
    """Return every score by its name when image i counts weights[i] times."""
    index = iou_index(iou)
    scores: dict[str, float] = {}
    for end, by_class in by_view.items():
        ap = {name: matches.average_precision(weights) for name, matches in by_class.items()}
        scores[f"mAP50{end}"] = _mean([float(v[0]) for v in ap.values()])
        scores[f"mAP50-95{end}"] = _mean([float(v[: len(COCO_IOUS)].mean()) for v in ap.values()])
        scores |= {f"AP50/{name}{end}": float(v[0]) for name, v in ap.items()}
        if iou != 0.5:
            scores[f"mAP@{iou:g}{end}"] = _mean([float(v[index]) for v in ap.values()])
    face_ap = faces.average_precision(weights)
    scores["face_AP50"] = float(face_ap[0])
    if iou != 0.5:
        scores[f"face_AP@{iou:g}"] = float(face_ap[index])
    return scores


def _mean(values: Sequence[float]) -> float:
    counted = [v for v in values if not np.isnan(v)]
    return float(np.mean(counted)) if counted else float("nan")
