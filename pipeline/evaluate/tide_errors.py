"""Which stage a wrong result is due to: matching, confusion matrix, kinds of error, and what mending one would give.

In the spirit of TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020).
Matching is class-agnostic and greedy, best score first, as in COCO's scoring: each detection takes the free truth
that it overlaps most. So a face is judged by the best-scored box on it, and the counts agree with average precision;
an optimal (Hungarian) matching would credit a detector with a box that its own ranking put second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, area, iou
from pipeline.evaluate.metrics import SIZES, Sample

Kind = Literal["missed", "loose", "wrong_class", "false_alarm", "duplicate"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STAGE: dict[Kind, int] = {"missed": 1, "loose": 1, "wrong_class": 2, "false_alarm": 1, "duplicate": 1}
BACKGROUND_IOU = 0.1  # TIDE's: below it, a box has nothing to do with a face


@dataclass(frozen=True)
class Attribution:
    """What became of each truth and each detection of one image.

    pairs: (truth, detection) indices matched at the IoU. loose: pairs whose box overlaps too little, of truths and
    detections without a match. missed: truths with neither. duplicate: detections without either that still overlap a
    face. false_alarm: detections on no face. Every truth and every detection stands in exactly one of them.
    """

    pairs: tuple[tuple[int, int], ...]
    loose: tuple[tuple[int, int], ...]
    missed: tuple[int, ...]
    duplicate: tuple[int, ...]
    false_alarm: tuple[int, ...]


@dataclass(frozen=True)
class Mistake:
    """One error: truth and detection are indices into its sample, None where the kind has none."""

    kind: Kind
    sample: int
    truth: int | None
    detection: int | None


@dataclass(frozen=True)
class ErrorCounts:
    """Errors at one score threshold. truths = correct + wrong_class + loose + missed, and
    detections = correct + wrong_class + loose + duplicate + false_alarm.

    by_size: for each face size (keys of SIZES) the truths, the correct ones and the kinds of error that have a truth.
    """

    gt_count: int
    detections: int
    correct: int
    kinds: dict[Kind, int]
    by_size: dict[str, dict[str, int]]


def overlaps(boxes: Boxes, truths: Boxes) -> NDArray[np.float64]:
    """(M, N) IoU in double precision, as the scoring library computes it: on a threshold both must agree."""
    wide: Any = boxes.astype(np.float64)
    wide_truths: Any = truths.astype(np.float64)
    return np.asarray(iou(wide, wide_truths), dtype=np.float64)


def filter_by_score(samples: Sequence[Sample], score: float) -> list[Sample]:
    """The samples with only the detections whose score is at least `score`."""
    return [s.keeping(s.scores >= score) for s in samples]


def attribute(sample: Sample, match_iou: float = 0.5) -> Attribution:
    """Puts each truth and each detection of one image into its place (see Attribution).

    A face that only a neighbour's box overlaps counts as missed, not loose: moving that box would lose the neighbour.
    A second box on a face that has its match is a duplicate, however loose it is.
    """
    overlap = overlaps(sample.boxes, sample.gt_boxes)
    pairs = _greedy(overlap, match_iou)
    rest = overlap.copy()
    rest[[d for _, d in pairs], :] = -1
    rest[:, [t for t, _ in pairs]] = -1
    loose = _greedy(rest, BACKGROUND_IOU)
    taken_truths = {t for t, _ in pairs + loose}
    taken = {d for _, d in pairs + loose}
    touching = overlap.max(axis=1, initial=0) >= BACKGROUND_IOU
    return Attribution(
        tuple(pairs),
        tuple(loose),
        tuple(t for t in range(len(sample.gt_boxes)) if t not in taken_truths),
        tuple(d for d in range(len(sample.boxes)) if d not in taken and touching[d]),
        tuple(d for d in range(len(sample.boxes)) if d not in taken and not touching[d]),
    )


def confusion_matrix(samples: Sequence[Sample], classes: int, match_iou: float = 0.5) -> NDArray[np.int64]:
    """(C + 1, C + 1) counts: rows are true classes, columns predicted ones, background last.

    The last column holds faces without a detection, the last row detections without a face (duplicates too). Give the
    samples of one score threshold (see `above`).
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for s in samples:
        pairs = attribute(s, match_iou).pairs
        for t, d in pairs:
            counts[s.gt_labels[t], s.labels[d]] += 1
        lost = np.delete(s.gt_labels, [t for t, _ in pairs])
        spare = np.delete(s.labels, [d for _, d in pairs])
        counts[:classes, classes] += np.bincount(lost, minlength=classes)
        counts[classes, :classes] += np.bincount(spare, minlength=classes)
    return counts


def list_mistakes(samples: Sequence[Sample], match_iou: float = 0.5) -> list[Mistake]:
    """Every error in the samples, in their order."""
    mistakes: list[Mistake] = []
    for i, s in enumerate(samples):
        a = attribute(s, match_iou)
        mistakes += [Mistake("wrong_class", i, t, d) for t, d in a.pairs if s.gt_labels[t] != s.labels[d]]
        mistakes += [Mistake("loose", i, t, d) for t, d in a.loose]
        mistakes += [Mistake("missed", i, t, None) for t in a.missed]
        mistakes += [Mistake("duplicate", i, None, d) for d in a.duplicate]
        mistakes += [Mistake("false_alarm", i, None, d) for d in a.false_alarm]
    return mistakes


def count_errors(samples: Sequence[Sample], mistakes: Sequence[Mistake]) -> ErrorCounts:
    """Counts the mistakes of `list_mistakes` over the samples that it was given."""
    kinds: dict[Kind, int] = {kind: sum(m.kind == kind for m in mistakes) for kind in KINDS}
    truths = sum(len(s.gt_boxes) for s in samples)
    sides = [np.sqrt(area(s.gt_boxes)) for s in samples]
    by_size = {}
    for name, (low, high) in SIZES.items():
        inside = [(side >= low) & (side < high) for side in sides]
        row = {"truths": int(sum(mask.sum() for mask in inside))}
        for kind in ("missed", "loose", "wrong_class"):
            row[kind] = sum(m.kind == kind and bool(inside[m.sample][m.truth]) for m in mistakes)
        row["correct"] = row["truths"] - row["missed"] - row["loose"] - row["wrong_class"]
        by_size[name] = row
    correct = truths - kinds["missed"] - kinds["loose"] - kinds["wrong_class"]
    return ErrorCounts(truths, sum(len(s.boxes) for s in samples), correct, kinds, by_size)


def oracle_fixed(samples: Sequence[Sample], kind: Kind, match_iou: float = 0.5) -> list[Sample]:
    """The samples, with one label a face, as they would be without one kind of error, all else equal.

    wrong_class: each box on a face takes the face's class. loose: each loose box takes the face's own edges.
    duplicate, false_alarm: those detections go. missed: those truths go (TIDE's way: no detection is invented).
    """
    return [_MENDS[kind](s, attribute(s, match_iou), match_iou) for s in samples]


def _right_classes(s: Sample, a: Attribution, match_iou: float) -> Sample:
    labels = s.labels.copy()
    overlap = overlaps(s.boxes, s.gt_boxes)
    if overlap.size:
        # Boxes without a pair too: as a duplicate of another class one would weigh on that class.
        near = overlap.max(axis=1) >= match_iou
        labels[near] = s.gt_labels[overlap.argmax(axis=1)[near]]
    for t, d in a.pairs:
        labels[d] = s.gt_labels[t]
    return replace(s, labels=labels, class_scores=None)  # those no longer say why the label is what it is


def _tight_boxes(s: Sample, a: Attribution, _: float) -> Sample:
    boxes = s.boxes.copy()
    for t, d in a.loose:
        boxes[d] = s.gt_boxes[t]
    return replace(s, boxes=boxes)


def _no_misses(s: Sample, a: Attribution, _: float) -> Sample:
    gone = list(a.missed)
    return replace(s, gt_boxes=np.delete(s.gt_boxes, gone, axis=0), gt_labels=np.delete(s.gt_labels, gone, axis=0))


def _no_duplicates(s: Sample, a: Attribution, _: float) -> Sample:
    return s.keeping(~np.isin(np.arange(len(s.boxes)), a.duplicate))


def _no_false_alarms(s: Sample, a: Attribution, _: float) -> Sample:
    return s.keeping(~np.isin(np.arange(len(s.boxes)), a.false_alarm))


_MENDS: dict[Kind, Callable[[Sample, Attribution, float], Sample]] = {
    "missed": _no_misses,
    "loose": _tight_boxes,
    "wrong_class": _right_classes,
    "false_alarm": _no_false_alarms,
    "duplicate": _no_duplicates,
}


def _greedy(overlap: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """(truth, detection) pairs from overlap (M, N), detections best score first."""
    pairs: list[tuple[int, int]] = []
    if not overlap.size:
        return pairs
    free = np.ones(overlap.shape[1], bool)
    for d in np.flatnonzero(overlap.max(axis=1) >= threshold):
        candidates = np.where(free, overlap[d], -1.0)
        t = int(len(free) - 1 - candidates[::-1].argmax())  # of equal overlaps the last, as COCO's scoring
        if candidates[t] >= threshold:
            pairs.append((t, int(d)))
            free[t] = False
    return pairs
