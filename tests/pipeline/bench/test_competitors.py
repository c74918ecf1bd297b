"""The detectors that the benchmark times: each does the work that it is timed for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from pipeline.bench.competitors import (
    CASCADE,
    CLASSIFIER,
    INPUT_SIDE,
    PIPELINE,
    NaivePipeline,
    OneStageDetector,
    OwnPipeline,
    letterbox,
)
from pipeline.bench.yolo11n_sized import Yolo11nSizedNet
from pipeline.detect.demo.command import portrait
from pipeline.inference.bundle import Bundle
from pipeline.inference.predictor import Predictor
from stage1_faces.training.export import to_onnx


class Mean(nn.Module):
    """Outputs the mean of its input."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean()[None]


def graph(side: int = INPUT_SIDE, channels: int = 3) -> bytes:
    return to_onnx(Mean(), (1, channels, side, side), {}, ("answer",))


def test_our_stages_are_the_pipelines() -> None:
    ours = OwnPipeline(Bundle.load(), 40, threads=1)
    rows = {row.name: row for row in ours.timed_detectors(4)}
    assert list(rows) == [PIPELINE, f"{PIPELINE}, by 4", CASCADE, CLASSIFIER]
    assert PIPELINE in {row.name for row in ours.timed_detectors(1)} and len(ours.timed_detectors(1)) == 3
    face, wall = portrait(), np.full((200, 100, 3), 128, np.uint8)
    assert rows[PIPELINE].count_faces([face, wall]) == [len(Predictor.default().detect(face, min_face=40)), 0]
    found = rows[CASCADE].count_faces([face, wall])
    assert found[0] >= 1 and rows[CLASSIFIER].count_faces([face, wall]) == found
    with pytest.raises(ValueError, match="stage 1 saw last"):
        rows[CLASSIFIER].count_faces([wall, face])


def test_the_smallest_face_is_the_one_that_the_cascade_looks_for() -> None:
    bundle = Bundle.load()
    photo, large = np.zeros((300, 400, 3), np.uint8), np.zeros((1600, 800, 3), np.uint8)
    ours = OwnPipeline(bundle, None, threads=1)
    assert ours.min_face_for(photo) == bundle.meta.search.min_face == 6
    assert ours.min_face_for(large) == 16  # 8 px at a largest level of 800
    assert OwnPipeline(bundle, 30, threads=1).min_face_for(large) == 30


def test_the_naive_pipeline_classifies_what_it_finds() -> None:
    sizes: list[torch.Size] = []
    naive = NaivePipeline("mobilenetv3_small_100", lambda photo: 40)
    naive._model.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape))
    face, wall = portrait(), np.full((200, 100, 3), 128, np.uint8)
    assert naive.run_mtcnn([face, wall]) == [1, 0] and sizes == []
    assert naive.detect([face, wall]) == [1, 0] and sizes == [(1, 3, 224, 224)]


def test_the_naive_pipeline_uses_the_smallest_face_given(monkeypatch: pytest.MonkeyPatch) -> None:
    naive = NaivePipeline("mobilenetv3_small_100", lambda photo: photo.shape[0] / 10)
    seen: list[float] = []

    def detect(photo: np.ndarray) -> tuple[None, None]:
        seen.append(naive._mtcnn.min_face_size)
        return None, None

    monkeypatch.setattr(naive._mtcnn, "detect", detect)
    assert naive.detect([np.zeros((300, 200, 3), np.uint8), np.zeros((80, 200, 3), np.uint8)]) == [0, 0]
    assert seen == [30, 8]


def test_a_box_at_or_beyond_the_edge_gives_a_crop() -> None:
    naive = NaivePipeline("mobilenetv3_small_100", lambda photo: 20)
    photo = np.zeros((50, 60, 3), np.uint8)
    for box in ([-20, -20, 5, 5], [59.9, 49.9, 80, 80], [70, 70, 90, 90], [10, 10, 10, 10]):
        assert naive._classify(photo, np.float32(box)) in (0, 1, 2)


@pytest.mark.slow
def test_a_one_stage_detector_takes_letterboxed_photos(tmp_path: Path) -> None:
    file = tmp_path / "mean.onnx"
    file.write_bytes(graph())
    detector = OneStageDetector(file, threads=1)
    assert detector.name == "one stage (mean.onnx)"
    assert detector.detect([np.full((10, 20, 3), 255, np.uint8)] * 2) == [0, 0]


def test_letterbox_keeps_proportions_and_pads_with_grey() -> None:
    white = np.full((100, 200, 3), 255, np.uint8)
    planes = letterbox(white, np.float32)
    assert planes.shape == (1, 3, INPUT_SIDE, INPUT_SIDE) and planes.dtype == np.float32
    assert (planes[0, :, 160:480] == 1).all()
    np.testing.assert_allclose(planes[0, :, :160], 114 / 255, rtol=1e-6)
    assert letterbox(white, np.uint8).max() == 255 and letterbox(white, np.float16).dtype == np.float16
    assert letterbox(np.zeros((1, 3000, 3), np.uint8), np.uint8).shape == (1, 3, INPUT_SIDE, INPUT_SIDE)


class Fixed(nn.Module):
    """Declares open axes, but runs on 64x64 pixels only."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.reshape(-1, 3 * 64 * 64)[:1]


@pytest.mark.slow
def test_a_graph_that_fails_on_its_first_picture_is_refused(tmp_path: Path) -> None:
    import onnx

    file = tmp_path / "fixed.onnx"
    model = onnx.load_from_string(to_onnx(Fixed(), (1, 3, 64, 64), {}, ("answer",)))
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    del model.graph.value_info[:]
    model.graph.node.insert(
        0, onnx.helper.make_node("MaxPool", ["pixels"], ["pooled"], kernel_shape=[7, 7], strides=[1, 1])
    )
    model.graph.node[1].input[0] = "pooled"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"fixed\.onnx: does not run on \(1, 3, 640, 640\): "):
        OneStageDetector(file, threads=1)


@pytest.mark.parametrize(("side", "channels"), [(320, 3), pytest.param(INPUT_SIDE, 1, marks=pytest.mark.slow)])
def test_a_graph_of_another_kind_is_refused(tmp_path: Path, side: int, channels: int) -> None:
    file = tmp_path / "other.onnx"
    file.write_bytes(graph(side, channels))
    with pytest.raises(UserError, match=rf"other\.onnx: takes .*{channels}, {side}.*use a graph with one input"):
        OneStageDetector(file, threads=1)
    file.write_bytes(b"no graph")
    with pytest.raises(UserError) as raised:
        OneStageDetector(file, threads=1)
    fix = "copy it again or use another graph"
    assert re.fullmatch(rf"{re.escape(str(file))}: ONNX Runtime cannot load it \(.+\); {fix}", str(raised.value))


def multiply_adds(net: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of a net's convolutions for one input of `shape` (1, 3, H, W)."""
    total = 0

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad():
            net(torch.zeros(shape))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def test_the_yolo11n_sized_net_is_as_large_as_yolo11n() -> None:
    net = Yolo11nSizedNet().eval()
    # Published: 6.5 billion operations (two per multiply-add) and 2.6 million weights.
    assert multiply_adds(net, (1, 3, INPUT_SIDE, INPUT_SIDE)) == pytest.approx(6.5e9 / 2, rel=0.05)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(2.6e6, rel=0.1)
    with torch.no_grad():
        assert net(torch.zeros(1, 3, INPUT_SIDE, INPUT_SIDE)).shape == (1, 67, 80**2 + 40**2 + 20**2)


def test_multiply_adds_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1, stride=2))
    assert multiply_adds(net, (1, 3, 10, 12)) == 10 * 12 * 8 * 27 + 5 * 6 * 2 * 8
    assert multiply_adds(net, (1, 3, 10, 12)) == 10 * 12 * 8 * 27 + 5 * 6 * 2 * 8  # the first call removed its hooks


@pytest.mark.slow
def test_the_yolo11n_sized_net_runs() -> None:
    detector = OneStageDetector(Path("stand-in"), threads=1)
    assert detector.name == "one stage (stand-in)"
    assert detector.detect([portrait()]) == [0]
