"""Checkpoints come back as they were, and damaged ones are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stage2_classifier.checkpoint import HEADER, ModelMeta, load_model, load_state, save_model, save_state
from stage2_classifier.errors import ClassifierError
from stage2_classifier.heads import Heads
from stage2_classifier.models import build_model

META = ModelMeta(
    model="small_cnn_half",
    class_names=("with_mask", "without_mask", "mask_weared_incorrect"),
    input_size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.5, 0.5),
    margin=0.2,
    dropout=0.3,
    experiment="try",
    epoch=4,
    metrics={"val_macro_f1": 0.75},
)


def test_weights_and_header_come_back(tmp_path: Path) -> None:
    model = build_model("small_cnn_half", 3).eval().to(memory_format=torch.channels_last)
    save_model(tmp_path / "m.safetensors", model.state_dict(), META)
    loaded, meta = load_model(tmp_path / "m.safetensors")
    assert meta == META and not loaded.training
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded(x), model(x))
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_what_the_outputs_mean_comes_back(tmp_path: Path) -> None:
    meta = replace(META, judges=True, boxes=True)
    save_model(tmp_path / "m.safetensors", build_model("small_cnn_half", 8).state_dict(), meta)
    loaded, found = load_model(tmp_path / "m.safetensors")
    assert found.heads == Heads(3, judges=True, boxes=True)
    assert loaded(torch.zeros(2, 3, 64, 64)).shape == (2, 8)


def test_a_header_of_before_the_judge_names_classes_alone(tmp_path: Path) -> None:
    old = {k: v for k, v in vars(META).items() if k not in ("judges", "boxes")}
    tensors = build_model("small_cnn_half", 3).state_dict()
    save_file(tensors, tmp_path / "m.safetensors", {HEADER: json.dumps(old)})
    loaded, meta = load_model(tmp_path / "m.safetensors")
    assert meta == META and meta.heads == Heads(3)
    assert loaded(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("keep", [0, 4, 100, 100_000])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "m.safetensors"
    save_model(file, build_model("small_cnn_half", 3).state_dict(), META)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ClassifierError, match=r"m\.safetensors: damaged"):
        load_model(file)


def test_other_peoples_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    with pytest.raises(ClassifierError, match="no such file"):
        load_model(file)
    tensors = build_model("small_cnn_half", 3).state_dict()
    save_file(tensors, file)
    with pytest.raises(ClassifierError, match=r"has no .* header"):
        load_model(file)
    save_file(tensors, file, metadata={HEADER: json.dumps({"model": "small_cnn_half"})})
    with pytest.raises(ClassifierError, match="header is malformed"):
        load_model(file)
    save_model(file, tensors, replace(META, model="small_cnn"))
    with pytest.raises(ClassifierError, match="do not fit small_cnn"):
        load_model(file)


def test_state_comes_back(tmp_path: Path) -> None:
    state = {"history": [{"epoch": 1, "f1": 0.1}], "model": {"w": torch.arange(3.0)}, "ema": None}
    save_state(tmp_path / "last.pt", state)
    loaded = load_state(tmp_path / "last.pt")
    assert loaded["history"] == state["history"] and loaded["ema"] is None
    assert torch.equal(loaded["model"]["w"], torch.arange(3.0))


def test_a_bad_state_is_named(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    save_state(file, {"model": {"w": torch.zeros(1000)}})
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ClassifierError, match=r"last\.pt: damaged"):
        load_state(file)
    torch.save({"model": nn.Linear(2, 2)}, file)  # an object whose loading would run code
    with pytest.raises(ClassifierError, match=r"last\.pt: damaged"):
        load_state(file)
    torch.save({"format": 0}, file)
    with pytest.raises(ClassifierError, match="another version"):
        load_state(file)
