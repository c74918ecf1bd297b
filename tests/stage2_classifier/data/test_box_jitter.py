"""Jittered views of a gradient: the colours tell where a pixel is from, so that box deltas can be checked."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_classifier.cropping import apply_box_deltas, cut_crop, resize_crop
from stage2_classifier.data.box_jitter import Box, BoxJitter, jittered_view, window_deltas

STILL = BoxJitter(shift=0, scale=0, degrees=0, degrees_p=0, flip_p=0, min_side=1)
FINE = BoxJitter(min_side=150)  # enlarged, so that whole levels give finer places
# Red is twice the column and green twice the row of a pixel: the levels of a place are 2 * (place - 0.5).
LEVELS = 2 * np.arange(120, dtype=np.uint8)
GRADIENT = np.stack([*np.meshgrid(LEVELS, LEVELS), np.zeros((120, 120), np.uint8)], axis=2)
MIDDLE: Box = (45.0, 50.0, 75.0, 74.0)  # far enough inside that no view leaves the gradient


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def geometry(view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the crop's place (2,) in the view's middle, and how it changes (2, 2) per pixel right and down."""
    places = view[..., :2].astype(float) / 2 + 0.5
    middle = len(view) // 2
    rows, columns = np.mgrid[: len(view), : len(view)]
    a = np.stack([np.ones(view.shape[0] ** 2), (columns - middle).ravel(), (rows - middle).ravel()], axis=1)
    fit = np.linalg.lstsq(a, places.reshape(-1, 2), rcond=None)[0]
    half = (len(view) - 1) / 2 - middle
    return fit[0] + half * (fit[1] + fit[2]), fit[1:].T


def test_a_still_view_of_whole_pixels_is_the_window() -> None:
    crop = noise(60, 70)
    view, deltas = jittered_view(crop, (20, 22, 40, 42), 0.2, 0, STILL)
    assert view.dtype == np.uint8 and deltas.dtype == np.float32
    assert np.array_equal(view, crop[18:46, 16:44])  # 20 px and 4 on each side
    assert deltas == pytest.approx([0, 0, 0, 0])


def test_a_still_view_that_is_enlarged_equals_plain_resizing() -> None:
    crop = noise(60, 60)
    box = (20.0, 20.0, 40.0, 40.0)
    view, deltas = jittered_view(crop, box, 0.2, 0, replace(STILL, min_side=56))
    plain = cut_crop(crop, box, 0.2, 56)
    assert view.shape == plain.shape == (56, 56, 3)
    # At the rim plain resizing repeats the window's edge, but the view shows more of the crop.
    assert np.abs(view[1:-1, 1:-1].astype(int) - plain[1:-1, 1:-1]).max() <= 1
    assert np.array_equal(deltas, window_deltas(box, 0.2))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.floats(30, 60), st.floats(30, 60), st.floats(10, 30), st.floats(10, 30)).map(
        lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3])
    ),
    st.sampled_from([0.0, 0.2, 0.35]),
    st.sampled_from([1, 33, 64]),
)
def test_a_still_view_is_the_window_up_to_its_rounding(box: Box, margin: float, min_side: int) -> None:
    view, deltas = jittered_view(GRADIENT, box, margin, 0, replace(STILL, min_side=min_side))
    plain = cut_crop(GRADIENT, box, margin)
    # Of a window of whole pixels the view differs by less than one on each side: two levels each.
    assert np.abs(resize_crop(view, 24).astype(int) - resize_crop(plain, 24)).max() <= 4
    (back,) = apply_box_deltas(np.float32([box]), window_deltas(box, margin)[None], margin)
    assert back == pytest.approx(box, abs=1e-3)
    longer = max(box[2] - box[0], box[3] - box[1])
    sides = [math.log((box[2] - box[0]) / longer), math.log((box[3] - box[1]) / longer)]
    assert deltas == pytest.approx([0, 0, *sides], abs=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(12))
def test_deltas_of_a_view_give_the_box(seed: int, margin: float) -> None:
    view, deltas = jittered_view(GRADIENT, MIDDLE, margin, seed, replace(FINE, shift=0.15, scale=0.2, degrees_p=0))
    middle, by_pixel = geometry(view)
    assert by_pixel[[0, 1], [1, 0]] == pytest.approx([0, 0], abs=0.01)
    unit = by_pixel[1, 1] * len(view) / (1 + 2 * margin)  # crop pixels
    assert abs(by_pixel[0, 0]) == pytest.approx(by_pixel[1, 1], abs=0.01)
    mirrored = by_pixel[0, 0] < 0
    centre = middle + deltas[:2] * unit * (-1 if mirrored else 1, 1)
    sides = np.exp(deltas[2:]) * unit
    assert [*(centre - sides / 2), *(centre + sides / 2)] == pytest.approx(MIDDLE, abs=0.1)


def test_a_mirrored_view_is_the_other_way_round() -> None:
    crop = noise(90, 90)
    seeds = range(10)
    for seed in seeds:
        plain, deltas = jittered_view(crop, (30, 32, 60, 56), 0.2, seed, replace(BoxJitter(), flip_p=0))
        turned, opposite = jittered_view(crop, (30, 32, 60, 56), 0.2, seed, replace(BoxJitter(), flip_p=1))
        assert np.abs(turned[:, ::-1].astype(int) - plain).max() <= 12  # places are known to 1/32 px
        assert opposite.tolist() == [-deltas[0], *deltas[1:]]
    assert deltas[0] != 0


def test_rotation_turns_the_view_about_its_middle() -> None:
    turns = []
    for seed in range(40):
        jitter = replace(FINE, degrees=12, degrees_p=1, flip_p=0)
        view, deltas = jittered_view(GRADIENT, MIDDLE, 0.1, seed, jitter)
        level, straight = jittered_view(GRADIENT, MIDDLE, 0.1, seed, replace(jitter, degrees=0))
        assert np.array_equal(deltas, straight)
        (middle, by_pixel), (before, plain) = geometry(view), geometry(level)
        assert middle == pytest.approx(before, abs=0.1)
        step = plain[0, 0]
        turn = math.atan2(by_pixel[1, 0], by_pixel[0, 0])
        expected = step * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        assert by_pixel == pytest.approx(expected, abs=0.01)
        turns.append(math.degrees(turn))
    assert min(turns) > -12.5 and max(turns) < 12.5
    assert min(turns) < -8 and max(turns) > 8


def test_views_vary_as_the_jitter_says() -> None:
    jitter = BoxJitter(shift=0.06, scale=0.1, degrees=12, degrees_p=0.5, flip_p=0.3)
    longer = MIDDLE[2] - MIDDLE[0]
    shifts, scales, mirrored, turned = [], [], 0, 0
    for seed in range(400):
        view, deltas = jittered_view(GRADIENT, MIDDLE, 0.1, seed, replace(jitter, min_side=24))
        unit = longer / math.exp(deltas[2])
        shifts.extend(deltas[:2] * unit / longer)
        scales.append(deltas[2])
        right = view[12, 16:].astype(float) - view[12, :-16]
        mirrored += right[:, 0].mean() < 0
        turned += abs(right[:, 1].mean()) > 1
    assert np.mean(shifts) == pytest.approx(0, abs=0.01) and np.std(shifts) == pytest.approx(0.06, rel=0.1)
    assert np.mean(scales) == pytest.approx(0, abs=0.015) and np.std(scales) == pytest.approx(0.1, rel=0.1)
    assert mirrored / 400 == pytest.approx(0.3, abs=0.08)
    assert turned / 400 == pytest.approx(0.5, abs=0.1)


def test_a_view_depends_on_its_seed_alone() -> None:
    crop = noise(60, 60)
    first, deltas = jittered_view(crop, (20, 20, 40, 40), 0.2, 7, BoxJitter())
    again, same = jittered_view(crop, (20, 20, 40, 40), 0.2, 7, BoxJitter())
    other, different = jittered_view(crop, (20, 20, 40, 40), 0.2, 8, BoxJitter())
    assert np.array_equal(first, again) and np.array_equal(deltas, same)
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert not np.array_equal(deltas, different)


def test_pixels_outside_the_crop_repeat_the_edge() -> None:
    crop = noise(8, 8)
    view, _ = jittered_view(crop, (0, 0, 8, 8), 0.5, 0, STILL)
    assert np.array_equal(view, np.pad(crop, ((4, 4), (4, 4), (0, 0)), mode="edge"))


def test_large_views_keep_their_pixels_and_small_ones_are_enlarged_once() -> None:
    sides = [
        jittered_view(noise(120, 120), (40, 40, 40 + s, 40 + s), 0.25, 0, BoxJitter(0, 0))[0].shape for s in (20, 60)
    ]
    assert sides == [(64, 64, 3), (90, 90, 3)]


def test_scaled_jitter_changes_shift_and_scale_only() -> None:
    jitter = BoxJitter(shift=0.1, scale=0.2, degrees=9, degrees_p=0.4, flip_p=0.3, min_side=64)
    assert jitter.scaled(1.5, 48) == BoxJitter(pytest.approx(0.15), pytest.approx(0.3), 9, 0.4, 0.3, 48)
