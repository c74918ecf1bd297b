"""Nets in INT8: smaller files, nearly the same answers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from common.boxes import iou
from common.errors import UserError
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.bundle import int8
from pipeline.bundle.int8 import int8_bundle, probability_difference, quantize, to_int8
from pipeline.bundle.weights_dtype import is_int8, store_weights
from pipeline.export.command import main
from pipeline.export.exported_detector import ExportedDetector
from pipeline.inference.bundle import GRAPHS, Bundle, write_bundle
from pipeline.inference.graphs import load_graph
from pipeline.inference.predictor import Predictor
from tests.helpers.float_bundle import float_bundle

pytestmark = pytest.mark.slow  # nets are calibrated, for 10 s a test


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle whose nets are all in float32."""
    return Bundle.load(float_bundle(tmp_path_factory.mktemp("float") / "bundle"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for k in range(8):
        assert cv2.imwrite(str(folder / f"{k}.png"), synthetic_photo(480 + 20 * k, 360, 5)[..., ::-1])
    return folder


def test_the_exported_file_is_smaller_and_answers_as_before(
    given: Bundle, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.onnx"
    assert main(["--bundle", str(given.path), "--out", str(out), "--int8", str(photos)]) == 0
    assert f"{out}: " in capsys.readouterr().out
    saved = sum(len(given.graph_bytes(name)) for name in GRAPHS)
    assert out.stat().st_size < 0.75 * saved
    model = onnx.load(out, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} == {""}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["provenance"])["int8"] == list(GRAPHS)
    hashes = json.loads(metadata["bundle_sha256"])
    assert all(hashes[name] != given.meta.sha256[name] for name in GRAPHS)
    detector = ExportedDetector(out, given)
    image = synthetic_photo(640, 480, 6)
    before, after = Predictor(given).detect(image), detector.detect(image)
    assert len(before) == len(after) == 6
    overlap = iou(before.boxes, after.boxes)
    assert overlap.max(axis=1).min() > 0.85
    partner = overlap.argmax(axis=1)
    assert [after.labels[k] for k in partner] == list(before.labels)
    np.testing.assert_allclose(after.scores[partner], before.scores, atol=0.15)


def layers_in_float(graph: bytes, kind: str) -> list[tuple[int, ...]]:
    """Return the shapes of the weights of a graph's layers in float32, of one kind."""
    parts = onnx.load_from_string(graph).graph
    floats = {one.name: tuple(one.dims) for one in parts.initializer if one.data_type == onnx.TensorProto.FLOAT}
    return [floats[node.input[1]] for node in parts.node if node.op_type == kind and node.input[1] in floats]


def test_heads_and_first_layers_stay_in_float32(given: Bundle, photos: Path) -> None:
    made = int8_bundle(given, photos)
    assert layers_in_float(made.graph_bytes("pnet"), "Conv") == [(16, 3, 3, 3), (5, 32, 1, 1)]
    assert layers_in_float(made.graph_bytes("rnet"), "Conv") == [(16, 3, 3, 3)]
    assert layers_in_float(made.graph_bytes("onet"), "Conv") == []  # its first layer has no stride
    assert layers_in_float(made.graph_bytes("classifier"), "Conv") == [(32, 3, 3, 3)]
    for name in ("rnet", "onet", "classifier"):
        sizes = [int(np.prod(shape)) for shape in layers_in_float(made.graph_bytes(name), "Gemm")]
        assert sizes and max(sizes) < int8.MIN_GEMM
    graphs = {name: given.graph_bytes(name) for name in GRAPHS} | {"classifier": made.graph_bytes("classifier")}
    rest = int8_bundle(Bundle(given.path, given.meta, graphs), photos)
    assert rest.meta.provenance["int8"] == list(GRAPHS)
    assert rest.graph_bytes("classifier") == graphs["classifier"]


def test_only_inputs_of_pnet_are_cropped(given: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "MAX_SIDE", 40)
    inputs: dict[str, list[np.ndarray]] = {"pnet": [], "classifier": []}
    recording = int8._RecordingBundle(given, {name: given.graph_bytes(name) for name in GRAPHS}, inputs)
    for name in inputs:
        net = recording.graph(name)
        net(np.zeros((1, 3, 80, 80), np.float32))
    assert inputs["pnet"][-1].shape == (1, 3, 40, 40)
    assert inputs["classifier"][-1].shape == (1, 3, 80, 80)


def test_the_hub_folder_has_no_figures_of_other_nets(given: Bundle, photos: Path, tmp_path: Path) -> None:
    assert main(["--bundle", str(given.path), "--hub", str(tmp_path / "hub"), "--int8", str(photos)]) == 0
    assert not (tmp_path / "hub" / "report.md").exists()
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert "metric_value" not in card and "report.md" not in card
    assert "The bundle has none: its nets were stored in INT8 after the figures were measured." in card
    assert "computes in INT8: pnet, rnet, onet, classifier" in card


def test_what_is_refused(given: Bundle, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = int8_bundle(given, photos)
    write_bundle(tmp_path / "small", made.meta, {name: made.graph_bytes(name) for name in GRAPHS})
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no photo")
    (tmp_path / "dark").mkdir()
    assert cv2.imwrite(str(tmp_path / "dark" / "a.png"), np.zeros((80, 80, 3), np.uint8))
    for options, message in (
        (["--int8", str(tmp_path / "gone")], "gone: not found; check the name"),
        (["--int8", str(tmp_path / "empty")], "empty: holds no pictures; name a folder that does"),
        (["--int8", str(tmp_path / "broken")], "a.jpg: "),
        (["--int8", str(tmp_path / "dark")], "the net saw nothing in 1 photos; use photos with faces"),
        (
            ["--int8", str(photos), "--bundle", str(tmp_path / "small")],
            ": no net is left to store in INT8; leave out --int8",
        ),
    ):
        assert main(["--bundle", str(given.path), "--out", str(tmp_path / "made.onnx"), *options]) == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and message in said[0], options
    assert not (tmp_path / "made.onnx").exists()


def test_a_quantised_net_stays_as_it_is(given: Bundle) -> None:
    rng, graph = np.random.default_rng(0), store_weights(given.graph_bytes("rnet"), "float32")
    inputs = [rng.uniform(0, 255, (1, 3, 32, 32)).astype(np.float32) for _ in range(20)]
    made = quantize(graph, inputs)
    assert is_int8(made) and not is_int8(graph)
    assert store_weights(made, "float16") == store_weights(made, "float32") == made
    pixels = np.concatenate(inputs)
    for expected, found in zip(load_graph(graph, "before")(pixels), load_graph(made, "after")(pixels), strict=True):
        assert 0 < np.abs(expected - found).mean() < 0.1 * np.abs(expected).mean() + 0.02
    graphs = {name: given.graph_bytes(name) for name in GRAPHS} | {"rnet": made}
    with pytest.raises(UserError, match="--int8 rnet: the net is in INT8 already"):
        to_int8(given, ["rnet"], graphs, [])


def test_photos_without_faces_cannot_give_ranges(given: Bundle) -> None:
    with pytest.raises(UserError, match="--int8 classifier: the net saw nothing in 0 photos"):
        to_int8(given, ["classifier"], {name: given.graph_bytes(name) for name in GRAPHS}, [])


def test_a_net_that_answers_otherwise_is_refused(given: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = {name: given.graph_bytes(name) for name in GRAPHS}
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(0, 255, (1, 3, 32, 32)).astype(np.float32) for _ in range(4)]
    assert probability_difference(graphs["rnet"], graphs["rnet"], inputs) == 0
    monkeypatch.setattr(int8, "_collect_inputs", lambda *_: {"rnet": inputs})
    assert is_int8(to_int8(given, ["rnet"], graphs, [])["rnet"])
    monkeypatch.setattr(int8, "MAX_DIFFERENCE", 0.0)
    with pytest.raises(UserError, match="--int8 rnet: in INT8, the net's probabilities differ by"):
        to_int8(given, ["rnet"], graphs, [])
