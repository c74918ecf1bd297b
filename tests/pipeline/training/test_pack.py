"""Packing a run: graphs that agree with torch, boxes fitted and a threshold chosen on photos, clear refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from common.boxes import iou
from common.errors import BundleError, UserError
from pipeline.detect.demo import portrait
from pipeline.inference.bundle import DEFAULT, GRAPHS, Bundle, write_bundle
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.predictor import Predictor
from pipeline.training import pack
from pipeline.training.calibration import Evidence
from pipeline.training.git_revision import git_revision
from pipeline.training.pack import ClassifierEnsemble, export_classifier, pack_bundle, photos_of
from pipeline.training.pack_command import main
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import FaceDetector
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector
from stage1_faces.training.export import FINE_TUNED, STOCK, export_cascade, runtime, stock_nets
from stage1_faces.training.nets import ExportWrapper, build_net
from stage1_faces.training.run_folder import RunFolder, load_net
from stage2_classifier.heads import Heads
from stage2_classifier.models import build_model
from stage2_classifier.training.checkpoint import ModelMeta, load_model, save_model

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
TILES = 5  # a side: 25 faces, more than the fit's fewest
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


@pytest.fixture(scope="module")
def cascade():
    """The stock cascade is exported once for all the tests here."""
    graphs = export_cascade(stock_nets(), STOCK)
    real = export_cascade
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "export_cascade", lambda nets, how: dict(graphs) if how is STOCK else real(nets, how))
        yield graphs


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning run whose nets are as they are before training."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "tuned")
    folder.start({"format": 1, "recipe": {"pnet_steps": 1}, "data": "abc"}, overwrite=False)
    torch.manual_seed(0)
    for name in FINE_TUNED:
        folder.save_net(name, build_net(name), {})
    return folder.path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network that calls everything without_mask."""
    folder = tmp_path_factory.mktemp("runs") / "try"
    torch.manual_seed(0)
    model = build_model("small_cnn_half", 3)
    with torch.no_grad():
        model.head.bias[1] += 100
    save_model(folder / "best.safetensors", model.state_dict(), META)
    (folder / "config.json").write_text(json.dumps({"class_counts": {"train": {"with_mask": 7}}}))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, cascade: dict[str, bytes]) -> Path:
    """Two photos of 25 small portraits each, annotated with larger boxes than the cascade draws, and their split."""
    root = tmp_path_factory.mktemp("data")
    tile = Image.fromarray(portrait()).resize((128, 105))
    # The stock cascade's box, then a quarter of its height more on top.
    detector = MtcnnDetector(**{name: runtime(graph) for name, graph in cascade.items()})
    box = detector.detect(np.asarray(tile.resize((512, 420)))).boxes[0] / 4
    box[1] -= (box[3] - box[1]) / 4
    pixels = np.tile(np.asarray(tile), (TILES, TILES, 1))
    rows = []
    for i, name in enumerate(("t.png", "v.png")):
        Image.fromarray(pixels).save(root / name)
        for k in range(TILES**2):
            x, y = box[0] + 128 * (k % TILES), box[1] + 105 * (k // TILES)
            sides = box[2:] - box[:2]
            rows.append({"id": len(rows), "image_id": i, "category_id": 1, "bbox": [float(v) for v in (x, y, *sides)]})
    images = [{"id": i, "file_name": name} for i, name in enumerate(("t.png", "v.png", "gone.png"))]
    categories = [{"id": 1, "name": "without_mask"}]
    coco = {"images": images, "categories": categories, "annotations": rows}
    (root / "_annotations.coco.json").write_text(json.dumps(coco))
    (root / "splits.csv").write_text("image_id,split\nt,train\nv,val\n")
    return root


def pack_it(run: Path, out: Path, *flags: str) -> int:
    return main(["--run", str(run), "--out", str(out), *flags])


ALL = Heads(3, has_objectness=True, has_box=True)


@pytest.mark.slow
@pytest.mark.parametrize("heads", [Heads(3), ALL])
def test_the_exported_classifier_is_the_runs_with_softmax(heads: Heads) -> None:
    torch.manual_seed(1)
    models = [build_model("small_cnn_half", heads.outputs).eval() for _ in range(1 + heads.has_objectness)]
    graph = export_classifier(models, 32, heads)
    names = ["probabilities", "face", "box"] if heads == ALL else ["probabilities"]
    assert [output.name for output in onnx.load_from_string(graph).graph.output] == names
    pixels = np.random.default_rng(0).normal(0, 1, (4, 3, 32, 32)).astype(np.float32)
    given = pack.load_graph(graph, "classifier", classes=3)(pixels)
    with torch.no_grad():
        each = [model(torch.from_numpy(pixels)) for model in models]
    expected = torch.stack([one[:, :3].softmax(dim=1) for one in each]).mean(dim=0)
    assert given[0] == pytest.approx(expected.numpy(), abs=1e-5)
    if heads == ALL:
        mean = torch.stack(each).mean(dim=0).numpy()
        assert given[1].shape == (4,) and given[1] == pytest.approx(mean[:, 3], abs=1e-4)
        assert given[2].shape == (4, 4) and given[2] == pytest.approx(mean[:, 4:], abs=1e-4)


class Constant(torch.nn.Module):
    """A network that says the same of every crop."""

    def __init__(self, *outputs: float) -> None:
        super().__init__()
        self.outputs = torch.tensor(outputs, dtype=torch.float32)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.outputs.expand(len(pixels), -1)


def test_verdicts_of_several_models_are_their_means_by_hand() -> None:
    models = [Constant(np.log(3), 0, 2, 0.5, 0, 0, 1), Constant(0, 0, -1, 0.1, 0, 0, 0)]
    heads = Heads(2, has_objectness=True, has_box=True)
    probs, face, box = ClassifierEnsemble(models, heads)(torch.zeros(3, 3, 8, 8))
    assert probs.tolist() == [pytest.approx([(0.75 + 0.5) / 2, (0.25 + 0.5) / 2])] * 3  # of probabilities, not logits
    assert face.tolist() == [0.5] * 3
    assert box.tolist() == [pytest.approx([0.3, 0, 0, 0.5])] * 3
    assert ClassifierEnsemble(models, heads).names == ("probabilities", "face", "box")
    judging = Heads(2, has_objectness=True)
    assert ClassifierEnsemble([Constant(0, 0, 3)], judging).names == ("probabilities", "face")
    assert len(ClassifierEnsemble([Constant(0, 0, 3)], judging)(torch.zeros(1, 3, 8, 8))) == 2


def test_a_classifier_graph_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "to_onnx", lambda *_: b"")
    monkeypatch.setattr(pack, "parity", lambda *_: 2e-4)
    with pytest.raises(BundleError, match=r"classifier: the exported graph differs from torch by 0\.0002"):
        export_classifier([build_model("small_cnn_half", 3)], 32, Heads(3))


def test_a_run_still_in_training_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    (unfinished / "last.pt").touch()
    assert pack_it(unfinished, tmp_path / "made") == 1
    assert "its training is not finished" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_without_photos_the_stock_boxes_and_what_the_run_says(
    run: Path, tmp_path: Path, cascade: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack_it(run, tmp_path / "made", "--min-face", "30", "--note", "mine") == 0
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
def test_with_photos_boxes_are_fitted_and_the_threshold_chosen(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack_it(run, tmp_path / "made", "--data", str(data), "--splits", str(data / "splits.csv")) == 0
    assert "gone.png" in capsys.readouterr().err
    bundle = Bundle.load(tmp_path / "made")
    shift = bundle.meta.provenance["stage1"]["box_shift"]
    assert shift["faces"] == TILES**2
    assert shift["edges"][1] < -0.05  # tops move up
    assert shift["iou"][1] > max(shift["iou"][0], 0.9)
    # The graph itself moves them: what the packed bundle finds lies on the annotations.
    photos = photos_of(data, data / "splits.csv")
    pixels = np.asarray(Image.open(photos.val[0].path))
    overlaps = iou(photos.val[0].boxes, Predictor(bundle).detect(pixels, min_score=0.5).boxes).max(axis=1)
    assert overlaps.mean() == pytest.approx(shift["iou"][1], abs=0.01)
    # All are found and rightly named, so the best threshold is the lowest of their scores, and below the rest.
    measured = bundle.meta.metrics["val"]
    assert measured["photos"] == 1 and measured["mAP50"] > 0.99 and measured["face_recall50"] == 1
    found = Predictor(bundle).detect(pixels)
    assert len(found) == TILES**2
    assert 0 <= found.scores.min() - bundle.meta.score_threshold < 0.0011


@pytest.mark.slow
def test_a_given_threshold_is_kept(
    run: Path, data: Path, tmp_path: Path, cascade: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The default bundle's classifier stands in, to save an export.
    default = Bundle.load()
    model, meta = load_model(run / "best.safetensors")
    save_model(tmp_path / "best.safetensors", model.state_dict(), replace(meta, input_size=default.meta.input_size))
    monkeypatch.setattr(pack, "export_net", lambda *_: cascade["onet"])
    monkeypatch.setattr(pack, "export_classifier", lambda *_: (DEFAULT / "classifier.onnx").read_bytes())
    photos = photos_of(data, data / "splits.csv")
    bundle = pack_bundle([tmp_path], tmp_path / "made", MtcnnConfig(min_face=40), None, photos, score_threshold=0.25)
    assert bundle.meta.score_threshold == 0.25
    assert "val" in bundle.meta.metrics


@pytest.mark.slow
def test_a_fine_tuned_cascade_and_where_it_comes_from(
    run: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack_it(run, tmp_path / "made", "--cascade", str(tuned), "--min-face", "9") == 0
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


@pytest.mark.usefixtures("cascade")
def test_with_photos_scores_are_calibrated_on_the_validation_ones(
    run: Path, tuned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Bundle.load()
    model, meta = load_model(run / "best.safetensors")
    save_model(tmp_path / "best.safetensors", model.state_dict(), replace(meta, input_size=default.meta.input_size))
    graphs = {name: default.graph_bytes(name) for name in GRAPHS}
    monkeypatch.setattr(pack, "export_classifier", lambda *_: graphs["classifier"])
    monkeypatch.setattr(pack, "export_cascade", lambda nets, how: {name: graphs[name] for name in how})
    monkeypatch.setattr(pack, "measure_shift", lambda *_: pytest.fail("moved the boxes"))
    given = CascadeConfig(min_face=9, slope=2.0)

    def calibrated(detector: object, search: CascadeConfig, images: object) -> CascadeConfig:
        assert isinstance(detector, FaceDetector) and detector.config == search == given
        assert [image.image_id for image in images] == ["v"]  # type: ignore[attr-defined]
        return replace(search, slope=1.5, intercept=-0.25)

    def judged(bundle: Bundle, val: object, choose: bool):
        assert bundle.meta.search == replace(given, slope=1.5, intercept=-0.25) and choose
        return replace(bundle.meta, score_threshold=0.375)

    monkeypatch.setattr(pack, "calibrated", calibrated)
    monkeypatch.setattr(pack, "_judged", judged)
    bundle = pack_bundle([tmp_path], tmp_path / "made", given, tuned, photos_of(data, data / "splits.csv"))
    assert bundle.meta.search == replace(given, slope=1.5, intercept=-0.25)
    assert bundle.meta.score_threshold == 0.375
    assert "box_shift" not in bundle.meta.provenance["stage1"]


def judging_graph(heads: Heads = ALL) -> bytes:
    """A classifier by mean colours: softmax of the channels, and where it judges, their sum, and zeros."""
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
    graph = helper.make_graph(nodes, "judge", [pixels], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


@pytest.fixture
def judging_run(tmp_path: Path) -> Path:
    """A run whose network also judges and moves boxes."""
    folder = tmp_path / "judging"
    model = build_model("small_cnn_half", ALL.outputs)
    save_model(folder / "best.safetensors", model.state_dict(), replace(META, has_objectness=True, boxes=True))
    return folder


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the exports: the default bundle's cascade and a classifier by mean colours are written instead."""
    graphs = {name: Bundle.load().graph_bytes(name) for name in GRAPHS}

    def export(models: list[torch.nn.Module], input_size: int, heads: Heads) -> bytes:
        assert input_size == 32
        return judging_graph(heads)

    monkeypatch.setattr(pack, "export_classifier", export)
    monkeypatch.setattr(pack, "export_cascade", lambda nets, how: {name: graphs[name] for name in how})


FITTED = ScoreFusion(
    detector_weight=0.75,
    classifier_weight=0.5,
    intercept=-0.25,
    temperature=1.5,
    min_detector_score=0.01,
    max_face_logit=6,
    flip_tta=True,
)


@pytest.mark.usefixtures("exported")
def test_a_judge_is_fitted_on_the_validation_photos(
    judging_run: Path, tuned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = CascadeConfig(min_face=9, slope=2.0, intercept=0.5)
    boxes = np.float32([[0, 0, 10, 10], [20, 0, 30, 10]])
    probs, scores = np.float32([[0.8, 0.1, 0.1]] * 2), np.float32([0.9, 0.4])
    verdicts = np.float32([2, -2])
    evidence = [Evidence(boxes, scores, probs, verdicts, None, boxes[:1], np.zeros(1, np.intp), (64, 64))]

    def gather(predictor: Predictor, detector: FaceDetector, images: object) -> list[Evidence]:
        meta = predictor.bundle.meta
        assert meta.fusion == ScoreFusion(flip_tta=True)  # nothing calibrated yet, but seen both ways as it will be
        assert meta.search == detector.config == search  # stage 1's scores as they will be
        assert [image.image_id for image in images] == ["v"]  # type: ignore[attr-defined]
        # The made graph works in a predictor: mirrored, and with all its outputs.
        ((seen, face, numbers),) = predictor.run_classifier([np.full((40, 40, 3), 255, np.uint8)], [boxes])
        assert seen.shape == (2, 3) and numbers is not None and numbers.tolist() == [[0, 0, 0, 0]] * 2
        assert face == pytest.approx([sum((1 - m) / s for m, s in zip(META.mean, META.std, strict=True))] * 2)
        return evidence

    def fit_judge(given: object, margin: float, mirrored: bool) -> ScoreFusion:
        assert given is evidence and margin == META.margin and mirrored
        return FITTED

    def judged(bundle: Bundle, val: object, choose: bool):
        assert bundle.meta.fusion == FITTED and choose  # the threshold is chosen on the judge's scores
        return replace(bundle.meta, score_threshold=0.375)

    monkeypatch.setattr(pack, "calibrated", lambda detector, given, images: given)
    monkeypatch.setattr(pack, "gather", gather)
    monkeypatch.setattr(pack, "fit_judge", fit_judge)
    monkeypatch.setattr(pack, "_judged", judged)
    photos = photos_of(data, data / "splits.csv")
    meta = pack_bundle([judging_run], tmp_path / "made", search, tuned, photos).meta
    assert meta.fusion == FITTED and meta.score_threshold == 0.375
    error = meta.metrics["val_calibration_error"]
    assert error["before"] == pytest.approx(pack.calibration_error(pack.uncalibrated(search), evidence))
    assert error["after"] == pytest.approx(pack.calibration_error(FITTED, evidence))
    assert error["before"] != error["after"]
    assert Bundle.load(tmp_path / "made").meta == meta


@pytest.mark.usefixtures("exported")
def test_a_classifier_without_verdicts_is_calibrated_too(
    run: Path, tuned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = ScoreFusion(temperature=0.5, unsure_margin=0.25)
    monkeypatch.setattr(pack, "calibrated", lambda detector, given, images: given)
    monkeypatch.setattr(pack, "gather", lambda *_: [])
    monkeypatch.setattr(pack, "fit_judge", lambda *_, **__: fitted)
    monkeypatch.setattr(pack, "_judged", lambda bundle, *_, **__: bundle.meta)
    bundle = pack_bundle([run], tmp_path / "made", CascadeConfig(), tuned, photos_of(data, data / "splits.csv"))
    assert bundle.meta.fusion == fitted and "val_calibration_error" in bundle.meta.metrics


def test_a_cascades_onet_gives_a_face_trunk_its_start(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trunk = build_model("face_trunk", ALL.outputs, weights=str(tuned / "onet.safetensors"))
    own, known = trunk.state_dict(), load_net(tuned, "onet").state_dict()
    shared = [name for name in own if not name.startswith("head.")]
    assert shared and all(torch.equal(own[name], known[name]) for name in shared)
    assert "its head does not fit 8 outputs; a fresh one is trained" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("exported")
def test_runs_that_are_fed_alike_are_averaged(judging_run: Path, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    model, meta = load_model(judging_run / "best.safetensors")
    save_model(other / "best.safetensors", model.state_dict(), replace(meta, epoch=7, experiment="else"))
    bundle = pack_bundle([judging_run, other], tmp_path / "made", MtcnnConfig())
    assert bundle.meta.provenance["stage2"] == {
        "mean_of": [
            {"run": "judging", "model": "small_cnn_half", "epoch": 4},
            {"run": "other", "model": "small_cnn_half", "epoch": 7},
        ]
    }
    assert bundle.meta.metrics == {"val_crops": {}}  # which are those of neither
    assert bundle.meta.fusion == ScoreFusion()  # nothing to fit it on
    with pytest.raises(UserError, match=r"try: its heads .* differs from .*judging's .*average runs that are fed"):
        pack_bundle([judging_run, run], tmp_path / "mixed", MtcnnConfig())
    save_model(other / "best.safetensors", model.state_dict(), replace(meta, margin=0.1))
    with pytest.raises(UserError, match=r"other: its margin 0\.1 differs from .*judging's 0\.3"):
        pack_bundle([judging_run, other], tmp_path / "mixed", MtcnnConfig())


@pytest.mark.usefixtures("exported")
def test_weights_of_all_photos_take_the_settings_of_a_bundle_of_their_make(
    judging_run: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    graphs = {name: Bundle.load().graph_bytes(name) for name in GRAPHS} | {"classifier": judging_graph()}
    meta = replace(
        Bundle.load().meta,
        input_size=32,
        margin=META.margin,
        search=MtcnnConfig(min_face=17),
        fusion=FITTED,
        score_threshold=0.375,
        metrics={"val": {"mAP50": 0.5}},
        provenance={"data": {"splits_sha256": "x"}},
    )
    written = write_bundle(part, meta, graphs)
    assert pack_it(judging_run, tmp_path / "made", "--settings-from", str(part)) == 0
    made = Bundle.load(tmp_path / "made").meta
    assert (made.search, made.fusion, made.score_threshold) == (MtcnnConfig(min_face=17), FITTED, 0.375)
    assert made.metrics == {"val": {"mAP50": 0.5}}
    whence = made.provenance["settings_and_metrics_from"]
    assert whence == {"sha256": dict(written.meta.sha256), "data": {"splits_sha256": "x"}}
    assert made.provenance["stage2"]["run"] == "judging" and made.mean == META.mean

    capsys.readouterr()
    refusals = [
        (judging_run, ["--score", "0.5"], "leave out --data and --score"),
        (judging_run, ["--min-face", "9"], "leave out --min-face, --pnet-threshold and --rnet-threshold"),
        (run, [], "its face scores need stage 2's verdicts, which these runs do not give"),
    ]
    for which, flags, message in refusals:
        assert pack_it(which, tmp_path / "none", "--settings-from", str(part), *flags) == 1
        assert message in capsys.readouterr().err
    write_bundle(part, replace(meta, margin=0.2), graphs)
    assert pack_it(judging_run, tmp_path / "none", "--settings-from", str(part)) == 1
    assert "its margin 0.2 is not 0.3; name one of the same make" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("cascade")
def test_the_classifier_of_a_bundle_may_be_kept(tmp_path: Path) -> None:
    default = Bundle.load()
    assert pack_it(DEFAULT, tmp_path / "made") == 0
    bundle = Bundle.load(tmp_path / "made")
    assert bundle.graph_bytes("classifier") == default.graph_bytes("classifier")
    assert bundle.meta.cascade == "stock"
    for part in ("class_names", "input_size", "mean", "std", "margin"):
        assert getattr(bundle.meta, part) == getattr(default.meta, part)
    assert bundle.meta.provenance["stage2"] == default.meta.provenance["stage2"]
    assert bundle.meta.metrics == {"val_crops": default.meta.metrics["val_crops"]}


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
    assert "exists and is no bundle" in capsys.readouterr().err
    assert pack_it(run, tmp_path / "made", "--pnet-threshold", "2") == 1
    assert "pnet is 2.0, must lie in 0..1" in capsys.readouterr().err
    assert pack_it(run, tmp_path / "made", "--cascade", str(tmp_path / "nowhere"), "--pnet-threshold", "2") == 1
    assert "pnet is 2.0, must lie in 0..1" in capsys.readouterr().err
    assert pack_it(run, tmp_path / "made", "--cascade", str(tmp_path / "nowhere")) == 1
    assert "nowhere/pnet.safetensors: not found; train it with" in capsys.readouterr().err
    with pytest.raises(UserError, match="a fine-tuned cascade needs its run; name it with --cascade"):
        pack_bundle([run], tmp_path / "made", CascadeConfig())

    other = shutil.copytree(data, tmp_path / "other")
    file = other / "_annotations.coco.json"
    file.write_text(file.read_text().replace("without_mask", "hat"))
    for search in (MtcnnConfig(), CascadeConfig()):
        with pytest.raises(UserError, match=r"t\.png: class 'hat' is none of the run's"):
            pack_bundle([run], tmp_path / "made", search, tuned, photos_of(other, data / "splits.csv"))
    assert not (tmp_path / "made").exists()


def test_a_split_without_validation_photos_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("image_id,split\nt,train\nv,test\n")
    with pytest.raises(UserError, match="no training or no validation photos"):
        photos_of(data, tmp_path / "splits.csv")


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
    said = f"error: {out}: lies in {tmp_path} and would be read as data; give another --out\n"
    assert capsys.readouterr().err == said
    assert not out.exists()
