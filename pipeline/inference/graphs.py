"""Loads an ONNX graph as a function, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from common.errors import BundleError, first_line
from common.memory import register_shared_allocator
from pipeline.inference.device import Device, check_running, providers
from pipeline.inference.graph_spec import GraphSpec

Graph = Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]


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
