"""Windows cropped at sub-pixel places from pictures whose values are known everywhere."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage1_faces.roi_crop import GREY, Mipmaps, halved
from stage1_faces.training.samples import affine, transform_boxes, transform_points

SLOPE, DOWN, BASE = 0.9, 0.35, 20.0  # a gradient's growth per pixel in x and y, and its value at the corner


def gradient(width: int = 160, height: int = 120) -> np.ndarray:
    """Return a picture whose channels grow linearly; a pixel has the rounded value at its centre."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    values = BASE + SLOPE * x + DOWN * y
    return np.rint(np.stack([values, 255 - values, values / 2], axis=2)).astype(np.uint8)


def shown(matrix: np.ndarray, size: int) -> np.ndarray:
    """Return what a window of the endless gradient shows."""
    u, v = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    x, y = np.einsum("ij,j...->i...", matrix, np.stack([u, v, np.ones_like(u)]))
    values = BASE + SLOPE * x + DOWN * y
    return np.stack([values, 255 - values, values / 2], axis=2)


@pytest.mark.parametrize("step", [0.4, 1.0, 1.3, 1.99, 2.0, 2.7, 4.0])
@pytest.mark.parametrize("corner", [(20.0, 30.0), (20.31, 29.77), (3.5, 7.25)])
def test_upright_windows_show_the_places_that_they_should(step: float, corner: tuple[float, float]) -> None:
    size = 20
    x, y = corner
    square = np.float32([[x, y, x + step * size, y + step * size]])
    (window,) = Mipmaps(gradient()).crop_boxes(square, size)
    expected = shown(np.array([[step, 0, x], [0, step, y]]), size)
    # Two roundings, of the picture and of the window (with OpenCV's 1/32 px), and one more per halving.
    assert np.abs(window - expected).max() < 1.2 + 0.5 * max(math.floor(math.log2(step)), 0)


def test_a_window_of_the_photo_itself_is_the_photo() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    (window,) = Mipmaps(image).crop_boxes(np.float32([[5, 7, 37, 39]]), 32)
    assert (window == image[7:39, 5:37]).all()


@pytest.mark.parametrize("shape", [(20, 40000), (70000, 12)])
def test_photos_longer_than_opencv_warps(shape: tuple[int, int]) -> None:
    photo = Mipmaps(np.full((*shape, 3), 90, np.uint8))
    (window,) = photo.crop_boxes(np.float32([[4, 4, 10, 10]]), 8)
    assert (window == 90).all()
    assert (photo.warp_crop(np.array([[1.0, 0, 2], [0, 1.0, 2]]), 8) == 90).all()


def test_sides_may_differ() -> None:
    window = Mipmaps(gradient()).warp_crop(np.array([[2.0, 0, 10], [0, 1.0, 20]]), 24)
    assert np.abs(window - shown(np.array([[2.0, 0, 10], [0, 1.0, 20]]), 24)).max() < 1.7


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_crop_boxes_gives_the_windows_of_warp_crop(count: int) -> None:
    rng = np.random.default_rng(count)
    photo = Mipmaps(cv2.GaussianBlur(rng.integers(0, 256, (90, 130, 3), np.uint8), (0, 0), 1.5))
    centres, halves = rng.uniform(-20, 140, (count, 2)), 2 ** rng.uniform(0, 7, (count, 1))
    squares = np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float32)
    got = photo.crop_boxes(squares, 32)
    assert got.shape == (count, 32, 32, 3) and got.dtype == np.uint8
    for window, (x1, y1, x2, y2) in zip(got, squares.astype(np.float64), strict=True):
        alone = photo.warp_crop(np.array([[(x2 - x1) / 32, 0, x1], [0, (y2 - y1) / 32, y1]]), 32)
        difference = np.abs(window.astype(int) - alone)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 7.0, -30.0, 90.0])
@pytest.mark.parametrize("step", [0.7, 1.6, 2.5])
def test_turned_and_mirrored_windows(step: float, degrees: float, mirror: bool) -> None:
    view = affine((80.3, 59.6), step, degrees, 1.1, mirror, 24)
    window = Mipmaps(gradient()).warp_crop(view, 24)
    assert np.abs(window - shown(view, 24)).max() < 1.7


@pytest.mark.parametrize("shape", [(61, 83), (64, 96), (33, 47)])
def test_odd_sides_keep_their_places_through_the_levels(shape: tuple[int, int]) -> None:
    # Halving 83 px leaves 41: a level's pixels are not exactly twice as large. A dot must stay where it is.
    height, width = shape
    image = np.full((height, width, 3), GREY, np.uint8)
    image[height // 2 - 3 : height // 2 + 3, width - 18 : width - 12] = 255
    size, side = 26, 104.0
    window = Mipmaps(image).crop_boxes(np.float32([[0, 0, side, side]]), size)[0, ..., 0].astype(float) - GREY
    u, v = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    at = np.array([(u * window).sum(), (v * window).sum()]) / window.sum() * side / size
    assert at == pytest.approx([width - 15, height // 2], abs=0.6)


def test_outside_is_grey() -> None:
    image = np.full((40, 60, 3), 255, np.uint8)
    maps = Mipmaps(image)
    out = maps.crop_boxes(np.float32([[-30, -20, 30, 40], [200, 200, 220, 220], [-100, 5, -50, 55]]), 30)
    assert (out[0, 10:20, 15:] == 255).all() and (out[0, :9] == GREY).all() and (out[0, :, :14] == GREY).all()
    assert (out[1] == GREY).all() and (out[2] == GREY).all()
    # In a shrunk window, too, the photo reaches at most one pixel too far.
    (small,) = maps.crop_boxes(np.float32([[-240, -240, 240, 240]]), 30)
    assert (small[15:17, 15:18] > 200).all()
    small[14:18, 14:19] = GREY
    assert (small == GREY).all()


@pytest.mark.parametrize(("cell", "shrink"), [(1, 2), (1, 3), (1, 4), (1, 8), (1, 16), (2, 4), (2, 6), (2, 8)])
def test_fine_patterns_become_grey_and_never_alias(cell: int, shrink: int) -> None:
    y, x = np.indices((256, 256)) // cell
    image = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    side = shrink * 12
    corners = np.float32([[20, 20], [20.5, 21.3], [33.25, 18.75]])
    windows = Mipmaps(image).crop_boxes(np.concatenate([corners, corners + side], axis=1), 12)
    assert np.abs(windows.astype(float) - 127.5).max() <= 1


def test_the_level_is_the_nearest_at_least_as_fine() -> None:
    asked: list[int] = []

    class Spy(Mipmaps):
        def level(self, k: int) -> tuple[np.ndarray, int]:
            asked.append(k)
            return super().level(k)

    maps = Spy(gradient(512, 512))
    for step in (0.1, 1.0, 1.99, 2.0, 3.99, 4.0, 8.1):
        maps.crop_boxes(np.float32([[0, 0, step * 16, step * 16]]), 16)
    assert asked == [0, 0, 0, 1, 1, 2, 3]


def test_levels_are_means_of_the_level_before_and_are_made_once() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    maps = Mipmaps(image)
    assert maps.size == (32, 64)
    quarter, shrink = maps.level(2)
    assert quarter.shape == (16, 8, 3) and shrink == 4
    assert np.abs(quarter - image.reshape(16, 4, 8, 4, 3).mean(axis=(1, 3))).max() <= 1
    assert maps.level(2)[0] is quarter and maps.level(0)[0] is image
    # Halved until one pixel is left.
    assert maps.level(5)[0].shape == (2, 1, 3) and maps.level(6)[0].shape == (1, 1, 3)
    assert maps.level(9)[0] is maps.level(6)[0] and maps.level(9)[1] == 64


def test_an_odd_side_is_halved_as_if_its_last_pixels_were_there_twice() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    twice = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge").astype(int)
    sums = twice.reshape(3, 2, 4, 2, 3).sum(axis=(1, 3))
    assert halved(image).tolist() == ((sums + 2) // 4).tolist()  # halves are rounded up


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_tiny_photos(shape: tuple[int, int]) -> None:
    maps = Mipmaps(np.full((*shape, 3), 200, np.uint8))
    inside = np.float32([[0, 0, *shape[::-1]]])
    middle = maps.crop_boxes(np.concatenate([inside, [[-50, -50, 50, 50]]]).astype(np.float32), 8)
    assert middle.shape == (2, 8, 8, 3)
    assert middle[0].max() > 180
    assert maps.crop_boxes(np.zeros((0, 4), np.float32), 8).shape == (0, 8, 8, 3)
    # The cascade never asks for a square without area; it must not fail.
    assert maps.crop_boxes(np.zeros((1, 4), np.float32), 8).shape == (1, 8, 8, 3)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 12.0, -25.0])
def test_a_dot_is_where_transform_points_says(degrees: float, mirror: bool) -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[70:74, 110:114] = 255  # its middle: (112, 72)
    view = affine((100, 90), 1.7, degrees, 1.08, mirror, 64)
    window = Mipmaps(image).warp_crop(view, 64)[..., 0].astype(float)
    u, v = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    at = np.array([(u * window).sum(), (v * window).sum()]) / window.sum()
    assert transform_points(np.float32([112, 72]), view) == pytest.approx(at, abs=0.1)
    assert (at[0] < 32) == mirror or degrees != 0


@pytest.mark.parametrize("mirror", [False, True])
def test_a_box_is_where_transform_boxes_says(mirror: bool) -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[60:100, 90:120] = 255
    view = affine((95, 90), 1.5, 0, 1.2, mirror, 64)
    window = Mipmaps(image).warp_crop(view, 64)[..., 0]
    rows, columns = np.nonzero(window.max(axis=1) > 127)[0], np.nonzero(window.max(axis=0) > 127)[0]
    extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert transform_boxes(np.float32([[90, 60, 120, 100]]), view)[0] == pytest.approx(extent, abs=0.6)


def test_a_tilted_box_keeps_its_sides_and_its_centre() -> None:
    boxes = np.float32([[90, 60, 120, 100], [10, 10, 20, 20]])
    view = affine((95, 90), 2.0, 8.0, 1.0, False, 64)
    seen = transform_boxes(boxes, view)
    assert seen[:, 2:] - seen[:, :2] == pytest.approx(np.float32([[15, 20], [5, 5]]), abs=1e-4)
    centres = (seen[:, :2] + seen[:, 2:]) / 2
    # Back through the view: the same centres.
    assert centres @ view[:, :2].T + view[:, 2] == pytest.approx(np.array([[105, 80], [15, 15]]), abs=1e-3)
    assert transform_boxes(boxes[:0], view).shape == (0, 4)


def faint(width: int, height: int, seed: int) -> np.ndarray:
    """Return noise of few levels around GREY, where OpenCV's error of 1/32 px is half a level."""
    return np.random.default_rng(seed).integers(GREY - 16, GREY + 16, (height, width, 3), dtype=np.uint8)


def slowly_halved(image: np.ndarray) -> np.ndarray:
    """Return the image with half the sides, rounded up: each pixel is the mean of four; edge pixels repeat."""
    height, width = image.shape[:2]
    made = np.zeros((-(-height // 2), -(-width // 2), 3), np.uint8)
    for row, column in np.ndindex(made.shape[:2]):
        four = [image[min(2 * row + i, height - 1), min(2 * column + j, width - 1)] for i in (0, 1) for j in (0, 1)]
        made[row, column] = np.floor(np.mean(four, axis=0) + 0.5)
    return made


def slow_sample(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return the bilinear value, GREY outside; places count from the outer corner of the first pixel."""
    x, y = x - 0.5, y - 0.5
    left, top = math.floor(x), math.floor(y)
    total = np.zeros(3)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        inside = 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]
        total += (1 - abs(x - column)) * (1 - abs(y - row)) * (picture[row, column] if inside else GREY)
    return total


def slow_warp_crop(image: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """Return the expected window of `warp_crop`, pixel by pixel, and the number of halvings."""
    step = math.sqrt(abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))
    picture, halvings = image, 0
    while step >= 2 ** (halvings + 1) and max(picture.shape[:2]) >= 2:
        picture, halvings = slowly_halved(picture), halvings + 1
    window = np.zeros((size, size, 3))
    for v in range(size):
        for u in range(size):
            x, y = matrix @ (u + 0.5, v + 0.5, 1)
            window[v, u] = slow_sample(picture, x / 2**halvings, y / 2**halvings)
    return window, halvings


photo_sides = st.integers(1, 24)


@settings(max_examples=60, deadline=None)
@given(
    photo_sides,
    photo_sides,
    st.integers(0, 9),
    st.tuples(st.floats(-10, 30), st.floats(-10, 30)),
    st.floats(0.2, 9).filter(
        lambda step: abs(math.log2(step) % 1 - 0.5) < 0.499
    ),  # on a power of two, rounding decides
    st.floats(-180, 180),
    st.floats(0.8, 1.25),
    st.booleans(),
)
def test_warp_crop_equals_slow_version(
    width: int,
    height: int,
    seed: int,
    centre: tuple[float, float],
    step: float,
    degrees: float,
    stretch: float,
    mirror: bool,
) -> None:
    image, view = faint(width, height, seed), affine(centre, step, degrees, stretch, mirror, 6)
    expected, halvings = slow_warp_crop(image, view, 6)
    # Half a level each of place and rounding, and one more per halving.
    assert np.abs(Mipmaps(image).warp_crop(view, 6) - expected).max() <= 1.6 + halvings


@settings(max_examples=60, deadline=None)
@given(
    photo_sides,
    photo_sides,
    st.lists(st.tuples(st.floats(-30, 40), st.floats(-30, 40), st.floats(0.5, 60)), max_size=5),
    st.integers(0, 9),
)
def test_crop_boxes_equals_slow_version(
    width: int, height: int, places: list[tuple[float, float, float]], seed: int
) -> None:
    image = faint(width, height, seed)
    squares = np.float32([(x, y, x + side, y + side) for x, y, side in places]).reshape(-1, 4)
    windows = Mipmaps(image).crop_boxes(squares, 5)
    assert windows.shape == (len(places), 5, 5, 3)
    for window, (x1, y1, x2, y2) in zip(windows, squares.astype(float), strict=True):
        if abs(math.log2((x2 - x1) / 5) % 1 - 0.5) > 0.499:
            continue  # on a power of two, rounding decides on the level
        expected, halvings = slow_warp_crop(image, np.array([[(x2 - x1) / 5, 0, x1], [0, (y2 - y1) / 5, y1]]), 5)
        assert np.abs(window - expected).max() <= 1.6 + halvings
