"""One net of a bundle inside the graph: its nodes are copied to each place of use, its weights are there once."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnxscript import GraphBuilder

from pipeline.export.graph.ops import constant

DOMAIN = "net"  # of the functions that nets are copied from; no node of the finished graph has it


class Net:
    """A net whose nodes can be copied into any part of the graph."""

    def __init__(self, root: GraphBuilder, name: str, graph: bytes, once: bool = False) -> None:
        """Read a net.

        Args:
            root: builder of the main graph, which holds the weights.
            name: of the net.
            graph: its ONNX file.
            once: it is used once, in a loop, and never for an empty batch. Its weights are then constants of the loop's
                body: ONNX Runtime takes its fast convolutions only where the weights are in the same graph.
        """
        body = ir.serde.deserialize_model(onnx.load_from_string(graph)).graph
        for value in _values(body):
            value.shape = None  # the names of open sizes are those of another graph
        weights = list(body.initializers.items())
        self._weights = []
        for key, value in weights:
            body.initializers.pop(key)
            assert value.const_value is not None
            if once:
                node = ir.Node(
                    "", "Constant", [], {"value": ir.AttrTensor("value", value.const_value)}, outputs=[value]
                )
                body.insert_before(body[0], node)
            else:
                tensor = ir.tensor(value.const_value.numpy(), name=f"{name}.{key}")
                self._weights.append(root.initializer(tensor, name=tensor.name, qualify=False))
                value.const_value = None
                body.inputs.append(value)
        self._name, self._body, self._once = name, body, once

    @property
    def output_count(self) -> int:
        """How many outputs the net has."""
        return len(self._body.outputs)

    def __call__(self, builder: GraphBuilder, pixels: ir.Value) -> list[ir.Value]:
        """Add the net's nodes to a graph, and return the outputs for these pixels (N, 3, H, W), of any N.

        The net itself never gets an empty batch: ONNX Runtime 1.30's convolutions refuse it.
        """
        if self._once:
            return self._copy(builder, pixels)
        op = builder.op
        count = op.Shape(pixels, start=0, end=1)
        missing = op.Max(op.Sub(constant(op, [1]), count), constant(op, [0]))
        pads = op.Concat(constant(op, [0] * 4), missing, constant(op, [0] * 3), axis=0)
        outputs = self._copy(builder, op.Pad(pixels, pads))
        return [op.Slice(value, constant(op, [0]), count, constant(op, [0])) for value in outputs]

    def _copy(self, builder: GraphBuilder, pixels: ir.Value) -> list[ir.Value]:
        function = ir.Function(DOMAIN, self._name, graph=self._body.clone(), attributes={})
        outputs = builder.call_inline(function, pixels, *self._weights)
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Return the values that a graph's nodes give, and its inputs."""
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]
