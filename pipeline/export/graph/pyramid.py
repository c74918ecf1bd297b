"""P-Net over a picture's pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder

from common.images import MAX_PIXELS
from pipeline.export.graph.net import Net
from pipeline.export.graph.ops import (
    FLOAT,
    Shape,
    Value,
    as_float,
    as_int,
    constant,
    decode,
    loop,
    part,
    size_of,
)
from pipeline.export.graph.resizing import DOUBLE, PLANES, double, halve_planes, resample
from pipeline.export.graph.windows import FlatMipmaps, level_pixels
from stage1_faces.cascade_config import MIN_LEVEL_FACE, CascadeConfig
from stage1_faces.detector import PNET_ANCHOR, STRIDE
from stage1_faces.pyramid import PNET_MULTIPLE
from stage1_faces.roi_crop import GREY

MAX_LEVELS = 24
LEAST_MIN_FACE = 1.0  # px: Predictor refuses smaller values of min_face


def run_pnet(
    builder: GraphBuilder, net: Net, maps: FlatMipmaps, min_face: Value, config: CascadeConfig
) -> tuple[Value, Value]:
    """Return P-Net's boxes (N, 4), in pixels of the image, and their scores (N,), over all levels.

    Args:
        builder: of the graph.
        net: P-Net.
        maps: mipmaps of the image.
        min_face: as for first_scale.
        config: of the search.
    """
    op = builder.op
    size = op.Cast(op.Squeeze(maps.size, [0]), to=DOUBLE)  # width, height
    first, step = first_level(builder, maps, size, first_scale(op, size, min_face, config))

    def search(op: OpBuilder, _: Value, planes: Value, step: Value, boxes: Value, scores: Value) -> Sequence[Value]:
        found, score = _search_level(op, net, planes, step, config.pnet_threshold)
        longer = op.ReduceMax(op.Shape(planes, start=2), keepdims=0)
        more = op.Greater(longer, constant(op, round(2 * MIN_LEVEL_FACE)))
        boxes, scores = op.Concat(boxes, found, axis=0), op.Concat(scores, score, axis=0)
        return more, halve_planes(op, planes), op.Mul(step, 2.0), boxes, scores

    states: dict[str, tuple[Value, ir.DataType, Shape]] = {
        "planes": (first, FLOAT, PLANES),
        "step": (step, FLOAT, [2]),
        "boxes": (constant(op, np.zeros((0, 4), np.float32)), FLOAT, [None, 4]),
        "scores": (constant(op, np.zeros(0, np.float32)), FLOAT, [None]),
    }
    _, _, boxes, scores = loop(builder, "pyramid", search, constant(op, MAX_LEVELS), states)
    return boxes, scores


def first_scale(op: OpBuilder, size: Value, min_face: Value, config: CascadeConfig) -> Value:
    """Return the pixels of the largest level per pixel of the image, a double scalar.

    A graph cannot refuse a `min_face`. So a smaller one than Predictor takes counts as the smallest that it takes: 1
    px, or what enlarges the image to MAX_PIXELS (`smallest_min_face`).

    Args:
        op: of the graph.
        size: double (2,): width and height of the image.
        min_face: float32 scalar: the smallest face in pixels; 0 for the config's, which grows with the image.
        config: of the search.
    """
    least_side = double(op, MIN_LEVEL_FACE)
    own = op.Min(
        double(op, MIN_LEVEL_FACE / config.min_face),
        op.Div(double(op, float(config.max_side)), op.ReduceMax(size, keepdims=0)),
    )
    width, height = (op.Gather(size, constant(op, axis)) for axis in (0, 1))
    share = op.Div(op.Mul(width, height), double(op, float(MAX_PIXELS)))
    bounds = double(op, LEAST_MIN_FACE), op.Mul(op.Sqrt(share), least_side)
    given = op.Div(least_side, op.Max(op.Cast(min_face, to=DOUBLE), *bounds))
    return op.Where(op.Greater(min_face, 0.0), given, own)


def first_level(builder: GraphBuilder, maps: FlatMipmaps, size: Value, scale: Value) -> tuple[Value, Value]:
    """Return the largest level as planes (1, 3, h, w), and image pixels per pixel of it (2,), in x and y.

    It is made from the smallest of the mipmaps that is at least as large.

    Args:
        builder: of the graph.
        maps: of the image.
        size: double (2,): width and height of the image.
        scale: double scalar: pixels of the level per pixel of the image; float32 would round some sides the other way.
    """
    op = builder.op
    sides = as_int(op, op.Max(op.Round(op.Mul(size, scale)), double(op, 1)))  # width, height
    # Halvings of the image after which it is still as large as the level; no logarithm, which may miss a power of two.
    powers = constant(op, 2.0 ** np.arange(1, MAX_LEVELS, dtype=np.float64))
    many = op.ReduceSum(as_int(op, op.LessOrEqual(op.Mul(powers, scale), double(op, 1))), keepdims=0)
    number = op.Min(many, op.Sub(size_of(op, maps.levels, 0), constant(op, 1)))
    shrink = op.Pow(constant(op, 2.0), as_float(op, number))
    covered = op.Mul(as_float(op, part(op, op.Gather(maps.levels, number), 1, 3, 0)), shrink)
    planes = resample(op, level_pixels(op, maps, number), op.Gather(sides, constant(op, [1, 0])))
    return planes, op.Div(covered, as_float(op, sides))


def _search_level(op: OpBuilder, net: Net, planes: Value, step: Value, threshold: float) -> tuple[Value, Value]:
    """Return boxes (N, 4), in pixels of the image, and scores (N,) of one level, `step` (2,) pixels of it each."""
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
    boxes = op.Mul(decode(op, op.Concat(centres, unit, axis=1), found), op.Concat(step, step, axis=0))
    return boxes, scores
