"""Light, blur and the slices of faces, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluate.metrics import Sample, score_every_class, score_samples
from pipeline.evaluate.slices import (
    BLUR,
    BLUR_UNKNOWN,
    DETAIL_SIDE,
    LIGHT,
    FaceAttributes,
    face_attributes,
    slice_bounds,
    slice_faces,
)

NAMES = ("with_mask", "without_mask")


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def test_light_is_the_mean_luma_of_the_box() -> None:
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:, :30] = (255, 0, 0)  # luma 0.299 * 255 = 76
    photo[:, 30:] = (0, 255, 0)  # luma 0.587 * 255 = 150
    boxes = np.array([(0, 0, 30, 40), (30, 0, 60, 40), (20, 0, 40, 40)], np.float32)
    assert face_attributes(photo, boxes).luma.tolist() == [76, 150, 113]


def test_blur_is_the_variance_of_the_laplacian() -> None:
    point = np.full((20, 20), 50)
    point[9, 9] = 66
    # -64 in the point, 16 in its four neighbours, 0 elsewhere: mean 0.
    boxes = np.array([(2, 2, 18, 18)], np.float32)
    assert face_attributes(grey(point), boxes).detail.tolist() == [pytest.approx((64**2 + 4 * 16**2) / 256)]
    assert face_attributes(grey(np.full((20, 20), 50)), boxes).detail.tolist() == [0]


def test_blur_does_not_depend_on_the_size() -> None:
    small = np.random.default_rng(0).integers(0, 255, (DETAIL_SIDE, DETAIL_SIDE))
    large = np.kron(small, np.ones((4, 4)))
    detail = [
        face_attributes(grey(p), np.array([(0, 0, len(p), len(p))], np.float32)).detail[0] for p in (small, large)
    ]
    assert detail[0] == pytest.approx(detail[1]) and detail[0] > BLUR["sharp"][0]
    smooth = face_attributes(grey(np.kron(small[::4, ::4], np.ones((16, 16)))), np.array([(0, 0, 64, 64)], np.float32))
    assert smooth.detail[0] < detail[0]


def test_a_larger_face_is_averaged_down() -> None:
    board = 255 * (np.indices((48, 48)).sum(axis=0) % 2)
    small, large = face_attributes(grey(board), np.array([(0, 0, 16, 16), (0, 0, 48, 48)], np.float32)).detail
    assert small == 1020**2  # 4 * 255, with alternating sign
    assert large == pytest.approx((1020 / 9) ** 2)  # each 3 x 3 pixels have 4 or 5 white ones


def test_faces_too_small_or_at_the_edge_have_a_light_but_no_blur() -> None:
    photo = grey(np.arange(400).reshape(20, 20) % 256)
    boxes = np.array([(0, 0, 15, 20), (19.6, 19.6, 20, 20), (30, 30, 50, 50)], np.float32)
    measured = face_attributes(photo, boxes)
    assert np.isnan(measured.detail).all()
    assert measured.luma[1:].tolist() == [399 % 256] * 2  # the last pixel
    none = face_attributes(photo, np.zeros((0, 4), np.float32))
    assert len(none.luma) == len(none.detail) == 0


def test_slices_by_hand() -> None:
    # Sides 10, 20, 20 and 60 px: found with the right label, found with a wrong label, not found, found with the right
    # label.
    gt_boxes = [(0, 0, 10, 10), (100, 0, 120, 20), (200, 0, 220, 20), (300, 0, 360, 60)]
    found = Sample("a", gt_boxes, [0, 0, 1, 1], [gt_boxes[0], gt_boxes[1], gt_boxes[3]], [0.9, 0.8, 0.7], [0, 1, 1])
    attributes = [FaceAttributes(np.array([84.9, 85, 150, 255]), np.array([np.nan, 2800, 4400, 0]))]
    scores = score_every_class([found], NAMES, score_samples([found], NAMES))
    rows = {(s.by, s.name): s for s in slice_faces([found], NAMES, 0.5, scores, attributes)}
    counts = {key: (s.gt_count, s.found, s.right) for key, s in rows.items()}
    assert counts == {
        ("size", "<12"): (1, 1, 1),
        ("size", "12-24"): (2, 1, 0),
        ("size", "24-48"): (0, 0, 0),
        ("size", ">48"): (1, 1, 1),
        ("light", "dark"): (1, 1, 1),
        ("light", "medium"): (1, 1, 0),
        ("light", "bright"): (2, 1, 1),
        ("blur", "blurred"): (1, 1, 1),
        ("blur", "medium"): (1, 1, 0),
        ("blur", "sharp"): (1, 0, 0),
        ("blur", BLUR_UNKNOWN): (1, 1, 1),
        ("class", "with_mask"): (2, 2, 1),
        ("class", "without_mask"): (2, 1, 1),
    }
    bright, none, mid = rows["light", "bright"], rows["size", "24-48"], rows["size", "12-24"]
    assert (bright.recall, bright.right_share, bright.ap50) == (0.5, 1, None)
    assert (none.recall, none.right_share, none.ap50) == (None, None, None)
    # A hit, whatever the class, of two faces: 51 of 101 recalls.
    assert (mid.recall, mid.right_share, mid.ap50) == (0.5, 0, pytest.approx(51 / 101))
    assert rows["blur", "sharp"].right_share is None
    # with_mask: a hit of two. without_mask: false (0.8), hit (0.7) of two: precision 1/2 up to recall 1/2.
    assert rows["class", "with_mask"].ap50 == pytest.approx(51 / 101)
    assert rows["class", "without_mask"].ap50 == pytest.approx(51 / 2 / 101)


def test_photos_may_have_no_detections_or_no_faces() -> None:
    box = (0, 0, 10, 10)
    samples = [Sample("a", [box], [0], [], [], []), Sample("b", [], [], [box], [0.9], [0])]
    scores = score_samples(samples, NAMES)
    rows = slice_faces(samples, NAMES, 0.5, scores)
    assert {s.by for s in rows} == {"size", "class"}
    assert (rows[0].gt_count, rows[0].found, rows[0].recall) == (1, 0, 0)
    with pytest.raises(ValueError, match="2 faces for 1 faces"):
        slice_faces(samples, NAMES, 0.5, scores, [FaceAttributes(np.zeros(2), np.zeros(2))])


def test_the_bounds_of_the_slices() -> None:
    assert slice_bounds() == {"luma": [85, 150], "detail": [2800, 4400], "detail_side_px": [16]}
    for bounds in (LIGHT, BLUR):
        edges = list(bounds.values())
        assert edges[0][0] == 0 and edges[-1][1] == np.inf
        assert [high for _, high in edges[:-1]] == [low for low, _ in edges[1:]]


def test_near_faces_are_a_size_of_their_own_where_there_are_some() -> None:
    # Sides 199.9, 200 and 300 px; the second is found by the box with the worse score, after a false alarm.
    gt_boxes = [(0, 0, 199.9, 199.9), (300, 0, 500, 200), (600, 0, 900, 300)]
    boxes = [gt_boxes[0], (300, 600, 510, 810), gt_boxes[1]]
    near = Sample("a", gt_boxes, [0, 0, 0], boxes, [0.9, 0.8, 0.7], [0, 0, 0])
    scores = score_samples([near], NAMES)
    assert list(scores.faces.by_size) == ["<12", "12-24", "24-48", ">48", ">200"]
    assert [scores.faces.by_size[size].gt_count for size in (">48", ">200")] == [3, 2]
    assert scores.mean.by_size[">200"].gt_count == 2 and scores.classes[1].by_size[">200"].ap50 is None
    rows = {s.name: s for s in slice_faces([near], NAMES, 0.5, scores) if s.by == "size"}
    assert (rows[">48"].gt_count, rows[">48"].found) == (3, 2)
    # A false alarm, then one hit of two faces: precision 1/2 at the 51 recalls up to 1/2.
    assert (rows[">200"].gt_count, rows[">200"].found, rows[">200"].ap50) == (2, 1, pytest.approx(51 / 2 / 101))
    small = Sample("a", gt_boxes[:1], [0], [], [], [])
    assert list(score_samples([small], NAMES).faces.by_size) == ["<12", "12-24", "24-48", ">48"]
