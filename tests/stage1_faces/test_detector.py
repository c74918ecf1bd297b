"""FaceDetector: geometry worked by hand with fake nets of given outputs, and real nets on odd images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from common.boxes import area
from common.images import Pixels
from stage1_faces import detector
from stage1_faces.detector import (
    ONET2_BOX_WEIGHT,
    ONET2_WEIGHT,
    ONET_WEIGHT,
    PNET_ANCHOR,
    PNET_WEIGHT,
    RNET_WEIGHT,
    FaceDetector,
)
from stage1_faces.faces import Faces, Net
from stage1_faces.pyramid import PyramidLevel
from stage1_faces.roi_crop import GREY, Mipmaps
from stage1_faces.training.nets import ExportWrapper, build_net
from tests.stage1_faces.fake_nets import (
    CENTRED,
    KEEP_ALL,
    LIVELY,
    LOW,
    at_width,
    everywhere,
    fake_net,
    fake_pnet,
    grey,
    logit,
    one_cell,
)


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


@pytest.mark.slow
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
