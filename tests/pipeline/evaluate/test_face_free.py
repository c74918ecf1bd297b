"""The face-free part of a photo: as large as possible, and clear of every face."""

from pathlib import Path

import numpy as np
import pytest

from common.annotations import AnnotatedImage
from pipeline.evaluate.face_free import face_free_part


def numbered(width, height):
    """Return a picture whose pixels hold their column and row."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(width)[None] % 256, np.arange(height)[:, None] % 256
    return picture


def annotated(size, *boxes):
    return AnnotatedImage(Path("a.png"), "a", size, np.array(boxes, np.float32).reshape(-1, 4), ("face",) * len(boxes))


def test_without_a_face_the_whole_photo():
    picture = numbered(240, 160)
    assert (face_free_part(picture, annotated((240, 160))) == picture).all()


def test_the_larger_side_of_a_face_with_its_margin():
    # The face's columns with half the face's width on each side: 40..120. The 40 px left of them are too few.
    part = face_free_part(numbered(240, 160), annotated((240, 160), (60, 40, 100, 80)))
    assert part is not None
    assert part.shape == (160, 112, 3)
    assert (part[0, 0, 0], part[0, -1, 0]) == (128, 239)  # the grid's cell with the edge at 120 is left out


@pytest.mark.parametrize("boxes", [[(100, 60, 140, 100)], [(10, 10, 230, 150)], [(0, 0, 20, 20), (100, 70, 110, 90)]])
def test_no_part_touches_a_face(boxes):
    size = (240, 160)
    part = face_free_part(numbered(*size), annotated(size, *boxes))
    if part is None:
        return
    left, top = int(part[0, 0, 0]), int(part[0, 0, 1])
    right, bottom = left + part.shape[1], top + part.shape[0]
    assert min(part.shape[:2]) >= 96
    for x1, y1, x2, y2 in boxes:
        assert right <= x1 or left >= x2 or bottom <= y1 or top >= y2


def test_a_part_that_is_too_small_is_not_returned():
    assert face_free_part(numbered(240, 160), annotated((240, 160), (80, 40, 160, 120))) is None
    assert face_free_part(numbered(80, 300), annotated((80, 300))) is None
