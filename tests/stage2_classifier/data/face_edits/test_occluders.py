"""Things pasted before the mouth of a bare face: where they are, what stays, their light and size."""

from __future__ import annotations

import numpy as np
import pytest

from stage2_classifier.data.face_edits.canvas import MAX_SIDE, FaceCanvas, blur_and_noise
from stage2_classifier.data.face_edits.occluders import OCCLUDERS, Occluder, paste_occluder

SKIN = (200, 150, 120)
# A face of 60 px in a picture of 130: eyes on row 45, mouth on row 70.
LANDMARKS = np.array([[50, 45], [80, 45], [65, 60], [55, 70], [75, 70]], np.float64)
EYES = (slice(30, 44), slice(45, 85))


def face(side: int = 130, skin: tuple[int, int, int] = SKIN) -> np.ndarray:
    return np.full((side, side, 3), skin, np.uint8)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return where the pictures differ by more than shadow and grain."""
    difference: np.ndarray = np.abs(before.astype(int) - after).sum(axis=2) > 24
    return difference


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", OCCLUDERS)
def test_it_is_before_the_mouth_and_the_eyes_stay(kind: Occluder, seed: int) -> None:
    bare = face()
    bare.setflags(write=False)
    result = paste_occluder(bare, LANDMARKS, np.random.default_rng(seed), kind)
    assert result.shape == bare.shape and result.dtype == np.uint8
    cover = changed(bare, result)
    assert cover[60:105, 45:85].mean() > 0.08  # from nose to chin
    assert cover[EYES].mean() < 0.05 and cover[:28].mean() < 0.02


def test_scarves_reach_beyond_the_cheeks_and_down_the_neck() -> None:
    for seed in range(8):
        cover = changed(face(), paste_occluder(face(), LANDMARKS, np.random.default_rng(seed), "scarf"))
        row = cover[88]  # the chin
        assert row[38:92].mean() > 0.9 and cover[120, 40:90].mean() > 0.9


def test_hands_have_the_skin_of_the_face() -> None:
    for skin in ((92, 60, 44), (220, 180, 160)):
        hues = []
        for seed in range(6):
            result = paste_occluder(face(skin=skin), LANDMARKS, np.random.default_rng(seed), "hand")
            middle = result[72:90, 55:75].reshape(-1, 3).mean(axis=0)
            hues.append(middle / middle.sum())
        assert np.abs(np.mean(hues, axis=0) - np.array(skin) / sum(skin)).max() < 0.03


def test_things_are_as_dark_as_the_face_is() -> None:
    bright, dark = (
        np.mean([
            paste_occluder(face(skin=skin), LANDMARKS, np.random.default_rng(seed), "cup")[70:90, 55:75].mean()
            for seed in range(8)
        ])
        for skin in (SKIN, (50, 38, 30))
    )  # fmt: skip
    assert dark < 0.5 * bright


def test_the_same_seed_gives_the_same_picture_and_kinds_are_all_drawn() -> None:
    one, same, other = (paste_occluder(face(), LANDMARKS, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    every = {paste_occluder(face(), LANDMARKS, np.random.default_rng(3), kind).tobytes() for kind in OCCLUDERS}
    assert len(every) == len(OCCLUDERS)


def test_a_turned_face_of_any_size_is_followed() -> None:
    quarter = np.array([[0, -1], [1, 0]], np.float64)
    for scale in (0.3, 1, 4):
        side = round(130 * scale)
        landmarks = ((LANDMARKS - 65) @ quarter.T + 65) * scale  # the mouth is on the left
        for kind in OCCLUDERS:
            cover = changed(face(side), paste_occluder(face(side), landmarks, np.random.default_rng(0), kind))
            rows = slice(round(45 * scale), round(85 * scale))
            assert cover[rows, round(25 * scale) : round(70 * scale)].mean() > 0.08
            assert cover[rows, round(86 * scale) :].mean() < 0.05


def test_a_large_crop_has_a_layer_of_bounded_size() -> None:
    canvas = FaceCanvas(face(900), LANDMARKS * 7)
    assert max(canvas.alpha.shape) == MAX_SIDE and canvas.mouth == pytest.approx(25 / 30.6, abs=0.02)


def test_landmarks_that_span_no_face_are_refused() -> None:
    with pytest.raises(ValueError, match="do not span a face"):
        paste_occluder(face(), np.full((5, 2), 60.0), np.random.default_rng(0))


def test_blur_and_noise_are_told_apart() -> None:
    import cv2

    rng = np.random.default_rng(0)
    blocks = cv2.resize(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8), (96, 96), interpolation=cv2.INTER_NEAREST)
    blurs = [blur_and_noise(blocks)[0], *(blur_and_noise(cv2.GaussianBlur(blocks, (0, 0), s))[0] for s in (1, 2))]
    assert blurs[0] < blurs[1] < blurs[2]
    noisy = np.clip(face() + rng.normal(0, 6, (130, 130, 1)), 0, 255).astype(np.uint8)
    assert blur_and_noise(face())[1] == 0 and 4 < blur_and_noise(noisy)[1] < 8


def test_a_face_of_two_pixels_of_skin_is_not_black() -> None:
    landmarks = np.array([[7.94, 7.93], [10.07, 7.93], [9.0, 9.21], [8.29, 10.07], [9.71, 10.07]])
    bare = np.random.default_rng(1).integers(90, 160, (22, 22, 3)).astype(np.uint8)
    pasted = paste_occluder(bare, landmarks, np.random.default_rng(0), "hand")
    assert (pasted > 0).all()
