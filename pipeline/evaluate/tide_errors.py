"""Which stage an error is due to: matching, confusion matrix, kinds of error, and the gain from fixing one kind.

The kinds follow TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020).
Matching ignores the class and is greedy, best score first, as in COCO's scoring. Each detection takes the free face
that it overlaps most. So the box with the best score decides about a face, and the counts agree with average precision.
An optimal (Hungarian) matching would credit a detector with a box that its own ranking put second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, area, iou
from pipeline.evaluate.metrics import SIZES, Sample

ErrorKind = Literal["miss", "loc", "cls", "bkg", "dupe"]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
# The name of each kind in evaluation.json and in the file names of the pictures.
REPORT_KEYS = {"miss": "missed", "loc": "loose", "cls": "wrong_class", "bkg": "false_alarm", "dupe": "duplicate"}
# The stage that causes an error, by the values of REPORT_KEYS.
STAGE = {"missed": 1, "loose": 1, "wrong_class": 2, "false_alarm": 1, "duplicate": 1}
BACKGROUND_IOU = 0.1  # TIDE's: a box with less overlap has nothing to do with a face


@dataclass(frozen=True)
class ErrorAssignment:
    """The place of each face and each detection of one image; each is in exactly one field.

    A pair is (index of the face, index of the detection).
    """

    matched: tuple[tuple[int, int], ...]  # pairs that overlap by the IoU threshold or more, whatever their classes
    loc: tuple[tuple[int, int], ...]  # pairs of a face and a detection without a match that overlap too little
    miss: tuple[int, ...]  # faces in no pair
    dupe: tuple[int, ...]  # detections in no pair that overlap a face
    bkg: tuple[int, ...]  # detections on no face


@dataclass(frozen=True)
class DetectionError:
    """One error in the sample of index `sample`."""

    kind: ErrorKind
    sample: int
    gt: int | None  # index of the face in the sample; None for "dupe" and "bkg"
    detection: int | None  # index of the detection in the sample; None for "miss"


@dataclass(frozen=True)
class ErrorCounts:
    """Errors at one score threshold.

    gt_count = correct + cls + loc + miss, and detections = correct + cls + loc + dupe + bkg.
    """

    gt_count: int
    detections: int
    correct: int
    kinds: dict[ErrorKind, int]
    by_size: dict[str, dict[str, int]]  # by face size (keys of SIZES): "gt_count", "correct", "miss", "loc", "cls"


def iou_matrix(boxes: Boxes, gt_boxes: Boxes) -> NDArray[np.float64]:
    """Return the IoU (M, N) in double precision, as the scoring library does: both must agree on a threshold."""
    wide: tuple[Any, Any] = boxes.astype(np.float64), gt_boxes.astype(np.float64)
    return np.asarray(iou(*wide), dtype=np.float64)


def filter_by_score(samples: Sequence[Sample], score: float) -> list[Sample]:
    """Return the samples with only the detections whose score is `score` or more."""
    return [s.keeping(s.scores >= score) for s in samples]


def assign_errors(sample: Sample, match_iou: float = 0.5) -> ErrorAssignment:
    """Put each face and each detection of one image into its place.

    A face that only a neighbour's box overlaps is a miss, not a loc: moving that box would lose the neighbour.
    A second box on a matched face is a dupe, however small its overlap is. A match needs an IoU of `match_iou`.
    """
    overlap = iou_matrix(sample.boxes, sample.gt_boxes)
    matched = match_greedily(overlap, match_iou)
    rest = overlap.copy()
    rest[[d for _, d in matched], :] = -1
    rest[:, [t for t, _ in matched]] = -1
    loc = match_greedily(rest, BACKGROUND_IOU)
    miss = sorted(set(range(len(sample.gt_boxes))) - {t for t, _ in matched + loc})
    left = sorted(set(range(len(sample.boxes))) - {d for _, d in matched + loc})
    on_face = overlap.max(axis=1, initial=0) >= BACKGROUND_IOU
    dupe, bkg = tuple(d for d in left if on_face[d]), tuple(d for d in left if not on_face[d])
    return ErrorAssignment(tuple(matched), tuple(loc), tuple(miss), dupe, bkg)


def confusion_matrix(samples: Sequence[Sample], classes: int, match_iou: float = 0.5) -> NDArray[np.int64]:
    """Return how often each class was predicted for each true class.

    Args:
        samples: their detections from one score threshold on (see `filter_by_score`).
        classes: number of classes C.
        match_iou: IoU at which a detection matches a face.

    Returns:
        Counts (C + 1, C + 1): rows are true classes, columns predicted ones, background last. The last column holds
        faces without a detection, the last row detections without a face (also duplicates).
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for s in samples:
        matched = assign_errors(s, match_iou).matched
        for t, d in matched:
            counts[s.gt_labels[t], s.labels[d]] += 1
        not_found = np.delete(s.gt_labels, [t for t, _ in matched])
        not_matched = np.delete(s.labels, [d for _, d in matched])
        counts[:classes, classes] += np.bincount(not_found, minlength=classes)
        counts[classes, :classes] += np.bincount(not_matched, minlength=classes)
    return counts


def list_errors(samples: Sequence[Sample], match_iou: float = 0.5) -> list[DetectionError]:
    """Return every error in the samples, in the samples' order."""
    errors: list[DetectionError] = []
    for i, s in enumerate(samples):
        a = assign_errors(s, match_iou)
        errors += [DetectionError("cls", i, t, d) for t, d in a.matched if s.gt_labels[t] != s.labels[d]]
        errors += [DetectionError("loc", i, t, d) for t, d in a.loc]
        errors += [DetectionError("miss", i, t, None) for t in a.miss]
        errors += [DetectionError("dupe", i, None, d) for d in a.dupe]
        errors += [DetectionError("bkg", i, None, d) for d in a.bkg]
    return errors


def count_errors(samples: Sequence[Sample], errors: Sequence[DetectionError]) -> ErrorCounts:
    """Count the errors that `list_errors` returned for these samples."""
    kinds: dict[ErrorKind, int] = {kind: sum(e.kind == kind for e in errors) for kind in ERROR_KINDS}
    gt_count = sum(len(s.gt_boxes) for s in samples)
    sides = [np.sqrt(area(s.gt_boxes)) for s in samples]
    by_size = {}
    for name, (low, high) in SIZES.items():
        inside = [(side >= low) & (side < high) for side in sides]
        row = {"gt_count": int(sum(mask.sum() for mask in inside))}
        for kind in ("miss", "loc", "cls"):
            row[kind] = sum(e.kind == kind and bool(inside[e.sample][e.gt]) for e in errors)
        row["correct"] = row["gt_count"] - row["miss"] - row["loc"] - row["cls"]
        by_size[name] = row
    correct = gt_count - kinds["miss"] - kinds["loc"] - kinds["cls"]
    return ErrorCounts(gt_count, sum(len(s.boxes) for s in samples), correct, kinds, by_size)


def oracle_fixed(samples: Sequence[Sample], kind: ErrorKind, match_iou: float = 0.5) -> list[Sample]:
    """Return the samples as they would be without one kind of error, with nothing else changed.

    Args:
        samples: with one label per face.
        kind: "cls" gives each box on a face the face's class. "loc" gives each loc box the face's edges. "dupe" and
            "bkg" remove those detections. "miss" removes those faces (as TIDE does: no detection is invented).
        match_iou: IoU at which a detection matches a face.
    """
    return [_FIXES[kind](s, assign_errors(s, match_iou), match_iou) for s in samples]


def _fix_cls(s: Sample, a: ErrorAssignment, match_iou: float) -> Sample:
    labels = s.labels.copy()
    overlap = iou_matrix(s.boxes, s.gt_boxes)
    if overlap.size:
        # Boxes without a match, too: a duplicate of another class would lower that class's score.
        near = overlap.max(axis=1) >= match_iou
        labels[near] = s.gt_labels[overlap.argmax(axis=1)[near]]
    for t, d in a.matched:
        labels[d] = s.gt_labels[t]
    return replace(s, labels=labels, class_scores=None)  # the class scores do not match the new label


def _fix_loc(s: Sample, a: ErrorAssignment, _: float) -> Sample:
    boxes = s.boxes.copy()
    for t, d in a.loc:
        boxes[d] = s.gt_boxes[t]
    return replace(s, boxes=boxes)


def _fix_miss(s: Sample, a: ErrorAssignment, _: float) -> Sample:
    missed = list(a.miss)
    return replace(s, gt_boxes=np.delete(s.gt_boxes, missed, axis=0), gt_labels=np.delete(s.gt_labels, missed, axis=0))


_FIXES: dict[ErrorKind, Callable[[Sample, ErrorAssignment, float], Sample]] = {
    "miss": _fix_miss,
    "loc": _fix_loc,
    "cls": _fix_cls,
    "bkg": lambda s, a, _: s.keeping(~np.isin(np.arange(len(s.boxes)), a.bkg)),
    "dupe": lambda s, a, _: s.keeping(~np.isin(np.arange(len(s.boxes)), a.dupe)),
}


def match_greedily(overlap: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """Return (face, detection) pairs from `overlap` (M, N), whose detections come best score first.

    Each detection takes the free face that it overlaps most, if at least at the threshold.
    """
    pairs: list[tuple[int, int]] = []
    if not overlap.size:
        return pairs
    free = np.ones(overlap.shape[1], bool)
    for d in np.flatnonzero(overlap.max(axis=1) >= threshold):
        candidates = np.where(free, overlap[d], -1.0)
        t = int(len(free) - 1 - candidates[::-1].argmax())  # of equal overlaps the last, as in COCO's scoring
        if candidates[t] >= threshold:
            pairs.append((t, int(d)))
            free[t] = False
    return pairs
