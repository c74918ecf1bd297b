"""ONNX export: the check against torch must fail when graph and net differ."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from stage1_faces.training import export


def test_stock_graphs_agree_with_torch(stock_nets):
    rng = np.random.default_rng(1)
    pixels = rng.uniform(0, 255, (3, 3, 24, 24)).astype(np.float32)
    with torch.no_grad():
        expected = export.stock_nets()["rnet"](torch.from_numpy(pixels))
    for output, reference in zip(stock_nets["rnet"](pixels), expected, strict=True):
        assert output == pytest.approx(reference.numpy(), abs=1e-4)


@pytest.mark.slow
def test_graphs_name_no_file_of_the_machine_that_made_them():
    graph = export.to_onnx(export.stock_nets()["pnet"], (1, 3, 20, 20), {0: 1}, ("probability", "offsets"))
    assert b".py" not in graph


def test_landmarks_come_as_points(stock_nets):
    probability, offsets, landmarks = stock_nets["onet"](np.zeros((2, 3, 48, 48), np.float32))
    assert (probability.shape, offsets.shape, landmarks.shape) == ((2,), (2, 4), (2, 5, 2))


def test_the_stock_pnet_takes_any_side_and_batch(stock_nets):
    # Its layers give one cell per 12 px window at stride 2; the last one is padded.
    for n, height, width in ((1, 12, 12), (3, 13, 40), (2, 57, 31)):
        probability, offsets = stock_nets["pnet"](np.zeros((n, 3, height, width), np.float32))
        cells = tuple(-(-(side - 2) // 2) - 4 for side in (height, width))
        assert probability.shape == (n, *cells)
        assert offsets.shape == (n, 4, *cells)


def test_open_axes_have_their_multiples():
    specs = export.export_specs(24, 48, multiple=8)
    assert specs["pnet"].dynamic == {0: 1, 2: 8, 3: 8}
    assert [specs[name].shape[2:] for name in ("rnet", "onet")] == [(24, 24), (48, 48)]
    assert all(side % 8 == 0 for side in specs["pnet"].shape[2:])


@pytest.mark.slow
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
    with pytest.raises(UserError, match="rnet"):
        export.export_net("rnet", net, export.STOCK["rnet"])


def test_box_shift_moves_edges_by_fractions_of_the_box_itself():
    class Fixed(torch.nn.Module):
        def forward(self, pixels):
            n = len(pixels)
            # The box spans 0.1..0.9 of the window across and 0.2..0.8 down: sides 0.8 and 0.6.
            offsets = torch.tensor([[0.1, 0.2, -0.1, -0.2]]).repeat(n, 1)
            return offsets, torch.arange(10.0).repeat(n, 1), torch.tensor([[0.3, 0.7]]).repeat(n, 1)

    probability, offsets, points = export.StockONet(Fixed(), (0.5, 0.1, 0, -1))(torch.zeros(2, 3, 48, 48))
    assert offsets.numpy() == pytest.approx(np.tile([0.1 + 0.5 * 0.8, 0.2 + 0.1 * 0.6, -0.1, -0.2 - 0.6], (2, 1)))
    # Neither the probability nor the landmarks move.
    assert probability.numpy() == pytest.approx([0.7, 0.7])
    assert points[0].tolist() == [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]]
