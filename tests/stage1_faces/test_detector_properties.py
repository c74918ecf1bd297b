"""Properties of the cascade's geometry, against slow versions in plain Python."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.boxes import BBOX_XFORM_CLIP, Boxes
from stage1_faces import detector, proposals
from stage1_faces.anchors import box_anchors, decode
from stage1_faces.cascade_config import MIN_LEVEL_FACE, CascadeConfig
from stage1_faces.detector import STRIDE, FaceDetector
from stage1_faces.face_logits import PROB_EPS, log_odds, sigmoid
from stage1_faces.proposals import Proposals, top_proposals, vote_boxes
from stage1_faces.pyramid import PNET_MULTIPLE, PyramidLevel, build_pyramid
from stage1_faces.roi_crop import GREY, Mipmaps

places = st.floats(-500, 500, width=32)
Anchor = tuple[float, float, float]


@given(
    st.lists(
        st.tuples(
            st.tuples(places, places, st.floats(1, 400, width=32)),
            st.tuples(*[st.floats(-2, 2, width=32)] * 2, *[st.floats(-6, 6, width=32)] * 2),
        ),
        max_size=6,
    )
)
def test_decode_equals_slow_version(cases: list[tuple[Anchor, tuple[float, float, float, float]]]) -> None:
    anchor = np.float32([case[0] for case in cases]).reshape(-1, 3)
    box_deltas = np.float32([case[1] for case in cases]).reshape(-1, 4)
    boxes = decode(anchor, box_deltas)
    assert boxes.shape == (len(cases), 4) and boxes.dtype == np.float32
    for box, ((x, y, unit), (dx, dy, log_width, log_height)) in zip(boxes, cases, strict=True):
        width, height = (
            unit * math.exp(min(max(v, -BBOX_XFORM_CLIP), BBOX_XFORM_CLIP)) for v in (log_width, log_height)
        )
        right, down = x + dx * unit, y + dy * unit
        expected = [right - width / 2, down - height / 2, right + width / 2, down + height / 2]
        assert box == pytest.approx(np.array(expected), rel=1e-5, abs=1e-2)


@given(st.lists(st.tuples(places, places, st.floats(0, 300, width=32), st.floats(0, 300, width=32)), max_size=6))
def test_decode_gives_back_the_boxes_of_anchors(cases: list[tuple[float, float, float, float]]) -> None:
    boxes = np.float32([(x, y, x + width, y + height) for x, y, width, height in cases]).reshape(-1, 4)
    found = box_anchors(boxes)
    assert found.shape == (len(cases), 3)
    for (x1, y1, x2, y2), anchor in zip(boxes.astype(float), found, strict=True):
        expected = [(x1 + x2) / 2, (y1 + y2) / 2, max(x2 - x1, y2 - y1, 1)]
        assert anchor == pytest.approx(np.array(expected), abs=1e-3)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    box_deltas = np.concatenate([np.zeros((len(boxes), 2)), np.log(sides / found[:, 2:])], axis=1).astype(np.float32)
    whole = (box_deltas[:, 2:] > -BBOX_XFORM_CLIP).all(axis=1)  # no net can scale a side by less than 1/55
    assert decode(found, box_deltas)[whole] == pytest.approx(boxes[whole], abs=2e-3)


@given(st.floats(0, 1), st.floats(-13, 13))
def test_sigmoid_inverts_log_odds(probability: float, logit: float) -> None:
    back = sigmoid(log_odds(np.array([probability])))
    assert back[0] == pytest.approx(min(max(probability, PROB_EPS), 1 - PROB_EPS), rel=1e-4, abs=1e-6)
    assert log_odds(sigmoid(np.array([logit])))[0] == pytest.approx(logit, abs=0.05)


@st.composite
def scored_boxes(draw: st.DrawFn) -> tuple[Boxes, np.ndarray]:
    """Draw boxes on a coarse grid, so that many are equal, empty or of equal IoU, and few different scores."""
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


# No IoU of boxes of whole pixels up to 16 is within float32 rounding of these.
overlaps = st.sampled_from([0.3011, 0.5003, 0.7007])


@given(scored_boxes(), st.integers(1, 8), overlaps, st.sampled_from([1, 8]))
def test_top_proposals_equal_slow_version(
    given_boxes: tuple[Boxes, np.ndarray], most: int, overlap: float, cells: int
) -> None:
    boxes, scores = given_boxes
    logits = np.arange(len(boxes), dtype=np.float32)  # the index of each
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proposals, "MAX_CELLS_PER_PROPOSAL", cells)
        found = top_proposals(Proposals(boxes, scores, logits), (20, 12), overlap, most)
    inside = [[min(max(v, 0), w) for v, w in zip(box, (20, 12, 20, 12), strict=True)] for box in boxes.tolist()]
    whole = [i for i, (x1, y1, x2, y2) in enumerate(inside) if x2 > x1 and y2 > y1]
    ranked = sorted(whole, key=lambda i: (-scores[i], i))[: most * cells]
    kept: list[int] = []
    for i in ranked:
        if all(slow_iou(np.array(inside[i]), np.array(inside[k])) <= overlap for k in kept):
            kept.append(i)
    kept = kept[:most]
    assert found.face_logits.tolist() == kept
    assert found.boxes.tolist() == [inside[i] for i in kept] and found.scores.tolist() == scores[kept].tolist()


@given(scored_boxes(), overlaps, st.integers(0, 9))
def test_votes_equal_slow_version(given_boxes: tuple[Boxes, np.ndarray], overlap: float, seed: int) -> None:
    boxes, scores = given_boxes
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # empty boxes never reach this step
    boxes, scores = boxes[solid], scores[solid] + np.float32(0.01)
    kept = np.flatnonzero(np.random.default_rng(seed).random(len(boxes)) < 0.5)
    voted = vote_boxes(boxes, scores, kept, overlap)
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
    levels = list(build_pyramid(7, Mipmaps(image), config))
    scale = min(MIN_LEVEL_FACE / min_face, max_side / max(width, height))
    size = [max(round(side * scale), 1) for side in (width, height)]
    for k, level in enumerate(levels):
        assert level.image == 7
        rows, columns = level.picture.shape[:2]
        assert (rows, columns) == tuple(math.ceil(side / PNET_MULTIPLE) * PNET_MULTIPLE for side in size[::-1])
        assert (level.picture[: size[1], : size[0]] == 200).all()
        assert (level.picture[size[1] :] == GREY).all() and (level.picture[:, size[0] :] == GREY).all()
        # The level's far corner is that of the photo, but for the halves' rounding of odd sides.
        beyond = level.step * size - [width, height]
        assert (beyond > -1e-3).all() and (beyond < 2 * level.step + 1 / scale).all()
        assert level.step == pytest.approx(levels[0].step * 2**k)
        last = max(size) <= 2 * MIN_LEVEL_FACE
        assert last == (k == len(levels) - 1)
        size = [-(-side // 2) for side in size]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.sampled_from([8, 16, 24, 64]), st.integers(0, 9))
def test_tiles_give_every_cell_once(rows: int, columns: int, count: int, tile: int, seed: int) -> None:
    shape = (rows * PNET_MULTIPLE, columns * PNET_MULTIPLE, 3)
    pictures = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    step = np.ones(2, np.float32)
    levels = [PyramidLevel(i, picture, step) for i, picture in enumerate(pictures)]

    def means(pixels: np.ndarray) -> list[np.ndarray]:
        """Return each cell's mean pixel as probability, and multiples of it as box deltas, in place of P-Net."""
        n, _, height, width = pixels.shape
        cells = pixels.reshape(n, 3, height // STRIDE, STRIDE, width // STRIDE, STRIDE).mean(axis=(1, 3, 5))
        return [cells, np.stack([cells * k for k in range(4)], axis=1)]

    answered = np.full((count, rows * PNET_MULTIPLE // STRIDE, columns * PNET_MULTIPLE // STRIDE), np.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "MAX_TILE", tile)
        patch.setattr(detector, "TILE_MARGIN", 8)
        for row, column, probability, box_deltas in FaceDetector(means, means, means)._pnet_cells(levels):
            own = np.s_[:, row : row + probability.shape[1], column : column + probability.shape[2]]
            assert np.isnan(answered[own]).all()
            answered[own] = probability
            assert box_deltas[:, 3] == pytest.approx(3 * probability)
    expected = pictures.reshape(count, -1, STRIDE, columns * PNET_MULTIPLE // STRIDE, STRIDE, 3).mean(axis=(2, 4, 5))
    assert answered == pytest.approx(expected, rel=1e-4)
