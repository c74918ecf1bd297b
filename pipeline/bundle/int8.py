"""Stores nets in INT8: weights and activations, by the ranges that values have on photos.

Post-training static quantisation with ONNX Runtime's tools, weights per channel (Nagel et al. 2021, "A White Paper on
Neural Network Quantization"; Jacob et al. 2018). The graphs keep standard operators (QuantizeLinear,
DequantizeLinear), which ONNX Runtime joins with their neighbours when it loads them. Figures: EXPERIMENTS.md.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from common.cli import progress
from common.errors import UserError
from common.images import read_image
from common.paths import find_images
from pipeline.bundle.weights_dtype import is_int8, store_weights
from pipeline.inference.bundle import GRAPHS, Bundle
from pipeline.inference.device import Device
from pipeline.inference.graphs import Graph, load_graph
from pipeline.inference.predictor import Predictor
from stage1_faces.cascade_config import CascadeConfig

PHOTOS = 150  # photos, evenly spaced, on which the ranges are measured
PER_CALL, INPUTS = 3, 400  # inputs of a net: at most per call, and in all
MAX_SIDE = 160  # px: a larger input of P-Net is cropped to its middle; 400 inputs need 120 MB
MIN_SCORE = 0.05  # so that the classifier's inputs are faces and false alarms, as at inference
MAX_DIFFERENCE = 0.05  # of probabilities in the mean; the default bundle's nets have 0.0002 to 0.022
# ONNX Runtime joins Add to MaxPool with the convolution before them. Without Clip, ReLU6's input would set the range
# (EXPERIMENTS.md).
OPERATORS = ["Conv", "Gemm", "Add", "Clip", "Relu", "LeakyRelu", "MaxPool"]
# Heads, whose box numbers must stay fine, and layers that are quicker there stay in float32 (EXPERIMENTS.md).
MIN_GEMM = 100_000  # A dense layer with fewer weights stays.
MIN_CONV_OUTPUTS = 16  # A convolution with fewer channels of output stays.
COLOURS = 3  # A net's first convolution, which takes these channels, stays where it has a stride.


def int8_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """Return a bundle with all its nets in INT8 and the same settings; its figures, of other nets, are left out.

    The nets of a stock cascade stay in float32: in INT8 they were never scored.

    Args:
        bundle: with nets in float32.
        folder: photos with faces, of the kind that the bundle will see; they need no annotations.

    Raises:
        MediaError: the folder holds no photo, or one of them cannot be read.
        UserError: the nets are in INT8 already; or see `to_int8`.
    """
    photos, errors = find_images([folder])
    if errors:
        raise errors[0]
    wanted = GRAPHS if isinstance(bundle.meta.search, CascadeConfig) else ("classifier",)
    names = [name for name in wanted if not is_int8(bundle.graph_bytes(name))]
    if not names:
        raise UserError(f"{bundle.path}: no net is left to store in INT8; leave out --int8")
    given = {name: bundle.graph_bytes(name) for name in GRAPHS}
    graphs = to_int8(bundle, names, given, [Path(photo.path) for photo in photos])
    sha256 = {name: hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()}
    provenance = {**bundle.meta.provenance, "int8": [name for name in GRAPHS if is_int8(graphs[name])]}
    return Bundle(bundle.path, replace(bundle.meta, sha256=sha256, metrics={}, provenance=provenance), graphs)


def to_int8(
    bundle: Bundle, names: Sequence[str], graphs: Mapping[str, bytes], photos: Sequence[Path]
) -> dict[str, bytes]:
    """Return a bundle's graphs, those of some nets in INT8.

    Args:
        bundle: with these nets in float32; the ranges are measured with it.
        names: of the nets.
        graphs: the bundle's graphs as exported, with float32 weights.
        photos: files of photos with faces.

    Raises:
        MediaError: a photo cannot be read.
        UserError: a net is in INT8 already, got no input on these photos, or answers otherwise in INT8.
    """
    for name in names:
        if is_int8(graphs[name]):
            raise UserError(f"--int8 {name}: the net is in INT8 already; leave out --int8")
    inputs = _collect_inputs(bundle, names, photos[:: max(-(-len(photos) // PHOTOS), 1)])
    made = {name: bundle.graph_bytes(name) for name in graphs}
    for name in names:
        graph = store_weights(graphs[name], "float32")
        made[name] = quantize(graph, inputs[name])
        difference = probability_difference(graph, made[name], inputs[name])
        if not difference <= MAX_DIFFERENCE:
            what = f"in INT8, the net's probabilities differ by {difference:.2g} in the mean"
            raise UserError(f"--int8 {name}: {what}; leave out --int8")
    return made


def probability_difference(graph: bytes, made: bytes, inputs: Sequence[NDArray[np.float32]]) -> float:
    """Return the mean absolute difference between the first outputs, which are probabilities, of two graphs."""
    before, after = (load_graph(each, "INT8") for each in (graph, made))
    return float(np.mean([np.abs(before(one)[0] - after(one)[0]).mean() for one in inputs]))


class _RecordingBundle(Bundle):
    """A bundle whose graphs keep some of their inputs."""

    def __init__(self, bundle: Bundle, graphs: Mapping[str, bytes], inputs: dict[str, list[NDArray[np.float32]]]):
        super().__init__(bundle.path, bundle.meta, graphs)
        self._inputs = inputs

    def graph(self, name: str, threads: int = 1, device: Device = "cpu") -> Graph:
        net, kept = super().graph(name, threads, device), self._inputs.get(name)
        if kept is None:
            return net

        def run(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            some = [pixels[k : k + 1] for k in range(min(len(pixels), PER_CALL))]
            kept.extend(_middle(one) if name == "pnet" else one.copy() for one in some)
            return net(pixels)

        return run


def _middle(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a copy of the middle of pixels (1, 3, H, W), at most MAX_SIDE on each side; the corner is a multiple of 8.

    So the sides stay multiples of 8, as P-Net needs them.
    """
    top, left = ((max(side - MAX_SIDE, 0) // 2) // 8 * 8 for side in pixels.shape[2:])
    return pixels[:, :, top : top + MAX_SIDE, left : left + MAX_SIDE].copy()


def _collect_inputs(
    bundle: Bundle, names: Sequence[str], photos: Sequence[Path]
) -> dict[str, list[NDArray[np.float32]]]:
    """Return up to INPUTS inputs of each net, from photos that the bundle searches."""
    inputs: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    graphs = {name: bundle.graph_bytes(name) for name in GRAPHS}
    predictor = Predictor(_RecordingBundle(bundle, graphs, inputs))
    with progress() as bar:
        for photo in bar.track(photos, description="measuring ranges for INT8"):
            predictor.detect(read_image(photo), min_score=MIN_SCORE)
    for name, found in inputs.items():
        if not found:
            raise UserError(f"--int8 {name}: the net saw nothing in {len(photos)} photos; use photos with faces")
    return {name: found[:: -(-len(found) // INPUTS)] for name, found in inputs.items()}


def quantize(graph: bytes, inputs: Sequence[NDArray[np.float32]]) -> bytes:
    """Return a graph in INT8.

    Args:
        graph: an ONNX graph with float32 weights.
        inputs: typical inputs (1, ...), by which the ranges of all values are set.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx.load_from_string(graph).graph.input[0].name

    class Reader(CalibrationDataReader):
        """Gives the inputs one after the other."""

        def __init__(self) -> None:
            self._rest: Iterator[dict[str, Any]] = ({name: one} for one in inputs)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._rest, None)

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # the tools write their progress to the root logger
    try:
        with tempfile.TemporaryDirectory(prefix="facemask-int8-") as folder:
            given, ready, made = (Path(folder) / file for file in ("given.onnx", "ready.onnx", "made.onnx"))
            given.write_bytes(graph)
            quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(made),
                Reader(),
                nodes_to_exclude=_float_nodes(onnx.load(ready)),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Weights of 7 bits: products of 8 bits overflow on processors without VNNI (ONNX Runtime's manual).
                reduce_range=True,
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
            )
            model = onnx.load(made)
    finally:
        logging.root.setLevel(level)
    used = {node.domain for node in model.graph.node}
    versions = [entry for entry in model.opset_import if entry.domain in used]  # the tools name all that they know
    del model.opset_import[:]
    model.opset_import.extend(versions)
    return model.SerializeToString()


def _float_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the layers that stay in float32."""
    shapes = {weights.name: tuple(weights.dims) for weights in model.graph.initializer}
    names = []
    for node in model.graph.node:
        shape = shapes.get(node.input[1], ()) if node.op_type in ("Conv", "Gemm") else ()
        strides = next((max(entry.ints) for entry in node.attribute if entry.name == "strides"), 1)
        if (node.op_type == "Gemm" and np.prod(shape) < MIN_GEMM) or (
            node.op_type == "Conv" and shape and (shape[0] < MIN_CONV_OUTPUTS or (shape[1] == COLOURS and strides > 1))
        ):
            names.append(node.name)
    return names
