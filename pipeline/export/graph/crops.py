"""The classifier's crops of faces, as stage2_classifier.cropping cuts and resizes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnxscript import GraphBuilder, OpBuilder

from pipeline.export.graph.ops import FLOAT, Shape, Value, as_float, as_int, choose, collect, constant, part, size_of
from pipeline.export.graph.resizing import EXACT_STEPS

FAR = 1e9  # px; farther than any side


def square_windows(op: OpBuilder, boxes: Value, margin: float) -> tuple[Value, Value]:
    """Return left and top (N, 2), and the side (N, 1), of the square windows that are cut for boxes (N, 4), int64."""
    low, high = part(op, boxes, 0, 2, 1), part(op, boxes, 2, 4, 1)
    longer = op.ReduceMax(op.Sub(high, low), [1], keepdims=1)
    side = as_int(op, op.Max(op.Round(op.Mul(longer, 1 + 2 * margin)), 1.0))
    return as_int(op, op.Round(op.Mul(op.Sub(op.Add(low, high), as_float(op, side)), 0.5))), side


def cut_crops(builder: GraphBuilder, image: Value, windows: tuple[Value, Value], wanted: int) -> Value:
    """Return crops of an image at one size: area averaging when shrinking, bilinear when enlarging.

    Args:
        builder: of the graph.
        image: uint8 (H, W, 3).
        windows: corners and sides from `square_windows`, of at least one window.
        wanted: side of the crops, in pixels.

    Returns:
        float32 (N, 3, wanted, wanted) of 0..255. Pixels outside the image repeat its edge; a window that is
        wholly outside repeats the nearest pixels.
    """
    op = builder.op
    corners, sides = windows
    size = op.Gather(op.Shape(image, start=0, end=2), constant(op, [1, 0]))
    starts = op.Min(op.Max(corners, constant(op, 0)), op.Sub(size, constant(op, 1)))
    ends = op.Max(op.Min(op.Add(corners, sides), size), op.Add(starts, constant(op, 1)))
    outside = as_float(op, op.Sub(starts, corners))
    scales = op.Div(as_float(op, sides), float(wanted))

    def cut(op: OpBuilder, number: Value) -> Value:
        start, end = op.Gather(starts, number), op.Gather(ends, number)
        planes = op.Transpose(as_float(op, op.Slice(image, start, end, constant(op, [1, 0]))), perm=[2, 0, 1])
        scale = op.Gather(scales, number)
        columns, rows = _weights(op, op.Sub(end, start), op.Gather(outside, number), scale, wanted)
        planes = op.MatMul(op.MatMul(rows, planes), op.Transpose(columns, perm=[1, 0]))
        return _rounded_as_opencv(op, planes, op.Or(op.LessOrEqual(scale, 1.0), op.Equal(scale, 2.0)))

    return collect(builder, "crops", cut, size_of(op, sides, 0), FLOAT, (3, wanted, wanted))


def _rounded_as_opencv(op: OpBuilder, values: Value, up: Value) -> Value:
    """Return whole numbers. OpenCV rounds halves up when it enlarges or halves a picture, else to even."""
    return op.Where(up, op.Floor(op.Add(values, 0.5)), op.Round(values))


def _weights(op: OpBuilder, counts: Value, outside: Value, scale: Value, wanted: int) -> tuple[Value, Value]:
    """Return the weights that make the columns, and those that make the rows, of one resized window.

    Args:
        op: operators.
        counts: int64 (2,): columns and rows of the window inside the image; their edges stand for all outside.
        outside: float32 (2,): columns left of the image and rows above it.
        scale: float32 (1,): pixels of the window per pixel of the crop.
        wanted: side of the crop.

    Returns:
        Two matrices (wanted, columns) and (wanted, rows) of float32.
    """
    longer = op.ReduceMax(counts, keepdims=0)
    number = as_float(op, op.Range(constant(op, 0), longer, constant(op, 1)))  # (L,)
    first = op.Unsqueeze(outside, [1, 2])  # (2, 1, 1)
    last = op.Unsqueeze(op.Sub(as_float(op, counts), 1.0), [1, 2])
    place = op.Add(number, first)  # (2, 1, L)
    wanted_places = constant(op, np.arange(wanted, dtype=np.float32)[:, None])  # (wanted, 1)
    shape: Shape = (2, wanted, None)

    def areas(op: OpBuilder) -> Sequence[Value]:
        # The first pixel reaches far to the left, the last one far to the right; no pixel follows it.
        low = op.Where(op.Greater(number, last), FAR, op.Where(op.Greater(number, 0.0), place, -FAR))
        high = op.Where(op.Less(number, last), op.Add(place, 1.0), FAR)
        start = op.Mul(wanted_places, scale)
        covered = op.Sub(op.Min(op.Add(start, scale), high), op.Max(start, low))
        return [op.Div(op.Max(covered, 0.0), scale)]

    def nearness(op: OpBuilder) -> Sequence[Value]:
        middle = op.Sub(op.Mul(op.Add(wanted_places, 0.5), scale), 0.5)
        middle = op.Min(op.Max(middle, first), op.Add(first, last))  # (2, wanted, 1)
        near = op.Max(op.Sub(1.0, op.Abs(op.Sub(middle, place))), 0.0)
        return [op.Div(op.Round(op.Mul(near, EXACT_STEPS)), EXACT_STEPS)]

    shrinks = op.Greater(op.Squeeze(scale, [0]), 1.0)
    weights = choose(op.builder, shrinks, areas, nearness, (FLOAT, shape))
    columns, rows = (_first_columns(op, op.Gather(weights, constant(op, k)), counts, k) for k in (0, 1))
    return columns, rows


def _first_columns(op: OpBuilder, weights: Value, counts: Value, k: int) -> Value:
    """Return the first counts[k] columns of weights (wanted, L)."""
    return op.Slice(weights, constant(op, [0]), op.Gather(counts, constant(op, [k])), constant(op, [1]))
