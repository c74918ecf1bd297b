"""The folder for the Hugging Face Hub: what the Hub's own library reads of it, and what is not replaced."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from huggingface_hub import ModelCard

from pipeline.export.command import main
from pipeline.inference.bundle import Bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "model"
    assert main(["--hub", str(out)]) == 0
    return out


def test_the_front_matter(folder: Path) -> None:
    card, metrics = ModelCard.load(folder / "README.md"), Bundle.load().meta.metrics["val"]
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == ("mit", "onnx", "object-detection")
    results = card.data.eval_results
    assert results is not None and {result.metric_type for result in results} >= {"mAP50", "mAP50-95"}
    for result in results:
        assert result.metric_value == pytest.approx(metrics[result.metric_type], abs=1e-4)
        assert result.dataset_split == "validation"


def test_the_configuration(folder: Path) -> None:
    config, meta = json.loads((folder / "config.json").read_text(encoding="utf-8")), Bundle.load().meta
    assert [config["id2label"][str(k)] for k in range(len(meta.class_names))] == list(meta.class_names)
    assert all(config["label2id"][name] == k for k, name in enumerate(meta.class_names))
    assert config["score_threshold"] == meta.score_threshold
    graph = onnx.load(folder / "model.onnx").graph
    assert [value.name for value in graph.output] == list(config["outputs"])
    assert [value.name for value in graph.input] == list(config["inputs"])


def test_the_card_says_what_it_was_learned_from(folder: Path) -> None:
    text, provenance = (folder / "README.md").read_text(encoding="utf-8"), Bundle.load().meta.provenance
    sources = provenance["stage1"]["sources"]
    assert sources and all(f"`{name}`: {facts['photos']} photos" in text for name, facts in sources.items())
    assert provenance["stage2"]["pretrained"]["licence"] in text and "$" not in text
    assert (folder / "report.md").read_bytes() == (Bundle.load().path / "report.md").read_bytes()


def test_a_bundle_without_figures(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    record = json.loads((Bundle.load().path / "bundle.json").read_text(encoding="utf-8"))
    record |= {"metrics": {}, "provenance": {}}
    bare.mkdir()
    for graph in Bundle.load().path.glob("*.onnx"):
        (bare / graph.name).write_bytes(graph.read_bytes())
    (bare / "bundle.json").write_text(json.dumps(record), encoding="utf-8")
    assert main(["--hub", str(tmp_path / "model"), "--bundle", str(bare)]) == 0
    card = ModelCard.load(tmp_path / "model/README.md")
    assert card.data.eval_results is None
    assert "packed without annotated photos" in card.text and "does not record its name" in card.text


def test_what_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")  # as a training run of stage 2
    assert main(["--hub", str(run)]) == 1
    assert "is not a model folder of this command" in capsys.readouterr().err
    (folder / "mine.txt").touch()
    assert main(["--hub", str(folder)]) == 1
    assert "also has mine.txt" in capsys.readouterr().err
    (folder / "mine.txt").unlink()
    assert main(["--hub", str(folder)]) == 0
