"""The geometry of a face crop, and the network's input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_classifier.cut import crop_window, cut_crop, resize_crop, to_input


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


def test_what_lies_outside_repeats_the_edge() -> None:
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
