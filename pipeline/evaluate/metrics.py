"""End-to-end detection scores: COCO average precision and recall, per class, per face and by face size.

faster-coco-eval does the scoring (the protocol of Lin et al., "Microsoft COCO", 2014: 101-point interpolated average
precision, IoU 0.50 to 0.95). Two settings differ from COCO's defaults: no image's detections are cut off (photos of
crowds hold more than COCO's 100), and the size ranges are those of faces.

A face can count with its best label alone, or once for each class with that class's score. The latter is how one-stage
detectors are scored, whose heads score every class of every box: by torchvision's detectors and by YOLO's validation
(Ultralytics' `multi_label`, which keeps scores from 0.001 on).
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
CLASS_FLOOR = 0.001  # of a class's score where every class counts: that of YOLO's validation
# Face size = sqrt(box area) in pixels; the lower bound is inside, the upper one outside.
LARGEST = 1e5
SIZES = {"<12": (0.0, 12.0), "12-24": (12.0, 24.0), "24-48": (24.0, 48.0), ">48": (48.0, LARGEST)}


@dataclass(frozen=True)
class Sample:
    """One image's truths and detections.

    truths: float32 (N, 4). truth_labels: (N,) indices into the class names. boxes: float32 (M, 4).
    scores: (M,). labels: (M,) indices into the class names. Boxes are xyxy pixels, 0-based, right and bottom exclusive.
    class_scores: (M, C), each box's score as each of the C classes, where they are known: the face's probability times
    the class's, so that a row sums to the former. The detections are put in order, best score first; equal scores keep
    theirs.

    Raises ValueError when counts do not fit or a score is not finite.
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
        truth_labels = np.asarray(self.gt_labels, dtype=np.intp).reshape(-1)
        truths, boxes = as_boxes(self.gt_boxes), as_boxes(self.boxes)
        if len(truths) != len(truth_labels) or not len(boxes) == len(scores) == len(labels):
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
            "truths": truths,
            "truth_labels": truth_labels,
            "boxes": boxes[order],
            "scores": scores[order],
            "labels": labels[order],
            "class_scores": class_scores,
        }.items():
            object.__setattr__(self, name, value)

    def keeping(self, keep: NDArray[np.bool_]) -> Sample:
        """The sample with only the detections that `keep` (M,) says."""
        class_scores = None if self.class_scores is None else self.class_scores[keep]
        return replace(
            self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep], class_scores=class_scores
        )


def every_class(samples: Sequence[Sample], floor: float = CLASS_FLOOR) -> list[Sample]:
    """The samples with a detection for each class of each box whose score as that class is `floor` or more.

    Samples without class scores stay: other detectors' results hold a row for each class already.
    """
    return [_every_class(s, floor) for s in samples]


def _every_class(s: Sample, floor: float) -> Sample:
    if s.class_scores is None:
        return s
    rows, labels = np.nonzero(s.class_scores >= floor)
    return replace(s, boxes=s.boxes[rows], scores=s.class_scores[rows, labels], labels=labels, class_scores=None)


def one_label(samples: Sequence[Sample]) -> list[Sample]:
    """The samples with one detection a box: of rows with exactly the same box, the best. What `every_class` undoes.

    Samples with class scores have one already, and stay.
    """
    return [_one_label(s) for s in samples]


def _one_label(s: Sample) -> Sample:
    if s.class_scores is not None or len(s.boxes) < 2:
        return s
    _, first = np.unique(s.boxes, axis=0, return_index=True)  # best first, so the first is the best
    keep = np.zeros(len(s.boxes), bool)
    keep[first] = True
    return s.keeping(keep)


@dataclass(frozen=True)
class APMetrics:
    """Scores of one category in one size range; None where there is no truth to score against.

    truths: how many faces were scored. ap: mean over IoU 0.50 to 0.95. ap50, ap75: at one IoU. recall50: share of
    faces that any detection, whatever its score, finds at IoU 0.5. ap_at_iou, recall_at_iou: at the run's own IoU.
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
    """One category: a class, "mean" over the classes that have truths, or "face" whatever its class.

    by_size: keys of SIZES. precision: at the recalls RECALLS and the run's own IoU; None without truths.
    """

    name: str
    overall: APMetrics
    by_size: dict[str, APMetrics]
    precision: tuple[float, ...] | None


@dataclass(frozen=True)
class Scores:
    """All average precisions and recalls of one detector on one set of images; iou is the run's own IoU."""

    iou: float
    mean: CategoryScores
    faces: CategoryScores
    classes: tuple[CategoryScores, ...]


def score_samples(samples: Sequence[Sample], class_names: Sequence[str], iou: float = 0.5) -> Scores:
    """Scores detections against truths, each with its one label and score (see `score_every_class`).

    iou: an IoU of the run's own beside COCO's, for truths drawn by another hand. As COCO does, the mean leaves out
    classes without truths, so a detection of such a class counts neither for nor against; it still counts in `faces`.

    Raises UserError when the scoring library is not installed.
    """
    faces = _score(samples, ["face"], iou, agnostic=True)[0]
    return _with_mean(_score(samples, list(class_names), iou, agnostic=False), faces, iou)


def score_every_class(
    samples: Sequence[Sample], class_names: Sequence[str], one: Scores, floor: float = CLASS_FLOOR
) -> Scores:
    """Scores detections as each class from a score of `floor` on, at the IoU of `one`.

    one: the scores of the same samples with one label a face; its `faces` are taken over, for a box that is repeated
    for each class says nothing of faces. Raises UserError when the scoring library is not installed.
    """
    classes = _score(every_class(samples, floor), list(class_names), one.iou, agnostic=False)
    return _with_mean(classes, one.faces, one.iou)


def _with_mean(classes: Sequence[CategoryScores], faces: CategoryScores, iou: float) -> Scores:
    by_size = {size: _mean([c.by_size[size] for c in classes]) for size in SIZES}
    curves = [c.precision for c in classes if c.precision is not None]
    precision = tuple(np.mean(curves, axis=0).tolist()) if curves else None
    mean = CategoryScores("mean", _mean([c.overall for c in classes]), by_size, precision)
    return Scores(iou, mean, faces, tuple(classes))


def with_iou(iou: float) -> NDArray[np.float64]:
    """COCO's ten IoU thresholds, and `iou` as the eleventh where it is none of them."""
    return COCO_IOUS if np.isclose(COCO_IOUS, iou).any() else np.append(COCO_IOUS, iou)


def index_of(iou: float) -> int:
    """Where `iou` stands in with_iou(iou)."""
    return int(np.argmin(np.abs(with_iou(iou) - iou)))


def _score(samples: Sequence[Sample], names: list[str], iou: float, agnostic: bool) -> list[CategoryScores]:
    with requires_extra("train"):
        from faster_coco_eval import COCO, COCOeval_faster
    truths: dict[str, Any] = {
        "images": [{"id": i + 1} for i in range(len(samples))],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
        "annotations": [],
    }
    results: list[dict[str, Any]] = []
    for i, s in enumerate(samples, start=1):
        for box, label in zip(_xywh(s.gt_boxes), s.gt_labels, strict=True):
            # The library takes the id 0 for "no match", so ids start at 1.
            truths["annotations"].append(
                {
                    "id": len(truths["annotations"]) + 1,
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
    truth = COCO(truths)
    # The library takes both bounds as inside; the next smaller number keeps a face out of two ranges.
    ranges = {size: [low**2, float(np.nextafter(high**2, 0))] for size, (low, high) in SIZES.items()}
    ranges[">48"][1] = LARGEST**2  # as it is: the library warns unless the ranges reach its own last bound
    evaluator = COCOeval_faster(truth, truth.loadRes(results), "bbox", ranges=ranges)
    evaluator.params.iouThrs = with_iou(iou)
    evaluator.params.maxDets = [max((len(s.boxes) for s in samples), default=1) or 1]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = np.asarray(evaluator.eval["precision"])[..., 0]  # (IoUs, recalls, categories, sizes)
    recall = np.asarray(evaluator.eval["recall"])[..., 0]  # (IoUs, categories, sizes)

    areas = [np.prod(np.array(_xywh(s.gt_boxes)).reshape(-1, 4)[:, 2:], axis=1) for s in samples]
    area = np.concatenate([*areas, np.zeros(0)])
    label = np.concatenate([*(s.gt_labels for s in samples), np.zeros(0, np.intp)])
    scores = []
    for k, name in enumerate(names):
        own = area if agnostic else area[label == k]
        counts = [int(((own >= low**2) & (own < high**2)).sum()) for low, high in SIZES.values()]
        figures = [
            _figures(precision[:, :, k, a], recall[:, k, a], index_of(iou), count)
            for a, count in enumerate([len(own), *counts])
        ]
        curve = tuple(precision[index_of(iou), :, k, 0].tolist()) if len(own) else None
        scores.append(CategoryScores(name, figures[0], dict(zip(SIZES, figures[1:], strict=True)), curve))
    return scores


def _figures(precision: NDArray[np.float64], recall: NDArray[np.float64], at: int, truths: int) -> APMetrics:
    """precision (IoUs, recalls), recall (IoUs,); `at` is the index of the run's own IoU."""
    if not truths:
        return APMetrics(0, None, None, None, None, None, None)
    ap = precision.mean(axis=1)
    return APMetrics(
        truths,
        *(float(v) for v in (ap[: len(COCO_IOUS)].mean(), ap[0], ap[5], recall[0], ap[at], recall[at])),
    )


def _mean(figures: Sequence[APMetrics]) -> APMetrics:
    counted = [f for f in figures if f.gt_count]

    def mean(name: str) -> float | None:
        return float(np.mean([getattr(f, name) for f in counted])) if counted else None

    return APMetrics(
        sum(f.gt_count for f in counted),
        *(mean(n) for n in ("ap", "ap50", "ap75", "recall50", "ap_at_iou", "recall_at_iou")),
    )


def _xywh(boxes: Boxes) -> list[list[float]]:
    wide = boxes.astype(np.float64)
    rows: list[list[float]] = np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1).tolist()
    return rows
