"""Packing a run: settings are fitted on photos, provenance is recorded, refusals are clear."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.boxes import iou
from common.errors import UserError
from pipeline.detect.demo.command import portrait
from pipeline.inference.bundle import DEFAULT, GRAPHS, Bundle, write_bundle
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.predictor import Predictor
from pipeline.training.packing import classifier_source, pack
from pipeline.training.packing.calibration import StageOutputs
from pipeline.training.packing.command import main
from pipeline.training.packing.git_revision import git_revision
from pipeline.training.packing.pack import pack_bundle, read_fit_photos
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import FaceDetector
from stage1_faces.stock.mtcnn import MtcnnConfig
from stage1_faces.training.nets import ExportWrapper
from stage1_faces.training.run_folder import load_net
from stage2_classifier.training.checkpoint import load_model, save_model
from tests.helpers.training.packing import CLASSES, FITTED, META, TILES, mean_colour_graph, pack_it


@pytest.mark.slow
def test_without_photos_stock_boxes_and_the_runs_facts(
    run: Path, tmp_path: Path, cascade: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack_it(run, tmp_path / "made", "--min-face", "30", "--note", "mine", "--weights-dtype", "float32") == 0
    screen = capsys.readouterr().out
    assert "classes with_mask, without_mask, mask_weared_incorrect" in screen and "score from 0.5" in screen
    meta = Bundle.load(tmp_path / "made").meta
    assert (meta.class_names, meta.input_size, meta.margin) == (CLASSES, 32, 0.3)
    assert (meta.mean, meta.std) == (META.mean, META.std)
    assert meta.search == MtcnnConfig(min_face=30, pnet_threshold=0.6, rnet_threshold=0.3)
    assert meta.score_threshold == 0.5
    assert meta.metrics == {"val_crops": {"val_macro_f1": 0.75}}
    assert meta.provenance["stage2"] == {"run": "try", "model": "small_cnn_half", "epoch": 4}
    assert meta.provenance["commit"] == git_revision()
    assert meta.provenance["data"] == {"class_counts": {"train": {"with_mask": 7}}, "splits_sha256": None}
    assert meta.provenance["note"] == "mine" and "box_shift" not in meta.provenance["stage1"]
    assert (tmp_path / "made" / "onet.onnx").read_bytes() == cascade["onet"]


@pytest.mark.slow
@pytest.mark.usefixtures("cascade")
def test_with_photos_boxes_are_corrected_and_the_threshold_chosen(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack_it(run, tmp_path / "made", "--data", str(data), "--splits", str(data / "splits.csv")) == 0
    assert "gone.png" in capsys.readouterr().err
    bundle = Bundle.load(tmp_path / "made")
    shift = bundle.meta.provenance["stage1"]["box_shift"]
    assert shift["faces"] == TILES**2
    assert shift["edges"][1] < -0.05  # tops move up
    assert shift["iou"][1] > max(shift["iou"][0], 0.9)
    # The graph itself moves the boxes: the packed bundle's boxes match the annotations.
    photos = read_fit_photos(data, data / "splits.csv")
    pixels = np.asarray(Image.open(photos.val[0].path))
    overlaps = iou(photos.val[0].boxes, Predictor(bundle).detect(pixels, min_score=0.5).boxes).max(axis=1)
    assert overlaps.mean() == pytest.approx(shift["iou"][1], abs=0.01)
    # All faces are found with the right class, so the best threshold is their lowest score.
    measured = bundle.meta.metrics["val"]
    assert measured["photos"] == 1 and measured["mAP50"] > 0.99 and measured["face_recall50"] == 1
    found = Predictor(bundle).detect(pixels)
    assert len(found) == TILES**2
    assert 0 <= found.scores.min() - bundle.meta.score_threshold < 0.0011


@pytest.mark.slow
def test_a_given_threshold_is_kept(
    run: Path, data: Path, tmp_path: Path, cascade: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The default bundle's classifier is used, to save an export.
    default = Bundle.load()
    model, meta = load_model(run / "best.safetensors")
    save_model(tmp_path / "best.safetensors", model.state_dict(), replace(meta, input_size=default.meta.input_size))
    monkeypatch.setattr(pack, "export_net", lambda *_: cascade["onet"])
    monkeypatch.setattr(classifier_source, "export_classifier", lambda *_: (DEFAULT / "classifier.onnx").read_bytes())
    photos = read_fit_photos(data, data / "splits.csv")
    bundle = pack_bundle([tmp_path], tmp_path / "made", MtcnnConfig(min_face=40), None, photos, score_threshold=0.25)
    assert bundle.meta.score_threshold == 0.25
    assert "val" in bundle.meta.metrics


@pytest.mark.slow
def test_a_fine_tuned_cascade_and_its_provenance(
    run: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        pack_it(run, tmp_path / "made", "--cascade", str(tuned), "--min-face", "9", "--weights-dtype", "float32") == 0
    )
    assert "score from 0.5" in capsys.readouterr().out
    bundle = Bundle.load(tmp_path / "made")
    assert bundle.meta.search == replace(CascadeConfig(), min_face=9)
    assert bundle.meta.provenance["stage1"] == {
        "weights": "fine-tuned", "run": "tuned", "recipe": {"pnet_steps": 1}, "data": "abc",
    }  # fmt: skip
    # The graphs are the run's nets.
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = ExportWrapper(load_net(tuned, "rnet"))(torch.from_numpy(pixels))
    for found, wanted in zip(bundle.graph("rnet")(pixels), expected, strict=True):
        assert found == pytest.approx(wanted.numpy(), abs=1e-4)
    assert len(Predictor(bundle).detect(np.asarray(portrait()))) == 0  # untrained


@pytest.mark.slow
@pytest.mark.usefixtures("cascade")
def test_with_photos_scores_are_calibrated_on_the_validation_ones(
    run: Path, tuned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Bundle.load()
    model, meta = load_model(run / "best.safetensors")
    save_model(tmp_path / "best.safetensors", model.state_dict(), replace(meta, input_size=default.meta.input_size))
    graphs = {name: default.graph_bytes(name) for name in GRAPHS}
    monkeypatch.setattr(classifier_source, "export_classifier", lambda *_: graphs["classifier"])
    monkeypatch.setattr(pack, "export_cascade", lambda nets, how: {name: graphs[name] for name in how})
    monkeypatch.setattr(pack, "measure_box_bias", lambda *_: pytest.fail("corrected the boxes"))
    given = CascadeConfig(min_face=9, slope=2.0)

    def calibrated(detector: object, search: CascadeConfig, images: object) -> CascadeConfig:
        assert isinstance(detector, FaceDetector) and detector.config == search == given
        assert [image.image_id for image in images] == ["v"]  # type: ignore[attr-defined]
        return replace(search, slope=1.5, intercept=-0.25)

    def metrics(predictor: Predictor, val: object):
        assert predictor.bundle.meta.search == replace(given, slope=1.5, intercept=-0.25)
        return {}, 0.375

    monkeypatch.setattr(pack, "calibrate_cascade", calibrated)
    monkeypatch.setattr(pack, "validation_metrics", metrics)
    bundle = pack_bundle([tmp_path], tmp_path / "made", given, tuned, read_fit_photos(data, data / "splits.csv"))
    assert bundle.meta.search == replace(given, slope=1.5, intercept=-0.25)
    assert bundle.meta.score_threshold == 0.375
    assert "box_shift" not in bundle.meta.provenance["stage1"]


@pytest.mark.usefixtures("exported")
def test_the_fusion_is_fitted_on_the_validation_photos(
    objectness_run: Path, tuned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = CascadeConfig(min_face=9, slope=2.0, intercept=0.5)
    boxes = np.float32([[0, 0, 10, 10], [20, 0, 30, 10]])
    probs, scores = np.float32([[0.8, 0.1, 0.1]] * 2), np.float32([0.9, 0.4])
    face_logits = np.float32([2, -2])
    outputs = [StageOutputs(boxes, scores, probs, face_logits, None, boxes[:1], np.zeros(1, np.intp), (64, 64))]

    def collect_outputs(
        predictor: Predictor, detector: FaceDetector, images: object, second_pass: bool
    ) -> list[StageOutputs]:
        assert second_pass
        meta = predictor.bundle.meta
        assert meta.fusion == ScoreFusion(flip_tta=True)  # not fitted yet, but with mirrored crops, too
        assert meta.search == detector.config == search  # calibrated already
        assert [image.image_id for image in images] == ["v"]  # type: ignore[attr-defined]
        # The graph works in a predictor, with mirrored crops and all outputs.
        ((probs, face_logits, deltas),) = predictor.run_classifier([np.full((40, 40, 3), 255, np.uint8)], [boxes])
        assert probs.shape == (2, 3) and deltas is not None and deltas.tolist() == [[0, 0, 0, 0]] * 2
        assert face_logits == pytest.approx([sum((1 - m) / s for m, s in zip(META.mean, META.std, strict=True))] * 2)
        return outputs

    def fit_fusion(given: object, margin: float, flip_tta: bool) -> ScoreFusion:
        assert given is outputs and margin == META.margin and flip_tta
        return FITTED

    def metrics(predictor: Predictor, val: object):
        assert predictor.bundle.meta.fusion == FITTED  # the threshold is chosen on fused scores
        return {}, 0.375

    monkeypatch.setattr(pack, "calibrate_cascade", lambda detector, given, images: given)
    monkeypatch.setattr(pack, "collect_outputs", collect_outputs)
    monkeypatch.setattr(pack, "fit_fusion", fit_fusion)
    monkeypatch.setattr(pack, "validation_metrics", metrics)
    photos = read_fit_photos(data, data / "splits.csv")
    meta = pack_bundle([objectness_run], tmp_path / "made", search, tuned, photos).meta
    assert meta.fusion == FITTED and meta.score_threshold == 0.375
    error = meta.metrics["val_calibration_error"]
    assert error["before"] == pytest.approx(pack.calibration_error(pack.uncalibrated(search), outputs))
    assert error["after"] == pytest.approx(pack.calibration_error(FITTED, outputs))
    assert error["before"] != error["after"]
    assert Bundle.load(tmp_path / "made").meta == meta


@pytest.mark.usefixtures("exported")
def test_a_classifier_without_objectness_is_calibrated_too(
    run: Path, tuned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = ScoreFusion(temperature=0.5, unsure_margin=0.25)
    monkeypatch.setattr(pack, "calibrate_cascade", lambda detector, given, images: given)
    monkeypatch.setattr(pack, "collect_outputs", lambda *_: [])
    monkeypatch.setattr(pack, "fit_fusion", lambda *_, **__: fitted)
    monkeypatch.setattr(pack, "validation_metrics", lambda *_: ({}, 0.5))
    bundle = pack_bundle([run], tmp_path / "made", CascadeConfig(), tuned, read_fit_photos(data, data / "splits.csv"))
    assert bundle.meta.fusion == fitted and "val_calibration_error" in bundle.meta.metrics


@pytest.mark.usefixtures("exported")
def test_weights_of_all_photos_take_the_settings_of_a_bundle_of_the_same_recipe(
    objectness_run: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    graphs = {name: Bundle.load().graph_bytes(name) for name in GRAPHS} | {"classifier": mean_colour_graph()}
    meta = replace(
        Bundle.load().meta,
        input_size=32,
        margin=META.margin,
        search=MtcnnConfig(min_face=17),
        fusion=FITTED,
        score_threshold=0.375,
        metrics={"val": {"mAP50": 0.5}},
        provenance={"data": {"splits_sha256": "x"}, "int8": ["pnet", "rnet", "onet"]},  # as the exported nets are
    )
    written = write_bundle(part, meta, graphs)
    assert pack_it(objectness_run, tmp_path / "made", "--settings-from", str(part)) == 0
    made = Bundle.load(tmp_path / "made").meta
    assert (made.search, made.fusion, made.score_threshold) == (MtcnnConfig(min_face=17), FITTED, 0.375)
    assert made.metrics == {"val": {"mAP50": 0.5}}
    origin = made.provenance["settings_and_metrics_from"]
    assert origin == {"sha256": dict(written.meta.sha256), "data": {"splits_sha256": "x"}}
    assert made.provenance["stage2"]["run"] == "objectness" and made.mean == META.mean

    capsys.readouterr()
    refusals = [
        (objectness_run, ["--score-threshold", "0.5"], "leave out --score-threshold"),
        (objectness_run, ["--min-face", "9"], "leave out --min-face, --pnet-threshold, --rnet-threshold"),
        (run, [], "its face scores need a classifier with objectness"),
    ]
    for which, flags, message in refusals:
        assert pack_it(which, tmp_path / "none", "--settings-from", str(part), *flags) == 1
        assert message in capsys.readouterr().err
    write_bundle(part, replace(meta, margin=0.2), graphs)
    assert pack_it(objectness_run, tmp_path / "none", "--settings-from", str(part)) == 1
    assert "its margin 0.2 is not 0.3; name a bundle of the same recipe" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_refusals_come_before_the_work(
    run: Path,
    tuned: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pack, "export_cascade", lambda *_: pytest.fail("was exported"))
    assert pack_it(tmp_path / "nowhere", tmp_path / "made") == 1
    assert "best.safetensors: no such file; train a model" in capsys.readouterr().err
    assert pack_it(run, run) == 1
    assert "exists and is not a bundle" in capsys.readouterr().err
    assert pack_it(run, tmp_path / "made", "--pnet-threshold", "2") == 1
    assert "pnet_threshold is 2.0, must be in 0..1" in capsys.readouterr().err
    assert pack_it(run, tmp_path / "made", "--cascade", str(tmp_path / "nowhere"), "--pnet-threshold", "2") == 1
    assert "pnet_threshold is 2.0, must be in 0..1" in capsys.readouterr().err
    assert pack_it(run, tmp_path / "made", "--cascade", str(tmp_path / "nowhere")) == 1
    assert "nowhere/pnet.safetensors: not found; train it with" in capsys.readouterr().err
    with pytest.raises(UserError, match="a fine-tuned cascade needs its run; name it with --cascade"):
        pack_bundle([run], tmp_path / "made", CascadeConfig())

    other = shutil.copytree(data, tmp_path / "other")
    file = other / "_annotations.coco.json"
    file.write_text(file.read_text().replace("without_mask", "hat"))
    for search in (MtcnnConfig(), CascadeConfig()):
        with pytest.raises(UserError, match=r"t\.png: class 'hat' is not a class of the run"):
            pack_bundle([run], tmp_path / "made", search, tuned, read_fit_photos(other, data / "splits.csv"))
    assert not (tmp_path / "made").exists()


def test_a_split_without_validation_photos_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("image_id,split\nt,train\nv,test\n")
    with pytest.raises(UserError, match=r"splits\.csv: split 'val' of .* has no photo"):
        read_fit_photos(data, tmp_path / "splits.csv")


def test_the_default_bundle_was_packed_from_photos() -> None:
    meta = Bundle.load(DEFAULT).meta
    made = meta.provenance["stage1"]
    if meta.cascade == "stock":
        assert made["box_shift"]["iou"][1] > made["box_shift"]["iou"][0]
    else:
        assert made["weights"] == "fine-tuned" and made["recipe"] and len(made["data"]) == 64
        assert (meta.search.slope, meta.search.intercept) != (1, 0)  # type: ignore[union-attr]
    assert meta.metrics["val"]["photos"] > 50


def test_a_bundle_is_not_written_among_the_photos(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made"
    assert main(["--run", str(run), "--out", str(out), "--data", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {out}: ") and "another --out" in error
    assert not out.exists()
