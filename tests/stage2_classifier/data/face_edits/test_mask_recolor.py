"""Masks of another colour: where it changes, what stays, and which masks cannot be told from skin."""

from __future__ import annotations

import numpy as np
import pytest

from stage2_classifier.data.face_edits.mask_recolor import COLOURS, PRINTS, MaskPrint, recolor_mask

SKIN, CLOTH = (200, 150, 120), (150, 200, 225)
# A face of 60 px in a picture of 130: eyes on row 45, mouth on row 70.
LANDMARKS = np.array([[50, 45], [80, 45], [65, 60], [55, 70], [75, 70]], np.float64)


def masked(cloth: tuple[int, int, int] = CLOTH, scale: int = 1) -> np.ndarray:
    """Return a face with a mask from cheek to cheek and from the nose to the chin, with one fold."""
    picture = np.full((130 * scale, 130 * scale, 3), SKIN, np.uint8)
    picture[56 * scale : 88 * scale, 38 * scale : 92 * scale] = cloth
    picture[74 * scale : 76 * scale, 38 * scale : 92 * scale] = np.array(cloth) * 0.8
    return picture


@pytest.mark.parametrize("kind", PRINTS)
@pytest.mark.parametrize("scale", [1, 3])
def test_the_mask_changes_and_the_face_stays(kind: MaskPrint, scale: int) -> None:
    before = masked(scale=scale)
    before.setflags(write=False)
    for seed in range(4):
        result = recolor_mask(before, LANDMARKS * scale, np.random.default_rng(seed), kind)
        assert result is not None and result.shape == before.shape and result.dtype == np.uint8
        difference = np.abs(result.astype(int) - before).sum(axis=2)
        assert (difference[60 * scale : 84 * scale, 45 * scale : 85 * scale] > 30).mean() > 0.6
        assert (difference[: 50 * scale] == 0).all() and (difference[96 * scale :] == 0).all()
        assert (difference[:, : 30 * scale] == 0).all() and (difference[:, 100 * scale :] == 0).all()


def test_a_plain_mask_has_one_of_the_colours_and_keeps_its_fold() -> None:
    dark = 0
    for seed in range(12):
        result = recolor_mask(masked(), LANDMARKS, np.random.default_rng(seed), "plain")
        assert result is not None
        middle, fold = result[66, 65].astype(int), result[75, 65].astype(int)
        scaled = np.array(COLOURS) * (np.mean(SKIN) / 165)
        assert np.abs(scaled - middle).max(axis=1).min() < 60
        assert fold.sum() < middle.sum()
        dark += middle.sum() < 240
    assert dark >= 4


def test_prints_have_two_colours() -> None:
    for kind in ("stripes", "dots", "patches"):
        spread = []
        for seed in range(6):
            result = recolor_mask(masked(scale=3), LANDMARKS * 3, np.random.default_rng(seed), kind)
            plain = recolor_mask(masked(scale=3), LANDMARKS * 3, np.random.default_rng(seed), "plain")
            assert result is not None and plain is not None
            spread.append(
                np.std(result[180:216, 150:240], axis=(0, 1)).max() - np.std(plain[180:216, 150:240], axis=(0, 1)).max()
            )
        assert np.mean(spread) > 10


def test_a_mask_like_the_skin_is_left_alone() -> None:
    assert recolor_mask(masked((202, 152, 122)), LANDMARKS, np.random.default_rng(0)) is None


def test_rng_alone_decides() -> None:
    one, same, other = (recolor_mask(masked(), LANDMARKS, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one is not None and same is not None and other is not None
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_landmarks_that_span_no_face_are_refused() -> None:
    with pytest.raises(ValueError, match="do not span a face"):
        recolor_mask(masked(), np.full((5, 2), 60.0), np.random.default_rng(0))


def test_a_small_face_works_too() -> None:
    small = masked()[::8, ::8].copy()
    result = recolor_mask(small, LANDMARKS / 8, np.random.default_rng(0), "stripes")
    assert result is None or result.shape == small.shape
