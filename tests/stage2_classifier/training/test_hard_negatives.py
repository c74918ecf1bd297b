"""Training with hard negatives, box jitter and box deltas."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import UserError
from stage2_classifier.augment.policy import DEFAULT_POLICY
from stage2_classifier.augment.transforms import eval_transform
from stage2_classifier.data.box_jitter import BoxJitter
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import CropSet, write_crop_set
from stage2_classifier.data.loaders import build_loader
from stage2_classifier.heads import Heads
from stage2_classifier.training.checkpoint import load_model
from stage2_classifier.training.fit import fit
from stage2_classifier.training.setup import build_sampler, training_crops
from tests.helpers.training.quick_training import QUICK, break_after, rows

# A network with dense layers, which learn places quickly.
OBJECTNESS_BOX = replace(
    QUICK,
    name="objectness_box",
    model="face_trunk",
    input_size=48,
    jitter=1.0,
    hard_negatives=0.25,
    box_head=True,
    epochs=6,
    lr=2e-3,
    dropout=0.0,
    checkpoint_epoch="last",
)


@pytest.fixture(scope="module")
def objectness_run(wide_crops: CropSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a whole OBJECTNESS_BOX run."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("objectness_box")
    fit(OBJECTNESS_BOX, wide_crops.root, runs)
    return runs / "objectness_box"


def outputs_of(run: Path, crops: CropSet, jitter: BoxJitter | None = None) -> tuple[Heads, Tensor, Tensor, Tensor]:
    """Return the kept network's heads and outputs on validation crops, with class indices and box deltas."""
    model, meta = load_model(run / "best.safetensors")
    plain = eval_transform(meta.input_size, meta.mean, meta.std)
    val = CropDataset(crops, "val", plain, margin=meta.margin, jitter=jitter, hard_negatives=True)
    ((images, targets, deltas, *_),) = build_loader(val, len(val))
    with torch.no_grad():
        return meta.heads, model.eval()(images), targets, deltas


@pytest.mark.slow
def test_classes_false_alarms_and_boxes_are_learned(objectness_run: Path, wide_crops: CropSet) -> None:
    history = rows(objectness_run)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert history[-1]["val_macro_f1"] > 0.9 and history[-1]["train_accuracy"] > 0.8
    record = json.loads((objectness_run / "config.json").read_text())
    assert (record["margin"], record["cut_margin"], record["reject_crops"]) == (0.2, 0.6, 30)
    assert record["class_counts"]["train"] == dict.fromkeys(wide_crops.class_names, 10)  # without hard negatives
    heads, outputs, targets, _ = outputs_of(objectness_run, wide_crops)
    assert heads == Heads(3, has_objectness=True, has_box=True)
    face, logits = targets < 3, heads.face_logit(outputs)
    assert face.sum() == 30 and (~face).sum() == 15
    above = (logits[face][:, None] > logits[~face][None, :]).float().mean()  # the area under the ROC curve
    assert above > 0.9
    # Of jittered views, the deltas tell where the face is.
    heads, outputs, targets, deltas = outputs_of(
        objectness_run, wide_crops, BoxJitter(shift=0.15, scale=0.0, degrees=0)
    )
    predicted, true = heads.box_deltas(outputs)[targets < 3][:, :2], deltas[targets < 3][:, :2]
    assert all(np.corrcoef(predicted[:, k], true[:, k])[0, 1] > 0.6 for k in (0, 1))
    assert (predicted - true).abs().mean() < 0.8 * true.abs().mean()


@pytest.mark.slow
def test_objectness_and_box_resume_to_the_same_numbers(
    objectness_run: Path, wide_crops: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_after(2, patch, "write_epoch")
        with pytest.raises(KeyboardInterrupt):
            fit(OBJECTNESS_BOX, wide_crops.root, tmp_path)
    assert len(rows(tmp_path / "objectness_box")) == 2
    fit(OBJECTNESS_BOX, wide_crops.root, tmp_path, resume=True)
    assert rows(tmp_path / "objectness_box") == rows(objectness_run)
    assert (tmp_path / "objectness_box" / "best.safetensors").read_bytes() == (
        objectness_run / "best.safetensors"
    ).read_bytes()


def test_a_run_does_not_resume_with_other_hard_negatives(
    objectness_run: Path, wide_crops: CropSet, tmp_path: Path
) -> None:
    root = shutil.copytree(wide_crops.root, tmp_path / "crops")
    write_crop_set(replace(wide_crops, root=root, hard_negatives=wide_crops.hard_negatives[:-1]))
    with pytest.raises(UserError, match=r"another reject_crops .30, now 29."):
        fit(OBJECTNESS_BOX, root, objectness_run.parent, resume=True)


def test_hard_negatives_are_drawn_in_addition_to_all_faces(wide_crops: CropSet) -> None:
    stats = ((0.5,) * 3, (0.5,) * 3)
    crops = training_crops(OBJECTNESS_BOX, wide_crops, stats)
    sampler = build_sampler(OBJECTNESS_BOX, crops)
    assert len(sampler) == 40
    labels = crops.labels[[i for _, i in sampler]].tolist()
    assert Counter(labels) == {0: 10, 1: 10, 2: 10, 3: 10}
    without = training_crops(QUICK, wide_crops, stats)
    assert len(without) == len(build_sampler(QUICK, without)) == 30 and without.labels.max() == 2


def test_jitter_replaces_the_geometry_of_the_augmentation(wide_crops: CropSet) -> None:
    stats = ((0.5,) * 3, (0.5,) * 3)
    config = replace(QUICK, augment="opencv")
    for jitter, probabilities in ((0.0, (DEFAULT_POLICY.flip_p, DEFAULT_POLICY.geometry_p)), (1.0, (0.0, 0.0))):
        transform = training_crops(replace(config, jitter=jitter), wide_crops, stats).transform
        policy = transform.augment.policy  # type: ignore[attr-defined]
        assert (policy.flip_p, policy.geometry_p) == probabilities
        assert replace(policy, flip_p=DEFAULT_POLICY.flip_p, geometry_p=DEFAULT_POLICY.geometry_p) == DEFAULT_POLICY


def test_crops_without_hard_negatives_are_refused(tiny_crops: CropSet, wide_crops: CropSet, tmp_path: Path) -> None:
    message = r"^hard_negatives: .* has none for training; build crops with `pipeline\.build_crops --cascade RUN`"
    with pytest.raises(UserError, match=message):
        fit(replace(QUICK, hard_negatives=0.2), tiny_crops.root, tmp_path)
    root = shutil.copytree(wide_crops.root, tmp_path / "crops")
    write_crop_set(
        replace(wide_crops, root=root, hard_negatives=tuple(r for r in wide_crops.hard_negatives if r.split == "val"))
    )
    with pytest.raises(UserError, match=message):
        fit(replace(QUICK, hard_negatives=0.2), root, tmp_path)
    with pytest.raises(UserError, match=r"^margin: 0\.7 is more than the 0\.6"):
        fit(replace(QUICK, margin=0.7), wide_crops.root, tmp_path)


def test_the_margin_of_the_views_is_in_the_header(objectness_run: Path) -> None:
    assert load_model(objectness_run / "best.safetensors")[1].margin == 0.2  # not the crops' margin
