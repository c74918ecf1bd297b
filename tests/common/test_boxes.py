"""Box algebra compared with hand-computed cases and slow reference versions."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common import boxes as boxes_module
from common.boxes import area, as_boxes, clip, iou, nms, soft_nms, square

# Edges within a billionth of a pixel of 0 become 0: float32 cannot hold their areas.
edges = st.floats(-50, 50, width=32).map(lambda edge: edge if abs(edge) > 1e-9 else 0.0)


@st.composite
def box_arrays(draw, max_boxes=12):
    corners = draw(arrays(np.float32, st.tuples(st.integers(0, max_boxes), st.just(2), st.just(2)), elements=edges))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)


def slow_overlap(a, b, overlap):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    intersection = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    denominator = min(areas) if overlap == "min" else sum(areas) - intersection
    return intersection / denominator if denominator > 0 else 0.0


def test_iou_by_hand():
    a = as_boxes([[0, 0, 10, 10]])
    b = as_boxes([[5, 0, 15, 10], [0, 0, 10, 10], [2, 2, 4, 4], [10, 0, 20, 10]])
    assert iou(a, b)[0] == pytest.approx([50 / 150, 1, 4 / 100, 0])
    assert iou(a, b, "min")[0] == pytest.approx([0.5, 1, 1, 0])


@given(box_arrays(), box_arrays(), st.sampled_from(["union", "min"]))
def test_iou_equals_slow_version(a, b, overlap):
    expected = np.array([[slow_overlap(x, y, overlap) for y in b.astype(float)] for x in a.astype(float)])
    assert iou(a, b, overlap) == pytest.approx(expected.reshape(len(a), len(b)), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("max_opencv_boxes", [0, 4096])
@example(np.array([[-0.75, 0, -7.236312e-06, 1], [-7.236312e-06, 0, 0, 1]], np.float32), 0.0, "union", 0)
@given(box_arrays(), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.sampled_from(["union", "min"]), st.integers(0, 9))
def test_nms_equals_slow_version(max_opencv_boxes, boxes, threshold, overlap, seed):
    scores = np.random.default_rng(seed).integers(0, 5, len(boxes)).astype(np.float32) / 5
    overlaps = iou(boxes, boxes, overlap)
    # Boxes that touch, up to rounding, may overlap by next to nothing.
    touching = iou(boxes + np.array([-1, -1, 1, 1], np.float32) * 1e-3, boxes, overlap) > 0
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        # At the threshold, rounding decides; skip these draws.
        unsure = [k for k in kept if overlaps[i, k] not in (0, 1) or (overlaps[i, k] == 0 and touching[i, k])]
        if any(abs(overlaps[i, k] - threshold) < 1e-5 for k in unsure):
            return
        if all(overlaps[i, k] <= threshold for k in kept):
            kept.append(i)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes_module, "MAX_OPENCV_BOXES", max_opencv_boxes)
        assert nms(boxes, scores, threshold, overlap).tolist() == kept


def test_nms_of_many_candidates():
    # facenet-pytorch's "Min" version overflows int16 above 32,767 boxes.
    n = 40_000
    low = np.stack([np.arange(n) // 200 * 20.0, np.arange(n) % 200 * 20.0], axis=1)
    boxes = np.concatenate([low, low + 10], axis=1).astype(np.float32)
    assert len(nms(boxes[:2000], np.ones(2000, np.float32), 0.5)) == 2000
    same = np.tile(np.array([[0, 0, 10, 10]], np.float32), (n, 1))
    assert nms(same, np.linspace(0, 1, n, dtype=np.float32), 0.5, "min").tolist() == [n - 1]


def test_soft_nms_by_hand():
    # The IoU of the first two is 1/3; the third has no overlap; the fourth equals the first.
    boxes = as_boxes([[0, 0, 10, 10], [5, 0, 15, 10], [40, 0, 50, 10], [0, 0, 10, 10]])
    scores = np.float32([0.9, 0.8, 0.7, 0.6])
    order, decayed = soft_nms(boxes, scores, sigma=0.5)
    # The first lowers the second below the third; the first and then the second lower the fourth.
    second = 0.8 * np.exp(-(1 / 9) / 0.5)
    fourth = 0.6 * np.exp(-1 / 0.5) * np.exp(-(1 / 9) / 0.5)
    assert order.tolist() == [0, 2, 1, 3]
    assert decayed == pytest.approx([0.9, 0.7, second, fourth], rel=1e-5)
    assert decayed.dtype == np.float32 and order.dtype == np.intp


def slow_soft_nms(boxes, scores, sigma):
    """Return the order, the new scores, and whether float32 rounding cannot change the order."""
    remaining = dict(enumerate(scores.astype(float)))
    order, decayed, clear = [], [], True
    while remaining:
        best = max(remaining, key=remaining.get)
        order.append(best)
        decayed.append(remaining.pop(best))
        clear = clear and all(score < decayed[-1] * (1 - 1e-4) for score in remaining.values())
        for i in remaining:
            remaining[i] *= np.exp(-(slow_overlap(boxes[best], boxes[i], "union") ** 2) / sigma)
    return order, decayed, clear


@given(box_arrays(), st.sampled_from([0.1, 0.3, 1.0, 10.0]), st.integers(0, 9))
def test_soft_nms_equals_slow_version(boxes, sigma, seed):
    scores = np.random.default_rng(seed).uniform(0.01, 1, len(boxes)).astype(np.float32)
    order, decayed = soft_nms(boxes, scores, sigma)
    expected, values, clear = slow_soft_nms(boxes.astype(float), scores, sigma)
    assert sorted(order.tolist()) == list(range(len(boxes)))  # no box is removed
    assert (np.diff(decayed) <= 0).all()
    assert decayed == pytest.approx(np.array(values), rel=1e-3)
    assert order.tolist() == expected or not clear


@given(box_arrays(), st.integers(0, 9))
def test_soft_nms_with_sigma_zero_only_sorts(boxes, seed):
    scores = np.random.default_rng(seed).integers(0, 5, len(boxes)).astype(np.float32) / 5
    order, decayed = soft_nms(boxes, scores, 0.0)
    assert order.tolist() == sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    assert decayed.tolist() == scores[order].tolist()


def test_square_and_clip():
    assert square(as_boxes([[0, 0, 10, 20]])).tolist() == [[-5, 0, 15, 20]]
    assert clip(as_boxes([[-5, 3, 15, 20]]), (12, 8)).tolist() == [[0, 3, 12, 8]]


def test_arguments_are_not_changed():
    boxes = as_boxes([[-5, 0, 10, 20], [1, 2, 3, 9]])
    before = boxes.copy()
    scores = np.ones(2, np.float32)
    square(boxes), clip(boxes, (5, 5)), nms(boxes, scores, 0.1), area(boxes), iou(boxes, boxes)
    soft_nms(boxes, scores, 0.3), soft_nms(boxes[[0, 0]], scores, 0.3)
    assert (boxes == before).all() and (scores == 1).all()


def test_as_boxes_refuses_other_shapes_and_nan():
    assert as_boxes([]).shape == (0, 4)
    with pytest.raises(ValueError, match="shape"):
        as_boxes([[1, 2, 3]])
    with pytest.raises(ValueError, match="finite"):
        as_boxes([[0, 0, np.nan, 1]])


def any_boxes(largest):
    """Return a strategy for boxes that may be inverted, empty, or equal."""
    largest = float(np.float32(largest))
    sides = st.floats(-largest, largest, width=32)
    return arrays(np.float32, st.tuples(st.integers(0, 8), st.just(4)), elements=sides)


@given(any_boxes(1e6))
def test_area_and_square_equal_slow_versions(boxes):
    for box, got, (x1, y1, x2, y2) in zip(boxes.astype(float), area(boxes), square(boxes).astype(float), strict=True):
        width, height = box[2] - box[0], box[3] - box[1]
        assert got == pytest.approx(width * height if width > 0 and height > 0 else 0, rel=1e-5, abs=1e-30)
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx(middle, abs=1)  # px: the float32 rounding of a million
        assert (x2 - x1, y2 - y1) == pytest.approx([max(width, height)] * 2, abs=1)


@given(any_boxes(1e30), st.integers(1, 5000), st.integers(1, 5000))
def test_clip_equals_slow_version(boxes, width, height):
    expected = [[min(max(x, 0), w) for x, w in zip(box, (width, height) * 2, strict=True)] for box in boxes.tolist()]
    assert clip(boxes, (width, height)).tolist() == expected
    assert clip(clip(boxes, (width, height)), (width, height)).tolist() == expected


@pytest.mark.parametrize("max_opencv_boxes", [0, 4096])
@given(box_arrays(), st.sampled_from([2.0**20, 2.0**-8]), st.sampled_from([0.3, 0.5]), st.integers(0, 9))
def test_huge_and_tiny_boxes_are_suppressed_like_usual_boxes(max_opencv_boxes, boxes, scale, threshold, seed):
    boxes = np.round(boxes)  # so that scaling is exact
    scores = np.random.default_rng(seed).integers(0, 5, len(boxes)).astype(np.float32) / 5
    scaled = (boxes * scale).astype(np.float32)
    assert iou(scaled, scaled).tolist() == iou(boxes, boxes).tolist()
    assert area(scaled).tolist() == (area(boxes) * scale**2).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes_module, "MAX_OPENCV_BOXES", max_opencv_boxes)
        assert nms(scaled, scores, threshold).tolist() == nms(boxes, scores, threshold).tolist()
        assert soft_nms(scaled, scores, 0.5)[0].tolist() == soft_nms(boxes, scores, 0.5)[0].tolist()


@pytest.mark.parametrize("overlap", ["union", "min"])
def test_overlaps_are_numbers_where_float32_cannot_hold_the_area(overlap):
    huge = as_boxes([[-1e30, -1e30, 1e30, 1e30], [0, 0, 1e30, 1e30], [0, 0, 1, 1]])
    with np.errstate(all="ignore"):
        overlaps = iou(huge, huge, overlap)
        assert ((overlaps >= 0) & (overlaps <= 1)).all()
        for threshold in (0.3, 0.7):
            kept = nms(huge, np.float32([0.9, 0.8, 0.7]), threshold, overlap)
            assert 0 in kept


@pytest.mark.parametrize("overlap", ["union", "min"])
def test_empty_input_gives_empty_output(overlap):
    none, no_scores = as_boxes([]), np.zeros(0, np.float32)
    assert nms(none, no_scores, 0.5, overlap).tolist() == []
    assert nms(none, no_scores, 0.5, overlap).dtype == np.intp
    order, decayed = soft_nms(none, no_scores, 0.5)
    assert (order.tolist(), decayed.tolist()) == ([], [])
    assert iou(none, as_boxes([[0, 0, 1, 1]]), overlap).shape == (0, 1)
    assert area(none).shape == (0,) and square(none).shape == clip(none, (5, 5)).shape == (0, 4)


def test_boxes_without_area_are_not_duplicates():
    points = as_boxes([[5, 5, 5, 5]] * 3 + [[0, 5, 10, 5]])
    scores = np.float32([0.5, 0.5, 0.9, 0.5])
    for overlap in ("union", "min"):
        assert iou(points, points, overlap).tolist() == np.zeros((4, 4)).tolist()
        assert nms(points, scores, 0.5, overlap).tolist() == [2, 0, 1, 3]
