"""Bundles that are packed with nets in INT8: the same answers, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from common.boxes import iou
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.bundle.weights_dtype import is_int8, store_weights
from pipeline.inference.bundle import GRAPHS, Bundle
from pipeline.inference.predictor import Predictor
from pipeline.training.packing import pack
from pipeline.training.packing.command import main
from stage1_faces.training.export import FINE_TUNED
from tests.helpers.float_bundle import float_bundle

pytestmark = pytest.mark.slow  # nets are calibrated, for 10 s a test


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Return a bundle whose nets are all in float32; the export of a cascade gives its nets."""
    bundle = Bundle.load(float_bundle(tmp_path / "float"))
    graphs = {name: store_weights(bundle.graph_bytes(name), "float32") for name in FINE_TUNED}
    monkeypatch.setattr(pack, "export_cascade", lambda nets, how: {name: graphs[name] for name in how})
    return bundle


def test_a_packed_bundle_answers_as_before(
    given: Bundle, tuned: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, part = tmp_path / "made", tmp_path / "part"
    shutil.copytree(given.path, part)
    parts = ["--run", str(given.path), "--cascade", str(tuned), "--settings-from", str(part)]
    photos = ["--data", str(data), "--splits", str(data / "splits.csv")]
    command = [*parts, *photos, "--out", str(out), "--int8", "classifier", "onet"]
    assert main(command) == 1
    differs = "its nets in INT8 (none) are not these (classifier, onet); name a bundle of the same recipe"
    assert differs in capsys.readouterr().err and not out.exists()
    record = json.loads((part / "bundle.json").read_text(encoding="utf-8"))
    record["provenance"]["int8"] = ["onet", "classifier"]
    (part / "bundle.json").write_text(json.dumps(record), encoding="utf-8")
    assert main(command) == 0
    made = Bundle.load(out)
    assert made.meta.provenance["int8"] == ["onet", "classifier"]
    assert (made.meta.fusion, made.meta.search) == (given.meta.fusion, given.meta.search)
    assert [name for name in GRAPHS if is_int8(made.graph_bytes(name))] == ["onet", "classifier"]
    assert len(made.graph_bytes("classifier")) < 0.6 * len(given.graph_bytes("classifier"))
    for name in GRAPHS:
        model = onnx.load_from_string(made.graph_bytes(name))
        onnx.checker.check_model(model, full_check=True)
        assert {entry.domain for entry in model.opset_import} == {""}
    image = synthetic_photo(640, 480, 6)
    before, after = Predictor(given).detect(image), Predictor(made).detect(image)
    assert len(before) == len(after) == 6
    overlap = iou(before.boxes, after.boxes)
    assert overlap.max(axis=1).min() > 0.85
    partner = overlap.argmax(axis=1)
    assert [after.labels[k] for k in partner] == list(before.labels)
    np.testing.assert_allclose(after.scores[partner], before.scores, atol=0.15)


def test_the_stock_cascade_stays_in_float32(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = ["--data", str(data), "--splits", str(data / "splits.csv")]
    assert main(["--run", str(run), *photos, "--out", str(tmp_path / "made"), "--int8", "pnet", "classifier"]) == 1
    assert "--int8: the stock cascade's nets stay in float32; use --int8 classifier" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_photos_are_needed(tuned: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(run), "--cascade", str(tuned), "--out", str(tmp_path / "made"), "--int8", "onet"]) == 1
    assert "--int8 measures ranges on training photos; name them with --data" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
