"""O-Net's two passes, worked by hand with fake nets: mirror images, soft NMS, box voting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest

from common.boxes import iou
from common.images import Pixels
from stage1_faces import detector
from stage1_faces.detector import (
    ONET2_WEIGHT,
    ONET_WEIGHT,
    PNET_ANCHOR,
    PNET_WEIGHT,
    RNET_WEIGHT,
    FaceDetector,
)
from stage1_faces.face_logits import log_odds
from stage1_faces.faces import Faces, Net
from stage1_faces.proposals import vote_boxes
from tests.stage1_faces.fake_nets import (
    CENTRED,
    KEEP_ALL,
    LIVELY,
    LOW,
    at_width,
    fake_net,
    fake_pnet,
    grey,
    logit,
    one_cell,
)


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


def test_without_a_second_look_the_score_is_as_if_it_agreed() -> None:
    seen: list[int] = []
    onet = fake_net(0.8, points=CENTRED)

    def counted(pixels: np.ndarray) -> list[np.ndarray]:
        seen.append(len(pixels))
        return onet(pixels)

    pnet = fake_pnet(one_cell(2, 3, only=(16, 24)))
    config = replace(LOW, score_threshold=0.1, second_look=False, slope=1.5, intercept=-0.25)
    found = FaceDetector(pnet, fake_net(0.7), counted, config).detect(grey(96, 64))
    assert seen == [1] and len(found) == 1
    weights = PNET_WEIGHT + RNET_WEIGHT + ONET_WEIGHT
    logits = PNET_WEIGHT * logit(0.5) + RNET_WEIGHT * logit(0.7) + ONET_WEIGHT * logit(0.8)
    assert log_odds(found.scores) == pytest.approx([1.5 * logits / weights - 0.25], abs=1e-4)
    # The box is the first pass's, and so are the landmarks: here the middle of the window.
    half = PNET_ANCHOR / 2
    assert found.boxes[0] == pytest.approx([12.5 - half, 8.5 - half, 12.5 + half, 8.5 + half], abs=1e-3)
    assert found.landmarks[0] == pytest.approx(np.tile(np.float32([12.5, 8.5]), (5, 1)), abs=1e-3)
    # With it, O-Net reads the box again, and its mirror image.
    seen.clear()
    FaceDetector(pnet, fake_net(0.7), counted, replace(config, second_look=True)).detect(grey(96, 64))
    assert seen == [1, 1, 1]
