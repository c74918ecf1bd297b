"""Makes a bundle whose nets are all in float32, from one of the project's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.bundle.weights_dtype import is_int8
from pipeline.inference.bundle import DEFAULT, GRAPHS, Bundle
from tests.helpers.bundle_files import edit_meta, replace_graph


def float_bundle(folder: Path) -> Path:
    """Write the default bundle with all nets in float32 into a folder, which does not exist yet, and return it."""
    shutil.copytree(DEFAULT, folder)
    bundle = Bundle.load(folder)
    for name in GRAPHS:
        if is_int8(bundle.graph_bytes(name)):
            replace_graph(folder, name, to_float(bundle.graph_bytes(name)))
    provenance = {key: value for key, value in bundle.meta.provenance.items() if key != "int8"}
    edit_meta(folder, provenance=provenance)
    return folder


def to_float(graph: bytes) -> bytes:
    """Return a graph in INT8 as one in float32: the same weights and ranges, no rounding of activations."""
    model = onnx.load_from_string(graph)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, clipped = [], {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            clipped[node.output[0]] = node.input[0]
        elif node.op_type == "DequantizeLinear":
            scale, zero = (numpy_helper.to_array(stored[name]).astype(np.float32) for name in node.input[1:3])
            if node.input[0] in stored:
                values = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
                axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
                shape = [-1 if k == axis and scale.ndim else 1 for k in range(values.ndim)]
                weights = (values - zero.reshape(shape)) * scale.reshape(shape)
                model.graph.initializer.append(numpy_helper.from_array(weights, node.output[0]))
                continue
            # Ranges stand in for ReLU and ReLU6, which a graph in INT8 has no more.
            limits = [f"{node.output[0]}_{side}" for side in ("low", "high")]
            for name, level in zip(limits, (0, 255), strict=True):
                model.graph.initializer.append(numpy_helper.from_array((level - zero) * scale, name))
            nodes.append(helper.make_node("Clip", [clipped[node.input[0]], *limits], [node.output[0]]))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
