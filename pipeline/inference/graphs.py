"""An ONNX graph as a function, on ONNX Runtime."""

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
    net: GraphSpec | None = None,
) -> Graph:
    """An ONNX graph as a function from float32 input to its outputs, on ONNX Runtime.

    name: for messages. classes: how many the graph must give, net: what it must take and give, where that is known.
    Raises BundleError when ONNX Runtime cannot load it or these are others, UserError when it cannot run on the
    device.
    """
    wanted = providers(device)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Photos differ in size: remembered allocation patterns would only pile up.
    options.enable_mem_pattern = False
    register_shared_allocator()
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = ort.InferenceSession(data, options, providers=wanted)
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise BundleError(f"{name}: ONNX Runtime cannot load it ({first_line(error)}); pack the bundle anew") from error
    check_running(session, device)
    given = session.get_outputs()[0].shape[-1:]
    if classes is not None and given != [classes]:
        raise BundleError(
            f"{name}: gives {given[0] if given else 'no'} classes, bundle.json names {classes}; pack the bundle anew"
        )
    misfit = net.mismatch(session) if net else None
    if misfit is not None:
        raise BundleError(f"{name}: {misfit}; pack the bundle anew")
    input_name = session.get_inputs()[0].name
    return lambda values: session.run(None, {input_name: values})
