"""The cascades for the tests as ONNX Runtime functions, each exported once, and a photo."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.images import Pixels
from stage1_faces.faces import Net
from stage1_faces.roi_crop import GREY
from stage1_faces.training import export
from stage1_faces.training.nets import ExportWrapper, build_net

SIDES = {"pnet": (2, 96), "rnet": (24, 32), "onet": (24, 48)}  # batch and px of random pixels for each net


def lively_net(name: str) -> nn.Module:
    """Return an untrained net whose outputs differ from place to place, as those of a trained one do."""
    torch.manual_seed(1)
    net = build_net(name)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None  # takes the statistics of the next pixels: signals neither vanish nor grow
    n, side = SIDES[name]
    coarse = torch.rand(n, 3, side // 8, side // 8) * 255
    pixels = nn.functional.interpolate(coarse, (side, side)) / 2 + torch.rand(n, 3, side, side) * 127
    with torch.no_grad():
        net((pixels - GREY) / 128)
        if name != "onet":
            net.head.weight.normal_(std=0.25)
            net.head.bias.zero_()
            net.head.bias[0] = -2.0
            net.head.weight[1:] *= 0.2
    return net.eval()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: the nets are small, and tests can run in parallel."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def stock_graphs() -> dict[str, bytes]:
    """Return the stock cascade's ONNX graphs."""
    return export.export_cascade(export.stock_nets(), export.STOCK)


@pytest.fixture(scope="session")
def stock_nets(stock_graphs: dict[str, bytes]) -> dict[str, Net]:
    """Return the stock cascade as functions."""
    return {name: export.onnx_function(graph) for name, graph in stock_graphs.items()}


@pytest.fixture(scope="session")
def torch_nets() -> dict[str, nn.Module]:
    """Return the fine-tuned cascade's nets, untrained (`lively_net`), in torch."""
    return {name: ExportWrapper(lively_net(name)).eval() for name in export.FINE_TUNED}


@pytest.fixture(scope="session")
def untrained_nets(torch_nets: dict[str, nn.Module]) -> dict[str, Net]:
    """Return the nets of `torch_nets`, exported."""
    graphs = export.export_cascade(torch_nets, export.FINE_TUNED)
    return {name: export.onnx_function(graph) for name, graph in graphs.items()}


@pytest.fixture(scope="session")
def grace() -> Pixels:
    """Return Grace Hopper's portrait from matplotlib's sample data."""
    from matplotlib import cbook

    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB"))
