"""Windows of a picture at sub-pixel places, as stage1_faces.roi_crop cuts them."""

from __future__ import annotations

import math
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
from pipeline.export.graph.resizing import PICTURE, shrink, thrice
from stage1_faces.detector import R_CONTEXT, R_SIZE
from stage1_faces.roi_crop import GREY

MAX_LEVELS = 16
LEAST_SIDE = round(R_SIZE / R_CONTEXT)  # px, longer side of the last level that windows of boxes are read from


@dataclass(frozen=True)
class FlatMipmaps:
    """A picture with its halves, quarters and so on, as one list of pixels."""

    pixels: Value  # uint8 (T, 3)
    levels: Value  # int64 (L, 3): first pixel, width and height of each level
    size: Value  # float32 (1, 2): width and height of the picture


def build_mipmaps(builder: GraphBuilder, image: Value) -> FlatMipmaps:
    """Return the mipmaps of an image, uint8 (H, W, 3)."""
    op = builder.op
    size = op.Gather(op.Shape(image, start=0, end=2), constant(op, [1, 0]))
    flat = constant(op, [-1, 3])

    def halved(op: OpBuilder, picture: Value) -> Value:
        sides = op.Shape(picture, start=0, end=2)
        can = op.Greater(op.ReduceMin(sides, keepdims=0), constant(op, 1))
        return shrink(op, picture, op.Where(can, op.Div(sides, constant(op, 2)), sides))

    def add(op: OpBuilder, _: Value, picture: Value, pixels: Value, levels: Value) -> Sequence[Value]:
        sides = op.Shape(picture, start=0, end=2)
        first = op.Add(op.Shape(pixels, start=0, end=1), op.ReduceProd(size))
        level = op.Concat(first, op.Gather(sides, constant(op, [1, 0])), axis=0)
        more = op.GreaterOrEqual(op.ReduceMax(sides, keepdims=0), constant(op, 2 * LEAST_SIDE))
        pixels = op.Concat(pixels, op.Reshape(picture, flat), axis=0)
        return more, halved(op, picture), pixels, op.Concat(levels, op.Unsqueeze(level, [0]), axis=0)

    states: dict[str, tuple[Value, ir.DataType, Shape]] = {
        "picture": (halved(op, image), UINT8, PICTURE),
        "pixels": (constant(op, np.zeros((0, 3), np.uint8)), UINT8, [None, 3]),
        "levels": (op.Unsqueeze(op.Concat(constant(op, [0]), size, axis=0), [0]), INT64, [None, 3]),
    }
    _, pixels, levels = loop(builder, "mipmaps", add, constant(op, MAX_LEVELS), states)
    # The image is joined last, so that there are never three copies of it.
    pixels = op.Concat(op.Reshape(image, flat), pixels, axis=0)
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
    low = op.Sub(centre, half)
    return anchors, _sample(op, maps, low, op.Div(op.Mul(half, 2.0), float(side)), side)


def _sample(op: OpBuilder, maps: FlatMipmaps, low: Value, step: Value, side: int) -> Value:
    """Return square windows (N, 3, side, side) from the corner `low` (N, 2) with `step` (N, 1) pixels of the image."""
    level = as_int(op, op.Floor(op.Div(op.Log(op.Max(column(op, step, 0), 1e-6)), math.log(2))))
    last = op.Sub(size_of(op, maps.levels, 0), constant(op, 1))
    level = op.Min(op.Max(level, constant(op, 0)), last)
    found = op.Gather(maps.levels, level)
    start, width, height = (column(op, found, k) for k in range(3))
    shrink = op.Div(as_float(op, part(op, found, 1, 3, 1)), maps.size)  # (N, 2)
    step = op.Mul(step, shrink)
    # The first pixel's centre, as OpenCV counts.
    first = op.Sub(op.Add(op.Mul(low, shrink), op.Mul(step, 0.5)), 0.5)
    steps = constant(op, [float(k) for k in range(side)])
    places = op.Add(op.Unsqueeze(first, [2]), op.Mul(op.Unsqueeze(step, [2]), steps))  # (N, 2, side)
    columns, rows = (
        _neighbours(op, op.Squeeze(part(op, places, k, k + 1, 1), [1]), op.Unsqueeze(limit, [1]))
        for k, limit in enumerate((width, height))
    )
    start, width = (op.Unsqueeze(value, [1]) for value in (start, width))
    columns = [(pixel, op.Unsqueeze(thrice(op, weight), [1])) for pixel, weight in columns]  # weights (N, 1, side * 3)
    total = None
    for row, row_weight in rows:
        row_start = op.Unsqueeze(op.Add(start, op.Mul(row, width)), [2])
        line = None
        for at, weight in columns:
            found = op.Gather(maps.pixels, op.Add(row_start, op.Unsqueeze(at, [1])))
            weighted = op.Mul(as_float(op, op.Reshape(found, constant(op, [0, 0, 3 * side]))), weight)
            line = weighted if line is None else op.Add(line, weighted)
        weighted = op.Mul(line, op.Unsqueeze(row_weight, [2]))  # (N, side, side * 3)
        total = weighted if total is None else op.Add(total, weighted)
    inside = op.Mul(op.Unsqueeze(op.Add(rows[0][1], rows[1][1]), [2]), op.Add(columns[0][1], columns[1][1]))
    filled = op.Round(op.Add(total, op.Mul(op.Sub(1.0, inside), float(GREY))))
    return op.Transpose(op.Reshape(filled, constant(op, [0, side, side, 3])), perm=[0, 3, 1, 2])


def _neighbours(op: OpBuilder, places: Value, limit: Value) -> list[tuple[Value, Value]]:
    """Return the two pixels next to each place (N, side) on an axis, and their weights; 0 outside of 0..limit - 1.

    `limit` is (N, 1).
    """
    base = op.Floor(places)
    share = op.Sub(places, base)
    pairs = []
    for after, weight in ((0, op.Sub(1.0, share)), (1, share)):
        wanted = op.Add(as_int(op, base), constant(op, after))
        pixel = op.Min(op.Max(wanted, constant(op, 0)), op.Sub(limit, constant(op, 1)))
        pairs.append((pixel, op.Mul(weight, as_float(op, op.Equal(wanted, pixel)))))
    return pairs
