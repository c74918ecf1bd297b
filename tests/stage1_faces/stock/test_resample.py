"""Area resampling against torch's adaptive average pooling, which the stock weights were made for."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from stage1_faces.stock import resample
from stage1_faces.stock.resample import WindowSampler, area_resize


def torch_area(image, height, width):
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    return interpolate(tensor, size=(height, width), mode="area")[0].permute(1, 2, 0).numpy()


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(12, 12), (20, 37), (37, 53), (74, 61), (1, 1), (90, 7)])
@pytest.mark.parametrize("most_pixels", [1 << 22, 53 * 3, 1])
def test_area_resize_is_torchs(image, size, most_pixels, monkeypatch):
    monkeypatch.setattr(resample, "MAX_PIXELS", most_pixels)
    assert area_resize(image, *size) == pytest.approx(torch_area(image, *size), abs=1e-3)


@pytest.mark.parametrize("most_pixels", [1 << 22, 10])
def test_windows_are_torchs_on_each_cut(image, most_pixels, monkeypatch):
    monkeypatch.setattr(resample, "MAX_PIXELS", most_pixels)
    boxes = np.array([[0, 0, 53, 37], [3, 5, 4, 6], [10, 7, 40, 31], [50, 0, 53, 37]])
    windows = WindowSampler(image).windows(boxes, 24)
    for (x1, y1, x2, y2), window in zip(boxes, windows, strict=True):
        assert window == pytest.approx(torch_area(image[y1:y2, x1:x2], 24, 24), abs=1e-3)


def test_no_windows(image):
    assert WindowSampler(image).windows(np.zeros((0, 4), np.intp), 24).shape == (0, 24, 24, 3)
