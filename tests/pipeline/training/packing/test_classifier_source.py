"""A bundle's classifier: graphs agree with torch, runs are averaged, another bundle's classifier is taken."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from common.errors import BundleError, UserError
from pipeline.bundle import command as show_bundle
from pipeline.inference.bundle import Bundle
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.provenance import recorded_sources
from pipeline.training.packing import classifier_source, pack
from pipeline.training.packing.classifier_source import ClassifierEnsemble, export_classifier
from pipeline.training.packing.pack import pack_bundle
from stage1_faces.stock.mtcnn import MtcnnConfig
from stage1_faces.training.run_folder import load_net
from stage2_classifier.heads import Heads
from stage2_classifier.models import build_model
from stage2_classifier.training.checkpoint import load_model, save_model
from tests.helpers.training.packing import ALL, pack_it


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


class ConstantNet(torch.nn.Module):
    """A network with the same outputs for every crop."""

    def __init__(self, *outputs: float) -> None:
        super().__init__()
        self.outputs = torch.tensor(outputs, dtype=torch.float32)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.outputs.expand(len(pixels), -1)


def test_outputs_of_several_models_are_averaged_by_hand() -> None:
    models = [ConstantNet(np.log(3), 0, 2, 0.5, 0, 0, 1), ConstantNet(0, 0, -1, 0.1, 0, 0, 0)]
    heads = Heads(2, has_objectness=True, has_box=True)
    probs, face, box = ClassifierEnsemble(models, heads)(torch.zeros(3, 3, 8, 8))
    assert probs.tolist() == [pytest.approx([(0.75 + 0.5) / 2, (0.25 + 0.5) / 2])] * 3  # of probabilities, not logits
    assert face.tolist() == [0.5] * 3
    assert box.tolist() == [pytest.approx([0.3, 0, 0, 0.5])] * 3
    assert ClassifierEnsemble(models, heads).names == ("probabilities", "face", "box")
    objectness = Heads(2, has_objectness=True)
    assert ClassifierEnsemble([ConstantNet(0, 0, 3)], objectness).names == ("probabilities", "face")
    assert len(ClassifierEnsemble([ConstantNet(0, 0, 3)], objectness)(torch.zeros(1, 3, 8, 8))) == 2


def test_a_classifier_graph_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier_source, "to_onnx", lambda *_: b"")
    monkeypatch.setattr(classifier_source, "max_difference", lambda *_: 2e-4)
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


def test_a_cascades_onet_gives_a_face_trunk_its_start(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trunk = build_model("face_trunk", ALL.outputs, weights=str(tuned / "onet.safetensors"))
    own, known = trunk.state_dict(), load_net(tuned, "onet").state_dict()
    shared = [name for name in own if not name.startswith("head.")]
    assert shared and all(torch.equal(own[name], known[name]) for name in shared)
    assert "its head does not fit 8 outputs; a fresh one is trained" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("exported")
def test_runs_with_the_same_inputs_are_averaged(objectness_run: Path, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    model, meta = load_model(objectness_run / "best.safetensors")
    save_model(other / "best.safetensors", model.state_dict(), replace(meta, epoch=7, experiment="else"))
    bundle = pack_bundle([objectness_run, other], tmp_path / "made", MtcnnConfig())
    assert bundle.meta.provenance["stage2"] == {
        "mean_of": [
            {"run": "objectness", "model": "small_cnn_half", "epoch": 4},
            {"run": "other", "model": "small_cnn_half", "epoch": 7},
        ]
    }
    assert bundle.meta.metrics == {"val_crops": {}}  # neither run's metrics are the mean's
    assert bundle.meta.fusion == ScoreFusion()  # no photos to fit it on
    with pytest.raises(UserError, match=r"try: its heads .* differs from .*objectness's .*average runs with the same"):
        pack_bundle([objectness_run, run], tmp_path / "mixed", MtcnnConfig())
    save_model(other / "best.safetensors", model.state_dict(), replace(meta, mean=(0.4, 0.5, 0.5)))
    with pytest.raises(UserError, match=r"other: its mean \(0\.4, 0\.5, 0\.5\) differs from .*objectness's"):
        pack_bundle([objectness_run, other], tmp_path / "mixed", MtcnnConfig())


@pytest.mark.usefixtures("exported")
def test_a_bundle_says_what_its_networks_learned_from(
    objectness_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"main": {"share": None, "faces": 7}, "web": {"share": 0.3, "faces": 5, "class_counts": {"with_mask": 4}}}
    (objectness_run / "summary.json").write_text(json.dumps({"sources": facts}))
    other = tmp_path / "other"
    shutil.copytree(objectness_run, other)
    made = pack_bundle([objectness_run], tmp_path / "one", MtcnnConfig())
    assert made.meta.provenance["stage2"]["sources"] == facts and recorded_sources(made.meta.provenance) == (*facts,)
    assert show_bundle.main(["show", str(tmp_path / "one")]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["stage2"]["sources"] == facts
    # Networks of the same crops: said once.
    stage2 = pack_bundle([objectness_run, other], tmp_path / "two", MtcnnConfig()).meta.provenance["stage2"]
    assert stage2["sources"] == facts and not any("sources" in one for one in stage2["mean_of"])
    # A run of an earlier version has them in config.json, as a list.
    (other / "summary.json").unlink()
    (other / "config.json").write_text(json.dumps({"sources": [{"name": "web", "faces": 5}]}))
    mixed = pack_bundle([objectness_run, other], tmp_path / "three", MtcnnConfig()).meta.provenance
    assert [one["sources"] for one in mixed["stage2"]["mean_of"]] == [facts, {"web": {"faces": 5}}]
    assert "sources" not in mixed["stage2"] and recorded_sources(mixed) == ("main", "web")
    assert pack_it(tmp_path / "two", tmp_path / "four") == 0
    assert Bundle.load(tmp_path / "four").meta.provenance["stage2"] == stage2
    (other / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"config\.json: is not a JSON object .*; train the run again"):
        pack_bundle([other], tmp_path / "five", MtcnnConfig())


@pytest.mark.slow
@pytest.mark.usefixtures("cascade")
def test_the_classifier_of_a_bundle_can_be_taken(tmp_path: Path) -> None:
    default = Bundle.load()
    assert (
        pack_it(Path("default"), tmp_path / "made", "--weights-dtype", default.meta.weights_dtype) == 0
    )  # by its name
    bundle = Bundle.load(tmp_path / "made")
    assert bundle.graph_bytes("classifier") == default.graph_bytes("classifier")
    assert bundle.meta.cascade == "stock"
    for part in ("class_names", "input_size", "mean", "std", "margin"):
        assert getattr(bundle.meta, part) == getattr(default.meta, part)
    assert bundle.meta.provenance["stage2"] == default.meta.provenance["stage2"]
    assert bundle.meta.metrics == {"val_crops": default.meta.metrics["val_crops"]}
