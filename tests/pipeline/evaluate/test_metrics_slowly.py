"""Scores and matching compared with slow versions in plain Python, written from the protocol's text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluate.bootstrap import best_f1_threshold, match, mean_ap
from pipeline.evaluate.metrics import COCO_IOUS, Sample, every_class, one_label, score_samples
from pipeline.evaluate.tide_errors import BACKGROUND_IOU, assign_errors, confusion_matrix

NAMES = ("with_mask", "without_mask", "mask_weared_incorrect")
Box = tuple[float, float, float, float]

# A coarse grid: many boxes are equal, touch, or have no area. Few scores: many are equal.
boxes = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(0, 6)] * 2).map(
    lambda v: (4.0 * v[0], 4.0 * v[1], 4.0 * (v[0] + v[2]), 4.0 * (v[1] + v[3]))
)
faces = boxes.filter(lambda box: box[2] > box[0] and box[3] > box[1])
photos = st.tuples(
    st.lists(st.tuples(faces, st.integers(0, 2)), max_size=5),
    st.lists(st.tuples(boxes, st.integers(1, 4).map(lambda v: v / 5), st.integers(0, 2)), max_size=7),
).map(lambda v: build(*v))
sets = st.lists(photos, min_size=1, max_size=4)
ious = st.sampled_from([0.35, 0.5, 0.75, 0.95])


def build(gt: Sequence[tuple[Box, int]], detections: Sequence[tuple[Box, float, int]]) -> Sample:
    return Sample(
        "a",
        np.float32([box for box, _ in gt]),
        np.array([label for _, label in gt], np.intp),
        np.float32([box for box, _, _ in detections]),
        np.array([score for _, score, _ in detections]),
        np.array([label for _, _, label in detections], np.intp),
    )


def slow_iou(a: Sequence[float], b: Sequence[float]) -> float:
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / whole if whole > 0 else 0.0


def slow_pairs(gt_boxes: list[list[float]], boxes: list[list[float]], iou: float) -> dict[int, int]:
    """Return {detection: face}: best score first, each takes the free face with most overlap, of equals the last."""
    pairs: dict[int, int] = {}
    for d, box in enumerate(boxes):
        best, chosen = iou, None
        for t, gt_box in enumerate(gt_boxes):
            if t not in pairs.values() and slow_iou(box, gt_box) >= best:
                best, chosen = slow_iou(box, gt_box), t
        if chosen is not None:
            pairs[d] = chosen
    return pairs


def slow_ap(samples: Sequence[Sample], label: int | None, iou: float) -> float | None:
    """Return 101-point interpolated average precision of one class, or of faces whatever their class."""
    rows: list[tuple[float, bool]] = []
    gt_count = 0
    for s in samples:
        gt_boxes = [t.tolist() for t, of in zip(s.gt_boxes, s.gt_labels, strict=True) if label in (None, of)]
        detections = [
            (b.tolist(), float(p)) for b, p, of in zip(s.boxes, s.scores, s.labels, strict=True) if label in (None, of)
        ]
        pairs = slow_pairs(gt_boxes, [box for box, _ in detections], iou)
        rows += [(score, d in pairs) for d, (_, score) in enumerate(detections)]
        gt_count += len(gt_boxes)
    if not gt_count:
        return None
    rows.sort(key=lambda row: -row[0])
    points = []
    hits = 0
    for count, (_, hit) in enumerate(rows, start=1):
        hits += hit
        points.append((hits / gt_count, hits / count))
    total = 0.0
    for step in range(101):
        total += max((precision for recall, precision in points if recall >= step / 100 - 1e-12), default=0.0)
    return total / 101


@settings(max_examples=100)
@given(sets, ious)
def test_average_precision_equals_slow_version(samples: list[Sample], iou: float) -> None:
    weights = np.ones(len(samples), np.intp)
    for label in (0, 1, 2, None):
        (ours,) = match(samples, np.array([iou]), label).average_precision(weights)
        expected = slow_ap(samples, label, iou)
        assert np.isnan(ours) if expected is None else ours == pytest.approx(expected, abs=1e-9)
    each = [ap for ap in (slow_ap(samples, label, iou) for label in range(3)) if ap is not None]
    mean = mean_ap(samples, 3, iou)
    assert mean == pytest.approx(np.mean(each), abs=1e-9) if each else np.isnan(mean)


def test_of_equal_overlaps_the_last_face_is_taken_as_in_the_scoring_library() -> None:
    left, right, between = (0.0, 0.0, 8.0, 8.0), (8.0, 0.0, 16.0, 8.0), (4.0, 0.0, 12.0, 8.0)
    s = build([(left, 0), (right, 0)], [(between, 0.8, 0), (left, 0.6, 0)])
    for label in (0, None):
        (ours,) = match([s], np.array([0.3]), label).average_precision(np.ones(1, np.intp))
        assert ours == slow_ap([s], label, 0.3) == 1
    assert score_samples([s], NAMES, 0.3).faces.overall.ap_at_iou == 1
    assert assign_errors(s, 0.3).matched == ((1, 0), (0, 1))


@settings(max_examples=15)
@given(sets)
def test_the_report_equals_slow_version(samples: list[Sample]) -> None:
    scores = score_samples(samples, NAMES)
    for label, category in [*enumerate(scores.classes), (None, scores.faces)]:
        expected = [slow_ap(samples, label, float(iou)) for iou in COCO_IOUS]
        if expected[0] is None:
            assert category.overall.ap is None and category.overall.gt_count == 0
            continue
        assert category.overall.ap50 == pytest.approx(expected[0], abs=1e-6)
        assert category.overall.ap75 == pytest.approx(expected[5], abs=1e-6)
        assert category.overall.ap == pytest.approx(np.mean(np.array(expected, float)), abs=1e-6)


@given(sets, ious)
def test_the_best_score_equals_slow_version(samples: list[Sample], iou: float) -> None:
    gt_count = sum(len(s.gt_boxes) for s in samples)

    def f1(threshold: float) -> float:
        hits = kept = 0
        for s in samples:
            for label in range(3):
                of = s.labels == label
                boxes = s.boxes[of][s.scores[of] >= threshold].tolist()
                hits += len(slow_pairs(s.gt_boxes[s.gt_labels == label].tolist(), boxes, iou))
                kept += len(boxes)
        return 2 * hits / max(gt_count + kept, 1)

    candidates = sorted({float(score) for s in samples for score in s.scores}, reverse=True)
    best = max(candidates, key=f1, default=0.0)  # of equal ones the highest
    chosen = best_f1_threshold(samples, 3, iou)
    if not candidates or f1(best) == 0:
        assert chosen == 0
    else:
        assert f1(chosen) == pytest.approx(f1(best)) and chosen in candidates


@settings(max_examples=100)
@given(photos, ious)
def test_error_assignment_equals_slow_version(s: Sample, iou: float) -> None:
    gt_boxes, found = s.gt_boxes.tolist(), s.boxes.tolist()
    pairs = slow_pairs(gt_boxes, found, iou)
    free_gt = [t for t in range(len(gt_boxes)) if t not in pairs.values()]
    free_boxes = [d for d in range(len(found)) if d not in pairs]
    second = slow_pairs([gt_boxes[t] for t in free_gt], [found[d] for d in free_boxes], BACKGROUND_IOU)
    loc = {free_boxes[d]: free_gt[t] for d, t in second.items()}
    left = [d for d in free_boxes if d not in loc]
    near = [d for d in left if any(slow_iou(found[d], gt_box) >= BACKGROUND_IOU for gt_box in gt_boxes)]
    a = assign_errors(s, iou)
    assert sorted(a.matched) == sorted((t, d) for d, t in pairs.items())
    assert sorted(a.loc) == sorted((t, d) for d, t in loc.items())
    assert list(a.miss) == [t for t in free_gt if t not in loc.values()]
    assert list(a.dupe) == near and list(a.bkg) == [d for d in left if d not in near]


@given(sets, ious)
def test_the_confusion_matrix_equals_slow_version(samples: list[Sample], iou: float) -> None:
    expected = np.zeros((4, 4), int)
    for s in samples:
        pairs = slow_pairs(s.gt_boxes.tolist(), s.boxes.tolist(), iou)
        for d, label in enumerate(s.labels):
            expected[s.gt_labels[pairs[d]] if d in pairs else 3, label] += 1
        for t, label in enumerate(s.gt_labels):
            expected[label, 3] += t not in pairs.values()
    assert confusion_matrix(samples, 3, iou).tolist() == expected.tolist()


probabilities = st.lists(st.lists(st.integers(0, 4).map(lambda v: v / 8), min_size=3, max_size=3), max_size=5)


@given(probabilities, st.sampled_from([0.001, 0.125, 0.3]))
def test_rows_of_every_class_equal_slow_version(scores: list[list[float]], floor: float) -> None:
    places = [(10.0 * i, 0.0, 10.0 * i + 8, 8.0) for i in range(len(scores))]
    labels = [row.index(max(row)) for row in scores]
    s = Sample(
        "a",
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.intp),
        np.float32(places),
        np.array([max(row) for row in scores]),
        np.array(labels, np.intp),
        np.array(scores).reshape(-1, 3),
    )
    (rows,) = every_class([s], floor)
    expected = [
        (score, label, *place)
        for place, row in zip(places, scores, strict=True)
        for label, score in enumerate(row)
        if score >= floor
    ]
    got = [
        (float(score), int(label), *box)
        for score, label, box in zip(rows.scores, rows.labels, rows.boxes.tolist(), strict=True)
    ]
    assert sorted(got) == sorted(expected)
    assert [row[0] for row in got] == sorted((row[0] for row in expected), reverse=True)
    (single,) = one_label([rows])
    best = {place: max(row) for place, row in zip(places, scores, strict=True) if max(row) >= floor}
    assert {tuple(box): float(score) for box, score in zip(single.boxes.tolist(), single.scores, strict=True)} == best
