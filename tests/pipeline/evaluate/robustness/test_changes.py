"""Each change does to a photo what its name says, and leaves faces where they are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from common.images import Pixels
from pipeline.evaluate.robustness.changes import CHANGES


def spot() -> Pixels:
    """Return a dim picture with a sharp light square left of the middle."""
    pixels = np.full((120, 160, 3), (60, 70, 80), np.uint8)
    pixels[40:80, 30:70] = (190, 180, 170)
    return pixels


def changed(name: str, pixels: Pixels, seed: int = 0) -> Pixels:
    return CHANGES[name](pixels, np.random.default_rng(seed))


@pytest.mark.parametrize("name", CHANGES)
def test_faces_stay_where_they_are(name: str) -> None:
    pixels = spot()
    out = changed(name, pixels)
    assert out.shape == pixels.shape and out.dtype == np.uint8
    assert np.array_equal(pixels, spot())
    light = out.astype(float).mean(axis=2)
    inside, outside = light[45:75, 35:65].mean(), light[:30].mean()
    rows, columns = (np.nonzero((light > (inside + outside) / 2).mean(axis=k) > 0.15)[0] for k in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((40, 79, 30, 69), abs=2)


@pytest.mark.parametrize("name", CHANGES)
def test_the_generator_alone_decides(name: str) -> None:
    assert np.array_equal(changed(name, spot(), 3), changed(name, spot(), 3))
    random = name in ("dark (0.4)", "very dark (0.25)", "low contrast (0.3)", "blue light", "orange light", "noise")
    assert np.array_equal(changed(name, spot(), 3), changed(name, spot(), 4)) != random


def test_light() -> None:
    square = slice(45, 75), slice(35, 65)
    means = {name: changed(name, spot())[square].mean(axis=(0, 1)) for name in CHANGES}
    assert means["as it is"] == pytest.approx([190, 180, 170])
    assert means["dark (0.4)"] == pytest.approx([76, 72, 68], abs=0.6)
    assert means["very dark (0.25)"] == pytest.approx([47.5, 45, 42.5], abs=0.6)
    assert means["low contrast (0.3)"] == pytest.approx([146.6, 143.6, 140.6], abs=0.6)
    assert means["blue light"] == pytest.approx([66.5, 108, 187], abs=0.6)
    assert means["orange light"] == pytest.approx([209, 108, 51], abs=0.6)


def test_detail() -> None:
    texture = np.random.default_rng(0).integers(60, 196, (120, 160, 3), dtype=np.uint8)

    def slopes(pixels: Pixels) -> tuple[float, float]:
        """Return the mean steps across and down."""
        values = pixels.astype(float)
        return np.abs(np.diff(values, axis=1)).mean(), np.abs(np.diff(values, axis=0)).mean()

    across, down = slopes(texture)
    blurred = slopes(changed("motion blur", texture))
    assert blurred[0] < 0.5 * across and blurred[1] > 1.2 * blurred[0]  # the camera moves across
    assert max(slopes(changed("half the pixels", texture))) < 0.5 * min(across, down)
    noise = changed("noise", np.full((120, 160, 3), 128, np.uint8)).astype(float)
    assert noise.std() == pytest.approx(15, abs=0.5)
    difference = np.abs(changed("JPEG, quality 15", texture).astype(float) - texture).mean()
    assert difference > 10


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 400, 3), (33, 2, 3)])
def test_photos_of_any_shape(name: str, shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    assert changed(name, pixels).shape == shape


def test_the_motion_grows_with_the_photo() -> None:
    edge = np.zeros((40, 400, 3), np.uint8)
    edge[:, 200:] = 255
    large = cv2.resize(edge, (1600, 160), interpolation=cv2.INTER_NEAREST)

    def ramp(pixels: Pixels) -> int:
        return int(np.count_nonzero(np.diff(changed("motion blur", pixels)[0, :, 0].astype(int))))

    assert (ramp(edge), ramp(large)) == (6, 24)
