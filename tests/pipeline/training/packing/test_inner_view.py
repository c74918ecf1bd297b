"""Classifiers with different inputs in one bundle: what each sees of the shared crop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipeline.training.packing.classifier_source import classifier_source
from pipeline.training.packing.inner_view import InnerView, inner_view, view_weights
from stage1_faces.training.export import onnx_function
from stage2_classifier.cropping import cut_crop
from stage2_classifier.models import build_model
from stage2_classifier.training.checkpoint import load_model, save_model
from tests.helpers.training.packing import ALL, META

WIDE, NARROW = replace(META, input_size=80, margin=0.35), replace(META, input_size=48, margin=0.1)


@pytest.mark.parametrize(("given", "share", "wanted"), [(80, 1.2 / 1.7, 48), (80, 1, 80), (80, 0.5, 48), (64, 1, 32)])
def test_each_new_pixel_is_a_mean(given: int, share: float, wanted: int) -> None:
    weights = view_weights(given, share, wanted)
    assert weights.shape == (wanted, given) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    centres = weights @ (np.arange(given) + 0.5)  # of what each pixel sees: evenly spaced around the middle
    middle = given / 2 + (np.arange(wanted) + 0.5 - wanted / 2) * given * share / wanted
    np.testing.assert_allclose(centres, middle, atol=0.1)


def test_a_whole_row_is_resized_as_crops_are() -> None:
    row = np.random.default_rng(0).uniform(0, 255, (80, 80)).astype(np.float32)
    smaller, larger = view_weights(80, 1, 48), view_weights(80, 1, 100)
    expected = cv2.resize(row, (48, 48), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(smaller @ row @ smaller.T, expected, atol=0.01)
    expected = cv2.resize(row, (100, 100), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(larger @ row @ larger.T, expected, atol=0.01)


def test_the_view_is_nearly_the_crop_that_it_stands_for() -> None:
    y, x = np.mgrid[:400, :500]
    photo = np.stack([127 + 100 * np.sin(x / 31 + k) * np.cos(y / 23) for k in range(3)], axis=2).astype(np.uint8)
    box = np.array([140.0, 90.0, 300.0, 260.0])
    wide, narrow = (cut_crop(photo, box, meta.margin, meta.input_size) for meta in (WIDE, NARROW))
    seen: list[torch.Tensor] = []
    model = torch.nn.Identity()
    model.register_forward_hook(lambda *values: seen.append(values[2]))
    view = inner_view(model, NARROW, WIDE)
    view(torch.from_numpy(wide.transpose(2, 0, 1)[None].astype(np.float32)))
    assert seen[0].shape == (1, 3, 48, 48)
    assert np.abs(seen[0][0].numpy().transpose(1, 2, 0) - narrow).mean() < 1.5


def test_the_same_input_needs_no_view() -> None:
    model = torch.nn.Identity()
    assert inner_view(model, WIDE, WIDE) is model
    assert isinstance(inner_view(model, replace(WIDE, input_size=64), WIDE), InnerView)
    with pytest.raises(ValueError, match=r"the margin 0\.1 does not hold one with 0\.35"):
        inner_view(model, WIDE, NARROW)


@pytest.mark.slow
def test_runs_with_different_inputs_are_averaged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, meta in (("narrow", NARROW), ("wide", WIDE)):
        model = build_model("small_cnn_half", ALL.outputs)
        own = replace(meta, has_objectness=True, has_box=True)
        save_model(tmp_path / name / "best.safetensors", model.state_dict(), own)
    source = classifier_source([tmp_path / "narrow", tmp_path / "wide"])
    assert (source.meta.input_size, source.meta.margin) == (80, 0.35)
    narrow, wide = source.origin["mean_of"]
    assert (narrow["input_size"], narrow["margin"]) == (48, 0.1) and "margin" not in wide
    pixels = np.random.default_rng(0).normal(0, 1, (2, 3, 80, 80)).astype(np.float32)
    given = onnx_function(source.export())(pixels)
    views = [np.eye(80, dtype=np.float32), view_weights(80, 1.2 / 1.7, 48)]
    with torch.no_grad():
        each = [
            load_model(tmp_path / name / "best.safetensors")[0].eval()(torch.from_numpy(view @ pixels @ view.T))
            for name, view in zip(("wide", "narrow"), views, strict=True)
        ]
    expected = torch.stack([one[:, :3].softmax(dim=1) for one in each]).mean(dim=0)
    np.testing.assert_allclose(given[0], expected, atol=1e-4)
    np.testing.assert_allclose(given[2], torch.stack(each).mean(dim=0)[:, 4:], atol=1e-3)
