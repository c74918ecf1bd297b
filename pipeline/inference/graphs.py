"""Loads an ONNX graph as a function, on ONNX Runtime; refuses one of other shapes than its cascade needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import BundleError, first_line
from common.memory import register_shared_allocator
from pipeline.inference.device import Device, check_running, providers
from stage1_faces import detector
from stage1_faces.stock import mtcnn

if TYPE_CHECKING:
    import onnxruntime as ort

Graph = Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]
Shape = tuple[int | None, ...]  # None: an axis of any length
PROBE_SIDE = 48  # px: a small input that the P-Net of either cascade takes


@dataclass(frozen=True)
class GraphSpec:
    """The shapes of one net of a cascade."""

    cascade: str  # the cascade's name, as bundle.json has it
    input_shape: Shape  # shape of the input
    output_shapes: tuple[Shape, ...]  # shape of each output
    # P-Net only: cells per side of its output for a square of PROBE_SIDE pixels; the shapes do not show it.
    cells: int | None = None

    def mismatch(self, session: ort.InferenceSession) -> str | None:
        """Return how the shapes that a graph declares differ, or None; an open axis of the graph matches any length."""
        inputs, outputs = session.get_inputs(), session.get_outputs()
        expected, declared = (self.input_shape, *self.output_shapes), (*inputs, *outputs)
        if (
            len(inputs) == 1
            and len(expected) == len(declared)
            and all(node.type == "tensor(float)" for node in declared)
            and all(_agree(shape, node.shape) for shape, node in zip(expected, declared, strict=True))
        ):
            return None
        takes, gives = (_as_text(node.shape for node in nodes) for nodes in (inputs, outputs))
        needs = f"takes {_as_text([self.input_shape])} and gives {_as_text(self.output_shapes)}"
        return f"takes {takes} and gives {gives}, the {self.cascade} cascade's {needs}"


def graph_specs(cascade: str) -> dict[str, GraphSpec]:
    """Return the specs of a cascade's nets by name; the cascade is "fine-tuned" or "stock"."""
    if cascade == "stock":
        r_size, o_size, cells = mtcnn.R_SIZE, mtcnn.O_SIZE, (PROBE_SIDE - mtcnn.CELL) // mtcnn.STRIDE + 1
    else:
        r_size, o_size, cells = detector.R_SIZE, detector.O_SIZE, PROBE_SIDE // detector.STRIDE
    score_and_box: tuple[Shape, ...] = ((None,), (None, 4))
    return {
        "pnet": GraphSpec(cascade, (None, 3, None, None), ((None, None, None), (None, 4, None, None)), cells),
        "rnet": GraphSpec(cascade, (None, 3, r_size, r_size), score_and_box),
        "onet": GraphSpec(cascade, (None, 3, o_size, o_size), (*score_and_box, (None, 5, 2))),
    }


def _agree(shape: Shape, declared: Sequence[int | str | None]) -> bool:
    return len(shape) == len(declared) and all(
        actual == length for length, actual in zip(shape, declared, strict=True) if isinstance(actual, int)
    )


def _as_text(shapes: Iterable[Sequence[int | str | None]]) -> str:
    """Return shapes as text such as ?x3x24x24, where ? is an axis of any length."""
    return ", ".join("x".join(str(n) if isinstance(n, int) else "?" for n in shape) or "a number" for shape in shapes)


def load_graph(
    data: bytes,
    name: str,
    threads: int = 1,
    device: Device = "cpu",
    classes: int | None = None,
    spec: GraphSpec | None = None,
) -> Graph:
    """Load an ONNX graph.

    Args:
        data: the graph's file.
        name: what error messages call the graph.
        threads: threads that the graph may use.
        device: what the graph runs on.
        classes: the number of classes that the first output must have; any when None.
        spec: the shapes that the graph must declare; any when None.

    Returns:
        A function from the float32 input to the list of outputs.

    Raises:
        BundleError: ONNX Runtime cannot load the graph, or the classes or shapes differ.
        UserError: the graph cannot run on the device.
    """
    graph_providers = providers(device)
    import onnxruntime as ort  # here, so that importing Predictor does not load it

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Photos differ in size: remembered allocation patterns would only accumulate.
    options.enable_mem_pattern = False
    register_shared_allocator()
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = ort.InferenceSession(data, options, providers=graph_providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        what = f"ONNX Runtime cannot load it ({first_line(error)})"
        raise BundleError(f"{name}: {what}; pack the bundle again") from error
    check_running(session, device)
    shape = session.get_outputs()[0].shape[-1:]
    mismatch = spec.mismatch(session) if spec else None
    if classes is not None and shape != [classes]:
        mismatch = f"gives {shape[0] if shape else 'no'} classes, bundle.json names {classes}"
    if mismatch is not None:
        raise BundleError(f"{name}: {mismatch}; pack the bundle again")
    input_name = session.get_inputs()[0].name
    return lambda values: session.run(None, {input_name: values})
