"""Crops and finished runs of untrained networks, for tests of reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stage2_classifier.config import TrainConfig
from stage2_classifier.data.crop_manifest import CropRecord, CropSet, write_crop_set
from stage2_classifier.models import build_model
from stage2_classifier.training.checkpoint import ModelMeta, save_model

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")


HALF = (0.5, 0.5, 0.5)


def make_crops(root: Path, labels: Sequence[tuple[str, str]], photos: Sequence[str] = ()) -> CropSet:
    """Write crops of 32 px noise; labels are (split, class), photos the crops' photos (default: one per crop)."""
    rng = np.random.default_rng(0)
    records = []
    root.mkdir(parents=True, exist_ok=True)
    for i, (split, label) in enumerate(labels):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / f"{i}.png")
        photo = photos[i] if photos else f"photo{i}"
        records.append(CropRecord(f"{i}.png", label, split, photo, (0, 0, 32, 32)))
    crops = CropSet(root, tuple(records), CLASSES, 0.2)
    write_crop_set(crops)
    return crops


def make_run(
    folder: Path,
    val_f1: float = 0.8,
    seed: int = 0,
    margin: float = 0.2,
    classes: tuple[str, ...] = CLASSES,
    finished: str | None = None,
    **changes: Any,
) -> Path:
    """Write a finished run of an untrained network, with the files of a training."""
    config = replace(TrainConfig(model="small_cnn_half", input_size=32, margin=margin), **changes)
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = build_model(config.model, len(classes))
    meta = ModelMeta(config.model, classes, config.input_size, HALF, HALF, margin, 0.0, config.name, 2)
    save_model(folder / "best.safetensors", model.state_dict(), meta)
    record = {**asdict(config), "class_names": list(classes), "cut_margin": margin}
    (folder / "config.json").write_text(json.dumps(record))
    rows = [
        {"epoch": e, "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.6, "val_macro_f1": f1}
        for e, f1 in enumerate([0.1, val_f1, 0.2], start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"best_epoch": 2, "epochs_run": 3, "stopped_early": True, "seconds": 90.0, "parameters": 123456}
    if finished is not None:
        summary["finished"] = finished
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
