"""P-Net over a picture's pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder

from pipeline.export.graph.net import Net
from pipeline.export.graph.ops import (
    FLOAT,
    UINT8,
    Shape,
    Value,
    as_float,
    as_int,
    choose,
    constant,
    decode,
    loop,
    part,
    size_of,
)
from pipeline.export.graph.resizing import PICTURE, PLANES, as_planes, enlarge, shrink, shrink_planes
from pipeline.export.graph.windows import FlatMipmaps, level_pixels
from stage1_faces.cascade_config import MIN_LEVEL_FACE, CascadeConfig
from stage1_faces.detector import PNET_ANCHOR, STRIDE
from stage1_faces.pyramid import PNET_MULTIPLE
from stage1_faces.roi_crop import GREY

MAX_LEVELS = 24


def run_pnet(
    builder: GraphBuilder, net: Net, image: Value, maps: FlatMipmaps, min_face: Value, config: CascadeConfig
) -> tuple[Value, Value]:
    """Return P-Net's boxes (N, 4), in pixels of the image, and their scores (N,), over all levels.

    Args:
        builder: of the graph.
        net: P-Net.
        image: uint8 (H, W, 3).
        maps: its mipmaps.
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
    first = first_level(builder, image, maps, size, scale)

    def search(op: OpBuilder, _: Value, planes: Value, scale: Value, boxes: Value, scores: Value) -> Sequence[Value]:
        found, score = _search_level(op, net, planes, size, config.pnet_threshold)
        half = op.Mul(scale, 0.5)
        longer = op.ReduceMax(op.Shape(planes, start=2), keepdims=0)
        more = op.Greater(longer, constant(op, round(2 * MIN_LEVEL_FACE)))
        smaller = shrink_planes(op, planes, _level_size(op, size, half))
        return more, smaller, half, op.Concat(boxes, found, axis=0), op.Concat(scores, score, axis=0)

    states: dict[str, tuple[Value, ir.DataType, Shape]] = {
        "planes": (first, FLOAT, PLANES),
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


def first_level(builder: GraphBuilder, image: Value, maps: FlatMipmaps, size: Value, scale: Value) -> Value:
    """Return the largest level as planes (1, 3, h, w): the image, or one of its mipmaps, enlarged or shrunk.

    Args:
        builder: of the graph.
        image: uint8 (H, W, 3).
        maps: its mipmaps.
        size: float32 (2,): width and height of the image.
        scale: float32 scalar: pixels of the level per pixel of the image.
    """
    op = builder.op
    wanted = _level_size(op, size, scale)
    # The mipmap that is less than twice as large as the level, where the image is more than three times as large.
    shrinks = op.Div(part(op, maps.levels, 1, 3, 1), op.Gather(wanted, constant(op, [1, 0])))
    large = op.GreaterOrEqual(op.ReduceMin(shrinks, [1], keepdims=0), constant(op, 2))
    many = op.ReduceSum(as_int(op, large), keepdims=0)
    last = op.Sub(size_of(op, maps.levels, 0), constant(op, 1))
    number = op.Where(op.Less(scale, 1 / 3), op.Min(many, last), constant(op, 0))

    def mipmap(op: OpBuilder) -> Sequence[Value]:
        return [level_pixels(op, maps, number)]

    def whole(op: OpBuilder) -> Sequence[Value]:
        return [op.Identity(image)]

    def smaller(op: OpBuilder) -> Sequence[Value]:
        source = choose(op.builder, op.Greater(number, constant(op, 0)), mipmap, whole, (UINT8, PICTURE))
        return [as_planes(op, shrink(op, source, wanted))]

    def larger(op: OpBuilder) -> Sequence[Value]:
        return [enlarge(op, image, wanted)]

    return choose(builder, op.Less(scale, 1.0), smaller, larger, (FLOAT, PLANES))


def _search_level(op: OpBuilder, net: Net, planes: Value, size: Value, threshold: float) -> tuple[Value, Value]:
    """Return boxes (N, 4), in pixels of the image, and scores (N,) of one level."""
    sides = op.Shape(planes, start=2)
    missing = op.Mod(op.Neg(sides), constant(op, PNET_MULTIPLE))
    pads = op.Concat(constant(op, [0] * 6), missing, axis=0)
    probability, box_deltas = net(op.builder, op.Pad(planes, pads, float(GREY)))
    probability = op.Squeeze(probability, [0])
    cells = op.Transpose(op.NonZero(op.GreaterOrEqual(probability, threshold)), perm=[1, 0])  # (N, 2) row, column
    scores = op.GatherND(probability, cells)
    found = op.GatherND(op.Transpose(op.Squeeze(box_deltas, [0]), perm=[1, 2, 0]), cells)
    centres = op.Add(op.Mul(as_float(op, op.Gather(cells, constant(op, [1, 0]), axis=1)), float(STRIDE)), 0.5)
    unit = op.Expand(constant(op, PNET_ANCHOR), op.Concat(op.Shape(scores), constant(op, [1]), axis=0))
    step = op.Div(size, as_float(op, op.Gather(sides, constant(op, [1, 0]))))  # image pixels per level pixel
    boxes = op.Mul(decode(op, op.Concat(centres, unit, axis=1), found), op.Concat(step, step, axis=0))
    return boxes, scores
