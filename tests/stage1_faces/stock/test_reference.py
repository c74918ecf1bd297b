"""Landmarks from a fake teacher with given boxes: which annotated faces get them."""

from __future__ import annotations

import numpy as np
import pytest

from stage1_faces.faces import Faces
from stage1_faces.stock.reference import MATCH_IOU, stock_landmarks

IMAGE = np.zeros((100, 200, 3), np.uint8)


class Teacher:
    """Finds the given boxes; all landmarks of the k-th are k + 1."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = np.float32(boxes).reshape(-1, 4)

    def detect(self, image: np.ndarray) -> Faces:
        assert image is IMAGE
        n = len(self.boxes)
        points = np.tile(np.arange(1, n + 1, dtype=np.float32)[:, None, None], (1, 5, 2))
        return Faces(self.boxes, np.full(n, 0.9, np.float32), points)


def taught(teacher: Teacher, *boxes: tuple[float, float, float, float]) -> list[float]:
    """Return the landmark value of each annotated face, nan without one."""
    points = stock_landmarks(teacher, IMAGE, np.float32(boxes).reshape(-1, 4))  # type: ignore[arg-type]
    assert points.shape == (len(boxes), 5, 2) and points.dtype == np.float32
    assert all(len(np.unique(p)) == 1 for p in points)
    return [float(p[0, 0]) for p in points]


def test_each_face_gets_its_own() -> None:
    teacher = Teacher((100, 10, 120, 30), (0, 0, 20, 20), (50, 50, 60, 60))
    own = taught(teacher, (1, 1, 21, 21), (150, 50, 170, 70), (101, 10, 121, 32))
    assert own == pytest.approx([2, np.nan, 1], nan_ok=True)


def test_a_found_face_teaches_only_the_annotated_one_that_it_overlaps_most() -> None:
    # One face is found; both annotated faces overlap it by more than MATCH_IOU.
    found = (0, 0, 20, 20)
    near, nearer = (0, 0, 20, 30), (0, 0, 20, 22)
    assert taught(Teacher(found), near, nearer) == pytest.approx([np.nan, 1], nan_ok=True)
    assert taught(Teacher(found), nearer, near) == pytest.approx([1, np.nan], nan_ok=True)
    assert taught(Teacher(found), near) == [1]


def test_an_annotated_face_learns_from_the_found_one_that_overlaps_it_most() -> None:
    assert taught(Teacher((0, 0, 20, 30), (0, 0, 20, 21)), (0, 0, 20, 20)) == [2]


def test_too_little_overlap_teaches_nothing() -> None:
    # 20 wide, found of the same size: shifted by s, the IoU is (20 - s) / (20 + s), 0.4 at 60 / 7.
    least = 20 * (1 - MATCH_IOU) / (1 + MATCH_IOU)
    assert taught(Teacher((least - 0.1, 0, 20 + least - 0.1, 20)), (0, 0, 20, 20)) == [1]
    assert np.isnan(taught(Teacher((least + 0.1, 0, 20 + least + 0.1, 20)), (0, 0, 20, 20))).all()


def test_nobody_found_or_nobody_annotated() -> None:
    assert np.isnan(taught(Teacher(), (0, 0, 20, 20), (30, 0, 50, 20))).all()
    assert taught(Teacher((0, 0, 20, 20))) == []
    assert taught(Teacher()) == []
