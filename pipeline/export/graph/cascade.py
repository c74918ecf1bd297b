"""The cascade: P-Net, R-Net and O-Net, as stage1_faces.detector joins them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxscript import GraphBuilder, OpBuilder

from pipeline.export.graph.net import Net
from pipeline.export.graph.ops import (
    Value,
    area,
    clip,
    constant,
    decode,
    indices,
    iou,
    log_odds,
    mirrored,
    nms,
    part,
    rows,
    soft_nms,
    top_proposals,
)
from pipeline.export.graph.pyramid import run_pnet
from pipeline.export.graph.windows import FlatMipmaps, build_mipmaps, crop_windows
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import (
    FLIPPED_LANDMARKS,
    MAX_ONET2_GAIN,
    O_CONTEXT,
    O_SIZE,
    ONET2_BOX_WEIGHT,
    ONET2_WEIGHT,
    ONET_WEIGHT,
    PNET_WEIGHT,
    R_CONTEXT,
    R_SIZE,
    RNET_WEIGHT,
)

MAX_FACES = 10_000  # more than any cascade passes on
NO_LOGIT = -1e9  # the logit of a threshold of 0


@dataclass(frozen=True)
class Found:
    """Faces as values of the graph."""

    boxes: Value  # (N, 4)
    scores: Value  # (N,)
    landmarks: Value  # (N, 5, 2)


def find_faces(
    builder: GraphBuilder,
    nets: Mapping[str, Net],
    config: CascadeConfig,
    image: Value,
    min_face: Value,
    min_score: Value,
) -> Found:
    """Return the cascade's faces with scores from `min_score` on; arguments as for run_pnet."""
    op = builder.op
    maps = build_mipmaps(builder, image)
    boxes, scores = run_pnet(builder, nets["pnet"], maps, min_face, config)
    size = op.Concat(maps.size, maps.size, axis=1)
    logits = op.Mul(log_odds(op, scores), PNET_WEIGHT)
    boxes, _, logits = top_proposals(op, boxes, scores, logits, size, config.nms_pnet, config.max_pnet)
    anchors, windows = crop_windows(op, maps, boxes, R_CONTEXT, R_SIZE)
    scores, box_deltas = nets["rnet"](builder, windows)
    logits = op.Add(logits, op.Mul(log_odds(op, scores), RNET_WEIGHT))
    scores = op.Sigmoid(op.Div(logits, PNET_WEIGHT + RNET_WEIGHT))
    passed = indices(op, op.GreaterOrEqual(scores, config.rnet_threshold))
    boxes, scores, logits = rows(op, passed, decode(op, anchors, box_deltas), scores, logits)
    boxes, _, logits = top_proposals(op, boxes, scores, logits, size, config.nms_rnet, config.max_rnet)
    found = _run_onet(builder, nets["onet"], maps, size, boxes, logits, config, min_score)
    return _best_faces(builder, found, min_score, config)


def _run_onet(
    builder: GraphBuilder,
    net: Net,
    maps: FlatMipmaps,
    size: Value,
    boxes: Value,
    logits: Value,
    config: CascadeConfig,
    min_score: Value,
) -> Found:
    """Return what O-Net makes of the boxes: in one pass, or two with `second_look`."""
    op = builder.op
    anchors, windows = crop_windows(op, maps, boxes, O_CONTEXT, O_SIZE)
    scores, box_deltas, points = net(builder, windows)
    logits = op.Add(logits, op.Mul(log_odds(op, scores), ONET_WEIGHT))
    scores = op.Sigmoid(op.Div(logits, PNET_WEIGHT + RNET_WEIGHT + ONET_WEIGHT))
    boxes = clip(op, decode(op, anchors, box_deltas), size)
    passed = op.And(op.GreaterOrEqual(scores, config.onet2_threshold), op.Greater(area(op, boxes), 0.0))
    boxes, scores, logits, anchors, points = rows(op, indices(op, passed), boxes, scores, logits, anchors, points)
    kept = nms(op, boxes, scores, config.max_onet2, config.nms_onet)
    # The score so far, as if the second pass agreed with it.
    expected = _platt(op, log_odds(op, op.Gather(scores, kept)), config)
    wanted = op.Where(op.Greater(min_score, 0.0), log_odds(op, min_score), constant(op, NO_LOGIT))
    kept = op.Gather(kept, indices(op, op.GreaterOrEqual(expected, op.Sub(wanted, MAX_ONET2_GAIN))))
    voted = clip(op, _vote(op, boxes, scores, kept, config.box_voting_iou), size)
    scores, logits, anchors, points = rows(op, kept, scores, logits, anchors, points)
    if not config.second_look:
        return Found(voted, op.Sigmoid(_platt(op, log_odds(op, scores), config)), _landmarks(op, anchors, points))
    anchors, windows = crop_windows(op, maps, voted, O_CONTEXT, O_SIZE)
    scores, box_deltas, points = _with_flip_tta(builder, net, windows)
    moved = op.Mul(decode(op, anchors, box_deltas), ONET2_BOX_WEIGHT)
    boxes = clip(op, op.Add(moved, op.Mul(voted, 1 - ONET2_BOX_WEIGHT)), size)
    logits = op.Add(logits, op.Mul(log_odds(op, scores), ONET2_WEIGHT))
    return Found(boxes, op.Sigmoid(_platt(op, logits, config)), _landmarks(op, anchors, points))


def _platt(op: OpBuilder, logits: Value, config: CascadeConfig) -> Value:
    """Return the logits of the calibrated scores."""
    return op.Add(op.Mul(logits, config.slope), config.intercept)


def _vote(op: OpBuilder, boxes: Value, scores: Value, kept: Value, min_iou: float) -> Value:
    """Return each kept box as the score-weighted mean of the boxes that overlap it."""
    near = op.GreaterOrEqual(iou(op, op.Gather(boxes, kept), boxes), min_iou)
    weights = op.Where(near, op.Unsqueeze(scores, [0]), 0.0)
    return op.Div(op.MatMul(weights, boxes), op.Max(op.ReduceSum(weights, [1], keepdims=1), 1e-9))


def _landmarks(op: OpBuilder, anchors: Value, points: Value) -> Value:
    """Return landmarks (N, 5, 2) in pixels from O-Net's points, which are in anchor units from the centre."""
    centre, unit = (op.Unsqueeze(part(op, anchors, a, b, 1), [1]) for a, b in ((0, 2), (2, 3)))
    return op.Add(centre, op.Mul(points, unit))


def _with_flip_tta(builder: GraphBuilder, net: Net, windows: Value) -> tuple[Value, Value, Value]:
    """Return O-Net's outputs averaged over each window and its mirror image."""
    op = builder.op
    scores, box_deltas, points = net(builder, windows)
    flipped_scores, flipped_deltas, flipped_points = net(builder, mirrored(op, windows))
    flipped_deltas = op.Mul(flipped_deltas, constant(op, [-1.0, 1.0, 1.0, 1.0]))
    flipped_points = op.Gather(flipped_points, constant(op, FLIPPED_LANDMARKS), axis=1)
    flipped_points = op.Mul(flipped_points, constant(op, [-1.0, 1.0]))
    logits = op.Mul(op.Add(log_odds(op, scores), log_odds(op, flipped_scores)), 0.5)
    means = (op.Mul(op.Add(a, b), 0.5) for a, b in ((box_deltas, flipped_deltas), (points, flipped_points)))
    box_deltas, points = means
    return op.Sigmoid(logits), box_deltas, points


def _best_faces(builder: GraphBuilder, found: Found, min_score: Value, config: CascadeConfig) -> Found:
    """Return the faces from the wanted score on, after suppression."""
    op = builder.op
    arrays = (found.boxes, found.scores, found.landmarks)
    passed = op.And(op.GreaterOrEqual(found.scores, min_score), op.Greater(area(op, found.boxes), 0.0))
    boxes, scores, landmarks = rows(op, indices(op, passed), *arrays)
    boxes, scores, landmarks = rows(op, nms(op, boxes, scores, MAX_FACES, config.nms_onet), boxes, scores, landmarks)
    if config.soft_nms_sigma > 0:
        scores = soft_nms(builder, boxes, scores, config.soft_nms_sigma)
        passed = indices(op, op.GreaterOrEqual(scores, min_score))
        boxes, scores, landmarks = rows(op, passed, boxes, scores, landmarks)
    return Found(boxes, scores, landmarks)
