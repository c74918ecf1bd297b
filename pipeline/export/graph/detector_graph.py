"""Joins the parts of the graph, names its inputs and outputs, and writes its metadata."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import GraphBuilder

from common.errors import UserError
from pipeline.export.graph.cascade import find_faces
from pipeline.export.graph.classifier import classify, keep_best, min_detector_score
from pipeline.export.graph.net import Net
from pipeline.export.graph.ops import FLOAT, INT64, UINT8, Shape, as_float, constant
from pipeline.inference.bundle import Bundle
from stage1_faces.cascade_config import CascadeConfig

OPSET, IR_VERSION = 18, 9
NETS = ("pnet", "rnet", "onet", "classifier")
ONCE = ("pnet", "classifier")  # in the bodies of loops
INPUTS = {
    "image": "uint8 (height, width, 3), RGB, upright",
    "min_score": "float32 scalar, the smallest score reported; optional",
    "min_face": "float32 scalar, the smallest face in pixels, 1 or more; 0: by the size of the image; optional",
}
OUTPUTS = {
    "boxes": "float32 (N, 4), x1, y1, x2, y2 in pixels; right and bottom edge exclusive",
    "scores": "float32 (N), probability that it is a face and its label is right; best first",
    "labels": "int64 (N), index of the class",
    "class_probs": "float32 (N, C), probability of each class",
    "landmarks": "float32 (N, 5, 2), x, y of both eyes, the nose and the mouth's corners",
}


def detector_graph(bundle: Bundle, optional_inputs: bool = True) -> onnx.ModelProto:
    """Return the whole detector of a bundle as one ONNX model.

    Args:
        bundle: to export.
        optional_inputs: whether `min_score` and `min_face` may be left out. The APIs of ONNX Runtime in JavaScript take
            no such inputs.

    The inputs are `image`, uint8 (H, W, 3) RGB, and optionally `min_score` and `min_face`, float32 scalars. The outputs
    are `boxes` (N, 4), xyxy in pixels, `scores` (N), `labels` (N), `class_probs` (N, C) and `landmarks` (N, 5, 2), best
    first.

    Raises:
        UserError: the bundle has the stock cascade.
    """
    meta = bundle.meta
    if not isinstance(meta.search, CascadeConfig):
        raise UserError(f"{bundle.path}: has the stock cascade; use a bundle with a fine-tuned cascade")
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="mask_detector")
    builder = GraphBuilder(graph)
    op = builder.op
    image = builder.input("image", UINT8, ["height", "width", 3])
    min_score, min_face = (
        builder.input(name, const_value=_scalar(name, value)) if optional_inputs else builder.input(name, FLOAT, [])
        for name, value in (("min_score", meta.score_threshold), ("min_face", 0.0))
    )
    nets = {name: Net(builder, name, bundle.graph_bytes(name), name in ONCE) for name in NETS}
    wanted = min_detector_score(op, min_score, meta.fusion)
    found = find_faces(builder, nets, meta.search, image, min_face, wanted)
    sides = as_float(op, op.Gather(op.Shape(image), constant(op, [1, 0, 1, 0])))
    faces = classify(builder, nets["classifier"], meta, image, op.Unsqueeze(sides, [0]), found)
    outputs = keep_best(op, faces, found.landmarks, min_score)
    types: dict[str, tuple[ir.DataType, Shape]] = {
        "boxes": (FLOAT, ["faces", 4]),
        "scores": (FLOAT, ["faces"]),
        "labels": (INT64, ["faces"]),
        "class_probs": (FLOAT, ["faces", len(meta.class_names)]),
        "landmarks": (FLOAT, ["faces", 5, 2]),
    }
    _name_values(graph)
    for name, value in outputs.items():
        dtype, shape = types[name]
        value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
        builder.add_output(value, name)
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="facemask")
    model.metadata_props.update(_metadata(bundle))
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _scalar(name: str, value: float) -> ir.TensorProtocol:
    """Return the default value of an optional input."""
    return ir.tensor(np.array(value, np.float32), name=name)


def _name_values(graph: ir.Graph) -> None:
    """Give each value of the graph and its loops a name of its own, and remove notes on how it was built."""
    for number, node in enumerate(ir.traversal.RecursiveGraphIterator(graph)):
        node.name = f"{node.op_type}_{number}"
        node.metadata_props.clear()
        for k, value in enumerate(node.outputs):
            value.name = f"v{number}_{k}"


def _metadata(bundle: Bundle) -> dict[str, str]:
    """Return the model's metadata: what its numbers mean, and where they come from."""
    meta = bundle.meta
    values: dict[str, Any] = {
        "class_names": list(meta.class_names),
        "score_threshold": meta.score_threshold,
        "unsure_margin": meta.fusion.unsure_margin,
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "bundle_sha256": meta.sha256,
        "provenance": meta.provenance,
        "license": "MIT",
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
