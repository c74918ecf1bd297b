"""The cascade's geometry by properties, against slow versions in plain Python."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.boxes import Boxes
from stage1_faces import detector
from stage1_faces.detector import BBOX_XFORM_CLIP, CELL, EVEN, STRIDE, CascadeConfig, FaceDetector, Proposals, decode
from stage1_faces.detector import anchors as frames_of
from stage1_faces.roi_crop import GREY

places = st.floats(-500, 500, width=32)
Frame = tuple[float, float, float]


@given(
    st.lists(
        st.tuples(
            st.tuples(places, places, st.floats(1, 400, width=32)),
            st.tuples(*[st.floats(-2, 2, width=32)] * 2, *[st.floats(-6, 6, width=32)] * 2),
        ),
        max_size=6,
    )
)
def test_decode_equals_slow_version(cases: list[tuple[Frame, tuple[float, float, float, float]]]) -> None:
    frame = np.float32([case[0] for case in cases]).reshape(-1, 3)
    numbers = np.float32([case[1] for case in cases]).reshape(-1, 4)
    boxes = decode(frame, numbers)
    assert boxes.shape == (len(cases), 4) and boxes.dtype == np.float32
    for box, ((x, y, unit), (dx, dy, log_width, log_height)) in zip(boxes, cases, strict=True):
        width, height = (
            unit * math.exp(min(max(v, -BBOX_XFORM_CLIP), BBOX_XFORM_CLIP)) for v in (log_width, log_height)
        )
        right, down = x + dx * unit, y + dy * unit
        expected = [right - width / 2, down - height / 2, right + width / 2, down + height / 2]
        assert box == pytest.approx(np.array(expected), rel=1e-5, abs=1e-2)


@given(st.lists(st.tuples(places, places, st.floats(0, 300, width=32), st.floats(0, 300, width=32)), max_size=6))
def test_frames_are_the_boxes_and_decode_gives_them_back(cases: list[tuple[float, float, float, float]]) -> None:
    boxes = np.float32([(x, y, x + width, y + height) for x, y, width, height in cases]).reshape(-1, 4)
    found = frames_of(boxes)
    assert found.shape == (len(cases), 3)
    for (x1, y1, x2, y2), frame in zip(boxes.astype(float), found, strict=True):
        expected = [(x1 + x2) / 2, (y1 + y2) / 2, max(x2 - x1, y2 - y1, 1)]
        assert frame == pytest.approx(np.array(expected), abs=1e-3)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    numbers = np.concatenate([np.zeros((len(boxes), 2)), np.log(sides / found[:, 2:])], axis=1).astype(np.float32)
    whole = (numbers[:, 2:] > -BBOX_XFORM_CLIP).all(axis=1)  # no net can say that a side is 55 times shorter
    assert decode(found, numbers)[whole] == pytest.approx(boxes[whole], abs=2e-3)


@given(st.floats(0, 1), st.floats(-13, 13))
def test_log_odds_and_probabilities_undo_each_other(probability: float, odds: float) -> None:
    back = detector._probability(detector.log_odds(np.array([probability])))
    assert back[0] == pytest.approx(min(max(probability, detector.PROB_EPS), 1 - detector.PROB_EPS), rel=1e-4, abs=1e-6)
    assert detector.log_odds(detector._probability(np.array([odds])))[0] == pytest.approx(odds, abs=0.05)


@st.composite
def scored_boxes(draw: st.DrawFn) -> tuple[Boxes, np.ndarray]:
    """Boxes on a coarse grid, so that many are alike, empty or of equal overlap; few scores, so that many are equal."""
    corner = st.integers(-4, 24)
    boxes = draw(st.lists(st.tuples(corner, corner, st.integers(0, 16), st.integers(0, 16)), max_size=14))
    scores = draw(st.lists(st.integers(0, 5), min_size=len(boxes), max_size=len(boxes)))
    array = np.float32([(x, y, x + width, y + height) for x, y, width, height in boxes]).reshape(-1, 4)
    return array, np.array(scores, np.float32) / 5


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / whole if whole > 0 else 0.0


# No IoU of boxes of whole pixels up to 16 comes as near to these as float32 rounds.
overlaps = st.sampled_from([0.3011, 0.5003, 0.7007])


@given(scored_boxes(), st.integers(1, 8), overlaps, st.sampled_from([1, 8]))
def test_the_best_candidates_are_the_slowly_chosen_ones(
    given_boxes: tuple[Boxes, np.ndarray], most: int, overlap: float, cells: int
) -> None:
    boxes, scores = given_boxes
    verdict = np.arange(len(boxes), dtype=np.float32)  # tells which ones are kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "MOST_CELLS", cells)
        found = detector._best(Proposals(boxes, scores, verdict), (20, 12), overlap, most)
    inside = [[min(max(v, 0), w) for v, w in zip(box, (20, 12, 20, 12), strict=True)] for box in boxes.tolist()]
    whole = [i for i, (x1, y1, x2, y2) in enumerate(inside) if x2 > x1 and y2 > y1]
    ranked = sorted(whole, key=lambda i: (-scores[i], i))[: most * cells]
    kept: list[int] = []
    for i in ranked:
        if all(slow_iou(np.array(inside[i]), np.array(inside[k])) <= overlap for k in kept):
            kept.append(i)
    kept = kept[:most]
    assert found.verdict.tolist() == kept
    assert found.boxes.tolist() == [inside[i] for i in kept] and found.scores.tolist() == scores[kept].tolist()


@given(scored_boxes(), overlaps, st.integers(0, 9))
def test_votes_equal_slow_version(given_boxes: tuple[Boxes, np.ndarray], overlap: float, seed: int) -> None:
    boxes, scores = given_boxes
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # the others never come so far
    boxes, scores = boxes[solid], scores[solid] + np.float32(0.01)
    kept = np.flatnonzero(np.random.default_rng(seed).random(len(boxes)) < 0.5)
    voted = detector._vote(boxes, scores, kept, overlap)
    assert voted.shape == (len(kept), 4)
    for i, box in zip(kept, voted, strict=True):
        near = [k for k in range(len(boxes)) if slow_iou(boxes[i].astype(float), boxes[k].astype(float)) >= overlap]
        total = sum(float(scores[k]) for k in near)
        expected = sum(float(scores[k]) * boxes[k].astype(float) for k in near) / total
        assert box == pytest.approx(expected, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([6.0, 8.0, 12.0, 40.0]), st.sampled_from([64, 200]))
def test_levels_halve_are_padded_and_show_the_whole_photo(
    width: int, height: int, min_face: float, max_side: int
) -> None:
    image = np.full((height, width, 3), 200, np.uint8)
    config = replace(CascadeConfig(), min_face=min_face, max_side=max_side)
    levels = list(detector._pyramid(7, image, config))
    scale = min(CELL / min_face, max_side / max(width, height))
    for k, level in enumerate(levels):
        size = [max(round(side * scale / 2**k), 1) for side in (width, height)]
        assert level.image == 7
        rows, columns = level.picture.shape[:2]
        assert (rows, columns) == tuple(math.ceil(side / EVEN) * EVEN for side in size[::-1])
        assert (level.picture[: size[1], : size[0]] == 200).all()
        assert (level.picture[size[1] :] == GREY).all() and (level.picture[:, size[0] :] == GREY).all()
        # The level's far corner is the photo's.
        assert level.step * size == pytest.approx([width, height], rel=1e-5)
        last = max(size) <= 2 * CELL
        assert last == (k == len(levels) - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.sampled_from([8, 16, 24, 64]), st.integers(0, 9))
def test_tiles_answer_for_every_cell_once(rows: int, columns: int, count: int, tile: int, seed: int) -> None:
    shape = (rows * EVEN, columns * EVEN, 3)
    pictures = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    step = np.ones(2, np.float32)
    levels = [detector._Level(i, picture, step) for i, picture in enumerate(pictures)]

    def means(pixels: np.ndarray) -> list[np.ndarray]:
        """In place of P-Net: each cell tells its own pixels' mean, and numbers made of it."""
        n, _, height, width = pixels.shape
        cells = pixels.reshape(n, 3, height // STRIDE, STRIDE, width // STRIDE, STRIDE).mean(axis=(1, 3, 5))
        return [cells, np.stack([cells * k for k in range(4)], axis=1)]

    answered = np.full((count, rows * EVEN // STRIDE, columns * EVEN // STRIDE), np.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "MAX_TILE", tile)
        patch.setattr(detector, "TILE_MARGIN", 8)
        for row, column, probability, numbers in FaceDetector(means, means, means)._cells(levels):
            own = np.s_[:, row : row + probability.shape[1], column : column + probability.shape[2]]
            assert np.isnan(answered[own]).all()
            answered[own] = probability
            assert numbers[:, 3] == pytest.approx(3 * probability)
    expected = pictures.reshape(count, -1, STRIDE, columns * EVEN // STRIDE, STRIDE, 3).mean(axis=(2, 4, 5))
    assert answered == pytest.approx(expected, rel=1e-4)
