"""ONNX graphs with the shapes of the stock cascade's nets."""

import numpy as np
import onnx
from onnx import TensorProto, helper


def stock_net(kernel, points=False):
    """Return an ONNX graph with the shapes of a stock net: one layer of zeros. A kernel of 12 gives P-Net's shapes."""
    slides = kernel == 12
    parts = {"probability": (1, [1]), "offsets": (4, []), **({"landmarks": (10, [])} if points else {})}
    window, shapes = ["h", "w"], {"probability": ["n", "y", "x"], "offsets": ["n", 4, "y", "x"]}
    if not slides:
        window, shapes = [kernel, kernel], {"probability": ["n"], "offsets": ["n", 4], "landmarks": ["n", 5, 2]}
    constants = {
        "weights": np.zeros((sum(size for size, _ in parts.values()), 3, kernel, kernel), np.float32),
        "sizes": np.array([size for size, _ in parts.values()]),
        "points": np.array([0, 5, 2]),
        **{f"{name} axes": np.array(axes if slides else [*axes, 2, 3]) for name, (_, axes) in parts.items()},
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "weights"], ["all"], strides=[2, 2]),
        helper.make_node("Split", ["all", "sizes"], [f"{name} part" for name in parts], axis=1),
    ]
    for name, (_, axes) in parts.items():
        kind, how = ("Reshape", "points") if name == "landmarks" else ("Squeeze", f"{name} axes")
        if slides and not axes:
            kind, how = "Identity", ""
        nodes.append(helper.make_node(kind, [f"{name} part", *filter(None, [how])], [name]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, *window])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in parts],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


STOCK_NETS = {"pnet": stock_net(12), "rnet": stock_net(24), "onet": stock_net(48, points=True)}
