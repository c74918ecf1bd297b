"""Exports the cascade's torch nets to ONNX graphs, and checks each against torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import UserError
from stage1_faces import detector
from stage1_faces.faces import Net
from stage1_faces.pyramid import PNET_MULTIPLE
from stage1_faces.stock import mtcnn

# Largest difference allowed between a graph and its torch net: float32 rounding through a few layers.
TOLERANCE = 1e-4
MAX_AXIS = 1 << 20  # largest size of a graph's open axis


def _normalize_stock(pixels: Tensor) -> Tensor:
    """Map pixels 0..255 to about -1..1, as the stock weights were trained: (x - 127.5) / 128."""
    return (pixels - 127.5) * 0.0078125


class StockNet(nn.Module):
    """Stock net with normalisation inside.

    P-Net: (N, 3, H, W) of 0..255 -> probability (N, h, w), offsets (N, 4, h, w).
    R-Net: (N, 3, 24, 24) -> probability (N,), offsets (N, 4).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        offsets, probabilities = self.net(_normalize_stock(pixels))
        return probabilities[:, 1], offsets


class StockONet(StockNet):
    """Stock O-Net with normalisation inside: (N, 3, 48, 48) -> probability (N,), offsets (N, 4), landmarks (N, 5, 2).

    `shift` moves the box's left, top, right and bottom edge by fractions of its width or height. It fits the boxes
    to annotators who draw them differently from those of the weights' training photos.
    """

    shift: Tensor

    def __init__(self, net: nn.Module, shift: Sequence[float] = (0, 0, 0, 0)) -> None:
        super().__init__(net)
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        offsets, points, probabilities = self.net(_normalize_stock(pixels))
        # Offsets are fractions of the square window; the box's own sides are 1 + high offset - low offset of it.
        sides = 1 + offsets[:, 2:] - offsets[:, :2]
        offsets = offsets + self.shift * torch.cat([sides, sides], dim=1)
        # The net gives five x, then five y.
        return probabilities[:, 1], offsets, points.view(-1, 2, 5).transpose(1, 2)


@dataclass(frozen=True)
class ExportSpec:
    """How one net is exported."""

    shape: tuple[int, int, int, int]  # of the input, for tracing
    dynamic: Mapping[int, int]  # {open input axis: its multiple}
    outputs: tuple[str, ...]  # names


def export_specs(r_size: int, o_size: int, multiple: int) -> dict[str, ExportSpec]:
    """Return the specs of a cascade: sides of R-Net's and O-Net's windows, multiple of P-Net's sides, px."""
    return {
        "pnet": ExportSpec((2, 3, 40, 56), {0: 1, 2: multiple, 3: multiple}, ("probability", "offsets")),
        "rnet": ExportSpec((2, 3, r_size, r_size), {0: 1}, ("probability", "offsets")),
        "onet": ExportSpec((2, 3, o_size, o_size), {0: 1}, ("probability", "offsets", "landmarks")),
    }


STOCK = export_specs(mtcnn.R_SIZE, mtcnn.O_SIZE, multiple=1)
FINE_TUNED = export_specs(detector.R_SIZE, detector.O_SIZE, PNET_MULTIPLE)


def stock_nets(box_shift: Sequence[float] = (0, 0, 0, 0)) -> dict[str, nn.Module]:
    """Return the three nets with facenet-pytorch's weights (trained on WIDER FACE and CelebA).

    `box_shift` is the shift of StockONet; zeros keep the stock boxes.
    """
    nets = {"pnet": StockNet(PNet()), "rnet": StockNet(RNet()), "onet": StockONet(ONet(), box_shift)}
    return {name: net.eval() for name, net in nets.items()}


def export_net(name: str, net: nn.Module, spec: ExportSpec) -> bytes:
    """Return the ONNX graph of a net, checked against torch on random pixels.

    Raise UserError, which names the net, when an output differs from torch's by more than TOLERANCE.
    """
    graph = to_onnx(net, spec.shape, spec.dynamic, spec.outputs)
    rng = np.random.default_rng(0)
    for n in (1, 5):
        sides = (64, 48) if 2 in spec.dynamic else spec.shape[2:]
        pixels = rng.uniform(0, 255, (n, 3, *sides)).astype(np.float32)
        difference = max_difference(graph, net, pixels)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{name}: the exported graph differs from torch by {difference:.2g}; "
                "install the pinned torch, onnxscript and onnxruntime"
            )
    return graph


def export_cascade(nets: Mapping[str, nn.Module], specs: Mapping[str, ExportSpec]) -> dict[str, bytes]:
    """Return the ONNX graphs of the nets "pnet", "rnet" and "onet" by the specs STOCK or FINE_TUNED."""
    return {name: export_net(name, nets[name], spec) for name, spec in specs.items()}


def to_onnx(net: nn.Module, shape: tuple[int, ...], dynamic: Mapping[int, int], outputs: tuple[str, ...]) -> bytes:
    """Return one self-contained ONNX graph of a net in eval mode; the arguments are those of ExportSpec."""
    axes: dict[int, Any] = {}
    for axis, multiple in dynamic.items():
        unit = torch.export.Dim(f"axis{axis}", min=1, max=MAX_AXIS)
        axes[axis] = torch.export.Dim.DYNAMIC if multiple == 1 else multiple * unit
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's deprecation warnings
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            net.eval(),
            (torch.zeros(shape),),
            input_names=["pixels"],
            output_names=list(outputs),
            dynamic_shapes=(axes,),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise UserError("torch gave no ONNX graph; install the pinned torch and onnxscript")
    graph = program.model_proto
    # The exporter writes stack traces, with the paths of this machine, to every node.
    parts = [graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer]
    for part in (*parts, *graph.graph.input, *graph.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return graph.SerializeToString()


def onnx_function(graph: bytes, threads: int = 1) -> Net:
    """Return a graph as a plain function on ONNX Runtime's CPU provider, for training-time search and checks."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})


def max_difference(graph: bytes, net: nn.Module, pixels: NDArray[np.float32]) -> float:
    """Return the largest absolute difference between a graph's outputs and its torch net's; nan counts as infinite."""
    with torch.no_grad():
        expected = net(torch.from_numpy(pixels))
    expected = (expected,) if isinstance(expected, Tensor) else expected
    actual = onnx_function(graph)(pixels)
    worst = float(np.max([np.abs(a - e.numpy()).max() for a, e in zip(actual, expected, strict=True)]))
    return worst if np.isfinite(worst) else float("inf")
