"""The truth of made videos: a face's box is where its pixels are, and appearances are worked by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.annotations import AnnotatedImage
from pipeline.evaluate.videos.clips import MOTIONS, ClipRecipe, camera_path, draw_recipes, make_clip
from pipeline.evaluate.videos.detecting import encode_and_decode
from pipeline.evaluate.videos.truth import Appearance, ClipTruth

BOX = (140.0, 100.0, 180.0, 150.0)
RECIPE = ClipRecipe(
    image_id="a",
    motion="pan",
    size=(240, 136),
    rate=10,
    seconds=3.0,
    bit_rate=300_000,
    noise=2.0,
    flicker=0.1,
    exposure=0.3,
    loss=0.1,
    seed=3,
)


def photo_with_face(image_id: str = "a") -> tuple[np.ndarray, AnnotatedImage]:
    """Return a grey photo with one red face."""
    photo = np.full((300, 400, 3), 120, np.uint8)
    photo[100:150, 140:180] = (230, 20, 20)
    return photo, AnnotatedImage(Path(f"{image_id}.png"), image_id, (400, 300), np.float32([BOX]), ("with_mask",))


def red_box(pixels: np.ndarray) -> np.ndarray:
    """Return the box of the red pixels; zeros without any."""
    values = pixels.astype(int)
    ys, xs = np.nonzero((values[..., 0] - values[..., 1]) > 90)
    if len(xs) < 30:
        return np.zeros(4)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_box_is_where_the_pixels_are(motion: str) -> None:
    photo, image = photo_with_face()
    recipe = replace(RECIPE, motion=motion, noise=0.0)  # type: ignore[arg-type]
    frames, truth = make_clip(photo, image, recipe)
    assert len(frames) == len(truth.times) == len(truth.boxes)
    near = 0
    for pixels, box, share in zip(frames, truth.clipped()[:, 0], truth.visible()[:, 0], strict=True):
        seen = red_box(pixels)
        if share > 0.6:
            near += np.abs(seen - box).max() <= 5  # motion blur moves an edge by some pixels
        elif share == 0:
            assert not seen.any()
    assert near >= 0.9 * (truth.visible()[:, 0] > 0.6).sum() > 0


def test_the_box_survives_h264() -> None:
    photo, image = photo_with_face()
    frames, truth = make_clip(photo, image, RECIPE)
    shown = encode_and_decode(frames, truth.times.tolist(), RECIPE.rate, RECIPE.bit_rate)
    assert len(shown) == len(frames) and shown[0].shape == frames[0].shape
    whole = [i for i, share in enumerate(truth.visible()[:, 0]) if share == 1]
    assert len(whole) > 3
    wrong = [np.abs(red_box(shown[i]) - truth.boxes[i, 0]).max() for i in whole]
    assert np.median(wrong) <= 3
    low = encode_and_decode(frames, truth.times.tolist(), RECIPE.rate, 15_000)

    def loss(decoded: list[np.ndarray]) -> float:
        return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(decoded, frames, strict=True)]))

    assert loss(low) > loss(shown) > 0  # a lower bit rate loses more


def test_a_repeated_frame_has_the_truth_of_the_one_it_shows_and_a_dropped_one_leaves_a_gap() -> None:
    photo, image = photo_with_face()
    frames, truth = make_clip(photo, image, replace(RECIPE, loss=0.3))
    repeated = [i for i in range(1, len(frames)) if frames[i] is frames[i - 1]]
    assert repeated and all((truth.boxes[i] == truth.boxes[i - 1]).all() for i in repeated)
    assert len(frames) < 30 and np.diff(truth.times).max() > 0.15


def test_the_view_stays_in_the_photo() -> None:
    for motion in MOTIONS:
        recipe = replace(RECIPE, motion=motion)
        views = camera_path(recipe, (400, 300), np.float32([(0, 0, 20, 20)])).views
        left, right = views[:, 0] - views[:, 2] / 2, views[:, 0] + views[:, 2] / 2
        tall = views[:, 2] * recipe.size[1] / recipe.size[0] / 2
        assert left.min() >= -1e-6 and right.max() <= 400 + 1e-6
        assert (views[:, 1] - tall).min() >= -1e-6 and (views[:, 1] + tall).max() <= 300 + 1e-6


def test_recipes_use_each_photo_once_and_leave_out_incomplete_ones() -> None:
    images = [photo_with_face(f"p{i}")[1] for i in range(12)]
    images[3] = replace(images[3], complete=False)
    images[4] = replace(images[4], boxes=np.zeros((0, 4), np.float32), labels=(), class_known=None)
    recipes = draw_recipes(images, 20, 4.0, seed=1)
    assert sorted(r.image_id for r in recipes) == sorted({f"p{i}" for i in range(12)} - {"p3", "p4"})
    assert all(a.motion == b.motion for a, b in zip(recipes[0::2], recipes[1::2], strict=True))
    assert recipes == draw_recipes(images, 20, 4.0, seed=1)
    assert draw_recipes([], 4, 4.0, seed=1) == []


def truth_at(*x: float, step: float = 0.5) -> ClipTruth:
    """Return the truth of one face, 20 px wide, whose left edge is at each `x` of a frame 100 px wide."""
    boxes = np.array([[[left, 10, left + 20, 30]] for left in x], np.float64)
    return ClipTruth(np.arange(len(x)) * step, boxes, ("with_mask",), (100, 60))


def test_a_face_counts_where_more_than_half_of_it_is_visible() -> None:
    truth = truth_at(-15, -9, 0, 89, 91)
    assert truth.visible()[:, 0] == pytest.approx([0.25, 0.55, 1.0, 0.55, 0.45])
    assert truth.counted()[:, 0].tolist() == [False, True, True, True, False]
    small = replace(truth, boxes=np.array([[[10.0, 10, 40, 22]]]), times=np.zeros(1))
    assert not small.counted().any()  # 12 px high


def test_short_gaps_are_one_appearance_and_long_ones_are_two() -> None:
    seen, gone = 10.0, 200.0
    assert truth_at(*[seen] * 4, gone, *[seen] * 3).appearances() == [Appearance(0, 0.0, 3.5, 1, True)]
    # From 1.5 to 4.0: longer than 1 s, shorter than 3 s, so it may be reported again.
    assert truth_at(*[seen] * 4, *[gone] * 4, *[seen] * 3).appearances() == [Appearance(0, 0.0, 5.0, 2, True)]
    # From 1.5 to 5.0: it must be reported again. The second time is too short to be required.
    assert truth_at(*[seen] * 4, *[gone] * 6, *[seen] * 2).appearances() == [
        Appearance(0, 0.0, 1.5, 1, True),
        Appearance(0, 5.0, 5.5, 1, False),
    ]
    assert truth_at(gone, gone).appearances() == []
