"""Pictures at other sizes, as OpenCV makes them. A picture is uint8 (H, W, 3)."""

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
    choose,
    constant,
    loop,
    size_of,
)

PICTURE: Shape = [None, None, 3]
TAPS = 4  # source pixels that one pixel of a picture up to three times smaller may touch
EXACT_STEPS = 256.0  # weights of OpenCV's INTER_LINEAR_EXACT are multiples of 1/256
STRIP_PIXELS = 1_000_000  # a larger picture is made strip by strip, so that few of its pixels are float32 at a time


def shrink(op: OpBuilder, picture: Value, size: Value) -> Value:
    """Return a picture at a smaller size, by area averaging.

    Args:
        op: operators.
        picture: to shrink.
        size: int64 (2,): height and width, each from a third of the picture's to the picture's.
    """
    height, width = (op.Gather(size, constant(op, k)) for k in (0, 1))
    missing = op.Sub(op.Shape(picture, start=0, end=2), op.Mul(size, constant(op, 2)))
    is_half = op.Equal(op.ReduceMax(op.Abs(missing), keepdims=0), constant(op, 0))
    per_strip = op.Max(op.Div(constant(op, STRIP_PIXELS), width), constant(op, 1))
    strips = op.Div(op.Add(height, op.Sub(per_strip, constant(op, 1))), per_strip)

    def make_strip(op: OpBuilder, number: Value, made: Value) -> Sequence[Value]:
        first = op.Mul(number, per_strip)
        end = op.Min(op.Add(first, per_strip), height)

        def mean_of_four(op: OpBuilder) -> Sequence[Value]:
            return [_mean_of_four(op, picture, first, end)]

        def weighted(op: OpBuilder) -> Sequence[Value]:
            rows = _area_average(op, picture, 0, height, op.Range(first, end, constant(op, 1)))
            columns = op.Range(constant(op, 0), width, constant(op, 1))
            return [op.Cast(op.Round(_area_average(op, rows, 1, width, columns)), to=UINT8)]

        strip = choose(op.builder, is_half, mean_of_four, weighted, (UINT8, PICTURE))
        return constant(op, True), op.Concat(made, strip, axis=0)

    shape = op.Concat(constant(op, [0]), op.Unsqueeze(width, [0]), constant(op, [3]), axis=0)
    empty = op.ConstantOfShape(shape, value=ir.tensor(np.zeros(1, np.uint8)))
    return loop(op.builder, "strips", make_strip, strips, {"made": (empty, UINT8, PICTURE)})[0]


def _mean_of_four(op: OpBuilder, picture: Value, first: Value, end: Value) -> Value:
    """Return rows first..end (int64 scalars) of a picture at half its size, whose sides are even."""
    rows = op.Slice(
        picture, op.Unsqueeze(op.Mul(first, constant(op, 2)), [0]), op.Unsqueeze(op.Mul(end, constant(op, 2)), [0]), [0]
    )
    end_of_axes = op.Shape(rows, start=0, end=2)
    total = None
    for top in (0, 1):
        for left in (0, 1):
            quarter = op.Slice(rows, constant(op, [top, left]), end_of_axes, constant(op, [0, 1]), constant(op, [2, 2]))
            total = as_float(op, quarter) if total is None else op.Add(total, as_float(op, quarter))
    return _half_up(op, op.Mul(total, 0.25))  # OpenCV rounds halves up here, and to even elsewhere


def _half_up(op: OpBuilder, x: Value) -> Value:
    """Return values of 0..255 as uint8, halves rounded up."""
    return op.Cast(op.Floor(op.Add(x, 0.5)), to=UINT8)


def _area_average(op: OpBuilder, picture: Value, axis: int, count: Value, wanted: Value) -> Value:
    """Return a picture whose axis has `count` pixels, each the mean of those that it covers, as float32.

    `wanted` (K,) are the numbers of those that are made.
    """
    given = size_of(op, picture, axis)
    ratio = op.Div(as_float(op, given), as_float(op, count))
    first = op.Mul(as_float(op, wanted), ratio)
    base, end = op.Floor(first), op.Add(first, ratio)
    total = None
    for tap in range(TAPS):
        start = op.Add(base, float(tap))
        share = op.Div(op.Max(op.Sub(op.Min(end, op.Add(start, 1.0)), op.Max(first, start)), 0.0), ratio)
        place = op.Min(as_int(op, start), op.Sub(given, constant(op, 1)))
        weighted = _weighted(op, as_float(op, op.Gather(picture, place, axis=axis)), share, axis)
        total = weighted if total is None else op.Add(total, weighted)
    assert total is not None
    return op.Reshape(total, op.Concat(op.Shape(total, end=1), constant(op, [-1, 3]), axis=0))


def _weighted(op: OpBuilder, picture: Value, weights: Value, axis: int) -> Value:
    """Return a picture (H, W, 3) times weights along an axis, as (H, W * 3): ONNX Runtime multiplies long rows fast."""
    flat = op.Reshape(picture, constant(op, [0, -1]))
    if axis == 0:
        return op.Mul(flat, op.Unsqueeze(weights, [1]))
    return op.Mul(flat, thrice(op, weights))


def thrice(op: OpBuilder, weights: Value) -> Value:
    """Return weights (..., W) as (..., W * 3), one for each channel of a pixel."""
    row = op.Mul(op.Shape(weights, start=-1), constant(op, 3))
    weights = op.Unsqueeze(weights, [-1])
    repeated = op.Concat(weights, weights, weights, axis=-1)
    return op.Reshape(repeated, op.Concat(op.Shape(repeated, end=-2), row, axis=0), allowzero=1)


def enlarge(op: OpBuilder, picture: Value, size: Value) -> Value:
    """Return a picture at a larger size, int64 (2,): height and width; bilinear."""
    for axis in (1, 0):
        picture = _bilinear(op, picture, axis, op.Gather(size, constant(op, axis)))
    return _half_up(op, picture)


def _bilinear(op: OpBuilder, picture: Value, axis: int, count: Value) -> Value:
    """Return a picture, as float32, whose axis has `count` pixels, each the mean of two."""
    given = size_of(op, picture, axis)
    last = op.Sub(given, constant(op, 1))
    ratio = op.Div(as_float(op, given), as_float(op, count))
    places = op.Sub(op.Mul(op.Add(as_float(op, op.Range(constant(op, 0), count, constant(op, 1))), 0.5), ratio), 0.5)
    places = op.Min(op.Max(places, 0.0), as_float(op, last))
    first = op.Floor(places)
    share = op.Div(op.Round(op.Mul(op.Sub(places, first), EXACT_STEPS)), EXACT_STEPS)
    place = as_int(op, first)
    near = as_float(op, op.Gather(picture, place, axis=axis))
    far = as_float(op, op.Gather(picture, op.Min(op.Add(place, constant(op, 1)), last), axis=axis))
    moved = _weighted(op, op.Sub(far, near), share, axis)
    return op.Add(near, op.Reshape(moved, op.Shape(near)))


def square_resize(op: OpBuilder, crop: Value, side: Value, wanted: int) -> Value:
    """Return a crop (side, side, 3) of 0..255 as (3, wanted, wanted): area averaging when shrinking, else bilinear.

    Both axes have one matrix (wanted, side) of weights.
    """
    length = as_float(op, side)
    ratio = op.Div(length, float(wanted))
    place = op.Unsqueeze(constant(op, [float(k) for k in range(wanted)]), [1])
    source = op.Unsqueeze(as_float(op, op.Range(constant(op, 0), side, constant(op, 1))), [0])
    low, high = op.Mul(place, ratio), op.Mul(op.Add(place, 1.0), ratio)
    shared = op.Max(op.Sub(op.Min(high, op.Add(source, 1.0)), op.Max(low, source)), 0.0)
    middle = op.Sub(op.Mul(op.Add(place, 0.5), ratio), 0.5)
    middle = op.Min(op.Max(middle, 0.0), op.Sub(length, 1.0))
    near = op.Max(op.Sub(1.0, op.Abs(op.Sub(middle, source))), 0.0)
    near = op.Div(op.Round(op.Mul(near, EXACT_STEPS)), EXACT_STEPS)
    weights = op.Where(op.Greater(ratio, 1.0), op.Div(shared, ratio), near)
    planes = op.MatMul(weights, op.Transpose(crop, perm=[2, 0, 1]))
    planes = op.MatMul(planes, op.Transpose(weights, perm=[1, 0]))
    # OpenCV rounds halves up when it enlarges, and to even when it shrinks.
    return op.Where(op.Greater(ratio, 1.0), op.Round(planes), op.Floor(op.Add(planes, 0.5)))
