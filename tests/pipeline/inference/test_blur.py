"""Blurred faces: no detail inside, no change outside."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.detect.demo.command import portrait
from pipeline.inference.blur import BLOCKS, MARGIN, blur_faces
from pipeline.inference.predictor import Predictor


def noise(height: int = 120, width: int = 160) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_box_is_coarse_and_the_rest_untouched() -> None:
    image = noise()
    before = image.copy()
    box = np.float32([[40, 30, 100, 90]])
    blurred = blur_faces(image, box)
    np.testing.assert_array_equal(image, before)
    inside = blurred[30:90, 40:100].astype(float)
    # Blurred noise is grey: neighbouring pixels are similar, and so is the whole area.
    assert np.abs(np.diff(inside, axis=0)).max() < 20
    assert inside.std() < 0.2 * before.std()
    outside = np.ones((120, 160), bool)
    margin = int(60 * MARGIN) + 1
    outside[30 - margin : 90 + margin, 40 - margin : 100 + margin] = False
    np.testing.assert_array_equal(blurred[outside], before[outside])


def test_only_the_blocks_remain() -> None:
    # Of a pattern finer than a block, only the mean remains.
    image = np.zeros((100, 100, 3), np.uint8)
    image[::2] = 255
    blurred = blur_faces(image, np.float32([[20, 20, 80, 80]]))
    assert 110 < blurred[50, 50, 0] < 145
    assert np.ptp(blurred[30:70, 30:70].astype(int)) < 10
    assert BLOCKS <= 8


@pytest.mark.parametrize(
    "box", [(0, 0, 160, 120), (-20, -30, 10, 10), (150, 110, 400, 300), (5, 5, 7, 7), (3, 3, 3, 9)]
)
def test_boxes_at_the_edge_and_of_a_few_pixels(box: tuple[int, ...]) -> None:
    image = noise()
    blurred = blur_faces(image, np.float32([box]))
    assert blurred.shape == image.shape
    x1, y1, x2, y2 = np.clip(box, 0, [160, 120, 160, 120])
    if x2 > x1 and y2 > y1:
        assert (blurred[y1:y2, x1:x2] != image[y1:y2, x1:x2]).any(axis=2).mean() > 0.9


def test_a_face_half_out_of_the_picture_keeps_no_more_detail() -> None:
    image = noise()
    whole = blur_faces(image, np.float32([[20, 20, 100, 100]]))[30:90, 60:90]
    half = blur_faces(image[:, 60:], np.float32([[-40, 20, 40, 100]]))[30:90, 0:30]
    assert half.astype(float).std() < 2 * whole.astype(float).std()


def test_a_box_outside_and_no_box_change_nothing() -> None:
    image = noise()
    np.testing.assert_array_equal(blur_faces(image, np.float32([[500, 500, 600, 600]])), image)
    np.testing.assert_array_equal(blur_faces(image, np.zeros((0, 4), np.float32)), image)


def test_a_blurred_portrait_cannot_be_sharpened_back() -> None:
    predictor = Predictor.default()
    photo = portrait()
    found = predictor.detect(photo)
    blurred = blur_faces(photo, found.boxes)
    sharp = cv2.addWeighted(blurred, 3, cv2.GaussianBlur(blurred, (0, 0), 6), -2, 0)
    x1, y1, x2, y2 = found.boxes[0].astype(int)
    errors = [np.abs(each.astype(float) - photo)[y1:y2, x1:x2].mean() for each in (blurred, sharp)]
    assert errors[0] > 15 and errors[1] > 0.95 * errors[0]
