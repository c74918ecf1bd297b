"""Stores the weights of an ONNX graph in float16 or float32; the graph computes in float32 in either case."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from common.errors import UserError
from pipeline.inference.graphs import load_graph

WeightsDtype = Literal["float16", "float32"]
MIN_VALUES = 64  # a smaller tensor (a bias, a constant of the preprocessing) stays in float32: it takes no place
# Largest difference allowed between the outputs of a graph with float16 weights and with float32 ones: absolute, and
# as a share of the output. float16 keeps 11 bits, so a weight changes by a 4096th at most.
HALF_TOLERANCE = 0.02
SUFFIX = "_float16"
PROBES, OPEN_SIDE = 5, 64  # random inputs of the check; px of a side that the graph leaves open


def store_weights(graph: bytes, dtype: WeightsDtype) -> bytes:
    """Return a graph with its weights stored in a type.

    In float16, each larger weight tensor is followed by a Cast to float32. ONNX Runtime computes the casts once, when
    it loads the graph, so that speed and memory stay those of float32.

    Args:
        graph: an ONNX graph, whose weights are of either type; one in INT8 is returned as it is.
        dtype: the type on disk.

    Raises:
        UserError: a weight is too large for float16.
    """
    model = onnx.load_from_string(graph)
    if _quantized(model):
        return graph
    if not _to_float32(model.graph) and dtype == "float32":
        return graph
    if dtype == "float16":
        _to_float16(model.graph)
    return model.SerializeToString()


def is_int8(graph: bytes) -> bool:
    """Return whether a graph computes in INT8."""
    return _quantized(onnx.load_from_string(graph))


def _quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _to_float32(graph: onnx.GraphProto) -> bool:
    """Replace float16 weights and their casts by float32 weights; return whether there were any."""
    halves = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    casts = [n for n in graph.node if n.op_type == "Cast" and n.input[0] in halves and n.input[0].endswith(SUFFIX)]
    for node in casts:
        tensor = halves[node.input[0]]
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
    return bool(casts)


def _to_float16(graph: onnx.GraphProto) -> None:
    """Store the larger float32 weights as float16, each with a cast to float32."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < MIN_VALUES:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if not np.abs(values).max() <= np.finfo(np.float16).max:
            raise UserError(f"{name}: a weight is too large for float16; pack with --weights-dtype float32")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + SUFFIX))
        casts.append(helper.make_node("Cast", [name + SUFFIX], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def check_stored(name: str, graph: bytes, stored: bytes, scale: float = 1.0) -> float:
    """Return the largest difference between a graph's outputs and those of the graph as it is stored.

    Args:
        name: what error messages call the graph.
        graph: the graph that was checked against torch.
        stored: the same graph by `store_weights`.
        scale: standard deviation of the random pixels, whose mean is 0.

    Raises:
        UserError: an output differs by more than HALF_TOLERANCE, absolute or relative.
    """
    sides = onnx.load_from_string(graph).graph.input[0].type.tensor_type.shape.dim[1:]
    shape = (PROBES, *(side.dim_value or OPEN_SIDE for side in sides))
    pixels = (np.random.default_rng(0).normal(0, 1, shape) * scale).astype(np.float32)
    pairs = list(zip(load_graph(stored, name)(pixels), load_graph(graph, name)(pixels), strict=True))
    difference = max(_difference(after, before) for after, before in pairs)
    if not difference <= HALF_TOLERANCE:
        what = f"with float16 weights, its outputs differ by {difference:.2g}"
        raise UserError(f"{name}: {what}; pack with --weights-dtype float32")
    return difference


def _difference(after: NDArray[np.float32], before: NDArray[np.float32]) -> float:
    """Return the largest difference, absolute below 1 and relative above."""
    return float((np.abs(after - before) / np.maximum(np.abs(before), 1)).max(initial=0))
