"""The folder for the Hugging Face Hub: what the Hub's own library reads of it, and what is not replaced."""

from __future__ import annotations

import errno
import json
import shutil
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


def copied_bundle(folder: Path, **changes: object) -> Path:
    """Copy the default bundle's graphs, and its description with changes."""
    shutil.copytree(Bundle.load().path, folder, ignore=shutil.ignore_patterns("report.md"))
    record = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    (folder / "bundle.json").write_text(json.dumps({**record, **changes}), encoding="utf-8")
    return folder


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
    pretrained = [run["pretrained"] for run in provenance["stage2"]["mean_of"] if "pretrained" in run]
    assert pretrained and all(weights["licence"] in text for weights in pretrained) and "$" not in text
    assert (folder / "report.md").read_bytes() == (Bundle.load().path / "report.md").read_bytes()


def test_a_bundle_without_figures(tmp_path: Path) -> None:
    bare = copied_bundle(tmp_path / "bare", metrics={}, provenance={})
    assert main(["--hub", str(tmp_path / "model"), "--bundle", str(bare)]) == 0
    card = ModelCard.load(tmp_path / "model/README.md")
    assert card.data.eval_results is None
    assert "packed without annotated photos" in card.text and "does not record its name" in card.text


def test_a_model_of_others_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a folder with the Hub's usual names, nor one with a file of --out."""
    for name, config in (("theirs", '{"model_type": "bert"}'), ("file", None), ("damaged", "[")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"model")
        if config is not None:
            (folder / "config.json").write_text(config)
        assert main(["--hub", str(folder)]) == 1
        assert "is not a model folder of this command" in capsys.readouterr().err
        assert (folder / "model.onnx").read_bytes() == b"model"


def test_a_bundle_in_int8_says_so(tmp_path: Path) -> None:
    bundle = copied_bundle(tmp_path / "bundle", provenance={"int8": ["classifier"]})
    assert main(["--hub", str(tmp_path / "model"), "--bundle", str(bundle)]) == 0
    assert "computes in INT8: classifier" in (tmp_path / "model/README.md").read_text(encoding="utf-8")


def test_what_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")  # as a training run of stage 2
    assert main(["--hub", str(run)]) == 1
    assert "is not a model folder of this command" in capsys.readouterr().err
    (folder / "mine.txt").touch()
    assert main(["--hub", str(folder)]) == 1
    assert "also has mine.txt" in capsys.readouterr().err
    (folder / "mine.txt").rename(folder / ".DS_Store")  # of macOS's file manager, which counts as nothing
    (folder / "report.md").unlink()  # a bundle may have none
    assert main(["--hub", str(folder)]) == 0
    assert (folder / "report.md").is_file() and not (folder / ".DS_Store").exists()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["--hub", str(tmp_path / "model")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "model") in line and ".model." not in line
    assert list(tmp_path.iterdir()) == []
