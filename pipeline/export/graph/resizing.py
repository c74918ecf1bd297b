"""Pictures at other sizes, as in stage1_faces. A picture is uint8 (H, W, 3), planes are float32 (1, 3, H, W)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from pipeline.export.graph.ops import (
    UINT8,
    Shape,
    Value,
    as_float,
    as_int,
    constant,
    loop,
    size_of,
)

DOUBLE = ir.DataType.DOUBLE
PICTURE: Shape = [None, None, 3]
PLANES: Shape = [1, 3, None, None]
EXACT_STEPS = 256.0  # weights of OpenCV's INTER_LINEAR_EXACT are multiples of 1/256
# From the channels of two neighbours, 6, to those of their mean, 3.
MEAN_OF_TWO = np.tile(np.eye(3, dtype=np.float32) * 0.5, (2, 1))
# A larger picture is made strip by strip, so that few of its pixels are float32 at a time. A strip is joined with all
# before it, so there must not be many.
STRIP_PIXELS, MAX_STRIPS = 100_000, 32


def halve(op: OpBuilder, picture: Value) -> Value:
    """Return a picture at half its size, rounded up: means of 2x2 pixels. An odd side's last ones count twice."""
    odd = _odd(op, op.Shape(picture, start=0, end=2))
    picture = op.Pad(picture, op.Concat(constant(op, [0, 0, 0]), odd, constant(op, [0]), axis=0), mode="edge")
    height, width = (op.Div(size_of(op, picture, axis), constant(op, 2)) for axis in (0, 1))
    least = op.Add(op.Div(height, constant(op, MAX_STRIPS)), constant(op, 1))
    per_strip = op.Max(op.Div(constant(op, STRIP_PIXELS), width), least)
    strips = op.Div(op.Add(height, op.Sub(per_strip, constant(op, 1))), per_strip)

    def make_strip(op: OpBuilder, number: Value, made: Value) -> Sequence[Value]:
        first = op.Mul(number, per_strip)
        end = op.Min(op.Add(first, per_strip), height)
        strip = _pairs_of_columns(op, _pairs_of_rows(op, picture, first, end))
        whole = op.Cast(op.Floor(op.Add(strip, 0.5)), to=UINT8)
        return constant(op, True), op.Concat(made, whole, axis=0)

    shape = op.Concat(constant(op, [0]), op.Unsqueeze(width, [0]), constant(op, [3]), axis=0)
    empty = op.ConstantOfShape(shape, value=ir.tensor(np.zeros(1, np.uint8)))
    return loop(op.builder, "strips", make_strip, strips, {"made": (empty, UINT8, PICTURE)})[0]


def double(op: OpBuilder, number: float) -> Value:
    """Return a number as a double scalar."""
    return constant(op, np.array(number, np.float64))


def _odd(op: OpBuilder, sides: Value) -> Value:
    """Return 1 for each odd side, 0 for each even one."""
    return op.Mod(sides, constant(op, 2))


def _pairs_of_rows(op: OpBuilder, picture: Value, first: Value, end: Value) -> Value:
    """Return rows first..end (int64 scalars) of a picture at half its even height, as float32."""
    shape = op.Shape(picture, start=1)
    length = op.ReduceProd(shape)
    pairs = op.Reshape(picture, op.Concat(constant(op, [-1, 2]), length, axis=0))
    pairs = op.Slice(pairs, op.Unsqueeze(first, [0]), op.Unsqueeze(end, [0]), [0])
    upper, lower = (as_float(op, op.Gather(pairs, constant(op, k), axis=1)) for k in (0, 1))
    mean = op.Mul(op.Add(upper, lower), 0.5)
    return op.Reshape(mean, op.Concat(op.Shape(mean, end=1), shape, axis=0))


def _pairs_of_columns(op: OpBuilder, picture: Value) -> Value:
    """Return a picture, of float32, at half its even width. A matrix adds the pixels: they are slow to pick out."""
    mean = op.MatMul(op.Reshape(picture, constant(op, [-1, 6])), constant(op, MEAN_OF_TWO))
    return op.Reshape(mean, op.Concat(op.Shape(picture, end=1), constant(op, [-1, 3]), axis=0))


def thrice(op: OpBuilder, weights: Value) -> Value:
    """Return weights (..., W) as (..., W * 3), one for each channel of a pixel."""
    row = op.Mul(op.Shape(weights, start=-1), constant(op, 3))
    weights = op.Unsqueeze(weights, [-1])
    repeated = op.Concat(weights, weights, weights, axis=-1)
    return op.Reshape(repeated, op.Concat(op.Shape(repeated, end=-2), row, axis=0), allowzero=1)


def resample(op: OpBuilder, picture: Value, size: Value) -> Value:
    """Return a picture at a size, int64 (2,): height and width, as planes; bilinear, in whole numbers."""
    # Columns as rows. In one step, ONNX Runtime takes ten times as long.
    turned = op.Unsqueeze(op.Transpose(op.Transpose(picture, perm=[2, 0, 1]), perm=[0, 2, 1]), [0])
    wider = _turned_planes(op, _resampled_rows(op, turned, op.Gather(size, constant(op, 1))))
    return op.Floor(op.Add(_resampled_rows(op, wider, op.Gather(size, constant(op, 0))), 0.5))


def _resampled_rows(op: OpBuilder, planes: Value, count: Value) -> Value:
    """Return planes of `count` rows, float32, each between two of the given ones, which may be of any type."""
    given, wanted = (op.Cast(number, to=DOUBLE) for number in (size_of(op, planes, 2), count))
    numbers = op.Cast(op.Range(constant(op, 0), count, constant(op, 1)), to=DOUBLE)
    zero, half, steps = (double(op, number) for number in (0, 0.5, EXACT_STEPS))
    # In double, as OpenCV: float32 would round some halves of a step the other way.
    places = op.Sub(op.Mul(op.Add(numbers, half), op.Div(given, wanted)), half)
    last = op.Sub(size_of(op, planes, 2), constant(op, 1))
    places = op.Min(op.Max(places, zero), op.Cast(last, to=DOUBLE))
    first = op.Floor(places)
    share = as_float(op, op.Round(op.Mul(op.Sub(places, first), steps)))
    share = op.Div(share, EXACT_STEPS)
    first = as_int(op, first)
    after = op.Min(op.Add(first, constant(op, 1)), last)
    upper, lower = (as_float(op, op.Gather(planes, rows, axis=2)) for rows in (first, after))
    return op.Add(upper, op.Mul(op.Sub(lower, upper), op.Unsqueeze(share, [1])))


def halve_planes(op: OpBuilder, planes: Value) -> Value:
    """Return planes (1, 3, H, W) at half their size, as `halve` does for pictures."""
    odd = op.Concat(constant(op, [0] * 6), _odd(op, op.Shape(planes, start=2)), axis=0)
    mean = op.AveragePool(op.Pad(planes, odd, mode="edge"), kernel_shape=[2, 2], strides=[2, 2])
    return op.Floor(op.Add(mean, 0.5))


def _turned_planes(op: OpBuilder, planes: Value) -> Value:
    """Return planes with rows as columns."""
    return op.Transpose(planes, perm=[0, 1, 3, 2])
