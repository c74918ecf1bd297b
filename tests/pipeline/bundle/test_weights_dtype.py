"""Weights on disk: float16 halves a graph, gives nearly the same outputs, and can be undone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from common.errors import UserError
from pipeline.bundle.weights_dtype import check_stored, store_weights
from pipeline.inference.graphs import load_graph

RNG = np.random.default_rng(0)


def matmul_graph(weights: np.ndarray) -> bytes:
    """Return a graph: pixels (N, 16) times weights (16, 32), plus a bias of 32 values."""
    nodes = [
        helper.make_node("MatMul", ["pixels", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["out"]),
    ]
    tensors = [
        numpy_helper.from_array(weights.astype(np.float32), "weights"),
        numpy_helper.from_array(np.linspace(0, 1, 32, dtype=np.float32), "bias"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", c]) for n, c in (("pixels", 16), ("out", 32))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def test_float16_halves_the_file_and_keeps_the_outputs() -> None:
    graph = matmul_graph(RNG.normal(0, 0.1, (16, 32)))
    stored = store_weights(graph, "float16")
    assert len(graph) - len(stored) > 16 * 32 * 2 - 200
    kinds = {t.name: t.data_type for t in onnx.load_from_string(stored).graph.initializer}
    assert kinds == {"weights_float16": TensorProto.FLOAT16, "bias": TensorProto.FLOAT}  # small tensors stay
    pixels = RNG.normal(0, 1, (3, 16)).astype(np.float32)
    (before,), (after,) = load_graph(graph, "g")(pixels), load_graph(stored, "g")(pixels)
    assert after.dtype == np.float32 and 0 < np.abs(after - before).max() < 1e-3
    assert 0 < check_stored("g", graph, stored) < 1e-3
    onnx.checker.check_model(onnx.load_from_string(stored))


def test_storing_again_changes_nothing_and_float32_undoes_it() -> None:
    weights = RNG.normal(0, 0.1, (16, 32)).astype(np.float16)  # exact in float16
    graph = matmul_graph(weights)
    assert store_weights(graph, "float32") == graph
    stored = store_weights(graph, "float16")
    assert store_weights(stored, "float16") == stored
    back = onnx.load_from_string(store_weights(stored, "float32"))
    assert [node.op_type for node in back.graph.node] == ["MatMul", "Add"]
    assert (numpy_helper.to_array(back.graph.initializer[0]) == weights.astype(np.float32)).all()


@pytest.mark.parametrize("value", [1e5, np.inf, np.nan])
def test_weights_that_float16_cannot_hold_are_refused(value: float) -> None:
    weights = np.full((16, 32), 0.5)
    weights[3, 4] = value
    with pytest.raises(
        UserError, match="weights: a weight is too large for float16; pack with --weights-dtype float32"
    ):
        store_weights(matmul_graph(weights), "float16")


def test_a_stored_graph_that_differs_is_refused() -> None:
    graph, other = matmul_graph(np.full((16, 32), 0.1)), matmul_graph(np.full((16, 32), 0.2))
    with pytest.raises(UserError, match=r"net: with float16 weights, its outputs differ by .*--weights-dtype float32"):
        check_stored("net", graph, other)
