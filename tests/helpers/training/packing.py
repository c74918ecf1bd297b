"""Runs, graphs and settings for tests that pack bundles."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper

from pipeline.inference.fusion import ScoreFusion
from pipeline.training.packing.command import main
from stage2_classifier.heads import Heads
from stage2_classifier.training.checkpoint import ModelMeta

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
TILES = 5  # per side: 25 faces, more than MIN_FACES of the box bias
META = ModelMeta(
    model="small_cnn_half",
    class_names=CLASSES,
    input_size=32,
    mean=(0.5, 0.4, 0.3),
    std=(0.25, 0.5, 0.5),
    margin=0.3,
    dropout=0.0,
    experiment="try",
    epoch=4,
    metrics={"val_macro_f1": 0.75},
)
ALL = Heads(3, has_objectness=True, has_box=True)
FITTED = ScoreFusion(
    detector_weight=0.75,
    classifier_weight=0.5,
    intercept=-0.25,
    temperature=1.5,
    min_detector_score=0.01,
    max_face_logit=6,
    flip_tta=True,
)


def pack_it(run: Path, out: Path, *flags: str) -> int:
    return main(["--run", str(run), "--out", str(out), *flags])


def mean_colour_graph(heads: Heads = ALL) -> bytes:
    """Return a classifier by mean colours: softmax of the channels, their sum as face log odds, zeros as deltas."""
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "sides"], ["colours"], keepdims=0),
        helper.make_node("Softmax", ["colours"], ["probabilities"], axis=1),
        helper.make_node("ReduceSum", ["colours", "channels"], ["face"], keepdims=0),
        helper.make_node("MatMul", ["colours", "zeros"], ["box"]),
    ]
    weights = [
        helper.make_tensor("sides", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("channels", TensorProto.INT64, [1], [1]),
        helper.make_tensor("zeros", TensorProto.FLOAT, [3, 4], [0.0] * 12),
    ]
    shapes = {"probabilities": ["n", 3]} | ({"face": ["n"], "box": ["n", 4]} if heads == ALL else {})
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 32, 32])
    graph = helper.make_graph(nodes, "classifier", [pixels], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()
