"""Pictures at other sizes, as OpenCV makes them. A picture is uint8 (H, W, 3), planes are float32 (1, 3, H, W)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from pipeline.export.graph.ops import (
    FLOAT,
    UINT8,
    Shape,
    Value,
    as_float,
    as_int,
    choose,
    constant,
    loop,
    part,
    size_of,
)

PICTURE: Shape = [None, None, 3]
PLANES: Shape = [1, 3, None, None]
EXACT_STEPS = 256.0  # weights of OpenCV's INTER_LINEAR_EXACT are multiples of 1/256
# From the channels of two neighbours, 6, to those of their mean, 3.
MEAN_OF_TWO = np.tile(np.eye(3, dtype=np.float32) * 0.5, (2, 1))
# A larger picture is made strip by strip, so that few of its pixels are float32 at a time. A strip is joined with all
# before it, so there must not be many.
STRIP_PIXELS, MAX_STRIPS = 100_000, 32


def shrink(op: OpBuilder, picture: Value, size: Value) -> Value:
    """Return a picture at a smaller size, by area averaging.

    Args:
        op: operators.
        picture: to shrink.
        size: int64 (2,): height and width, at most the picture's.
    """
    height, width = (op.Gather(size, constant(op, k)) for k in (0, 1))
    halved = _halved_axes(op, op.Shape(picture, start=0, end=2), size)
    least = op.Add(op.Div(height, constant(op, MAX_STRIPS)), constant(op, 1))
    per_strip = op.Max(op.Div(constant(op, STRIP_PIXELS), width), least)
    strips = op.Div(op.Add(height, op.Sub(per_strip, constant(op, 1))), per_strip)

    def make_strip(op: OpBuilder, number: Value, made: Value) -> Sequence[Value]:
        first = op.Mul(number, per_strip)
        end = op.Min(op.Add(first, per_strip), height)

        def pairs_of_rows(op: OpBuilder) -> Sequence[Value]:
            return [_pairs_of_rows(op, picture, first, end)]

        def some_rows(op: OpBuilder) -> Sequence[Value]:
            return [_area_average(op, picture, height, op.Range(first, end, constant(op, 1)))]

        rows = choose(op.builder, halved[0], pairs_of_rows, some_rows, (FLOAT, PICTURE))

        def pairs_of_columns(op: OpBuilder) -> Sequence[Value]:
            return [_pairs_of_columns(op, rows)]

        def some_columns(op: OpBuilder) -> Sequence[Value]:
            wanted = op.Range(constant(op, 0), width, constant(op, 1))
            return [_turned(op, _area_average(op, _turned(op, rows), width, wanted))]

        strip = choose(op.builder, halved[1], pairs_of_columns, some_columns, (FLOAT, PICTURE))
        rounded = rounded_as_opencv(op, strip, op.And(*halved))
        return constant(op, True), op.Concat(made, op.Cast(rounded, to=UINT8), axis=0)

    shape = op.Concat(constant(op, [0]), op.Unsqueeze(width, [0]), constant(op, [3]), axis=0)
    empty = op.ConstantOfShape(shape, value=ir.tensor(np.zeros(1, np.uint8)))
    return loop(op.builder, "strips", make_strip, strips, {"made": (empty, UINT8, PICTURE)})[0]


def _halved_axes(op: OpBuilder, shape: Value, size: Value) -> list[Value]:
    """Return whether each axis of a shape (2,) is halved exactly to become `size` (2,)."""
    missing = op.Sub(shape, op.Mul(size, constant(op, 2)))
    return [op.Equal(op.Gather(missing, constant(op, axis)), constant(op, 0)) for axis in (0, 1)]


def rounded_as_opencv(op: OpBuilder, values: Value, up: Value) -> Value:
    """Return whole numbers. OpenCV rounds halves up when it enlarges or halves a picture, and to even elsewhere."""
    return op.Where(up, op.Floor(op.Add(values, 0.5)), op.Round(values))


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


def _area_average(op: OpBuilder, picture: Value, count: Value, wanted: Value) -> Value:
    """Return rows of a picture (H, W, 3) as the mean of the rows that each covers, float32 (K, W, 3).

    `count` is the number of rows of the whole, `wanted` (K,) the numbers of those that are made.
    """
    shape = op.Shape(picture)
    places, weights = _covered_rows(op, size_of(op, picture, 0), count, wanted)
    rows = op.Gather(op.Reshape(picture, constant(op, [0, -1])), places)  # (K, T, W * 3)
    mean = op.MatMul(op.Unsqueeze(weights, [1]), as_float(op, rows))  # (K, 1, W * 3)
    return op.Reshape(mean, op.Concat(op.Shape(mean, end=1), part(op, shape, 1, 3, 0), axis=0))


def _covered_rows(op: OpBuilder, given: Value, count: Value, wanted: Value) -> tuple[Value, Value]:
    """Return which rows of a picture each row of a smaller one covers, int64 (K, T), and their shares, float32.

    Args:
        op: operators.
        given: rows of the picture, a scalar.
        count: rows of the smaller one, a scalar.
        wanted: numbers (K,) of its rows.
    """
    ratio = op.Div(as_float(op, given), as_float(op, count))
    first = op.Unsqueeze(op.Mul(as_float(op, wanted), ratio), [1])
    taps = op.Range(constant(op, 0.0), op.Add(op.Ceil(ratio), 1.0), constant(op, 1.0))  # as many as one row touches
    start = op.Add(op.Floor(first), taps)
    covered = op.Sub(op.Min(op.Add(first, ratio), op.Add(start, 1.0)), op.Max(first, start))
    places = op.Min(as_int(op, start), op.Sub(given, constant(op, 1)))
    return places, op.Div(op.Max(covered, 0.0), ratio)


def _turned(op: OpBuilder, picture: Value) -> Value:
    """Return a picture with rows as columns: rows are picked out much faster than single pixels."""
    return op.Transpose(picture, perm=[1, 0, 2])


def thrice(op: OpBuilder, weights: Value) -> Value:
    """Return weights (..., W) as (..., W * 3), one for each channel of a pixel."""
    row = op.Mul(op.Shape(weights, start=-1), constant(op, 3))
    weights = op.Unsqueeze(weights, [-1])
    repeated = op.Concat(weights, weights, weights, axis=-1)
    return op.Reshape(repeated, op.Concat(op.Shape(repeated, end=-2), row, axis=0), allowzero=1)


def as_planes(op: OpBuilder, picture: Value) -> Value:
    """Return a picture as float32 planes (1, 3, H, W) of 0..255, which nets take."""
    return op.Unsqueeze(as_float(op, op.Transpose(picture, perm=[2, 0, 1])), [0])


def enlarge(op: OpBuilder, picture: Value, size: Value) -> Value:
    """Return a picture at a larger size, int64 (2,): height and width, as planes; bilinear, in whole numbers."""
    turned = op.Unsqueeze(op.Transpose(picture, perm=[2, 1, 0]), [0])  # columns as rows
    wider = _turned_planes(op, _more_rows(op, turned, op.Gather(size, constant(op, 1))))
    return op.Floor(op.Add(_more_rows(op, wider, op.Gather(size, constant(op, 0))), 0.5))


def _more_rows(op: OpBuilder, planes: Value, count: Value) -> Value:
    """Return planes of `count` rows, float32, each between two of the given ones, which may be of any type."""
    given = as_float(op, size_of(op, planes, 2))
    numbers = as_float(op, op.Range(constant(op, 0), count, constant(op, 1)))
    places = op.Sub(op.Mul(op.Add(numbers, 0.5), op.Div(given, as_float(op, count))), 0.5)
    places = op.Min(op.Max(places, 0.0), op.Sub(given, 1.0))
    first = op.Floor(places)
    after = op.Min(op.Add(first, 1.0), op.Sub(given, 1.0))
    share = op.Div(op.Round(op.Mul(op.Sub(places, first), EXACT_STEPS)), EXACT_STEPS)
    upper, lower = (as_float(op, op.Gather(planes, as_int(op, rows), axis=2)) for rows in (first, after))
    return op.Add(upper, op.Mul(op.Sub(lower, upper), op.Unsqueeze(share, [1])))


def shrink_planes(op: OpBuilder, planes: Value, size: Value) -> Value:
    """Return planes (1, 3, H, W) at a smaller size, as `shrink` does for pictures."""
    height, width = (op.Gather(size, constant(op, k)) for k in (0, 1))
    halved = _halved_axes(op, op.Shape(planes, start=2), size)
    lower = _fewer_rows(op, planes, height, halved[0])
    smaller = _turned_planes(op, _fewer_rows(op, _turned_planes(op, lower), width, halved[1]))
    return rounded_as_opencv(op, smaller, op.And(*halved))


def _fewer_rows(op: OpBuilder, planes: Value, count: Value, halved: Value) -> Value:
    """Return planes of `count` rows, each the mean of the rows that it covers; `halved` says that these are two."""

    def pairs(op: OpBuilder) -> Sequence[Value]:
        return [op.AveragePool(planes, kernel_shape=[2, 1], strides=[2, 1])]

    def some(op: OpBuilder) -> Sequence[Value]:
        wanted = op.Range(constant(op, 0), count, constant(op, 1))
        places, weights = _covered_rows(op, size_of(op, planes, 2), count, wanted)
        mean = op.MatMul(op.Unsqueeze(weights, [1]), op.Gather(planes, places, axis=2))  # (1, 3, K, 1, W)
        return [op.Squeeze(mean, [3])]

    return choose(op.builder, halved, pairs, some, (FLOAT, PLANES))


def _turned_planes(op: OpBuilder, planes: Value) -> Value:
    """Return planes with rows as columns."""
    return op.Transpose(planes, perm=[0, 1, 3, 2])
