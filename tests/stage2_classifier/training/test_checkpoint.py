"""Checkpoints are read as written, also those of earlier versions, and damaged ones are named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError
from common.training.state_file import save_state
from stage2_classifier.heads import Heads
from stage2_classifier.models import build_model
from stage2_classifier.training.checkpoint import HEADER, ModelMeta, load_model, load_state, save_model

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


def test_weights_and_header_are_read_as_written(tmp_path: Path) -> None:
    model = build_model("small_cnn_half", 3).eval().to(memory_format=torch.channels_last)
    save_model(tmp_path / "m.safetensors", model.state_dict(), META)
    loaded, meta = load_model(tmp_path / "m.safetensors")
    assert meta == META and not loaded.training
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded(x), model(x))
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_the_heads_are_read_as_written(tmp_path: Path) -> None:
    meta = replace(META, has_objectness=True, has_box=True)
    save_model(tmp_path / "m.safetensors", build_model("small_cnn_half", 8).state_dict(), meta)
    loaded, found = load_model(tmp_path / "m.safetensors")
    assert found.heads == Heads(3, has_objectness=True, has_box=True)
    assert loaded(torch.zeros(2, 3, 64, 64)).shape == (2, 8)


@pytest.mark.parametrize(
    ("old_fields", "heads"),
    [({}, Heads(3)), ({"judges": True, "boxes": True}, Heads(3, has_objectness=True, has_box=True))],
)
def test_headers_of_earlier_versions_are_read(tmp_path: Path, old_fields: dict[str, bool], heads: Heads) -> None:
    old = {k: v for k, v in vars(META).items() if k not in ("has_objectness", "has_box")} | old_fields
    tensors = build_model("small_cnn_half", heads.outputs).state_dict()
    save_file(tensors, tmp_path / "m.safetensors", {HEADER: json.dumps(old)})
    loaded, meta = load_model(tmp_path / "m.safetensors")
    assert meta == replace(META, has_objectness=heads.has_objectness, has_box=heads.has_box) and meta.heads == heads
    assert loaded(torch.zeros(1, 3, 64, 64)).shape == (1, heads.outputs)


Make = Callable[[Path], object]
HALF = build_model("small_cnn_half", 3).state_dict()
NAN = {**HALF, "head.bias": torch.full((3,), float("nan"))}
# "..." is a library's text
UNREADABLE = "damaged or not safetensors (Error while deserializing header: ...); train or copy it again"


def headed(tensors: dict[str, Tensor] = HALF, **changes: Any) -> Make:
    """Return a function that writes a checkpoint with other header fields."""
    return lambda file: save_file(tensors, file, {HEADER: json.dumps({**asdict(META), **changes})})


def cut_short(file: Path, keep: int) -> None:
    save_model(file, HALF, META)
    file.write_bytes(file.read_bytes()[:keep])


MALFORMED = "its header is malformed ({}); train or copy it again"
NUMBERS = MALFORMED.format("mean and std must be three numbers each, margin and dropout one")
ODDITIES: dict[str, tuple[Make, str]] = {
    "missing": (lambda file: None, "no such file; train a model with `python -m stage2_classifier.train`"),
    "a folder": (Path.mkdir, "no such file; train a model with `python -m stage2_classifier.train`"),
    "empty": (Path.touch, UNREADABLE),
    "no safetensors": (lambda file: file.write_text("hello"), UNREADABLE),
    "cut off in the header": (lambda file: cut_short(file, 100), UNREADABLE),
    "cut off in the weights": (
        lambda file: cut_short(file, 100_000),
        UNREADABLE,
    ),
    "a pickle": (lambda file: torch.save(HALF, file), UNREADABLE),
    "without a header": (
        lambda file: save_file(HALF, file),
        "has no face_mask_classifier header; use the best.safetensors of a run",
    ),
    "of the other stage": (
        lambda file: save_file(HALF, file, {"face_cascade": json.dumps({"net": "rnet"})}),
        "has no face_mask_classifier header; use the best.safetensors of a run",
    ),
    "another model": (
        headed(model="small_cnn"),
        "its weights do not fit small_cnn with 3 outputs (blocks.0.first.0.weight differs); train or copy it again",
    ),
    "an unknown model": (
        headed(model="smal_cnn_half"),
        MALFORMED.format("model: 'smal_cnn_half' is unknown to us and to timm; ..."),
    ),
    "other classes": (
        headed(class_names=["a", "b"]),
        "its weights do not fit small_cnn_half with 2 outputs (head.bias differs); train or copy it again",
    ),
    "other outputs": (
        headed(has_objectness=True),
        "its weights do not fit small_cnn_half with 4 outputs (head.bias differs); train or copy it again",
    ),
    "a missing tensor": (
        headed({name: tensor for name, tensor in HALF.items() if name != "head.bias"}),
        "its weights do not fit small_cnn_half with 3 outputs (head.bias differs); train or copy it again",
    ),
    "another input size": (
        headed(build_model("face_trunk", 3).state_dict(), model="face_trunk"),
        "its header says 64 pixels, which face_trunk does not take; train or copy it again",
    ),
    "no input size": (headed(input_size=0), MALFORMED.format("input size 0 is not within 8 to 1024 pixels")),
    "a newer header": (headed(rotates=True), "its header has the unknown field 'rotates'; update the program"),
    "NaN": (headed(NAN), "its weights are not finite numbers (head.bias); train or download it again"),
    "mean of two": (headed(mean=[0.5, 0.5]), NUMBERS),
    "mean NaN": (headed(mean=[0.5, 0.5, float("nan")]), NUMBERS),
    "too much dropout": (headed(dropout=1.5), MALFORMED.format("dropout 1.5 is not within 0 to 1")),
    "margin as text": (headed(margin="wide"), NUMBERS),
    "classes as text": (headed(class_names="abc"), MALFORMED.format("class_names is not a list")),
    "model as number": (headed(model=3), MALFORMED.format("model and class names must be text")),
    "no class": (headed(class_names=[]), MALFORMED.format("no class names")),
    "deep": (
        lambda file: save_file(HALF, file, {HEADER: "[" * 100_000}),
        MALFORMED.format("maximum recursion depth exceeded..."),
    ),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_every_oddity_of_a_checkpoint_is_one_line(tmp_path: Path, oddity: str) -> None:
    make, line = ODDITIES[oddity]
    file = tmp_path / "best.safetensors"
    make(file)
    with pytest.raises(UserError) as raised:
        load_model(file)
    assert re.fullmatch(re.escape(f"{file}: {line}").replace(re.escape("..."), ".*"), str(raised.value))


def test_a_header_without_a_field_is_malformed(tmp_path: Path) -> None:
    file = tmp_path / "best.safetensors"
    save_file(HALF, file, {HEADER: json.dumps({k: v for k, v in asdict(META).items() if k != "mean"})})
    with pytest.raises(UserError) as raised:
        load_model(file)
    assert str(raised.value) == f"{file}: its header is malformed ('mean'); train or copy it again"


def test_state_is_read_as_written(tmp_path: Path) -> None:
    state = {"history": [{"epoch": 1, "f1": 0.1}], "model": {"w": torch.arange(3.0)}, "ema": None}
    save_state(tmp_path / "last.pt", state)
    loaded = load_state(tmp_path / "last.pt")
    assert loaded["history"] == state["history"] and loaded["ema"] is None
    assert torch.equal(loaded["model"]["w"], torch.arange(3.0))


DAMAGED = "damaged; use --overwrite to start again"
OTHER_VERSION = "of another version of this program; use --overwrite to start again"


def state_cut_short(file: Path) -> None:
    save_state(file, {"history": [], "model": {"w": torch.zeros(1000)}})
    file.write_bytes(file.read_bytes()[:500])


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (Path.touch, DAMAGED),
        (state_cut_short, DAMAGED),
        (lambda file: save_file(HALF, file), DAMAGED),
        (lambda file: torch.save({"model": nn.Linear(2, 2)}, file), DAMAGED),  # an object whose loading would run code
        (lambda file: torch.save({"format": 2, "history": []}, file), OTHER_VERSION),
        (lambda file: torch.save({"format": 1}, file), OTHER_VERSION),
        (lambda file: torch.save([1, 2], file), OTHER_VERSION),
    ],
)
def test_a_bad_state_is_named(tmp_path: Path, make: Make, line: str) -> None:
    file = tmp_path / "last.pt"
    make(file)
    with pytest.raises(UserError) as raised:
        load_state(file)
    assert str(raised.value) == f"{file}: {line}"
