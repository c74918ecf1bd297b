"""The parts of the exported graph against the numpy and OpenCV code that they stand for."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxscript import GraphBuilder

from common import boxes as numpy_boxes
from common.images import MAX_PIXELS
from pipeline.export.graph import ops, resizing
from pipeline.export.graph.crops import cut_crops
from pipeline.export.graph.ops import Value, constant
from pipeline.export.graph.pyramid import first_level, first_scale
from pipeline.export.graph.resizing import double, halve, halve_planes, resample
from pipeline.export.graph.windows import build_mipmaps, crop_windows
from stage1_faces.anchors import box_anchors
from stage1_faces.cascade_config import MIN_LEVEL_FACE, CascadeConfig, smallest_min_face
from stage1_faces.pyramid import build_pyramid
from stage1_faces.roi_crop import GREY, Mipmaps, halved
from stage2_classifier.cropping import cut_window, resize_crop
from tests.helpers.onnx_graphs import run_part


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a random picture that is smooth over some pixels, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 4 + 2, width // 4 + 2, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def random_boxes(rng: np.random.Generator, count: int, width: float, height: float) -> np.ndarray:
    """Return boxes, some of which stick out of the picture."""
    centre = rng.uniform(-0.05, 1.05, (count, 2)) * (width, height)
    sides = np.exp(rng.uniform(np.log(4), np.log(max(width, height, 8)), (count, 2)))
    return np.concatenate([centre - sides / 2, centre + sides / 2], axis=1).astype(np.float32)


SHAPES = [(60, 80), (61, 83), (40, 40), (97, 31), (1, 9), (2, 2), (1, 1)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("strip", [1_000_000, 100])
def test_halves_are_those_of_the_cascade(height: int, width: int, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "STRIP_PIXELS", strip)
    pixels = picture(height, width)
    (found,) = run_part(lambda b, x: halve(b.op, x), {"x": pixels})
    assert found.dtype == np.uint8 and found.tolist() == halved(pixels).tolist()
    (in_planes,) = run_part(lambda b, x: halve_planes(b.op, x), {"x": planes(pixels).astype(np.float32)})
    assert in_planes.tolist() == planes(halved(pixels)).tolist()


@pytest.mark.parametrize(("height", "width"), [(40, 55), (60, 82), (31, 300), (30, 41), (29, 22), (16, 21), (1, 1)])
def test_resampling_is_that_of_opencv(height: int, width: int) -> None:
    pixels = picture(30, 41)
    expected = planes(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR_EXACT))
    (found,) = run_part(lambda b, x: resample(b.op, x, constant(b.op, [height, width])), {"x": pixels})
    assert found.tolist() == expected.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width"), [(496, 496), (100, 150), (40, 401), (31, 16), (1, 1), (1, 60), (240, 3072)]
)
@pytest.mark.parametrize("min_face", [4.0, 6.0, 11.5, 16.0, 30.72, 40.0, 270.0, 2000.0])
def test_levels_are_those_of_the_cascade(height: int, width: int, min_face: float) -> None:
    """Also a few pixels, where the smallest face is larger than the picture."""
    pixels = picture(height, width)
    config = CascadeConfig(min_face=min_face, max_side=math.inf)
    expected = list(build_pyramid(0, Mipmaps(pixels), config))

    def build(b: GraphBuilder, image: Value) -> tuple[Value, Value]:
        size = constant(b.op, np.array([width, height], np.float64))
        return first_level(b, build_mipmaps(b, image), size, double(b.op, MIN_LEVEL_FACE / min_face))

    found, step = run_part(build, {"image": pixels})
    for level in expected:
        rows, columns = found.shape[2:]
        assert found.tolist() == planes(level.picture[:rows, :columns]).tolist()
        assert (level.picture[rows:] == GREY).all() and (level.picture[:, columns:] == GREY).all()
        np.testing.assert_allclose(step, level.step, rtol=1e-6)
        (found,), step = run_part(lambda b, x: halve_planes(b.op, x), {"x": found}), step * 2


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (4000, 3000), (11_000, 8000), (1, 89_000_000)])
@pytest.mark.parametrize("min_face", [0.0, -1.0, 1e-30, 0.001, 0.5, 1.0, 1.5, 6.0, 40.0])
def test_the_search_is_bounded_as_that_of_predictor(size: tuple[int, int], min_face: float) -> None:
    config = CascadeConfig()

    def build(b: GraphBuilder, size: Value, min_face: Value) -> Value:
        return ops.as_float(b.op, first_scale(b.op, b.op.Cast(size, to=resizing.DOUBLE), min_face, config))

    (scale,) = run_part(build, {"size": np.array(size, np.float32), "min_face": np.array(min_face, np.float32)})
    bounded = max(min_face, 1.0, smallest_min_face(size, MAX_PIXELS))
    searched = bounded if min_face > 0 else config.min_face_for(size)
    assert scale == pytest.approx(MIN_LEVEL_FACE / searched, rel=1e-6)


@pytest.mark.parametrize("side", [1, 7, 40, 80, 81, 133, 160, 500])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_crops_are_those_of_the_classifier(side: int, share: float) -> None:
    """The windows are inside the image, or partly or nearly all outside."""
    image = picture(180, 160)
    left, top = 100 - int(100 * share) - int(side * share), 20 - int(20 * share) - int(side * share)
    windows = [(left, top, left + side, top + side), (100, 100, 130, 130)]
    corners, sides = (np.array([w[:2] for w in windows]), np.array([[w[2] - w[0]] for w in windows]))
    (found,) = run_part(
        lambda b, x, corners, sides: cut_crops(b, x, (corners, sides), 80),
        {"x": image, "corners": corners, "sides": sides},
    )
    for crop, (x1, y1, x2, y2) in zip(found, windows, strict=True):
        expected = resize_crop(cut_window(image, (x1, y1, x2, y2)), 80)
        assert np.abs(crop - planes(expected)[0]).max() <= 1
        assert (crop == planes(expected)[0]).mean() > 0.999


@pytest.mark.parametrize(("height", "width"), [(120, 160), (121, 87), (1, 1), (1, 50), (64, 3)])
@pytest.mark.parametrize("side", [32, 48])
def test_windows_are_those_of_the_cascade(height: int, width: int, side: int) -> None:
    pixels = picture(height, width)
    boxes = random_boxes(np.random.default_rng(1), 40, width, height)
    anchors = box_anchors(boxes)
    half = anchors[:, 2:] * 0.6
    squares = np.concatenate([anchors[:, :2] - half, anchors[:, :2] + half], axis=1)
    expected = Mipmaps(pixels).crop_boxes(squares, side).transpose(0, 3, 1, 2)
    found_anchors, found = run_part(
        lambda b, image, boxes: crop_windows(b.op, build_mipmaps(b, image), boxes, 1.2, side),
        {"image": pixels, "boxes": boxes},
    )
    np.testing.assert_allclose(found_anchors, anchors, rtol=1e-5)
    difference = np.abs(found - expected)
    assert difference.max() <= 1 and (difference == 0).mean() > 0.9999


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([0.3, 0.5, 0.65]))
def test_suppression_is_that_of_the_detector(seed: int, count: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, count, 50, 50), rng.permutation(count).astype(np.float32) / count
    (kept,) = run_part(lambda b, x, s: ops.nms(b.op, x, s, 1000, threshold), {"x": boxes, "s": scores})
    assert kept.tolist() == numpy_boxes.nms(boxes, scores, threshold).tolist()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_soft_suppression_is_that_of_the_detector(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, count, 40, 40), rng.uniform(0.1, 1, count).astype(np.float32)
    (found,) = run_part(lambda b, x, s: ops.soft_nms(b, x, s, 0.3), {"x": boxes, "s": scores})
    order, decayed = numpy_boxes.soft_nms(boxes, scores, 0.3)
    np.testing.assert_allclose(found[order], decayed, rtol=1e-4, atol=1e-6)
