"""End-to-end detection scores: COCO average precision and recall, per class, per face and by face size.

faster-coco-eval does the scoring. The protocol is that of Lin et al., "Microsoft COCO", 2014: 101-point interpolated
average precision, IoU 0.50 to 0.95. Two settings differ from COCO's defaults. All detections of an image count (photos
of crowds hold more than COCO's 100), and the size ranges are those of faces.

A face can count with its best label alone, or once for each class with the score of that class. One-stage detectors are
scored in the second way, because their heads score every class of every box: by torchvision's detectors and by YOLO's
validation (Ultralytics' `multi_label`, which keeps scores from 0.001 on).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, as_boxes
from common.cli import requires_extra

COCO_IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MIN_CLASS_SCORE = 0.001  # where every class of a box counts; the value of YOLO's validation
# Face size = sqrt(box area) in pixels. The lower bound is inside, the upper one outside.
MAX_SIDE = 1e5
SIZES = {"<12": (0.0, 12.0), "12-24": (12.0, 24.0), "24-48": (24.0, 48.0), ">48": (48.0, MAX_SIDE)}


@dataclass(frozen=True)
class Sample:
    """One image's annotated faces (N) and detections (M).

    Boxes are xyxy pixels, 0-based, right and bottom exclusive. Building a sample sorts the detections, best score
    first; equal scores keep their order.

    Attributes:
        image_id: key of the image in the dataset.
        gt_boxes: float32 (N, 4).
        gt_labels: (N,) indices into the class names.
        boxes: float32 (M, 4).
        scores: (M,).
        labels: (M,) indices into the class names.
        class_scores: (M, C) score of each box as each of the C classes, where known: the face's probability times the
            probability of the class, so that a row sums to the face's probability.

    Raises:
        ValueError: counts do not fit, or a score is not finite.
    """

    image_id: str
    gt_boxes: Boxes
    gt_labels: NDArray[np.intp]
    boxes: Boxes
    scores: NDArray[np.float64]
    labels: NDArray[np.intp]
    class_scores: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, dtype=np.float64).reshape(-1)
        labels = np.asarray(self.labels, dtype=np.intp).reshape(-1)
        gt_labels = np.asarray(self.gt_labels, dtype=np.intp).reshape(-1)
        gt_boxes, boxes = as_boxes(self.gt_boxes), as_boxes(self.boxes)
        if len(gt_boxes) != len(gt_labels) or not len(boxes) == len(scores) == len(labels):
            raise ValueError(f"{self.image_id}: boxes, scores and labels differ in number")
        if not np.isfinite(scores).all():
            raise ValueError(f"{self.image_id}: a score is not a finite number")
        order = np.argsort(-scores, kind="stable")
        class_scores = self.class_scores
        if class_scores is not None:
            class_scores = np.asarray(class_scores, dtype=np.float64)
            if class_scores.ndim != 2 or len(class_scores) != len(boxes):
                raise ValueError(f"{self.image_id}: {len(boxes)} boxes, but class scores of shape {class_scores.shape}")
            if not np.isfinite(class_scores).all():
                raise ValueError(f"{self.image_id}: a class score is not a finite number")
            class_scores = class_scores[order]
        for name, value in {
            "gt_boxes": gt_boxes,
            "gt_labels": gt_labels,
            "boxes": boxes[order],
            "scores": scores[order],
            "labels": labels[order],
            "class_scores": class_scores,
        }.items():
            object.__setattr__(self, name, value)

    def keeping(self, keep: NDArray[np.bool_]) -> Sample:
        """Return the sample with only the detections where `keep` (M,) is true."""
        class_scores = None if self.class_scores is None else self.class_scores[keep]
        return replace(
            self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep], class_scores=class_scores
        )


def every_class(samples: Sequence[Sample], min_score: float = MIN_CLASS_SCORE) -> list[Sample]:
    """Return the samples with one detection for each class of each box: the view in which every class counts.

    Args:
        samples: those without class scores are returned as they are, because other detectors' results already hold one
            row per class.
        min_score: a class of a box counts from this score on.
    """
    return [_every_class(s, min_score) for s in samples]


def _every_class(s: Sample, min_score: float) -> Sample:
    if s.class_scores is None:
        return s
    rows, labels = np.nonzero(s.class_scores >= min_score)
    return replace(s, boxes=s.boxes[rows], scores=s.class_scores[rows, labels], labels=labels, class_scores=None)


def one_label(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples with one detection per box: the view in which a face has its best label alone.

    This reverts `every_class`: of the rows with exactly the same box, the row with the best score is kept.

    Args:
        samples: those with class scores are returned as they are, because they already hold one row per box.
    """
    return [_one_label(s) for s in samples]


def _one_label(s: Sample) -> Sample:
    if s.class_scores is not None or len(s.boxes) < 2:
        return s
    _, first = np.unique(s.boxes, axis=0, return_index=True)  # rows are sorted, so the first is the best
    keep = np.zeros(len(s.boxes), bool)
    keep[first] = True
    return s.keeping(keep)


@dataclass(frozen=True)
class APMetrics:
    """Scores of one category in one size range; None where no face is annotated.

    Attributes:
        gt_count: annotated faces.
        ap: mean average precision over IoU 0.50 to 0.95; ap50 and ap75 are at one IoU.
        recall50: share of the faces that any detection finds at IoU 0.5, whatever its score.
        ap_at_iou: average precision at the IoU of the run; recall_at_iou is the recall there.
    """

    gt_count: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    recall50: float | None
    ap_at_iou: float | None
    recall_at_iou: float | None


@dataclass(frozen=True)
class CategoryScores:
    """Scores of one category.

    Attributes:
        name: a class, "mean" over the classes that have annotated faces, or "face" whatever its class.
        by_size: for each key of SIZES.
        precision: at the recalls RECALLS and the IoU of the run; None where no face is annotated.
    """

    name: str
    overall: APMetrics
    by_size: dict[str, APMetrics]
    precision: tuple[float, ...] | None


@dataclass(frozen=True)
class Scores:
    """All average precisions and recalls of one detector on one set of images; `iou` is the IoU of the run."""

    iou: float
    mean: CategoryScores
    faces: CategoryScores
    classes: tuple[CategoryScores, ...]


def score_samples(samples: Sequence[Sample], class_names: Sequence[str], iou: float = 0.5) -> Scores:
    """Score detections, each with its one label and score (see also `score_every_class`).

    As in COCO, the mean leaves out classes without annotated faces. A detection of such a class changes only `faces`.

    Args:
        samples: one per image.
        class_names: C names, in the order of the label indices.
        iou: IoU of the run, scored in addition to COCO's, for boxes drawn by other rules.

    Raises:
        UserError: the scoring library is not installed.
    """
    faces = _score(samples, ["face"], iou, agnostic=True)[0]
    return _with_mean(_score(samples, list(class_names), iou, agnostic=False), faces, iou)


def score_every_class(
    samples: Sequence[Sample], class_names: Sequence[str], best_label: Scores, min_score: float = MIN_CLASS_SCORE
) -> Scores:
    """Score every class of every detection, at the IoU of `best_label`.

    Args:
        samples: one per image.
        class_names: C names, in the order of the label indices.
        best_label: scores of the same samples with one label per face. The result takes its `faces` from there, because
            a box that is repeated for each class says nothing about faces.
        min_score: a class of a box counts from this score on.

    Raises:
        UserError: the scoring library is not installed.
    """
    classes = _score(every_class(samples, min_score), list(class_names), best_label.iou, agnostic=False)
    return _with_mean(classes, best_label.faces, best_label.iou)


def iou_thresholds(iou: float) -> NDArray[np.float64]:
    """Return COCO's ten IoU thresholds, and `iou` as the eleventh where it differs from all ten."""
    return COCO_IOUS if np.isclose(COCO_IOUS, iou).any() else np.append(COCO_IOUS, iou)


def iou_index(iou: float) -> int:
    """Return the index of `iou` in iou_thresholds(iou)."""
    return int(np.argmin(np.abs(iou_thresholds(iou) - iou)))


def _with_mean(classes: Sequence[CategoryScores], faces: CategoryScores, iou: float) -> Scores:
    by_size = {size: _mean([c.by_size[size] for c in classes]) for size in SIZES}
    curves = [c.precision for c in classes if c.precision is not None]
    precision = tuple(np.mean(curves, axis=0).tolist()) if curves else None
    mean = CategoryScores("mean", _mean([c.overall for c in classes]), by_size, precision)
    return Scores(iou, mean, faces, tuple(classes))


def _score(samples: Sequence[Sample], names: list[str], iou: float, agnostic: bool) -> list[CategoryScores]:
    """Return the scores of each category in `names`; `agnostic` counts every face as the first one."""
    gt, results = _as_coco(samples, names, agnostic)
    precision, recall = _run_library(gt, results, iou, max((len(s.boxes) for s in samples), default=1) or 1)
    areas = [np.prod(np.array(_xywh(s.gt_boxes)).reshape(-1, 4)[:, 2:], axis=1) for s in samples]
    area = np.concatenate([*areas, np.zeros(0)])
    label = np.concatenate([*(s.gt_labels for s in samples), np.zeros(0, np.intp)])
    scores = []
    for k, name in enumerate(names):
        category_area = area if agnostic else area[label == k]
        counts = [int(((category_area >= low**2) & (category_area < high**2)).sum()) for low, high in SIZES.values()]
        metrics = [
            _metrics(precision[:, :, k, a], recall[:, k, a], iou_index(iou), count)
            for a, count in enumerate([len(category_area), *counts])
        ]
        curve = tuple(precision[iou_index(iou), :, k, 0].tolist()) if len(category_area) else None
        scores.append(CategoryScores(name, metrics[0], dict(zip(SIZES, metrics[1:], strict=True)), curve))
    return scores


def _as_coco(
    samples: Sequence[Sample], names: list[str], agnostic: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the annotated faces as a COCO dictionary, and the detections as a COCO results list."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, s in enumerate(samples, start=1):
        for box, label in zip(_xywh(s.gt_boxes), s.gt_labels, strict=True):
            # The library takes the id 0 for "no match", so ids start at 1.
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 1 if agnostic else int(label) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        for box, score, label in zip(_xywh(s.boxes), s.scores, s.labels, strict=True):
            category = 1 if agnostic else int(label) + 1
            results.append({"image_id": i, "category_id": category, "bbox": box, "score": float(score)})
    gt = {
        "images": [{"id": i + 1} for i in range(len(samples))],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
        "annotations": annotations,
    }
    return gt, results


def _run_library(
    gt: dict[str, Any], results: list[dict[str, Any]], iou: float, max_detections: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision (IoUs, recalls, categories, sizes) and recall (IoUs, categories, sizes)."""
    with requires_extra("train"):
        from faster_coco_eval import COCO, COCOeval_faster
    coco = COCO(gt)
    # The library counts both bounds as inside. The next smaller number keeps a face out of two ranges.
    ranges = {size: [low**2, float(np.nextafter(high**2, 0))] for size, (low, high) in SIZES.items()}
    ranges[">48"][1] = MAX_SIDE**2  # unchanged: the library warns unless the ranges reach its own last bound
    evaluator = COCOeval_faster(coco, coco.loadRes(results), "bbox", ranges=ranges)
    evaluator.params.iouThrs = iou_thresholds(iou)
    evaluator.params.maxDets = [max_detections]
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"])[..., 0], np.asarray(evaluator.eval["recall"])[..., 0]


def _metrics(precision: NDArray[np.float64], recall: NDArray[np.float64], index: int, gt_count: int) -> APMetrics:
    """Return metrics from precision (IoUs, recalls) and recall (IoUs,); `index` is that of the run's IoU."""
    if not gt_count:
        return APMetrics(0, None, None, None, None, None, None)
    ap = precision.mean(axis=1)
    return APMetrics(
        gt_count,
        *(float(v) for v in (ap[: len(COCO_IOUS)].mean(), ap[0], ap[5], recall[0], ap[index], recall[index])),
    )


def _mean(metrics: Sequence[APMetrics]) -> APMetrics:
    counted = [m for m in metrics if m.gt_count]

    def mean(name: str) -> float | None:
        return float(np.mean([getattr(m, name) for m in counted])) if counted else None

    return APMetrics(
        sum(m.gt_count for m in counted),
        *(mean(n) for n in ("ap", "ap50", "ap75", "recall50", "ap_at_iou", "recall_at_iou")),
    )


def _xywh(boxes: Boxes) -> list[list[float]]:
    wide = boxes.astype(np.float64)
    rows: list[list[float]] = np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1).tolist()
    return rows
