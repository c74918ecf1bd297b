"""P-Net over a picture's pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder

from pipeline.export.graph.net import Net
from pipeline.export.graph.ops import FLOAT, UINT8, Shape, Value, as_float, as_int, choose, constant, decode, loop
from pipeline.export.graph.resizing import PICTURE, enlarge, shrink
from stage1_faces.cascade_config import MIN_LEVEL_FACE, CascadeConfig
from stage1_faces.detector import PNET_ANCHOR, STRIDE
from stage1_faces.pyramid import PNET_MULTIPLE
from stage1_faces.roi_crop import GREY

MAX_LEVELS = 24


def run_pnet(
    builder: GraphBuilder, net: Net, image: Value, min_face: Value, config: CascadeConfig
) -> tuple[Value, Value]:
    """Return P-Net's boxes (N, 4), in pixels of the image, and their scores (N,), over all levels.

    Args:
        builder: of the graph.
        net: P-Net.
        image: uint8 (H, W, 3).
        min_face: float32 scalar: the smallest face in pixels; 0 for the config's, which grows with the image.
        config: of the search.
    """
    op = builder.op
    size = as_float(op, op.Gather(op.Shape(image), constant(op, [1, 0])))  # width, height
    own = op.Min(
        constant(op, MIN_LEVEL_FACE / config.min_face),
        op.Div(constant(op, float(config.max_side)), op.ReduceMax(size, keepdims=0)),
    )
    given = op.Div(constant(op, MIN_LEVEL_FACE), op.Max(min_face, 1e-3))
    scale = op.Where(op.Greater(min_face, 0.0), given, own)
    first = _first_level(builder, image, size, scale)

    def search(op: OpBuilder, _: Value, picture: Value, scale: Value, boxes: Value, scores: Value) -> Sequence[Value]:
        found, score = _search_level(op, net, picture, size, config.pnet_threshold)
        half = op.Mul(scale, 0.5)
        longer = op.ReduceMax(op.Shape(picture, start=0, end=2), keepdims=0)
        more = op.Greater(longer, constant(op, round(2 * MIN_LEVEL_FACE)))
        smaller = shrink(op, picture, _level_size(op, size, half))
        return more, smaller, half, op.Concat(boxes, found, axis=0), op.Concat(scores, score, axis=0)

    states: dict[str, tuple[Value, ir.DataType, Shape]] = {
        "picture": (first, UINT8, PICTURE),
        "scale": (scale, FLOAT, []),
        "boxes": (constant(op, np.zeros((0, 4), np.float32)), FLOAT, [None, 4]),
        "scores": (constant(op, np.zeros(0, np.float32)), FLOAT, [None]),
    }
    _, _, boxes, scores = loop(builder, "pyramid", search, constant(op, MAX_LEVELS), states)
    return boxes, scores


def _level_size(op: OpBuilder, size: Value, scale: Value) -> Value:
    """Return height and width (2,) of a level, int64, from the image's width and height (2,) and the level's scale."""
    sides = as_int(op, op.Max(op.Round(op.Mul(size, scale)), 1.0))
    return op.Gather(sides, constant(op, [1, 0]))


def _first_level(builder: GraphBuilder, image: Value, size: Value, scale: Value) -> Value:
    """Return the largest level: the image enlarged, or shrunk, by halves first."""
    op = builder.op
    wanted = _level_size(op, size, scale)

    def step(op: OpBuilder, _: Value, picture: Value) -> Sequence[Value]:
        # The picture is halved before the loop ends: a side of one pixel stays.
        half = op.Max(op.Div(op.Shape(picture, start=0, end=2), constant(op, 2)), constant(op, 1))
        return _all(op, op.GreaterOrEqual(half, op.Mul(wanted, constant(op, 2)))), shrink(op, picture, half)

    def smaller(op: OpBuilder) -> Sequence[Value]:
        # The first round is only made where the picture has three times the level's size.
        many = op.Where(op.Less(scale, 1 / 3), constant(op, MAX_LEVELS), constant(op, 0))
        (halved,) = loop(op.builder, "first_level", step, many, {"picture": (image, UINT8, PICTURE)})
        return [shrink(op, halved, wanted)]

    def larger(op: OpBuilder) -> Sequence[Value]:
        return [enlarge(op, image, wanted)]

    return choose(builder, op.Less(scale, 1.0), smaller, larger, (UINT8, PICTURE))


def _all(op: OpBuilder, conditions: Value) -> Value:
    """Return whether all of some conditions hold, a bool scalar."""
    return op.Greater(op.ReduceMin(as_int(op, conditions), keepdims=0), constant(op, 0))


def _search_level(op: OpBuilder, net: Net, picture: Value, size: Value, threshold: float) -> tuple[Value, Value]:
    """Return boxes (N, 4), in pixels of the image, and scores (N,) of one level."""
    sides = op.Shape(picture, start=0, end=2)
    missing = op.Mod(op.Neg(sides), constant(op, PNET_MULTIPLE))
    pixels = op.Unsqueeze(op.Transpose(as_float(op, picture), perm=[2, 0, 1]), [0])
    pads = op.Concat(constant(op, [0] * 6), missing, axis=0)
    probability, box_deltas = net(op.builder, op.Pad(pixels, pads, float(GREY)))
    probability = op.Squeeze(probability, [0])
    cells = op.Transpose(op.NonZero(op.GreaterOrEqual(probability, threshold)), perm=[1, 0])  # (N, 2) row, column
    scores = op.GatherND(probability, cells)
    found = op.GatherND(op.Transpose(op.Squeeze(box_deltas, [0]), perm=[1, 2, 0]), cells)
    centres = op.Add(op.Mul(as_float(op, op.Gather(cells, constant(op, [1, 0]), axis=1)), float(STRIDE)), 0.5)
    unit = op.Expand(constant(op, PNET_ANCHOR), op.Concat(op.Shape(scores), constant(op, [1]), axis=0))
    step = op.Div(size, as_float(op, op.Gather(sides, constant(op, [1, 0]))))  # image pixels per level pixel
    boxes = op.Mul(decode(op, op.Concat(centres, unit, axis=1), found), op.Concat(step, step, axis=0))
    return boxes, scores
