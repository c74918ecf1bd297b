"""TrainConfig refuses values that make no sense, and experiments change what they say."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from stage2_classifier.config import (
    EXPERIMENTS,
    RANGES,
    RENAMED_EXPERIMENTS,
    RENAMED_FIELDS,
    TrainConfig,
    experiment,
    with_new_names,
)

# Changes that the one question of an experiment requires.
REQUIRED = {
    "optimizer": {"lr", "weight_decay"},
    "loss": {"label_smoothing"},
    "class_weights": {"sampler_power"},
    "scheduler": {"warmup_epochs"},
    "epochs": {"patience"},
    "mask_hanging_share": {"mask_transfer_prob"},
    "hard_negatives": {"box_head", "jitter"},
    "model": {"pretrained", "lr", "backbone_lr_scale", "freeze_epochs", "input_size"},
}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "../elsewhere"}),
        ("name", {"name": ""}),
        ("augment", {"augment": "lots"}),
        ("loss", {"loss": "hinge"}),
        ("box_loss", {"box_loss": "iou"}),
        ("scheduler", {"scheduler": "cosin"}),
        ("epochs", {"epochs": 0}),
        ("batch_size", {"batch_size": 1}),
        ("input_size", {"input_size": 16}),
        ("lr", {"lr": 0.0}),
        ("lr", {"lr": math.nan}),
        ("dropout", {"dropout": math.nan}),
        ("dropout", {"dropout": 1.0}),
        ("sampler_power", {"sampler_power": -0.1}),
        ("margin", {"margin": 4.5}),
        ("jitter", {"jitter": 3.5}),
        ("mask_transfer_prob", {"mask_transfer_prob": 1.5}),
        ("mask_hanging_share", {"mask_hanging_share": 0.2}),
        ("occluder_prob", {"occluder_prob": 1.5}),
        ("mask_recolor_prob", {"mask_recolor_prob": -0.5}),
        ("light_prob", {"light_prob": 1.5}),
        ("hard_negatives", {"hard_negatives": 0.95}),
        ("hard_negatives", {"hard_negatives": math.nan}),
        ("checkpoint_epoch", {"checkpoint_epoch": "first"}),
        ("box_head", {"box_head": True}),
        ("pretrained", {"pretrained": True}),
        ("weights", {"pretrained": True, "weights": "x.pth", "model": "resnet18"}),
        ("freeze_epochs", {"freeze_epochs": 2}),
        ("freeze_epochs", {"freeze_epochs": 31, "weights": "x.pth"}),
        ("warmup_epochs", {"warmup_epochs": 30}),
        ("warmup_epochs", {"scheduler": "onecycle"}),
        ("warmup_epochs", {"scheduler": "plateau"}),
        ("label_smoothing", {"loss": "focal"}),
        ("class_weights", {"class_weights": "inverse", "sampler_power": 1.0}),
    ],
)
def test_refuses_and_names_the_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{field}: "):
        TrainConfig(**changes)


@given(st.sampled_from(sorted(RANGES)), st.floats(max_value=-1e-6))
def test_no_field_with_a_range_takes_a_negative_value(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^{field}: "):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


def test_ranges_name_fields() -> None:
    assert set(RANGES) <= {f.name for f in fields(TrainConfig)}


def test_experiments_begin_with_the_baseline_and_each_has_a_reason() -> None:
    assert next(iter(EXPERIMENTS)) == "baseline"
    assert EXPERIMENTS["baseline"] == TrainConfig()
    assert all(name == config.name and config.description for name, config in EXPERIMENTS.items())
    assert len({config.description for config in EXPERIMENTS.values()}) == len(EXPERIMENTS)


FINAL = ("final_trunk", "final_cnn")
LAST_STAGE = [name for name in EXPERIMENTS if name.startswith("last_stage_")]


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in ("baseline", *FINAL, *LAST_STAGE)])
def test_an_experiment_changes_one_thing(name: str) -> None:
    base = asdict(TrainConfig())
    changed = {k for k, v in asdict(EXPERIMENTS[name]).items() if v != base[k]} - {"name", "description"}
    allowed = [{key} | required for key, required in REQUIRED.items() if key in changed]
    assert len(changed) == 1 or any(changed <= group for group in allowed), changed


def test_the_final_experiments_differ_in_their_networks_and_what_suits_them() -> None:
    trunk, cnn = (asdict(EXPERIMENTS[name]) for name in FINAL)
    changed = {k for k in trunk if trunk[k] != cnn[k]}
    assert changed <= {"name", "description", "model", "pretrained", "mask_transfer_prob"}
    assert EXPERIMENTS["final_cnn"].checkpoint_epoch == "last"  # so that it can train on all crops


@pytest.mark.parametrize("name", LAST_STAGE)
def test_the_last_stage_differs_from_its_first_experiment_in_one_thing(name: str) -> None:
    base, changed = asdict(EXPERIMENTS["last_stage_lite0"]), asdict(EXPERIMENTS[name])
    differs = {key for key in base if base[key] != changed[key]} - {"name", "description"}
    assert len(differs) <= 1 or "model" in differs
    assert changed["hard_negatives"] and changed["box_head"] and changed["checkpoint_epoch"] == "last"


def test_hard_negatives_go_with_and_without_boxes_and_jitter() -> None:
    assert TrainConfig(hard_negatives=0.25).box_head is False
    assert (
        TrainConfig(hard_negatives=0.25, box_head=True, jitter=1.0, margin=0.35, checkpoint_epoch="last").hard_negatives
        == 0.25
    )
    assert TrainConfig(model="face_trunk", pretrained=True, input_size=48).pretrained


def test_unknown_experiment_gives_close_names() -> None:
    with pytest.raises(UserError, match="did you mean opt_sgd"):
        experiment("opt_sdg")


def test_a_renamed_experiment_is_refused_with_the_present_name() -> None:
    for old, new in RENAMED_EXPERIMENTS.items():
        assert old not in EXPERIMENTS
        with pytest.raises(UserError, match=f"^experiment: {old!r} .*use {new}$"):
            experiment(old)
        assert experiment(new).name == new


def test_a_config_of_an_earlier_version_becomes_the_present_one() -> None:
    config = TrainConfig(
        description="Why?", augment="opencv", mask_transfer_prob=0.25, hard_negatives=0.5, box_head=True,
        checkpoint_epoch="last",
    )  # fmt: skip
    old_names = {new: old for old, new in RENAMED_FIELDS.items()}
    recorded = {old_names.get(name, name): value for name, value in asdict(config).items()}
    recorded["augment"] = "own"
    assert {"why", "spliced", "rejects", "boxes", "keep"} <= recorded.keys()
    assert TrainConfig(**with_new_names(recorded)) == config
    assert with_new_names(asdict(config)) == asdict(config)
