"""Packing weights trained on all photos, as train_all does: several runs, with the settings of another bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.inference.bundle import GRAPHS, Bundle
from pipeline.inference.fusion import ScoreFusion
from pipeline.training.packing import classifier_source, pack
from pipeline.training.packing.command import main
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.training.export import FINE_TUNED
from stage1_faces.training.nets import build_net
from stage1_faces.training.run_folder import FinetuneFolder
from stage2_classifier.models import build_model
from stage2_classifier.training.checkpoint import ModelMeta, save_model
from tests.helpers.float_bundle import float_bundle

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")


@pytest.fixture
def learned(tmp_path: Path) -> tuple[Path, list[str]]:
    """Write a fine-tuning run and two training runs, untrained."""
    cascade = FinetuneFolder(tmp_path / "all" / "cascade")
    cascade.claim({"format": 1, "recipe": {"pnet_steps": 6000}, "data": "all photos"})
    for name in FINE_TUNED:
        cascade.save_net(name, build_net(name), {})
    meta = ModelMeta("small_cnn_half", CLASSES, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.1, 0.0, "final", 80)
    runs = []
    for name in ("final_trunk", "final_cnn"):
        save_model(tmp_path / "all" / name / "best.safetensors", build_model("small_cnn_half", 3).state_dict(), meta)
        runs.append(str(tmp_path / "all" / name))
    return cascade.path, runs


@pytest.fixture
def part(tmp_path: Path) -> Bundle:
    """Write the bundle of the training part: graphs of a bundle in float32, and settings of its own."""
    given = Bundle.load(float_bundle(tmp_path / "float"))
    search = replace(CascadeConfig(), slope=1.5, intercept=-0.25)
    metrics: Mapping[str, object] = {"val": {"photos": 101, "mAP50": 0.75}}
    data = {"class_counts": {"train": {"with_mask": 7}}, "splits_sha256": "abc"}
    meta = replace(
        given.meta,
        class_names=CLASSES,
        input_size=32,
        margin=0.1,
        search=search,
        fusion=ScoreFusion(temperature=0.5),  # these runs have no objectness
        score_threshold=0.375,
        metrics=metrics,
        provenance={"data": data},
    )
    return pack.write_bundle(tmp_path / "part", meta, {name: given.graph_bytes(name) for name in GRAPHS})


def test_the_bundle_records_whose_metrics_it_has(
    learned: tuple[Path, list[str]], part: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaged: list[int] = []
    graphs = {name: part.graph_bytes(name) for name in GRAPHS}

    def export(models: list[torch.nn.Module], size: int, heads: object) -> bytes:
        averaged.append(len(models))
        return graphs["classifier"]

    monkeypatch.setattr(classifier_source, "export_classifier", export)
    monkeypatch.setattr(pack, "export_cascade", lambda nets, how: {name: graphs[name] for name in how})
    cascade, runs = learned
    flags = ["--cascade", str(cascade), "--out", str(tmp_path / "made"), "--settings-from", str(part.path)]
    assert main(["--run", *runs, *flags]) == 0
    made = Bundle.load(tmp_path / "made").meta
    assert averaged == [2]
    assert (made.search, made.fusion, made.score_threshold) == (part.meta.search, part.meta.fusion, 0.375)
    assert made.metrics == {"val": {"photos": 101, "mAP50": 0.75}}
    note = made.provenance["weights_and_metrics"]
    assert "weights were learned from all photos" in note and "from the training part only" in note
    origin = made.provenance["settings_and_metrics_from"]
    assert origin == {"sha256": dict(part.meta.sha256), "data": part.meta.provenance["data"]}
    assert made.provenance["stage1"]["data"] == "all photos"
    assert [run["run"] for run in made.provenance["stage2"]["mean_of"]] == ["final_trunk", "final_cnn"]
    # A bundle with its own metrics has no such note.
    assert "weights_and_metrics" not in Bundle.load(part.path).meta.provenance


def test_photos_and_a_bundle_to_take_settings_from_exclude_each_other(
    learned: tuple[Path, list[str]], part: Bundle, tmp_path: Path
) -> None:
    cascade, runs = learned
    photos = pack.FitPhotos((), ())
    with pytest.raises(pack.UserError, match="--settings-from takes all settings from that bundle; leave out --data"):
        pack.pack_bundle(
            [Path(run) for run in runs], tmp_path / "made", CascadeConfig(), cascade, photos, settings_from=part.path
        )
    assert not (tmp_path / "made").exists()
