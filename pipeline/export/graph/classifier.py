"""Crops of the faces, the classifier, and the fusion of both stages, as pipeline.inference joins them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnxscript import GraphBuilder, OpBuilder

from pipeline.export.graph.cascade import Found
from pipeline.export.graph.net import Net
from pipeline.export.graph.ops import (
    FLOAT,
    Value,
    as_float,
    as_int,
    clip,
    constant,
    decode,
    indices,
    log_odds,
    loop,
    mirrored,
    part,
    rows,
    size_of,
)
from pipeline.export.graph.resizing import square_resize
from pipeline.inference.bundle_meta import BundleMeta
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.predictor import TTA_SKIP_PROB

MIN_PROB = 1e-12  # as in ScoreFusion.class_probs


@dataclass(frozen=True)
class Classified:
    """Faces with their classes as values of the graph."""

    boxes: Value  # (N, 4)
    face_scores: Value  # (N,)
    class_probs: Value  # (N, C)


def classify(builder: GraphBuilder, net: Net, meta: BundleMeta, image: Value, size: Value, found: Found) -> Classified:
    """Return the faces with moved boxes, fused face scores and class probabilities.

    Args:
        builder: of the graph.
        net: the classifier.
        meta: of the bundle.
        image: uint8 (H, W, 3).
        size: float32 (1, 4): width, height, width, height of the image.
        found: faces of the cascade.
    """
    op, fusion = builder.op, meta.fusion
    windows = _windows(op, found.boxes, meta.margin)
    outputs = _run(builder, net, meta, _crops(builder, "crops", image, windows, meta.input_size))
    boxes = _move(op, found.boxes, windows, outputs, meta, size)
    if fusion.box_passes == 2 and len(outputs) > 2 and fusion.box_blend:
        windows = _windows(op, boxes, meta.margin)
        outputs = _run(builder, net, meta, _crops(builder, "second_crops", image, windows, meta.input_size))
        boxes = _move(op, boxes, windows, outputs, meta, size)
    return Classified(boxes, _face_scores(op, found.scores, outputs, fusion), _class_probs(op, outputs[0], fusion))


def _windows(op: OpBuilder, boxes: Value, margin: float) -> tuple[Value, Value]:
    """Return left and top (N, 2), and the side (N, 1), of the square windows that are cut for boxes, int64."""
    low, high = part(op, boxes, 0, 2, 1), part(op, boxes, 2, 4, 1)
    longer = op.ReduceMax(op.Sub(high, low), [1], keepdims=1)
    side = as_int(op, op.Max(op.Round(op.Mul(longer, 1 + 2 * margin)), 1.0))
    return as_int(op, op.Round(op.Mul(op.Sub(op.Add(low, high), as_float(op, side)), 0.5))), side


def _crops(builder: GraphBuilder, name: str, image: Value, windows: tuple[Value, Value], wanted: int) -> Value:
    """Return the crops (N, 3, wanted, wanted) of 0..255; pixels outside the image repeat its edge."""
    op = builder.op
    corners, sides = windows
    last = op.Sub(op.Shape(image, start=0, end=2), constant(op, 1))

    def cut(op: OpBuilder, number: Value, crops: Value) -> Sequence[Value]:
        side = op.Squeeze(op.Gather(sides, number), [0])
        corner = op.Gather(corners, number)
        steps = op.Range(constant(op, 0), side, constant(op, 1))
        left, top = (op.Add(steps, op.Gather(corner, constant(op, k))) for k in (0, 1))
        y, x = (
            op.Min(op.Max(places, constant(op, 0)), op.Gather(last, constant(op, k)))
            for k, places in enumerate((top, left))
        )
        crop = as_float(op, op.Gather(op.Gather(image, y), x, axis=1))
        added = op.Unsqueeze(square_resize(op, crop, side, wanted), [0])
        return constant(op, True), op.Concat(crops, added, axis=0)

    shape = (None, 3, wanted, wanted)
    empty = constant(op, np.zeros((0, *shape[1:]), np.float32))
    return loop(builder, name, cut, size_of(op, sides, 0), {"crops": (empty, FLOAT, shape)})[0]


def _run(builder: GraphBuilder, net: Net, meta: BundleMeta, crops: Value) -> list[Value]:
    """Return the classifier's outputs for crops of 0..255; those of uncertain crops are averaged with the mirrored."""
    op = builder.op
    std, mean = np.array(meta.std), np.array(meta.mean)
    scale, shift = ((1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32))
    pixels = op.Mul(crops, constant(op, scale.reshape(1, 3, 1, 1)))
    pixels = op.Sub(pixels, constant(op, shift.reshape(1, 3, 1, 1)))
    outputs = net(builder, pixels)
    if not meta.fusion.flip_tta:
        return outputs
    unsure = indices(op, op.Less(op.ReduceMax(outputs[0], [1], keepdims=0), TTA_SKIP_PROB))
    flipped = net(builder, mirrored(op, op.Gather(pixels, unsure)))
    if len(flipped) > 2:  # in a mirror image, the horizontal box delta has the other sign
        flipped[2] = op.Mul(flipped[2], constant(op, [-1.0, 1.0, 1.0, 1.0]))
    place = op.Unsqueeze(unsure, [1])
    return [
        op.ScatterND(values, place, op.Mul(op.Add(op.Gather(values, unsure), other), 0.5))
        for values, other in zip(outputs, flipped, strict=True)
    ]


def _move(
    op: OpBuilder, boxes: Value, windows: tuple[Value, Value], outputs: Sequence[Value], meta: BundleMeta, size: Value
) -> Value:
    """Return the boxes moved towards those of the classifier."""
    blend = meta.fusion.box_blend
    if len(outputs) < 3 or not blend:
        return boxes
    corners, sides = (as_float(op, value) for value in windows)
    centre, unit = op.Add(corners, op.Mul(sides, 0.5)), op.Div(sides, 1 + 2 * meta.margin)
    moved = clip(op, decode(op, op.Concat(centre, unit, axis=1), outputs[2]), size)
    return op.Add(op.Mul(boxes, 1 - blend), op.Mul(moved, blend))


def _face_scores(op: OpBuilder, scores: Value, outputs: Sequence[Value], fusion: ScoreFusion) -> Value:
    """Return the face scores of both stages together."""
    if fusion.is_identity:
        return scores
    odds = op.Add(op.Mul(log_odds(op, scores), fusion.detector_weight), fusion.intercept)
    if fusion.classifier_weight:
        odds = op.Add(odds, op.Mul(op.Min(outputs[1], fusion.max_face_logit), fusion.classifier_weight))
    return op.Sigmoid(odds)


def _class_probs(op: OpBuilder, probs: Value, fusion: ScoreFusion) -> Value:
    """Return the class probabilities at the temperature."""
    if fusion.temperature == 1:
        return probs
    return op.Softmax(op.Div(op.Log(op.Max(probs, MIN_PROB)), fusion.temperature), axis=1)


def min_detector_score(op: OpBuilder, min_score: Value, fusion: ScoreFusion) -> Value:
    """Return the detector score below which no face reaches `min_score` (ScoreFusion.min_detector_score_for)."""
    if fusion.is_identity:
        return min_score
    logit = log_odds(op, min_score)
    least = op.Sub(logit, fusion.intercept + fusion.classifier_weight * fusion.max_face_logit)
    needed = op.Mul(op.Sigmoid(op.Div(least, fusion.detector_weight)), 0.999)
    least_score = constant(op, float(fusion.min_detector_score))
    return op.Where(op.Greater(min_score, 0.0), op.Max(needed, least_score), least_score)


def keep_best(op: OpBuilder, faces: Classified, landmarks: Value, min_score: Value) -> dict[str, Value]:
    """Return the graph's outputs: faces with scores from `min_score` on, best first."""
    scores = op.Mul(faces.face_scores, op.ReduceMax(faces.class_probs, [1], keepdims=0))
    passed = indices(op, op.GreaterOrEqual(scores, min_score))
    best, order = op.TopK(op.Gather(scores, passed), op.Shape(passed), axis=0, _outputs=2)
    boxes, probs, landmarks = rows(op, op.Gather(passed, order), faces.boxes, faces.class_probs, landmarks)
    labels = op.ArgMax(probs, axis=1, keepdims=0)
    return {"boxes": boxes, "scores": best, "labels": labels, "class_probs": probs, "landmarks": landmarks}
