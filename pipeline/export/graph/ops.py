"""Nodes that several parts of the graph need: pieces of arrays, box arithmetic, suppression.

Each function takes a builder's operators and values of the graph, adds nodes, and returns values. It does what the
numpy function of the same name does (common.boxes, stage1_faces).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import GraphBuilder, OpBuilder

from common.boxes import BBOX_XFORM_CLIP
from stage1_faces.face_logits import PROB_EPS
from stage1_faces.proposals import MAX_CELLS_PER_PROPOSAL

FLOAT, INT64, BOOL, UINT8 = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.UINT8
TO_THE_END = 2**62  # as the end of a slice

Value = ir.Value
Shape = Sequence[int | str | None]


def constant(op: OpBuilder, value: float | bool | Sequence[float] | NDArray[Any]) -> Value:
    """Return a constant: integers are int64, other numbers float32."""
    array = np.asarray(value)
    dtype = {"i": np.int64, "u": np.int64, "f": np.float32}.get(array.dtype.kind)
    kept = isinstance(value, np.ndarray) or dtype is None
    return op.Constant(value=ir.tensor(array if kept else array.astype(dtype)))


def as_float(op: OpBuilder, x: Value) -> Value:
    """Return the values as float32."""
    return op.Cast(x, to=FLOAT)


def as_int(op: OpBuilder, x: Value) -> Value:
    """Return whole numbers as int64."""
    return op.Cast(x, to=INT64)


def part(op: OpBuilder, x: Value, start: int, end: int, axis: int) -> Value:
    """Return x[start:end] of an axis."""
    return op.Slice(x, [start], [end], [axis])


def column(op: OpBuilder, x: Value, k: int) -> Value:
    """Return the k-th column (N,) of (N, K)."""
    return op.Squeeze(part(op, x, k, k + 1, 1), [1])


def size_of(op: OpBuilder, x: Value, axis: int) -> Value:
    """Return the length of an axis, a scalar."""
    return op.Squeeze(op.Shape(x, start=axis, end=axis + 1), [0])


def rows(op: OpBuilder, index: Value, *arrays: Value) -> tuple[Value, ...]:
    """Return these rows of each array."""
    return tuple(op.Gather(array, index) for array in arrays)


def indices(op: OpBuilder, mask: Value) -> Value:
    """Return the indices (K,) at which a mask (N,) is true."""
    return op.Squeeze(op.NonZero(mask), [0])


def mirrored(op: OpBuilder, pixels: Value) -> Value:
    """Return the mirror images of (N, 3, H, W)."""
    return op.Slice(pixels, [-1], [-TO_THE_END], [3], [-1])


def loop(
    builder: GraphBuilder,
    name: str,
    step: Callable[..., Sequence[Value]],
    rounds: Value,
    states: Mapping[str, tuple[Value, ir.DataType, Shape]],
) -> list[Value]:
    """Run a step again and again, at most `rounds` times, and return the last states.

    Args:
        builder: of the graph that the loop is in.
        name: of the loop, which must be of no other one.
        step: takes the operators of the loop's body, the number of the round, and the states. It returns whether to go
            on (a bool scalar), and the new states.
        rounds: int64 scalar.
        states: first value, type and shape of each state.
    """

    def body(op: OpBuilder, number: Value, _: Value, *values: Value) -> Sequence[Value]:
        return step(op, number, *values)

    inputs = [ir.val(f"{name}.round", INT64, []), ir.val(f"{name}.on", BOOL, [])]
    outputs = [ir.val(f"{name}.next", BOOL, [])]
    for key, (_, dtype, shape) in states.items():
        inputs.append(ir.val(f"{name}.{key}", dtype, shape))
        outputs.append(ir.val(f"{name}.new_{key}", dtype, shape))
    graph = builder.subgraph(body, inputs, outputs, name=name)
    op = builder.op
    first = [value for value, _, _ in states.values()]
    found = op.Loop(rounds, constant(op, True), *first, body=graph, _outputs=len(first))
    return list(found) if len(first) > 1 else [found]


def collect(
    builder: GraphBuilder,
    name: str,
    step: Callable[[OpBuilder, Value], Value],
    rounds: Value,
    dtype: ir.DataType,
    shape: Shape,
) -> Value:
    """Return the values that a step gives in each of some rounds, joined along a new first axis.

    Args:
        builder: of the graph that the loop is in.
        name: of the loop, which must be of no other one.
        step: takes the operators of the loop's body and the number of the round.
        rounds: int64 scalar, at least 1.
        dtype: type of each value.
        shape: shape of each value.
    """

    def body(op: OpBuilder, number: Value, _: Value) -> Sequence[Value]:
        return constant(op, True), step(op, number)

    inputs = [ir.val(f"{name}.round", INT64, []), ir.val(f"{name}.on", BOOL, [])]
    outputs = [ir.val(f"{name}.next", BOOL, []), ir.val(f"{name}.given", dtype, shape)]
    graph = builder.subgraph(body, inputs, outputs, name=name)
    return builder.op.Loop(rounds, constant(builder.op, True), body=graph)


def choose(
    builder: GraphBuilder,
    condition: Value,
    then: Callable[[OpBuilder], Sequence[Value]],
    otherwise: Callable[[OpBuilder], Sequence[Value]],
    kind: tuple[ir.DataType, Shape],
) -> Value:
    """Return the value of one of two branches, of this type and shape; only that branch is computed."""
    branches = {
        f"{name}_branch": builder.subgraph(body, [], [ir.val(name, *kind)], name=name)
        for name, body in (("then", then), ("else", otherwise))
    }
    return builder.op.If(condition, **branches)


def log_odds(op: OpBuilder, probability: Value) -> Value:
    """Return log(p / (1 - p)), which is finite for 0 and 1, too."""
    inside = op.Clip(probability, PROB_EPS, 1 - PROB_EPS)
    return op.Sub(op.Log(inside), op.Log(op.Sub(1.0, inside)))


def decode(op: OpBuilder, anchors: Value, box_deltas: Value) -> Value:
    """Return boxes (N, 4) from anchors (N, 3) and a net's box deltas (N, 4)."""
    unit = part(op, anchors, 2, 3, 1)
    centre = op.Add(part(op, anchors, 0, 2, 1), op.Mul(part(op, box_deltas, 0, 2, 1), unit))
    sides = op.Exp(op.Clip(part(op, box_deltas, 2, 4, 1), -BBOX_XFORM_CLIP, BBOX_XFORM_CLIP))
    half = op.Mul(op.Mul(sides, unit), 0.5)
    return op.Concat(op.Sub(centre, half), op.Add(centre, half), axis=1)


def box_anchors(op: OpBuilder, boxes: Value) -> Value:
    """Return anchors (N, 3) of boxes (N, 4); the unit is the longer side, at least 1 px."""
    low, high = part(op, boxes, 0, 2, 1), part(op, boxes, 2, 4, 1)
    unit = op.Max(op.ReduceMax(op.Sub(high, low), [1], keepdims=1), 1.0)
    return op.Concat(op.Mul(op.Add(low, high), 0.5), unit, axis=1)


def clip(op: OpBuilder, boxes: Value, size: Value) -> Value:
    """Return boxes (N, 4) clipped to the image; `size` is (1, 4): width, height, width, height."""
    return op.Min(op.Max(boxes, 0.0), size)


def area(op: OpBuilder, boxes: Value) -> Value:
    """Return the areas (N,) of boxes (N, 4)."""
    sides = op.Max(op.Sub(part(op, boxes, 2, 4, 1), part(op, boxes, 0, 2, 1)), 0.0)
    return op.ReduceProd(sides, [1], keepdims=0)


def iou(op: OpBuilder, a: Value, b: Value) -> Value:
    """Return the intersection over union (N, M) of boxes `a` (N, 4) and `b` (M, 4)."""
    first, second = op.Unsqueeze(a, [1]), op.Unsqueeze(b, [0])
    low = op.Max(part(op, first, 0, 2, 2), part(op, second, 0, 2, 2))
    high = op.Min(part(op, first, 2, 4, 2), part(op, second, 2, 4, 2))
    shared = op.ReduceProd(op.Max(op.Sub(high, low), 0.0), [2], keepdims=0)
    areas = op.Add(op.Unsqueeze(area(op, a), [1]), op.Unsqueeze(area(op, b), [0]))
    return op.Div(shared, op.Max(op.Sub(areas, shared), 1e-9))


def nms(op: OpBuilder, boxes: Value, scores: Value, count: int, threshold: float) -> Value:
    """Return the indices of at most `count` boxes that greedy non-maximum suppression keeps, best first."""
    limits = constant(op, [count]), constant(op, np.array([threshold], np.float32))
    kept = op.NonMaxSuppression(op.Unsqueeze(boxes, [0]), op.Unsqueeze(scores, [0, 1]), *limits)
    return column(op, kept, 2)


def best_first(op: OpBuilder, scores: Value, count: Value) -> Value:
    """Return the indices of the `count` (int64 (1,)) highest scores, best first."""
    return op.TopK(scores, count, axis=0, _outputs=2)[1]


def top_proposals(
    op: OpBuilder, boxes: Value, scores: Value, logits: Value, size: Value, max_iou: float, count: int
) -> tuple[Value, Value, Value]:
    """Return the `count` best boxes, clipped to the image, that no better one overlaps by `max_iou`; scores, logits."""
    boxes = clip(op, boxes, size)
    usable = indices(op, op.Greater(area(op, boxes), 0.0))
    most = op.Min(size_of(op, usable, 0), constant(op, count * MAX_CELLS_PER_PROPOSAL))
    order = best_first(op, op.Gather(scores, usable), op.Unsqueeze(most, [0]))
    boxes, scores, logits = rows(op, op.Gather(usable, order), boxes, scores, logits)
    boxes, scores, logits = rows(op, nms(op, boxes, scores, count, max_iou), boxes, scores, logits)
    return boxes, scores, logits


def soft_nms(builder: GraphBuilder, boxes: Value, scores: Value, sigma: float) -> Value:
    """Return the scores (N,) after Gaussian soft suppression, in the boxes' order."""
    op = builder.op
    decay = op.Exp(op.Div(op.Neg(op.Pow(iou(op, boxes, boxes), 2.0)), sigma))

    def step(op: OpBuilder, _: Value, current: Value, done: Value) -> Sequence[Value]:
        best = op.ArgMax(op.Where(done, -1.0, current), axis=0, keepdims=1)
        done = op.ScatterElements(done, best, constant(op, np.array([True])), axis=0)
        decayed = op.Mul(current, op.Squeeze(op.Gather(decay, best), [0]))
        return constant(op, True), op.Where(done, current, decayed), done

    states = {"scores": (scores, FLOAT, [None]), "done": (op.Less(scores, -1.0), BOOL, [None])}
    return loop(builder, "soft_nms", step, size_of(op, scores, 0), states)[0]
