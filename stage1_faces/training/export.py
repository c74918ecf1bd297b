"""Exports the cascade's torch nets to ONNX graphs, each checked against torch before it is given out."""

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
from stage1_faces.stock import mtcnn

# Largest difference allowed between a graph and its torch net: float32 rounding through a few layers.
TOLERANCE = 1e-4
LARGEST_AXIS = 1 << 20


def _normalised(pixels: Tensor) -> Tensor:
    """Pixels 0..255 to about -1..1, as the stock weights were trained: (x - 127.5) / 128."""
    return (pixels - 127.5) * 0.0078125


class PGraph(nn.Module):
    """Stock P-Net, normalisation inside: (N, 3, H, W) of 0..255 -> probability (N, h, w), offsets (N, 4, h, w)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        offsets, probabilities = self.net(_normalised(pixels))
        return probabilities[:, 1], offsets


class RGraph(PGraph):
    """R-Net, likewise: (N, 3, 24, 24) -> probability (N,), offsets (N, 4)."""


class OGraph(PGraph):
    """O-Net, likewise: (N, 3, 48, 48) -> probability (N,), offsets (N, 4), landmarks (N, 5, 2).

    shift: moves the box's left, top, right and bottom edge by fractions of its width or height, for photos whose
    annotators draw boxes differently from those that the weights were trained on.
    """

    shift: Tensor

    def __init__(self, net: nn.Module, shift: Sequence[float] = (0, 0, 0, 0)) -> None:
        super().__init__(net)
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        offsets, points, probabilities = self.net(_normalised(pixels))
        # Offsets are fractions of the square window; the box's own sides are 1 + high offset - low offset of it.
        sides = 1 + offsets[:, 2:] - offsets[:, :2]
        offsets = offsets + self.shift * torch.cat([sides, sides], dim=1)
        # The net gives five x, then five y.
        return probabilities[:, 1], offsets, points.view(-1, 2, 5).transpose(1, 2)


@dataclass(frozen=True)
class Spec:
    """How one net is exported: its input's shape for tracing, {axis that varies: its multiple}, its output names."""

    shape: tuple[int, int, int, int]
    dynamic: Mapping[int, int]
    outputs: tuple[str, ...]


def specs(r_size: int, o_size: int, even: int) -> dict[str, Spec]:
    """How a cascade's nets are exported; sides of R-Net's and O-Net's windows, multiple of P-Net's sides, px."""
    return {
        "pnet": Spec((2, 3, 40, 56), {0: 1, 2: even, 3: even}, ("probability", "offsets")),
        "rnet": Spec((2, 3, r_size, r_size), {0: 1}, ("probability", "offsets")),
        "onet": Spec((2, 3, o_size, o_size), {0: 1}, ("probability", "offsets", "landmarks")),
    }


STOCK = specs(mtcnn.R_SIZE, mtcnn.O_SIZE, even=1)
FINE_TUNED = specs(detector.R_SIZE, detector.O_SIZE, detector.EVEN)


def stock_nets(box_shift: Sequence[float] = (0, 0, 0, 0)) -> dict[str, nn.Module]:
    """The three nets with the weights that come inside facenet-pytorch (trained on WIDER FACE and CelebA).

    box_shift: see OGraph; zeros leave the stock boxes.
    """
    onet = OGraph(ONet(), box_shift)
    nets: dict[str, nn.Module] = {"pnet": PGraph(PNet()), "rnet": RGraph(RNet()), "onet": onet}
    return {name: net.eval() for name, net in nets.items()}


def export_net(name: str, net: nn.Module, spec: Spec) -> bytes:
    """The ONNX graph of a net, checked against torch on random pixels. name: for messages.

    Raises UserError when the graph's outputs differ from torch's by more than TOLERANCE.
    """
    graph = to_onnx(net, spec.shape, spec.dynamic, spec.outputs)
    rng = np.random.default_rng(0)
    for n in (1, 5):
        sides = (64, 48) if 2 in spec.dynamic else spec.shape[2:]
        pixels = rng.uniform(0, 255, (n, 3, *sides)).astype(np.float32)
        difference = parity(graph, net, pixels)
        if not difference <= TOLERANCE:
            raise UserError(f"{name}: the exported graph differs from torch by {difference:.2g}")
    return graph


def export_cascade(nets: Mapping[str, nn.Module], how: Mapping[str, Spec]) -> dict[str, bytes]:
    """ONNX graphs of the three nets `pnet`, `rnet` and `onet`, exported as STOCK or FINE_TUNED says."""
    return {name: export_net(name, nets[name], spec) for name, spec in how.items()}


def to_onnx(net: nn.Module, shape: tuple[int, ...], dynamic: Mapping[int, int], outputs: tuple[str, ...]) -> bytes:
    """One self-contained ONNX graph of a net in eval mode. dynamic: {open input axis: what it is a multiple of}."""
    axes: dict[int, Any] = {}
    for axis, multiple in dynamic.items():
        unit = torch.export.Dim(f"axis{axis}", min=1, max=LARGEST_AXIS)
        axes[axis] = torch.export.Dim.DYNAMIC if multiple == 1 else multiple * unit
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecation chatter
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
    # The exporter writes stack traces, with the paths of this machine, beside every node.
    parts = [graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer]
    for part in (*parts, *graph.graph.input, *graph.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return graph.SerializeToString()


def runtime(graph: bytes, threads: int = 1) -> Net:
    """A graph as a plain function on ONNX Runtime's CPU provider, for training-time search and checks."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})


def parity(graph: bytes, net: nn.Module, pixels: NDArray[np.float32]) -> float:
    """The largest absolute difference between a graph's outputs and its torch net's; nan counts as infinite."""
    with torch.no_grad():
        expected = net(torch.from_numpy(pixels))
    expected = (expected,) if isinstance(expected, Tensor) else expected
    actual = runtime(graph)(pixels)
    differences = [np.abs(a - e.numpy()).max() for a, e in zip(actual, expected, strict=True)]
    worst = float(np.max(differences))
    return worst if np.isfinite(worst) else float("inf")
