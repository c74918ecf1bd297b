"""Pictures at other sizes, as OpenCV makes them. A picture is uint8 (H, W, 3)."""

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
TAPS = 4  # source pixels that one pixel of a picture up to three times smaller may touch
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
        size: int64 (2,): height and width, each from a third of the picture's to the picture's.
    """
    height, width = (op.Gather(size, constant(op, k)) for k in (0, 1))
    missing = op.Sub(op.Shape(picture, start=0, end=2), op.Mul(size, constant(op, 2)))
    halved = [op.Equal(op.Gather(missing, constant(op, axis)), constant(op, 0)) for axis in (0, 1)]
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
        # OpenCV rounds halves up where both sides are halved, and to even elsewhere.
        rounded = op.Where(op.And(*halved), op.Floor(op.Add(strip, 0.5)), op.Round(strip))
        return constant(op, True), op.Concat(made, op.Cast(rounded, to=UINT8), axis=0)

    shape = op.Concat(constant(op, [0]), op.Unsqueeze(width, [0]), constant(op, [3]), axis=0)
    empty = op.ConstantOfShape(shape, value=ir.tensor(np.zeros(1, np.uint8)))
    return loop(op.builder, "strips", make_strip, strips, {"made": (empty, UINT8, PICTURE)})[0]


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


def _half_up(op: OpBuilder, x: Value) -> Value:
    """Return values of 0..255 as uint8, halves rounded up."""
    return op.Cast(op.Floor(op.Add(x, 0.5)), to=UINT8)


def _area_average(op: OpBuilder, picture: Value, count: Value, wanted: Value) -> Value:
    """Return rows of a picture of `count` rows, each the mean of the given picture's rows that it covers, as float32.

    `wanted` (K,) are the numbers of those that are made.
    """
    given = size_of(op, picture, 0)
    ratio = op.Div(as_float(op, given), as_float(op, count))
    first = op.Unsqueeze(op.Mul(as_float(op, wanted), ratio), [1])
    start = op.Add(op.Floor(first), constant(op, [float(tap) for tap in range(TAPS)]))  # (K, TAPS)
    covered = op.Sub(op.Min(op.Add(first, ratio), op.Add(start, 1.0)), op.Max(first, start))
    return _mean_of_rows(op, picture, start, op.Div(op.Max(covered, 0.0), ratio))


def _mean_of_rows(op: OpBuilder, picture: Value, places: Value, weights: Value) -> Value:
    """Return means of rows of a picture (H, W, 3), as float32 (K, W, 3).

    Args:
        op: operators.
        picture: of any type.
        places: float32 (K, T): the numbers of the rows; those behind the last one are that one.
        weights: float32 (K, T).
    """
    given = op.Shape(picture)
    last = op.Sub(op.Squeeze(part(op, given, 0, 1, 0), [0]), constant(op, 1))
    rows = op.Gather(op.Reshape(picture, constant(op, [0, -1])), op.Min(as_int(op, places), last))  # (K, T, W * 3)
    mean = op.MatMul(op.Unsqueeze(weights, [1]), as_float(op, rows))  # (K, 1, W * 3)
    return op.Reshape(mean, op.Concat(op.Shape(mean, end=1), part(op, given, 1, 3, 0), axis=0))


def _turned(op: OpBuilder, picture: Value) -> Value:
    """Return a picture with rows as columns: rows are picked out much faster than single pixels."""
    return op.Transpose(picture, perm=[1, 0, 2])


def thrice(op: OpBuilder, weights: Value) -> Value:
    """Return weights (..., W) as (..., W * 3), one for each channel of a pixel."""
    row = op.Mul(op.Shape(weights, start=-1), constant(op, 3))
    weights = op.Unsqueeze(weights, [-1])
    repeated = op.Concat(weights, weights, weights, axis=-1)
    return op.Reshape(repeated, op.Concat(op.Shape(repeated, end=-2), row, axis=0), allowzero=1)


def enlarge(op: OpBuilder, picture: Value, size: Value) -> Value:
    """Return a picture at a larger size, int64 (2,): height and width; bilinear."""
    columns = _bilinear(op, _turned(op, picture), op.Gather(size, constant(op, 1)))
    return _half_up(op, _bilinear(op, _turned(op, columns), op.Gather(size, constant(op, 0))))


def _bilinear(op: OpBuilder, picture: Value, count: Value) -> Value:
    """Return a picture of `count` rows, as float32, each the mean of two."""
    given = as_float(op, size_of(op, picture, 0))
    ratio = op.Div(given, as_float(op, count))
    places = op.Sub(op.Mul(op.Add(as_float(op, op.Range(constant(op, 0), count, constant(op, 1))), 0.5), ratio), 0.5)
    places = op.Unsqueeze(op.Min(op.Max(places, 0.0), op.Sub(given, 1.0)), [1])
    first = op.Floor(places)
    share = op.Div(op.Round(op.Mul(op.Sub(places, first), EXACT_STEPS)), EXACT_STEPS)
    both = op.Add(first, constant(op, [0.0, 1.0]))
    return _mean_of_rows(op, picture, both, op.Concat(op.Sub(1.0, share), share, axis=1))
