"""FaceDetector: geometry worked by hand with fake nets of given outputs, and real nets on odd images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from common.boxes import area, iou
from stage1_faces import detector
from stage1_faces.anchors import box_anchors, decode
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import (
    ONET2_BOX_WEIGHT,
    ONET2_WEIGHT,
    ONET_WEIGHT,
    PNET_ANCHOR,
    PNET_WEIGHT,
    RNET_WEIGHT,
    FaceDetector,
)
from stage1_faces.face_logits import log_odds
from stage1_faces.faces import Faces, Net, Pixels
from stage1_faces.proposals import vote_boxes
from stage1_faces.pyramid import PyramidLevel
from stage1_faces.roi_crop import GREY, Mipmaps
from stage1_faces.training.nets import ExportWrapper, build_net

Cells = Callable[[int, int, int], np.ndarray]
# Low thresholds, independent of the defaults.
LOW = CascadeConfig(
    min_face=8, max_side=1280, pnet_threshold=0.02, rnet_threshold=0.02, onet2_threshold=0.01, score_threshold=0.5,
    max_pnet=200, max_rnet=100, max_onet2=100, nms_pnet=0.6, nms_rnet=0.6, nms_onet=0.45, soft_nms_sigma=0,
    box_voting_iou=0.6,
)  # fmt: skip
LIVELY = replace(LOW, min_face=6, pnet_threshold=0.3)  # for the nets of conftest, which find faces at many places
UNLIMITED = dict.fromkeys(("max_pnet", "max_rnet", "max_onet2"), 10_000)
KEEP_ALL = replace(LOW, nms_pnet=1, nms_rnet=1, nms_onet=1, box_voting_iou=1, **UNLIMITED)


def fake_pnet(
    cells: Cells, box_deltas: Sequence[float] = (0, 0, 0, 0), seen: list[tuple[int, ...]] | None = None
) -> Net:
    """Return a P-Net with the probabilities cells(N, rows, columns); every cell gives the same box deltas."""

    def net(pixels: np.ndarray) -> list[np.ndarray]:
        assert pixels.dtype == np.float32 and pixels.flags.c_contiguous
        n, _, height, width = pixels.shape
        assert height % 8 == width % 8 == 0
        if seen is not None:
            seen.append(pixels.shape)
        shape = (n, height // 4, width // 4)
        boxes = np.tile(np.float32(box_deltas)[None, :, None, None], (n, 1, *shape[1:]))
        return [np.asarray(cells(*shape), np.float32), boxes]

    return net


def fake_net(
    score: float | Callable[[np.ndarray], np.ndarray] = 0.5,
    box_deltas: Sequence[float] = (0, 0, 0, 0),
    points: Any = None,
) -> Net:
    """Return an R-Net or, with points (5, 2), an O-Net; the score may depend on the pixels."""

    def net(pixels: np.ndarray) -> list[np.ndarray]:
        assert pixels.dtype == np.float32 and pixels.flags.c_contiguous
        n = len(pixels)
        scores = score(pixels) if callable(score) else np.full(n, score)
        found = [np.asarray(scores, np.float32), np.tile(np.float32(box_deltas), (n, 1))]
        return found if points is None else [*found, np.tile(np.float32(points), (n, 1, 1))]

    return net


def one_cell(row: int, column: int, score: float = 0.5, only: tuple[int, int] | None = None) -> Cells:
    """Return a face probability in one cell, for inputs of `only` (rows, columns) if given."""

    def cells(n: int, height: int, width: int) -> np.ndarray:
        out = np.zeros((n, height, width))
        if only in (None, (height, width)):
            out[:, row, column] = score
        return out

    return cells


def everywhere(score: float) -> Cells:
    return lambda *shape: np.full(shape, score)


def grey(width: int, height: int) -> Pixels:
    return np.full((height, width, 3), 128, np.uint8)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


CENTRED = np.zeros((5, 2))


def test_decode_by_hand() -> None:
    anchor = np.float32([[100, 50, 20], [0, 0, 8]])
    box_deltas = np.float32([[0.5, -0.25, math.log(2), math.log(0.5)], [0, 0, 0, 0]])
    # Centre (100 + 0.5 * 20, 50 - 0.25 * 20), sides 40 and 10.
    assert decode(anchor, box_deltas) == pytest.approx(np.float32([[90, 40, 130, 50], [-4, -4, 4, 4]]), abs=1e-4)
    assert decode(anchor[:0], box_deltas[:0]).shape == (0, 4)


def test_decode_bounds_the_sides() -> None:
    wild = decode(np.float32([[0, 0, 2], [0, 0, 2]]), np.float32([[0, 0, 1000, -1000], [0, 0, np.inf, -np.inf]]))
    assert wild[:, 2] == pytest.approx([math.exp(4)] * 2)
    assert wild[:, 3] == pytest.approx([math.exp(-4)] * 2)


def test_the_anchor_unit_is_the_longer_side_of_at_least_a_pixel() -> None:
    boxes = np.float32([[10, 20, 30, 25], [10, 20, 15, 60], [5, 5, 5.25, 5.5]])
    assert box_anchors(boxes) == pytest.approx(np.float32([[20, 22.5, 20], [12.5, 40, 40], [5.125, 5.25, 1]]))
    assert box_anchors(boxes[:0]).shape == (0, 3)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_cell_of_each_level_gives_a_box_at_its_place(level: int) -> None:
    # At min_face 8 the first level of a 96x64 photo is the photo itself: 96x64, then 48x32, then 24x16 (no more: 12x8).
    step = 2**level
    rows, columns = 16 // step, 24 // step
    pnet = fake_pnet(one_cell(2, 3, only=(rows, columns)))
    config = LOW
    found = FaceDetector(pnet, fake_net(), fake_net(points=CENTRED), config).run_pnet([Mipmaps(grey(96, 64))])[0]
    # The cell's middle is the middle of the pixel (3 * 4, 2 * 4) of its level.
    x, y, half = 12.5 * step, 8.5 * step, PNET_ANCHOR / 2 * step
    assert found.boxes == pytest.approx(np.float32([[x - half, y - half, x + half, y + half]]), abs=1e-4)
    assert found.face_logits == pytest.approx([0], abs=1e-6)


def test_levels_halve_until_one_cell_sees_the_whole() -> None:
    seen: list[tuple[int, ...]] = []
    FaceDetector(fake_pnet(everywhere(0), seen=seen), fake_net(), fake_net(), LOW).run_pnet([Mipmaps(grey(100, 52))])
    # 100x52, 50x26, 25x13, 12x6 (rounded), padded to multiples of 8.
    assert seen == [(1, 3, 56, 104), (1, 3, 32, 56), (1, 3, 16, 32), (1, 3, 8, 16)]


def test_padding_is_grey_and_boxes_are_scaled_by_the_true_sides() -> None:
    pictures = []

    def pnet(pixels: np.ndarray) -> list[np.ndarray]:
        pictures.append(pixels)
        return fake_pnet(one_cell(1, 2, only=(10, 18)))(pixels)

    photo = np.full((52, 100, 3), 255, np.uint8)
    config = replace(KEEP_ALL, min_face=12)  # the first level is 67x35
    found = FaceDetector(pnet, fake_net(), fake_net(), config).run_pnet([Mipmaps(photo)])[0]
    assert pictures[0].shape == (1, 3, 40, 72)
    assert (pictures[0][..., :35, :67] == 255).all()
    assert (pictures[0][..., 35:, :] == GREY).all() and (pictures[0][..., 67:] == GREY).all()
    across, down, half = 100 / 67, 52 / 35, PNET_ANCHOR / 2
    expected = [(8.5 - half) * across, (4.5 - half) * down, (8.5 + half) * across, (4.5 + half) * down]
    expected[1] = max(expected[1], 0)
    assert found.boxes == pytest.approx(np.float32([expected]), abs=1e-3)


def test_box_deltas_of_all_three_nets_move_the_box() -> None:
    # P-Net moves it by 0.25 anchors to the right; R-Net and O-Net count in the box's longer side.
    pnet = fake_pnet(one_cell(8, 10), (0.25, 0, math.log(1.5), math.log(2)))
    rnet = fake_net(0.5, (0.1, 0, 0, 0))  # zeros make it a square of the longer side
    onet = fake_net(
        0.5, (0, -0.2, math.log(0.8), 0), np.float32([[-0.3, -0.2], [0.3, -0.2], [0, 0], [-0.2, 0.3], [0.2, 0.3]])
    )
    config = LOW
    faces = FaceDetector(at_width(pnet, 96), rnet, onet, config).detect(grey(96, 96), min_score=0)
    assert len(faces) == 1
    unit = 2 * PNET_ANCHOR
    x, y = 40.5 + 0.25 * PNET_ANCHOR + 0.1 * unit, 32.5
    seen = np.array([x, y - 0.2 * unit])  # first pass: 0.8 units wide, 1 unit high
    again = seen - [0, 0.2 * unit]
    middle, sides = ONET2_BOX_WEIGHT * again + (1 - ONET2_BOX_WEIGHT) * seen, np.array([0.8, 1]) * unit
    # The mirror image changes nothing here: no delta of O-Net points to one side.
    assert faces.boxes[0] == pytest.approx([*(middle - sides / 2), *(middle + sides / 2)], abs=1e-3)
    # Landmarks count from the box that the second pass reads.
    assert faces.landmarks[0] == pytest.approx(
        seen + unit * np.array([[-0.3, -0.2], [0.3, -0.2], [0, 0], [-0.2, 0.3], [0.2, 0.3]]), abs=1e-3
    )


def at_width(pnet: Net, width: int) -> Net:
    """Return the net for the level of the given width; other levels show no face."""

    def net(pixels: np.ndarray) -> list[np.ndarray]:
        probability, box_deltas = pnet(pixels) if pixels.shape[3] == width else fake_pnet(everywhere(0))(pixels)
        return [probability, box_deltas]

    return net


def test_the_score_weighs_all_three_nets() -> None:
    passes = iter([0.7, 0.9, 0.9])  # first pass; second pass; second pass on the mirror image

    def onet(pixels: np.ndarray) -> list[np.ndarray]:
        return fake_net(next(passes), points=CENTRED)(pixels)

    pnet = at_width(fake_pnet(one_cell(8, 10, 0.2)), 96)
    faces = FaceDetector(pnet, fake_net(0.4), onet, LOW).detect(grey(96, 96))
    logits = PNET_WEIGHT * logit(0.2) + RNET_WEIGHT * logit(0.4) + ONET_WEIGHT * logit(0.7) + ONET2_WEIGHT * logit(0.9)
    assert faces.scores == pytest.approx([1 / (1 + math.exp(-logits))], abs=1e-5)


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_certain_nets_give_finite_scores(certain: float) -> None:
    config = replace(LOW, pnet_threshold=0, rnet_threshold=0, onet2_threshold=0)
    nets = (at_width(fake_pnet(one_cell(8, 10, 1)), 96), fake_net(certain), fake_net(certain, points=CENTRED))
    faces = FaceDetector(*nets, config).detect(grey(96, 96), min_score=0)
    assert len(faces) and np.isfinite(faces.scores).all()
    assert np.isfinite(log_odds(np.float32([0, 1]))).all()


def test_each_threshold_holds() -> None:
    # R-Net's threshold holds for P-Net and R-Net together, O-Net's for all three, by their weights.
    odds = [PNET_WEIGHT * logit(0.3), RNET_WEIGHT * logit(0.4), ONET_WEIGHT * logit(0.8), ONET2_WEIGHT * logit(0.8)]
    shares = np.cumsum([PNET_WEIGHT, RNET_WEIGHT, ONET_WEIGHT, ONET2_WEIGHT])
    chances = 1 / (1 + np.exp(-np.cumsum(odds) / shares))
    nets = (at_width(fake_pnet(one_cell(8, 10, 0.3)), 96), fake_net(0.4), fake_net(0.8, points=CENTRED))
    assert chances[0] == pytest.approx(0.3) and shares[-1] == 1
    for name, chance in zip(
        ("pnet_threshold", "rnet_threshold", "onet2_threshold", "score_threshold"), chances, strict=True
    ):
        for floor, count in ((chance - 0.005, 1), (chance + 0.005, 0)):
            config = replace(LOW, **{"score_threshold": 0, name: floor})
            assert len(FaceDetector(*nets, config).detect(grey(96, 96))) == count, (name, floor)


@pytest.mark.parametrize(("name", "calls"), [("max_pnet", 0), ("max_rnet", 1), ("max_onet2", 2)])
def test_no_more_boxes_than_wanted_reach_the_next_net(name: str, calls: int) -> None:
    counts: list[list[int]] = [[], [], []]

    def counted(net: Net, k: int) -> Net:
        def count(pixels: np.ndarray) -> Sequence[np.ndarray]:
            counts[k].append(len(pixels))
            return net(pixels)

        return count

    rising = np.linspace(0.2, 0.8, 24 * 24).reshape(1, 24, 24)
    pnet = at_width(fake_pnet(lambda *_: rising), 96)
    passes = iter([1, 2, 2])

    def onet(pixels: np.ndarray) -> Sequence[np.ndarray]:
        return counted(fake_net(0.5, points=CENTRED), next(passes))(pixels)

    config = replace(LOW, **{"max_rnet": 12, "nms_onet": 0.9, name: 3})
    FaceDetector(pnet, counted(fake_net(0.5), 0), onet, config).detect(grey(96, 96))
    assert [sum(c) for c in counts[calls:]] == [3, 3, 6][calls:]


def test_the_best_boxes_are_the_ones_that_are_kept() -> None:
    scores = np.random.default_rng(0).permutation(24 * 24).reshape(1, 24, 24) / 1000 + 0.2
    pnet = at_width(fake_pnet(lambda *_: scores), 96)
    config = replace(KEEP_ALL, max_pnet=10)
    found = FaceDetector(pnet, fake_net(), fake_net(), config).run_pnet([Mipmaps(grey(96, 96))])[0]
    assert found.scores == pytest.approx(np.sort(scores.ravel())[::-1][:10], abs=1e-6)


def test_rows_stay_aligned_when_boxes_leave_the_image() -> None:
    # P-Net's box deltas throw every second box far out; the rest must keep their own scores.
    def pnet(pixels: np.ndarray) -> list[np.ndarray]:
        probability, box_deltas = fake_pnet(everywhere(0.5))(pixels)
        box_deltas[:, 0, :, ::2] = 100
        return [probability, box_deltas]

    def brightness(pixels: np.ndarray) -> np.ndarray:
        return pixels[:, :, 23:25, 23:25].mean(axis=(1, 2, 3)) / 255

    seen = []

    def rnet(pixels: np.ndarray) -> Sequence[np.ndarray]:
        seen.extend(pixels[:, 0, 15:17, 15:17].mean(axis=(1, 2)))
        return fake_net(0.5)(pixels)

    image = np.tile(np.arange(20, 116, dtype=np.uint8)[None, :, None] * 2, (40, 1, 3))
    # O-Net has two thirds of the weight: the slope makes its probability the score.
    config = replace(KEEP_ALL, onet2_threshold=0, slope=1 / (ONET_WEIGHT + ONET2_WEIGHT))
    faces = FaceDetector(at_width(pnet, 96), rnet, fake_net(brightness, points=CENTRED), config).detect(
        image, min_score=0
    )
    assert len(faces) == len(seen) == 10 * 12  # cells of every second column
    # R-Net's pixels and O-Net's scores grow by 2 per column.
    inside = (faces.boxes[:, 0] > 0) & (faces.boxes[:, 2] < 96)
    centre = faces.boxes[inside][:, [0, 2]].mean(axis=1)
    assert inside.sum() > 10
    assert faces.scores[inside] * 255 == pytest.approx((centre - 0.5 + 20) * 2, abs=1.5)
    assert faces.landmarks[inside][:, :, 0] == pytest.approx(np.tile(centre[:, None], 5), abs=1e-3)
    assert (np.diff(faces.scores) <= 0).all()


def test_rows_stay_aligned_when_the_second_pass_reverses_the_order() -> None:
    # Three bright squares of 16 px; O-Net's first pass scores by brightness, its second pass the other way round.
    image = np.zeros((64, 192, 3), np.uint8)
    places = {40: 120, 88: 170, 136: 220}
    for x, value in places.items():
        image[24:40, x - 8 : x + 8] = value
    cells = np.zeros((1, 16, 48))
    cells[0, 8, [x // 4 for x in places]] = 0.5
    calls = 0

    def onet(pixels: np.ndarray) -> list[np.ndarray]:
        nonlocal calls
        calls += 1
        bright = pixels[:, 0, 20:28, 20:28].mean(axis=(1, 2)) / 255
        return fake_net(lambda _: bright if calls == 1 else 0.95 - 0.9 * bright, points=CENTRED)(pixels)

    config = replace(KEEP_ALL, slope=1 / ONET2_WEIGHT, onet2_threshold=0)
    pnet = at_width(fake_pnet(lambda *_: cells), 192)
    faces = FaceDetector(pnet, fake_net(0.5), onet, config).detect(image, min_score=0)
    assert calls == 3
    assert [round(float(x)) for x in faces.boxes[:, [0, 2]].mean(axis=1)] == list(places)
    first = np.array([logit(value / 255) for value in places.values()])
    again = np.array([logit(0.95 - 0.9 * value / 255) for value in places.values()])
    logits = (ONET_WEIGHT * first + ONET2_WEIGHT * again) / ONET2_WEIGHT
    assert faces.scores == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-3)
    assert (np.diff(faces.scores) < 0).all() and np.diff(first).min() > 0
    assert faces.landmarks[:, 0, 0].round().tolist() == list(places)


def test_boxes_are_inside_the_image() -> None:
    nets = (fake_pnet(everywhere(0.5), (0, 0, 1, 0)), fake_net(0.5), fake_net(0.6, (0.4, 0, 1, -1), CENTRED))
    for size in ((40, 33), (1, 1), (300, 1)):
        faces = FaceDetector(*nets, replace(LOW, min_face=6)).detect(grey(*size), min_score=0)
        assert len(faces)
        assert (faces.boxes[:, :2] >= 0).all() and (faces.boxes[:, 2:] <= size).all()
        assert (area(faces.boxes) > 0).all()


SHAPES = [(1, 1), (1, 300), (300, 1), (7, 9), (2, 3), (8, 8), (17, 16), (64, 65), (33, 257)]


@pytest.mark.parametrize("shape", SHAPES)
def test_images_without_a_face(shape: tuple[int, int]) -> None:
    # Untrained nets: P-Net gives low probabilities.
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    faces = _torch_detector({name: ExportWrapper(build_net(name)).eval() for name in ("pnet", "rnet", "onet")}).detect(
        image
    )
    assert len(faces) == 0
    assert (faces.boxes.shape, faces.scores.shape, faces.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))


@pytest.mark.parametrize("last", [0, 1, 2])
def test_nothing_passes_one_net(last: int) -> None:
    # When one net rejects everything, the result is empty and the nets after it are not called.
    scores = [0.0 if k == last else 0.9 for k in range(3)]
    nets = (fake_pnet(everywhere(scores[0])), fake_net(scores[1]), fake_net(scores[2], points=CENTRED))
    assert [len(f) for f in FaceDetector(*nets).detect_batch([grey(50, 40), grey(9, 7)])] == [0, 0]


def test_no_images() -> None:
    assert FaceDetector(fake_pnet(everywhere(1)), fake_net(), fake_net(points=CENTRED)).detect_batch([]) == []


@pytest.mark.parametrize(
    "image",
    [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros((9, 9, 3))],
)
def test_refuses_arrays_that_are_not_rgb_images(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        FaceDetector(fake_pnet(everywhere(1)), fake_net(), fake_net(points=CENTRED)).detect(image)


def test_min_face_and_max_side_set_the_largest_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "MAX_TILE", 1024)  # so that every level is one tile
    seen: list[tuple[int, ...]] = []
    nets = (fake_pnet(everywhere(0), seen=seen), fake_net(), fake_net(points=CENTRED))
    found = FaceDetector(*nets, replace(LOW, max_side=320))
    photo = grey(480, 32)

    def largest(**options: float) -> tuple[int, ...]:
        seen.clear()
        found.detect(photo, **options)
        return seen[0][2:]

    assert largest() == (24, 320)
    assert largest(min_face=32) == (8, 120)
    # The caller's smallest face holds for photos of any size.
    assert largest(min_face=8) == (32, 480)
    assert largest(min_face=4) == (64, 960)
    assert found.config.min_face == 8 and found.config.max_side == 320


@pytest.mark.parametrize("soft", [0, 0.3])
def test_min_score_replaces_the_last_threshold_only(soft: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    brightness = fake_net(lambda pixels: pixels[..., 16:32, 16:32].mean((1, 2, 3)) / 255, points=CENTRED)
    nets = (at_width(fake_pnet(everywhere(0.5)), 64), fake_net(0.5), brightness)
    found = FaceDetector(*nets, replace(LOW, nms_pnet=0.3, soft_nms_sigma=soft))
    everything, default = found.detect(image, min_score=0), found.detect(image)
    assert everything.scores.min() < 0.5
    assert len(everything) > len(default) > 0
    for floor in (0.5, float(np.median(everything.scores))):
        some = found.detect(image, min_score=floor)
        assert some.scores.tolist() == everything.scores[everything.scores >= floor].tolist()
        assert some.boxes.tolist() == everything.boxes[: len(some)].tolist()
    assert default.scores.tolist() == everything.scores[everything.scores >= 0.5].tolist()


@pytest.mark.parametrize("options", [{"min_face": 0.5}, {"min_score": 1.5}, {"min_score": -0.1}])
def test_refuses_calls_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        FaceDetector(fake_pnet(everywhere(1)), fake_net(), fake_net(points=CENTRED)).detect(grey(9, 9), **options)


COUNTS = ("min_face", "max_side", "max_pnet", "max_rnet", "max_onet2")
SHARES = (
    *("pnet_threshold", "rnet_threshold", "onet2_threshold", "score_threshold"),
    *("nms_pnet", "nms_rnet", "nms_onet", "box_voting_iou"),
)
WRONG = {
    **dict.fromkeys(COUNTS, (0, 0.99, -1, math.nan)),
    **dict.fromkeys(SHARES, (-0.01, 1.01, math.nan)),
    "soft_nms_sigma": (-0.01, math.inf, math.nan),
    "slope": (0, -1, math.inf, math.nan),
    "intercept": (math.inf, -math.inf, math.nan),
}


@pytest.mark.parametrize("name", [f.name for f in fields(CascadeConfig)])
def test_config_refuses_values_out_of_range(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=name):
            CascadeConfig(**{name: value})


def test_slope_and_intercept_change_scores_and_nothing_else(untrained_nets: dict[str, Net], grace: Pixels) -> None:
    image = cv2.resize(grace, (128, 150))
    plain = FaceDetector(**untrained_nets, config=LIVELY).detect(image, min_score=0)
    config = replace(LIVELY, slope=1.7, intercept=-0.4)
    fitted = FaceDetector(**untrained_nets, config=config).detect(image, min_score=0)
    assert len(plain) > 3
    assert fitted.boxes.tolist() == plain.boxes.tolist()
    assert fitted.landmarks.tolist() == plain.landmarks.tolist()
    assert log_odds(fitted.scores) == pytest.approx(1.7 * log_odds(plain.scores) - 0.4, abs=1e-3)


def test_flip_tta_is_symmetric() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.02, (3 * 48 * 48, 15))

    def lopsided(pixels: np.ndarray) -> list[np.ndarray]:
        out = pixels.reshape(len(pixels), -1) / 255 @ weights
        return [1 / (1 + np.exp(-out[:, 0])), out[:, 1:5], out[:, 5:].reshape(-1, 5, 2)]

    both = detector.with_flip_tta(lopsided)
    pixels = rng.uniform(0, 255, (3, 3, 48, 48)).astype(np.float32)
    mirror = np.ascontiguousarray(pixels[..., ::-1])
    (score, box_deltas, points), (m_score, m_deltas, m_points) = both(pixels), both(mirror)
    assert not np.allclose(lopsided(pixels)[0], lopsided(mirror)[0], atol=0.01)
    assert m_score == pytest.approx(score, abs=1e-6)
    # In the mirror image, the box is on the other side and has the same sides; so do eyes and mouth corners.
    assert m_deltas == pytest.approx(box_deltas * [-1, 1, 1, 1], abs=1e-6)
    eyes_swapped = points[:, [1, 0, 2, 4, 3]] * [-1, 1]
    assert m_points == pytest.approx(eyes_swapped, abs=1e-6)


def test_both_images_have_the_same_weight() -> None:
    def onet(pixels: np.ndarray) -> list[np.ndarray]:
        # High for windows that are bright at the left; box and landmarks shift there.
        left = pixels[:, 0, 0, 0] > pixels[:, 0, 0, -1]
        scores = np.where(left, 0.9, 0.2).astype(np.float32)
        box_deltas = np.where(left, 0.2, 0.1)[:, None] * np.float32([1, 1, 1, 1])
        points = np.tile(np.where(left, 0.3, 0.1)[:, None, None], (1, 5, 2)) * np.float32([1, 2])
        return [scores, box_deltas.astype(np.float32), points.astype(np.float32)]

    pixels = np.zeros((1, 3, 48, 48), np.float32)
    pixels[..., :24] = 255
    score, box_deltas, points = detector.with_flip_tta(onet)(pixels)
    assert score == pytest.approx([1 / (1 + math.exp(-(logit(0.9) + logit(0.2)) / 2))], abs=1e-5)
    assert box_deltas[0] == pytest.approx([(0.2 - 0.1) / 2, 0.15, 0.15, 0.15], abs=1e-6)
    assert points[0] == pytest.approx(np.tile([(0.3 - 0.1) / 2, (0.6 + 0.2) / 2], (5, 1)), abs=1e-6)


def test_soft_nms_lowers_boxes_over_a_better_face() -> None:
    # Three bright bars: two next to each other, one apart; brightness is the score.
    image = np.zeros((64, 192, 3), np.uint8)
    places = {40: 230, 44: 200, 136: 190}
    for x, value in places.items():
        image[24:40, x - 2 : x + 2] = value
    cells = np.zeros((1, 16, 48))
    cells[0, 8, [x // 4 for x in places]] = 0.5

    def found(soft: float, onet: float) -> Faces:
        brightness = fake_net(lambda pixels: pixels[:, 0, 23:25, 23:25].mean(axis=(1, 2)) / 255, points=CENTRED)
        config = replace(
            KEEP_ALL,
            onet2_threshold=0,
            slope=1 / (ONET_WEIGHT + ONET2_WEIGHT),
            soft_nms_sigma=soft,
            score_threshold=onet,
        )
        return FaceDetector(at_width(fake_pnet(lambda *_: cells), 192), fake_net(0.5), brightness, config).detect(image)

    plain, soft = found(0, 0), found(0.3, 0)
    centres = plain.boxes[:, [0, 2]].mean(axis=1)
    assert centres.round().tolist() == list(places)
    (overlap,) = iou(plain.boxes[:1], plain.boxes[1:2])[0]
    assert 0.2 < overlap < 0.8
    lowered = plain.scores[1] * math.exp(-(overlap**2) / 0.3)
    assert soft.scores == pytest.approx([plain.scores[0], plain.scores[2], lowered], rel=1e-4)
    assert soft.boxes.tolist() == plain.boxes[[0, 2, 1]].tolist()
    assert soft.landmarks.tolist() == plain.landmarks[[0, 2, 1]].tolist()
    # Faces whose score falls below the threshold are removed.
    above = found(0.3, float(lowered) + 1e-3)
    assert above.boxes.tolist() == soft.boxes[:2].tolist()


def test_box_votes_are_weighted_by_score() -> None:
    boxes = np.float32([[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60], [0, 0, 10, 30]])
    scores = np.float32([0.9, 0.3, 0.8, 0.7])
    # IoU of the first two: 80 / 120; the last one overlaps the first by 100 / 300.
    voted = vote_boxes(boxes, scores, np.array([0, 2]), 0.6)
    assert voted == pytest.approx(np.float32([[0.5, 0, 10.5, 10], [50, 50, 60, 60]]), abs=1e-5)
    assert vote_boxes(boxes, scores, np.array([0, 2]), 1.0) == pytest.approx(boxes[[0, 2]], abs=1e-5)
    assert vote_boxes(boxes[:0], scores[:0], np.zeros(0, np.intp), 0.6).shape == (0, 4)


def test_box_voting_moves_faces() -> None:
    # Two boxes 4 px apart, of scores 0.6 and 0.3: IoU 0.65 for boxes of 18.8 px.
    def cells(n: int, rows: int, columns: int) -> np.ndarray:
        out = np.zeros((n, rows, columns))
        out[:, 8, 10], out[:, 8, 11] = 0.6, 0.3
        return out

    pnet = at_width(fake_pnet(cells, (0, 0, math.log(5 / 3), math.log(5 / 3))), 96)
    nets = (pnet, fake_net(0.5), fake_net(0.5, points=CENTRED))
    config = replace(LOW, nms_pnet=0.9, nms_rnet=0.9, nms_onet=0.4, box_voting_iou=0.6)
    loud, alone = (
        FaceDetector(*nets, c).detect(grey(96, 96), min_score=0) for c in (config, replace(config, box_voting_iou=1))
    )
    assert len(loud) == len(alone) == 1
    odds = PNET_WEIGHT / (PNET_WEIGHT + RNET_WEIGHT + ONET_WEIGHT)
    first, second = (1 / (1 + math.exp(-odds * logit(p))) for p in (0.6, 0.3))
    assert alone.boxes[0, [0, 2]].mean() == pytest.approx(40.5, abs=1e-3)
    assert loud.boxes[0, [0, 2]].mean() == pytest.approx(40.5 + 4 * second / (first + second), abs=1e-3)
    assert loud.boxes[0, [1, 3]].tolist() == pytest.approx(alone.boxes[0, [1, 3]].tolist(), abs=1e-3)


def test_each_net_sees_its_window_around_the_box() -> None:
    # A white square of 16 px in black; the proposal is exactly on it.
    image = np.zeros((96, 96, 3), np.uint8)
    image[24:40, 32:48] = 255
    box_deltas = (-0.5 / PNET_ANCHOR, -0.5 / PNET_ANCHOR, *[math.log(16 / PNET_ANCHOR)] * 2)
    windows: dict[str, np.ndarray] = {}

    def kept(name: str, net: Net) -> Net:
        def keep(pixels: np.ndarray) -> Sequence[np.ndarray]:
            windows[name] = pixels
            return net(pixels)

        return keep

    nets = (
        at_width(fake_pnet(one_cell(8, 10), box_deltas), 96),
        kept("rnet", fake_net(0.5)),
        kept("onet", fake_net(0.5, points=CENTRED)),
    )
    FaceDetector(*nets, LOW).detect(image)
    for name, side, context in (("rnet", 32, 2.0), ("onet", 48, 1.2)):
        (window,) = windows[name]
        assert window.shape == (3, side, side)
        # The face fills 1 / context of the side, in the middle.
        low, high = side * (1 - 1 / context) / 2, side * (1 + 1 / context) / 2
        for line in (window[0, side // 2], window[0, :, side // 2]):
            white = np.nonzero(line > 127)[0]
            assert (white[0], white[-1] + 1) == pytest.approx((low, high), abs=0.5)


def _torch_detector(nets: dict[str, nn.Module]) -> FaceDetector:
    def function(net: nn.Module) -> Net:
        def run(pixels: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                return [output.numpy() for output in net(torch.from_numpy(pixels))]

        return run

    return FaceDetector(**{name: function(net) for name, net in nets.items()}, config=replace(LOW, pnet_threshold=0.03))


def _check_same(some: Faces, others: Faces) -> None:
    """Check for the same faces up to float rounding, which may swap two of nearly equal score."""
    assert len(some) == len(others)
    if not len(some):
        return
    distance = np.abs(some.boxes[:, None] - others.boxes).max(axis=2)
    partner = distance.argmin(axis=1)
    assert sorted(partner) == list(range(len(some)))
    assert distance.min(axis=1).max() < 0.01
    assert others.scores[partner] == pytest.approx(some.scores, abs=1e-4)
    assert others.landmarks[partner] == pytest.approx(some.landmarks, abs=0.01)


def test_a_batch_of_mixed_sizes_gives_what_single_calls_give(untrained_nets: dict[str, Net], grace: Pixels) -> None:
    small = cv2.resize(grace, (128, 150))
    # P-Net takes levels of equal shape together, O-Net windows of several photos.
    images = [small, grey(40, 30), small[10:80, 20:90], small[::-1].copy(), grey(1, 1), small]
    found = FaceDetector(**untrained_nets, config=LIVELY)
    together = found.detect_batch(images, min_score=0)
    assert sum(len(f) for f in together) > 20
    for alone, one in zip([found.detect(i, min_score=0) for i in images], together, strict=True):
        _check_same(alone, one)


def test_tiles_give_the_cells_of_the_whole(
    untrained_nets: dict[str, Net], grace: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = cv2.resize(grace, (250, 203))
    found = FaceDetector(**untrained_nets)
    levels = [PyramidLevel(0, cv2.copyMakeBorder(image, 0, 5, 0, 6, cv2.BORDER_REPLICATE), np.ones(2, np.float32))] * 2

    def cells() -> np.ndarray:
        out = np.full((2, 5, 52, 64), np.nan, np.float32)
        for row, column, probability, box_deltas in found._pnet_cells(levels):
            high, wide = probability.shape[1:]
            assert np.isnan(out[..., row : row + high, column : column + wide]).all(), "a cell twice"
            out[:, 0, row : row + high, column : column + wide] = probability
            out[:, 1:, row : row + high, column : column + wide] = box_deltas
        return out

    whole = cells()
    assert not np.isnan(whole).any() and whole[:, 0].std() > 0.02
    for side in (64, 72, 104, 200):
        monkeypatch.setattr(detector, "MAX_TILE", side)
        assert cells() == pytest.approx(whole, abs=1e-4), side
    # The comparison detects a margin that is too narrow.
    monkeypatch.setattr(detector, "TILE_MARGIN", 16)
    assert np.abs(cells() - whole).max() > 1e-3


def test_tiles_give_the_faces_of_the_whole(
    untrained_nets: dict[str, Net], grace: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = cv2.resize(grace, (150, 128))
    found = FaceDetector(**untrained_nets, config=LIVELY)
    whole = found.detect(image, min_score=0)
    assert len(whole) > 3
    for side in (64, 104):
        monkeypatch.setattr(detector, "MAX_TILE", side)
        _check_same(whole, found.detect(image, min_score=0))


def test_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    windows: list[int] = []

    def counted(pixels: np.ndarray) -> list[np.ndarray]:
        windows.append(len(pixels))
        return fake_net(0.5, points=CENTRED if pixels.shape[-1] == 48 else None)(pixels)

    monkeypatch.setattr(detector, "MAX_TILE", 64)
    found = FaceDetector(fake_pnet(everywhere(0.5), seen=seen), counted, counted, LOW)
    found.detect_batch([grey(64, 32)] * 9 + [grey(200, 160)])
    limit = 64 + 2 * detector.TILE_MARGIN
    assert all(height <= limit and width <= limit for _, _, height, width in seen)
    assert all(n * height * width <= 64**2 for n, _, height, width in seen if n > 1)
    assert max(windows) <= 64
