"""Builds small ONNX graphs from the parts of the exported detector, and runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnxscript import GraphBuilder

from pipeline.export.graph.detector_graph import IR_VERSION, OPSET, _name_values

TYPES = {"float32": ir.DataType.FLOAT, "uint8": ir.DataType.UINT8, "int64": ir.DataType.INT64, "bool": ir.DataType.BOOL}


def run_part(build: Callable[..., Any], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of a part of the graph.

    Args:
        build: takes a GraphBuilder and a value per input, and returns one output or several.
        inputs: arrays by name; their shapes are left open.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="part")
    builder = GraphBuilder(graph)
    values = [builder.input(k, TYPES[str(v.dtype)], [None] * v.ndim) for k, v in inputs.items()]
    found = build(builder, *values)
    outputs = list(found) if isinstance(found, list | tuple) else [found]
    _name_values(graph)
    for k, value in enumerate(outputs):
        builder.add_output(value, f"output{k}")
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=IR_VERSION))
    for output in model.graph.output:
        if not output.type.WhichOneof("value"):
            output.type.tensor_type.elem_type = 1
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))
