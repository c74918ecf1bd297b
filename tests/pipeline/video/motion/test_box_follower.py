"""Boxes that move along with the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from common.boxes import iou
from pipeline.detect.demo.command import portrait
from pipeline.video.motion.box_follower import MAX_SIDE, BoxFollower

FACE = np.asarray(cv2.resize(portrait(), (120, 120), interpolation=cv2.INTER_AREA), np.uint8)


def scene(left: float, top: float, scale: float = 1.0, size: tuple[int, int] = (480, 320)) -> np.ndarray:
    """Return a portrait at a place, to a part of a pixel, on a background of noise that stays."""
    noise = np.random.default_rng(0).integers(0, 255, (size[1] // 8, size[0] // 8, 3)).astype(np.uint8)
    picture = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    matrix = np.array([[scale, 0, left], [0, scale, top]], np.float64)
    return np.asarray(cv2.warpAffine(FACE, matrix, size, picture, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT), np.uint8)


def box(left: float, top: float, scale: float = 1.0) -> np.ndarray:
    """Return the box (4,) of the face in the portrait at a place."""
    return np.array([left, top, left, top] + 120 * scale * np.array([0.3, 0.15, 0.7, 0.75]), np.float32)


def test_boxes_move_and_grow_with_their_faces() -> None:
    follower = BoxFollower()
    follower.start(scene(40, 50), np.stack([box(40, 50)]))
    for k in range(1, 13):
        left, top, scale = 40 + 6.5 * k, 50 + 2.5 * k, 1.02**k
        moved = follower.move(scene(left, top, scale))
        assert moved.shape == (1, 4) and moved.dtype == np.float32
    assert iou(moved, np.stack([box(left, top, scale)]))[0, 0] > 0.85
    assert iou(moved, np.stack([box(40, 50)]))[0, 0] < 0.1  # a frozen box would be off


def test_each_box_moves_on_its_own() -> None:
    """One face moves, and a place of the background stays."""
    follower, still = BoxFollower(), np.array([300, 200, 360, 280], np.float32)
    follower.start(scene(40, 50), np.stack([still, box(40, 50)]))
    moved = follower.move(scene(52, 50))
    np.testing.assert_allclose(moved[0], still, atol=0.5)
    np.testing.assert_allclose(moved[1], box(52, 50), atol=2)


def test_large_frames_are_followed_in_a_small_picture() -> None:
    size = (4 * MAX_SIDE, 2 * MAX_SIDE)
    follower = BoxFollower()
    follower.start(scene(400, 300, 4, size), np.stack([box(400, 300, 4)]))
    np.testing.assert_allclose(follower.move(scene(440, 316, 4, size))[0], box(440, 316, 4), atol=6)


def test_a_box_whose_points_are_lost_stays() -> None:
    follower = BoxFollower()
    follower.start(scene(40, 50), np.stack([box(40, 50)]))
    noise = np.random.default_rng(1).integers(0, 255, (320, 480, 3)).astype(np.uint8)
    np.testing.assert_array_equal(follower.move(noise)[0], box(40, 50))


@pytest.mark.parametrize("size", [(64, 48), (480, 320)])
def test_no_boxes_and_a_frame_of_another_size(size: tuple[int, int]) -> None:
    follower = BoxFollower()
    follower.start(scene(40, 50), np.zeros((0, 4), np.float32))
    assert follower.move(scene(0, 0, size=size)).shape == (0, 4)
    follower.start(scene(40, 50), np.stack([box(40, 50)]))
    assert follower.move(np.zeros((size[1], size[0], 3), np.uint8)).shape == (1, 4)
