"""Windows of a picture at sub-pixel places, as stage1_faces.roi_crop cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder

from pipeline.export.graph.ops import (
    INT64,
    UINT8,
    Shape,
    Value,
    as_float,
    as_int,
    box_anchors,
    column,
    constant,
    loop,
    part,
    size_of,
)
from pipeline.export.graph.resizing import DOUBLE, PICTURE, double, halve, thrice
from stage1_faces.roi_crop import GREY

INT32 = ir.DataType.INT32
MAX_LEVELS = 16


@dataclass(frozen=True)
class FlatMipmaps:
    """A picture with its halves, quarters and so on, as one list of pixels."""

    pixels: Value  # uint8 (T, 3); the last one is GREY, for all that is outside
    levels: Value  # int64 (L, 3): first pixel, width and height of each level
    size: Value  # float32 (1, 2): width and height of the picture


def build_mipmaps(builder: GraphBuilder, image: Value) -> FlatMipmaps:
    """Return the mipmaps of an image, uint8 (H, W, 3)."""
    op = builder.op
    size = op.Gather(op.Shape(image, start=0, end=2), constant(op, [1, 0]))
    flat = constant(op, [-1, 3])

    def add(op: OpBuilder, _: Value, picture: Value, pixels: Value, levels: Value) -> Sequence[Value]:
        sides = op.Shape(picture, start=0, end=2)
        first = op.Add(op.Shape(pixels, start=0, end=1), op.ReduceProd(size))
        level = op.Concat(first, op.Gather(sides, constant(op, [1, 0])), axis=0)
        more = op.Greater(op.ReduceMax(sides, keepdims=0), constant(op, 1))
        pixels = op.Concat(pixels, op.Reshape(picture, flat), axis=0)
        return more, halve(op, picture), pixels, op.Concat(levels, op.Unsqueeze(level, [0]), axis=0)

    states: dict[str, tuple[Value, ir.DataType, Shape]] = {
        "picture": (halve(op, image), UINT8, PICTURE),
        "pixels": (constant(op, np.zeros((0, 3), np.uint8)), UINT8, [None, 3]),
        "levels": (op.Unsqueeze(op.Concat(constant(op, [0]), size, axis=0), [0]), INT64, [None, 3]),
    }
    single = op.Equal(op.ReduceMax(size, keepdims=0), constant(op, 1))  # a picture of one pixel has no half
    rounds = op.Where(single, constant(op, 0), constant(op, MAX_LEVELS))
    _, pixels, levels = loop(builder, "mipmaps", add, rounds, states)
    # The image is joined last, so that there are never three copies of it.
    pixels = op.Concat(op.Reshape(image, flat), pixels, constant(op, np.full((1, 3), GREY, np.uint8)), axis=0)
    return FlatMipmaps(pixels, levels, op.Unsqueeze(as_float(op, size), [0]))


def level_pixels(op: OpBuilder, maps: FlatMipmaps, number: Value) -> Value:
    """Return one of the mipmaps, uint8 (H, W, 3); `number` is an int64 scalar."""
    level = op.Gather(maps.levels, number)
    first, sides = part(op, level, 0, 1, 0), op.Gather(level, constant(op, [2, 1]))
    end = op.Add(first, op.ReduceProd(sides, keepdims=1))
    pixels = op.Slice(maps.pixels, first, end, constant(op, [0]))
    return op.Reshape(pixels, op.Concat(sides, constant(op, [3]), axis=0))


def crop_windows(op: OpBuilder, maps: FlatMipmaps, boxes: Value, context: float, side: int) -> tuple[Value, Value]:
    """Return the anchors (N, 3) of boxes (N, 4), and their windows (N, 3, side, side) of 0..255; GREY outside.

    `context` is the window's side in anchor units.
    """
    anchors = box_anchors(op, boxes)
    centre, half = part(op, anchors, 0, 2, 1), op.Mul(part(op, anchors, 2, 3, 1), context / 2)
    return anchors, _sample(op, maps, op.Sub(centre, half), op.Add(centre, half), side)


def _sample(op: OpBuilder, maps: FlatMipmaps, low: Value, high: Value, side: int) -> Value:
    """Return square windows (N, 3, side, side) of the image between the corners `low` and `high` (N, 2).

    Places are in double and pixels between four others as in OpenCV's remap, so that windows have the same pixels.
    """
    low, high = (op.Cast(corner, to=DOUBLE) for corner in (low, high))
    step = op.Div(op.Sub(high, low), double(op, side))  # pixels of the image per pixel of the window
    halvings = 2.0 ** np.arange(1, MAX_LEVELS, dtype=np.float64)
    level = op.ReduceSum(
        as_int(op, op.GreaterOrEqual(part(op, step, 0, 1, 1), constant(op, halvings))), [1], keepdims=0
    )
    level = op.Min(level, op.Sub(size_of(op, maps.levels, 0), constant(op, 1)))
    found = op.Gather(maps.levels, level)
    start, width, height = (op.Cast(column(op, found, k), to=INT32) for k in range(3))  # half the bytes of int64
    shrink = op.Unsqueeze(op.Cast(op.Pow(constant(op, 2.0), as_float(op, level)), to=DOUBLE), [1])  # (N, 1)
    step, half = op.Div(step, shrink), double(op, 0.5)
    # The first pixel's centre, as OpenCV counts.
    first = op.Sub(op.Add(op.Div(low, shrink), op.Mul(step, half)), half)
    steps = constant(op, np.arange(side, dtype=np.float64))
    places = as_float(op, op.Add(op.Unsqueeze(first, [2]), op.Mul(op.Unsqueeze(step, [2]), steps)))  # (N, 2, side)
    (columns, right), (rows, down) = (
        _neighbours(op, op.Squeeze(part(op, places, k, k + 1, 1), [1]), op.Unsqueeze(limit, [1]))
        for k, limit in enumerate((width, height))
    )
    right, down = op.Unsqueeze(thrice(op, right), [1]), op.Unsqueeze(down, [2])  # (N, 1, side * 3), (N, side, 1)
    start, width = op.Unsqueeze(start, [1, 2]), op.Unsqueeze(width, [1, 2])
    grey = op.Cast(op.Sub(size_of(op, maps.pixels, 0), constant(op, 1)), to=INT32)
    lines = []
    for row, row_inside in rows:
        row_start = op.Add(start, op.Mul(op.Unsqueeze(row, [2]), width))
        pixels = []
        for pixel, inside in columns:
            both = op.And(op.Unsqueeze(row_inside, [2]), op.Unsqueeze(inside, [1]))
            place = op.Where(both, op.Add(row_start, op.Unsqueeze(pixel, [1])), grey)
            pixels.append(as_float(op, op.Reshape(op.Gather(maps.pixels, place), constant(op, [0, 0, 3 * side]))))
        lines.append(_between(op, pixels, right))
    filled = op.Round(_between(op, lines, down))
    return op.Transpose(op.Reshape(filled, constant(op, [0, side, side, 3])), perm=[0, 3, 1, 2])


def _between(op: OpBuilder, pair: Sequence[Value], share: Value) -> Value:
    """Return values between two others; `share` is that of the second."""
    before, after = pair
    return op.Add(before, op.Mul(op.Sub(after, before), share))


def _neighbours(op: OpBuilder, places: Value, limit: Value) -> tuple[list[tuple[Value, Value]], Value]:
    """Return the two pixels next to each place (N, side) on an axis, whether each is inside, and the second's share.

    `limit` (N, 1) is the number of pixels. Pixels are int32.
    """
    base = op.Floor(places)
    pixels = []
    for after in (0, 1):
        pixel = op.Add(op.Cast(base, to=INT32), constant(op, np.array(after, np.int32)))
        inside = op.And(op.GreaterOrEqual(pixel, constant(op, np.array(0, np.int32))), op.Less(pixel, limit))
        pixels.append((pixel, inside))
    return pixels, op.Sub(places, base)
