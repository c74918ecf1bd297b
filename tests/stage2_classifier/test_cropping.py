"""The geometry of a face crop, the box deltas, and the network's input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_classifier.cropping import (
    apply_box_deltas,
    box_deltas,
    crop_window,
    cut_crop,
    cut_window,
    resize_crop,
    to_input,
    window_anchor,
)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_window_is_square_around_the_box() -> None:
    # 10 wide, 20 high: side 20, with a quarter on each side 30; centre (15, 30).
    assert crop_window((10, 20, 20, 40), 0.25) == (0, 15, 30, 45)


def test_window_without_margin_of_a_square_box_is_the_box() -> None:
    assert crop_window((3, 4, 10, 11), 0.0) == (3, 4, 10, 11)


def test_window_is_never_empty() -> None:
    assert crop_window((5.0, 5.0, 5.2, 5.1), 0.0) == (5, 5, 6, 6)


def test_crop_inside_the_image_is_its_pixels() -> None:
    image = photo(30, 40)
    assert np.array_equal(cut_crop(image, (10, 5, 20, 15), 0.0), image[5:15, 10:20])


def test_pixels_outside_repeat_the_edge() -> None:
    image = photo(4, 4)
    crop = cut_crop(image, (0, 0, 4, 4), 0.5)  # 8 px: two pixels of edge on each side
    expected = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    assert np.array_equal(crop, expected)


def test_box_outside_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="outside the 8x6 image"):
        cut_crop(photo(6, 8), (20, 20, 24, 24), 0.1)


boxes = st.tuples(st.floats(0, 60), st.floats(0, 40), st.floats(0.5, 50), st.floats(0.5, 50)).map(
    lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3])
)


@given(boxes, st.floats(0, 1))
def test_window_properties(box: tuple[float, float, float, float], margin: float) -> None:
    x1, y1, x2, y2 = crop_window(box, margin)
    longer = max(box[2] - box[0], box[3] - box[1])
    assert x2 - x1 == y2 - y1 >= 1
    assert abs((x2 - x1) - max(longer * (1 + 2 * margin), 1)) <= 0.51
    # The centre is the box's to within a pixel of rounding.
    assert abs((x1 + x2) - (box[0] + box[2])) <= 1.01
    assert abs((y1 + y2) - (box[1] + box[3])) <= 1.01


@settings(max_examples=60, deadline=None)
@given(boxes, st.sampled_from([0.0, 0.2, 0.5]), st.sampled_from([1, 16, 33, 64]))
def test_cutting_then_resizing_is_cutting_at_once(
    box: tuple[float, float, float, float], margin: float, size: int
) -> None:
    image = photo(48, 64)
    native = cut_crop(image, box, margin)
    x1, _, x2, _ = crop_window(box, margin)
    assert native.shape == (x2 - x1, x2 - x1, 3)
    assert np.array_equal(resize_crop(native, size), cut_crop(image, box, margin, size))


def test_a_window_is_cut_with_its_edges_repeated() -> None:
    image = photo(6, 8)
    assert np.array_equal(cut_window(image, (2, 1, 5, 4)), image[1:4, 2:5])
    expected = np.pad(image, ((2, 0), (0, 3), (0, 0)), mode="edge")[0:4, 6:11]
    assert np.array_equal(cut_window(image, (6, -2, 11, 2)), expected)
    with pytest.raises(ValueError, match=r"window \(8, 0, 9, 1\) is outside the 8x6 image"):
        cut_window(image, (8, 0, 9, 1))


def test_box_deltas_by_hand() -> None:
    # A box of 10 x 20 px, with the centre 2 px right of and 4 px above that of an anchor of 8 px.
    deltas = box_deltas((7, -4, 17, 16), (10, 10, 8))
    assert deltas.dtype == np.float32
    assert deltas == pytest.approx([0.25, -0.5, np.log(10 / 8), np.log(20 / 8)])
    assert np.isfinite(box_deltas((3, 3, 3, 3), (3, 3, 8))).all()


def test_the_anchor_of_a_window() -> None:
    # Window (0, 15, 30, 45); a third of it is margins.
    assert window_anchor((10, 20, 20, 40), 0.25) == (15, 30, 20)


def test_deltas_move_the_box_by_hand() -> None:
    box = np.float32([[10, 20, 20, 40]])  # anchor (15, 30, 20)
    assert apply_box_deltas(box, np.zeros((1, 4), np.float32), 0.25).tolist() == [[5, 20, 25, 40]]
    moved = apply_box_deltas(box, np.float32([[0.5, -0.25, np.log(0.5), np.log(2)]]), 0.25)
    assert moved == pytest.approx(np.float32([[20, 5, 30, 45]]), abs=1e-4)
    assert apply_box_deltas(box[:0], np.zeros((0, 4), np.float32), 0.25).shape == (0, 4)
    wild = apply_box_deltas(box, np.float32([[0, 0, 99, -99]]), 0.25)
    assert np.isfinite(wild).all()
    assert wild[0, 2] - wild[0, 0] == pytest.approx(20 * np.exp(4), rel=1e-4)


@given(boxes, boxes, st.sampled_from([0.0, 0.2, 0.35]))
def test_deltas_give_the_box_back(
    seen: tuple[float, float, float, float], truth: tuple[float, float, float, float], margin: float
) -> None:
    deltas = box_deltas(truth, window_anchor(np.float32(seen), margin))  # a rounding may differ in float64
    if np.abs(deltas[2:]).max() > 4:  # bounded on the way back
        return
    back = apply_box_deltas(np.float32([seen]), deltas[None], margin)
    assert back.dtype == np.float32
    assert back[0] == pytest.approx(truth, abs=0.01)


def test_resize_averages_when_shrinking() -> None:
    crop = np.zeros((4, 4, 3), np.uint8)
    crop[:2, :2] = [[[0], [100]], [[100], [200]]]
    assert resize_crop(crop, 2)[:, :, 0].tolist() == [[100, 0], [0, 0]]


def test_input_is_normalised_channel_first() -> None:
    crops = np.zeros((1, 1, 2, 3), np.uint8)
    crops[0, 0, 0] = (255, 0, 51)
    out = to_input(crops, mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 0.1))
    assert out.shape == (1, 3, 1, 2) and out.dtype == np.float32
    assert out[0, :, 0, 0] == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    assert out[0, :, 0, 1] == pytest.approx([-1.0, 0.0, -2.0], abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(-15, 15), st.integers(-15, 15), st.integers(1, 20))
def test_a_window_is_that_of_the_slow_version(width: int, height: int, left: int, top: int, side: int) -> None:
    image = photo(height, width)
    window = (left, top, left + side, top + side)
    if left >= width or top >= height or left + side <= 0 or top + side <= 0:
        with pytest.raises(ValueError, match="outside"):
            cut_window(image, window)
        return
    crop = cut_window(image, window)
    assert crop.shape == (side, side, 3) and crop.flags.c_contiguous
    for row in range(side):
        for column in range(side):
            y, x = min(max(top + row, 0), height - 1), min(max(left + column, 0), width - 1)
            assert crop[row, column].tolist() == image[y, x].tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 9))
def test_resize_is_the_slow_mean_or_interpolation(side: int, size: int, seed: int) -> None:
    crop = photo(side, side, seed)
    resized = resize_crop(crop, size)
    scale = side / size
    for row in range(size):
        for column in range(size):
            if side > size:
                # Each pixel is the mean of the pixels that it covers, in parts where it covers parts.
                down, across = (
                    [max(min(i + 1, (k + 1) * scale) - max(i, k * scale), 0) / scale for i in range(side)]
                    for k in (row, column)
                )
            else:
                # INTER_LINEAR_EXACT has weights in steps of 1/256.
                down, across = (
                    np.round(
                        [256 * max(1 - abs(min(max((k + 0.5) * scale - 0.5, 0), side - 1) - i), 0) for i in range(side)]
                    )
                    / 256
                    for k in (row, column)
                )
            expected = np.einsum("i,j,ijc->c", down, across, crop.astype(float))
            assert np.abs(resized[row, column] - expected).max() <= (1 if side > size else 0.5)


@given(boxes, st.floats(0, 1), st.tuples(*[st.floats(-3, 3, width=32)] * 2, *[st.floats(-9, 9, width=32)] * 2))
def test_deltas_move_a_box_as_the_slow_version_does(
    box: tuple[float, float, float, float], margin: float, deltas: tuple[float, float, float, float]
) -> None:
    x1, y1, x2, y2 = crop_window(np.float32(box), margin)
    unit = (x2 - x1) / (1 + 2 * margin)
    x, y = (x1 + x2) / 2 + deltas[0] * unit, (y1 + y2) / 2 + deltas[1] * unit
    width, height = (unit * np.exp(min(max(v, -4), 4)) for v in deltas[2:])
    (moved,) = apply_box_deltas(np.float32([box]), np.float32([deltas]), margin)
    assert moved == pytest.approx([x - width / 2, y - height / 2, x + width / 2, y + height / 2], rel=1e-4, abs=1e-2)
