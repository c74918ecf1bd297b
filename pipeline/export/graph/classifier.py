"""Crops of the faces, the classifier, and the fusion of both stages, as pipeline.inference joins them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder

from pipeline.export.graph.cascade import Found
from pipeline.export.graph.crops import cut_crops, square_windows
from pipeline.export.graph.net import Net
from pipeline.export.graph.ops import (
    FLOAT,
    INT64,
    Shape,
    Value,
    area,
    as_float,
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
from pipeline.inference.bundle_meta import BundleMeta
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.predictor import SETTLED_IOU, SETTLED_PROB, TTA_SKIP_PROB

MIN_PROB = 1e-12  # as in ScoreFusion.class_probs


@dataclass(frozen=True)
class Classified:
    """Faces with their classes as values of the graph."""

    boxes: Value  # (N, 4)
    face_scores: Value  # (N,)
    class_probs: Value  # (N, C)


def classify(builder: GraphBuilder, net: Net, meta: BundleMeta, image: Value, size: Value, found: Found) -> Classified:
    """Return the faces with moved boxes, fused face scores and class probabilities.

    All passes are rounds of a loop. So the net is in the graph once, and does not run without faces. A second pass is
    for faces that are not settled; unlike that of `Predictor`, also for those below the wanted score.

    Args:
        builder: of the graph.
        net: the classifier.
        meta: of the bundle.
        image: uint8 (H, W, 3).
        size: float32 (1, 4): width, height, width, height of the image.
        found: faces of the cascade.
    """
    op, fusion = builder.op, meta.fusion
    moves = net.output_count > 2 and bool(fusion.box_blend)
    kinds = _output_kinds(net, meta)
    faces = op.Shape(found.scores)

    def run_pass(op: OpBuilder, _: Value, face: Value, boxes: Value, *outputs: Value) -> Sequence[Value]:
        before, *last = rows(op, face, boxes, *outputs)
        windows = square_windows(op, before, meta.margin)
        new = _run(op.builder, net, meta, cut_crops(op.builder, image, windows, meta.input_size), last)
        moved = _move(op, before, windows, new, meta, size) if moves else op.Identity(before)
        again = indices(op, _unsettled(op, before, moved, new[0]))
        more = op.Greater(size_of(op, again, 0), constant(op, 0))
        place = op.Unsqueeze(face, [1])
        changed = [
            op.ScatterND(values, place, values_now)
            for values, values_now in zip((boxes, *outputs), (moved, *new), strict=True)
        ]
        return [more, op.Gather(face, again), *changed]

    first = {name: (_zeros(op, faces, shape), FLOAT, shape) for name, shape in kinds.items()}
    every = op.Range(constant(op, 0), op.Squeeze(faces, [0]), constant(op, 1))
    states: dict[str, tuple[Value, ir.DataType, Shape]] = {
        "face": (every, INT64, [None]),
        "boxes": (found.boxes, FLOAT, [None, 4]),
        **first,
    }
    passes = fusion.box_passes if moves else 1
    _, boxes, *outputs = loop(builder, "passes", run_pass, _rounds(op, faces, passes), states)
    return Classified(boxes, _face_scores(op, found.scores, outputs, fusion), _class_probs(op, outputs[0], fusion))


def _unsettled(op: OpBuilder, before: Value, moved: Value, class_probs: Value) -> Value:
    """Return which faces (N,) a second pass is for, as Predictor.second_box_pass; boxes without area are not."""
    low = op.Max(part(op, before, 0, 2, 1), part(op, moved, 0, 2, 1))
    high = op.Min(part(op, before, 2, 4, 1), part(op, moved, 2, 4, 1))
    shared = op.ReduceProd(op.Max(op.Sub(high, low), 0.0), [1], keepdims=0)
    union = op.Sub(op.Add(area(op, before), area(op, moved)), shared)
    far = op.Less(op.Div(shared, op.Max(union, 1e-9)), SETTLED_IOU)
    unsure = op.Less(op.ReduceMax(class_probs, [1], keepdims=0), SETTLED_PROB)
    return op.And(op.Or(far, unsure), op.Greater(area(op, moved), 0.0))


def _output_kinds(net: Net, meta: BundleMeta) -> dict[str, Shape]:
    """Return names and shapes of the classifier's outputs."""
    kinds: dict[str, Shape] = {"probs": [None, len(meta.class_names)], "face_logits": [None], "box_deltas": [None, 4]}
    return dict(list(kinds.items())[: net.output_count])


def _zeros(op: OpBuilder, count: Value, shape: Shape) -> Value:
    """Return zeros in `count` (1,) rows of a shape whose first side is open."""
    sides = [side for side in shape[1:] if isinstance(side, int)]
    return op.Expand(constant(op, 0.0), op.Concat(count, constant(op, sides), axis=0) if sides else count)


def _rounds(op: OpBuilder, faces: Value, rounds: int) -> Value:
    """Return the number of rounds of a loop over `faces` (1,) faces: none where there are no faces."""
    return op.Where(op.Greater(op.Squeeze(faces, [0]), constant(op, 0)), constant(op, rounds), constant(op, 0))


def _run(
    builder: GraphBuilder, net: Net, meta: BundleMeta, crops: Value, last_outputs: Sequence[Value]
) -> Sequence[Value]:
    """Return the classifier's outputs for crops of 0..255; those of uncertain crops are averaged with the mirrored.

    Args:
        builder: of the graph.
        net: the classifier.
        meta: of the bundle.
        crops: (N, 3, S, S), at least one.
        last_outputs: of any values, in the shapes of the outputs.
    """
    op = builder.op
    std, mean = np.array(meta.std), np.array(meta.mean)
    scale, shift = ((1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32))
    pixels = op.Mul(crops, constant(op, scale.reshape(1, 3, 1, 1)))
    pixels = op.Sub(pixels, constant(op, shift.reshape(1, 3, 1, 1)))

    def look(op: OpBuilder, number: Value, pixels: Value, face: Value, *outputs: Value) -> Sequence[Value]:
        """Classify all crops in round 0, and the uncertain ones, mirrored, in round 1."""
        found = net(op.builder, pixels)
        mirror = op.Greater(number, constant(op, 0))
        unsure = indices(op, op.Less(op.ReduceMax(found[0], [1], keepdims=0), TTA_SKIP_PROB))
        if len(found) > 2:  # in a mirror image, the horizontal box delta has the other sign
            sign = op.Where(mirror, -1.0, 1.0)
            found[2] = op.Mul(found[2], op.Concat(op.Unsqueeze(sign, [0]), constant(op, [1.0, 1.0, 1.0]), axis=0))
        share, place = op.Where(mirror, 0.5, 1.0), op.Unsqueeze(face, [1])
        outputs = tuple(
            op.ScatterND(values, place, _mixed(op, op.Gather(values, face), new, share))
            for values, new in zip(outputs, found, strict=True)
        )
        more = op.Greater(op.Squeeze(op.Shape(unsure), [0]), constant(op, 0))
        return [more, mirrored(op, op.Gather(pixels, unsure)), op.Gather(face, unsure), *outputs]

    every = op.Range(constant(op, 0), size_of(op, pixels, 0), constant(op, 1))
    states: dict[str, tuple[Value, ir.DataType, Shape]] = {
        "pixels": (pixels, FLOAT, [None, 3, meta.input_size, meta.input_size]),
        "face": (every, INT64, [None]),
    }
    for (name, shape), values in zip(_output_kinds(net, meta).items(), last_outputs, strict=True):
        states[name] = (values, FLOAT, shape)
    looks = constant(op, 2 if meta.fusion.flip_tta else 1)
    return loop(builder, "looks", look, looks, states)[2:]


def _mixed(op: OpBuilder, old: Value, new: Value, share: Value) -> Value:
    """Return old * (1 - share) + new * share."""
    return op.Add(op.Mul(old, op.Sub(1.0, share)), op.Mul(new, share))


def _move(
    op: OpBuilder, boxes: Value, windows: tuple[Value, Value], outputs: Sequence[Value], meta: BundleMeta, size: Value
) -> Value:
    """Return the boxes moved towards those of the classifier."""
    blend = meta.fusion.box_blend
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
