"""End-to-end detection scores: COCO average precision and recall, per class, per face and by face size.

faster-coco-eval does the scoring. The protocol is that of Lin et al., "Microsoft COCO", 2014: 101-point interpolated
average precision, IoU 0.50 to 0.95. Two settings differ from COCO's defaults. All detections of an image count (photos
of crowds hold more than COCO's 100), and the size ranges are those of faces.

A face can count with its best label alone, or once for each class with the score of that class. One-stage detectors are
scored in the second way, because their heads score every class of every box: by torchvision's detectors and by YOLO's
validation (Ultralytics' `multi_label`, which keeps scores from 0.001 on).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage
from common.boxes import Boxes, area, as_boxes
from common.cli import requires_extra
from pipeline.evaluate.face_free import counted_detections

COCO_IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MIN_IOU, MAX_IOU = 0.1, 1.0  # the IoU from which a box matches a face is between them
MIN_CLASS_SCORE = 0.001  # where every class of a box counts; the value of YOLO's validation
# Face size = sqrt(box area) in pixels. The lower bound is inside, the upper one outside.
MAX_SIDE = 1e5
SIZES = {"<12": (0.0, 12.0), "12-24": (12.0, 24.0), "24-48": (24.0, 48.0), ">48": (48.0, MAX_SIDE)}
# Faces near the camera, a part of those over 48 px: shown where an annotated face is so large.
NEAR_SIZES = {">200": (200.0, MAX_SIDE)}


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
        order, class_scores = np.argsort(-scores, kind="stable"), self.class_scores
        if class_scores is not None:
            class_scores = np.asarray(class_scores, dtype=np.float64)
            if class_scores.ndim != 2 or len(class_scores) != len(boxes):
                raise ValueError(f"{self.image_id}: {len(boxes)} boxes, but class scores of shape {class_scores.shape}")
            if not np.isfinite(class_scores).all():
                raise ValueError(f"{self.image_id}: a class score is not a finite number")
            class_scores = class_scores[order]
        # The class is frozen: its checked fields go to its dictionary.
        vars(self).update(gt_boxes=gt_boxes, gt_labels=gt_labels, class_scores=class_scores)
        vars(self).update(boxes=boxes[order], scores=scores[order], labels=labels[order])

    def keeping(self, keep: NDArray[np.bool_]) -> Sample:
        """Return the sample with only the detections where `keep` (M,) is true."""
        class_scores = None if self.class_scores is None else self.class_scores[keep]
        return replace(
            self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep], class_scores=class_scores
        )


def make_sample(
    image: AnnotatedImage,
    class_names: Sequence[str] | None,
    boxes: Boxes,
    scores: NDArray[np.floating],
    labels: NDArray[np.intp],
    class_scores: NDArray[np.float64] | None = None,
    match_iou: float = 0.5,
) -> Sample:
    """Return one image's faces and those of its M detections that count.

    All samples are made here, so that all scores agree on what counts (see `face_free.counted_detections`).

    Args:
        image: the annotated image.
        class_names: in the order of the label indices; None where classes do not matter, and every face has label 0.
        boxes: (M, 4) xyxy pixels.
        scores: (M,).
        labels: (M,) indices into the class names.
        class_scores: as in Sample.
        match_iou: IoU at which a detection is on its face.
    """
    gt_labels = [0 if class_names is None else class_names.index(label) for label in image.labels]
    sample = Sample(
        image.image_id,
        image.boxes,
        np.array(gt_labels, np.intp),
        boxes,
        scores.astype(np.float64),
        labels,
        class_scores,
    )
    return sample.keeping(counted_detections(image, sample.boxes, match_iou))


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
    """Scores of one category in one size range; None where no face is annotated."""

    gt_count: int  # annotated faces
    ap: float | None  # mean average precision over IoU 0.50 to 0.95
    ap50: float | None
    ap75: float | None
    recall50: float | None  # share of the faces that any detection finds at IoU 0.5, whatever its score
    ap_at_iou: float | None  # at the IoU of the run
    recall_at_iou: float | None


@dataclass(frozen=True)
class CategoryScores:
    """Scores of one category."""

    name: str  # a class, "mean" over the classes that have annotated faces, or "face" whatever its class
    overall: APMetrics
    by_size: dict[str, APMetrics]  # for each key of SIZES, and of NEAR_SIZES where an annotated face is so large
    precision: tuple[float, ...] | None  # at RECALLS and the IoU of the run; None where no face is annotated


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
    one_class = [replace(s, gt_labels=np.zeros_like(s.gt_labels), labels=np.zeros_like(s.labels)) for s in samples]
    return _with_mean(_score(samples, class_names, iou), _score(one_class, ["face"], iou)[0], iou)


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
    classes = _score(every_class(samples, min_score), class_names, best_label.iou)
    return _with_mean(classes, best_label.faces, best_label.iou)


def size_ranges(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Return SIZES, and those of NEAR_SIZES that an annotated face of the samples has."""
    largest = max((float(area(s.gt_boxes).max(initial=0)) for s in samples), default=0.0)
    return SIZES | {name: bounds for name, bounds in NEAR_SIZES.items() if largest >= bounds[0] ** 2}


def iou_thresholds(iou: float) -> NDArray[np.float64]:
    """Return COCO's ten IoU thresholds, and `iou` as the eleventh where it differs from all ten."""
    return COCO_IOUS if np.isclose(COCO_IOUS, iou).any() else np.append(COCO_IOUS, iou)


def iou_index(iou: float) -> int:
    """Return the index of `iou` in iou_thresholds(iou)."""
    return int(np.argmin(np.abs(iou_thresholds(iou) - iou)))


def _with_mean(classes: Sequence[CategoryScores], faces: CategoryScores, iou: float) -> Scores:
    by_size = {size: _mean([c.by_size[size] for c in classes]) for size in faces.by_size}
    curves = [c.precision for c in classes if c.precision is not None]
    precision = tuple(np.mean(curves, axis=0).tolist()) if curves else None
    mean = CategoryScores("mean", _mean([c.overall for c in classes]), by_size, precision)
    return Scores(iou, mean, faces, tuple(classes))


def _score(samples: Sequence[Sample], names: Sequence[str], iou: float) -> list[CategoryScores]:
    """Return the scores of each category in `names`."""
    annotations = [row | {"iscrowd": 0} for row in _coco_rows((s.gt_boxes, s.gt_labels) for s in samples)]
    images = [{"id": i} for i in range(1, len(samples) + 1)]
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    gt = {"images": images, "categories": categories, "annotations": annotations}
    most = max((len(s.boxes) for s in samples), default=1) or 1
    sizes = size_ranges(samples)
    precision, recall = _run_library(gt, coco_detections(samples), iou, most, sizes)
    scores = []
    for k, name in enumerate(names):
        areas = np.array([row["area"] for row in annotations if row["category_id"] == k + 1])
        counts = [int(((areas >= low**2) & (areas < high**2)).sum()) for low, high in sizes.values()]
        metrics = [
            _metrics(precision[:, :, k, a], recall[:, k, a], iou_index(iou), count)
            for a, count in enumerate([len(areas), *counts])
        ]
        curve = tuple(precision[iou_index(iou), :, k, 0].tolist()) if len(areas) else None
        scores.append(CategoryScores(name, metrics[0], dict(zip(sizes, metrics[1:], strict=True)), curve))
    return scores


def coco_detections(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return the detections as rows of COCO JSON; all ids start at 1."""
    rows = _coco_rows((s.boxes, s.labels) for s in samples)
    scores = [score for s in samples for score in s.scores.tolist()]
    return [row | {"score": score} for row, score in zip(rows, scores, strict=True)]


def _coco_rows(images: Iterable[tuple[Boxes, NDArray[np.intp]]]) -> list[dict[str, Any]]:
    """Return a row per box from each image's boxes and labels. The scoring library takes the id 0 for "no match"."""
    rows: list[dict[str, Any]] = []
    for i, (boxes, labels) in enumerate(images, start=1):
        for (x1, y1, x2, y2), label in zip(boxes.astype(np.float64).tolist(), labels.tolist(), strict=True):
            width, height = x2 - x1, y2 - y1
            row = {"id": len(rows) + 1, "image_id": i, "category_id": label + 1, "bbox": [x1, y1, width, height]}
            rows.append(row | {"area": width * height})
    return rows


def _run_library(
    gt: dict[str, Any],
    results: list[dict[str, Any]],
    iou: float,
    max_detections: int,
    sizes: dict[str, tuple[float, float]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision (IoUs, recalls, categories, sizes) and recall (IoUs, categories, sizes)."""
    with requires_extra("train"):
        from faster_coco_eval import COCO, COCOeval_faster
    coco = COCO(gt)
    # The library counts both bounds as inside. The next smaller number keeps a face out of two ranges.
    ranges = {size: [low**2, float(np.nextafter(high**2, 0))] for size, (low, high) in sizes.items()}
    for size in (">48", *(NEAR_SIZES.keys() & sizes.keys())):
        ranges[size][1] = MAX_SIDE**2  # unchanged: the library warns unless the ranges reach its own last bound
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
    values = (ap[: len(COCO_IOUS)].mean(), ap[0], ap[5], recall[0], ap[index], recall[index])
    return APMetrics(gt_count, *(float(v) for v in values))


def _mean(metrics: Sequence[APMetrics]) -> APMetrics:
    counted = [m for m in metrics if m.gt_count]
    if not counted:
        return APMetrics(0, None, None, None, None, None, None)
    means = (float(np.mean([getattr(m, field.name) for m in counted])) for field in fields(APMetrics)[1:])
    return APMetrics(sum(m.gt_count for m in counted), *means)
