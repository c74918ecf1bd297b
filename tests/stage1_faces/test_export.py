"""ONNX export: the check against torch must fail when graph and net differ."""

import numpy as np
import pytest
import torch

from stage1_faces import export
from stage1_faces.errors import FacesError


def test_stock_graphs_agree_with_torch(stock_nets):
    rng = np.random.default_rng(1)
    pixels = rng.uniform(0, 255, (3, 3, 24, 24)).astype(np.float32)
    with torch.no_grad():
        expected = export.stock_nets()["rnet"](torch.from_numpy(pixels))
    for output, reference in zip(stock_nets["rnet"](pixels), expected, strict=True):
        assert output == pytest.approx(reference.numpy(), abs=1e-4)


def test_landmarks_come_as_points(stock_nets):
    probability, offsets, landmarks = stock_nets["onet"](np.zeros((2, 3, 48, 48), np.float32))
    assert (probability.shape, offsets.shape, landmarks.shape) == ((2,), (2, 4), (2, 5, 2))


def test_a_graph_that_differs_is_refused(monkeypatch):
    net = export.stock_nets()["rnet"]
    right = export.to_onnx

    def wrong(net, *args):
        with torch.no_grad():
            net.net.dense5_2.bias += 0.01
        graph = right(net, *args)
        with torch.no_grad():
            net.net.dense5_2.bias -= 0.01
        return graph

    monkeypatch.setattr(export, "to_onnx", wrong)
    with pytest.raises(FacesError, match="rnet"):
        export.export_net("rnet", net)
