"""The folder of one run: what it records, whether it may be used, and its files after each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_text
from stage2_classifier.config import TrainConfig, with_new_names
from stage2_classifier.data.crop_manifest import CropSet
from stage2_classifier.models import input_stats
from stage2_classifier.training.checkpoint import ModelMeta, save_model, save_state
from stage2_classifier.training.engine import TrainState

# summary.json first: a run whose outputs are being removed no longer counts as finished.
OUTPUTS = ("summary.json", "config.json", "metrics.jsonl", "curves.png", "best.safetensors", "last.pt")
PACKAGES = ("torch", "timm", "accelerate", "numpy", "torchvision", "albumentations")
# A resumed run may differ in these: they do not change the result.
FREE_KEYS = ("description", "workers", "crops", "packages")


def run_record(config: TrainConfig, crop_set: CropSet, crops: Path | str) -> dict[str, Any]:
    """What config.json holds: every field of the config, the crops it was trained on, and package versions."""
    counts = {
        split: {n: sum(r.label == n and r.split == split for r in crop_set.records) for n in crop_set.class_names}
        for split in ("train", "val")
    }
    return {
        **asdict(config),
        "crops": str(crops),
        "class_names": list(crop_set.class_names),
        "cut_margin": crop_set.margin,
        "reject_crops": len(crop_set.hard_negatives),
        "class_counts": counts,
        "packages": {name: version(name) for name in PACKAGES},
    }


def check_folder(folder: Path, record: Mapping[str, Any], resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """The summary of a finished run that is not to be trained again, else None.

    Raises UserError when the folder holds a run and neither flag is given, or another run than `record`.
    """
    if resume and overwrite:
        raise UserError("resume: contradicts overwrite; give one of the two")
    config_file, summary_file = folder / "config.json", folder / "summary.json"
    if overwrite or not config_file.is_file():
        return None
    state = "a finished run" if summary_file.is_file() else "a run that was broken off"
    if not resume:
        raise UserError(f"{folder}: holds {state}; give --resume, --overwrite or another --name")
    try:
        before = with_new_names(json.loads(config_file.read_text(encoding="utf-8")))
        finished = json.loads(summary_file.read_text(encoding="utf-8")) if summary_file.is_file() else None
    except ValueError as error:
        raise UserError(f"{folder}: its JSON files are damaged ({error}); give --overwrite") from error
    for name in sorted(record.keys() - set(FREE_KEYS)):
        if before.get(name) != record[name]:
            raise UserError(
                f"{folder}: {name} was {before.get(name)!r}, now {record[name]!r}; "
                "resume with the same, or give --overwrite or another --name"
            )
    return finished


def write_epoch(learner: TrainState, history: list[dict[str, Any]], crop_set: CropSet, folder: Path) -> None:
    """Writes best.safetensors (if this epoch is the best), last.pt and metrics.jsonl after the last row."""
    # In this order a kill between two files is harmless: best without last is made again by the repeated epoch,
    # metrics.jsonl is written again from the history in last.
    row = history[-1]
    if best_row(history, learner.config.checkpoint_epoch) is row:
        mean, std = input_stats(learner.inner)
        meta = ModelMeta(
            model=learner.config.model,
            class_names=crop_set.class_names,
            input_size=learner.config.input_size,
            mean=mean,
            std=std,
            margin=learner.config.margin,
            dropout=learner.config.dropout,
            experiment=learner.config.name,
            epoch=row["epoch"],
            metrics={k: v for k, v in row.items() if k.startswith("val_") and isinstance(v, float)},
            has_objectness=learner.criterion.heads.has_objectness,
            has_box=learner.criterion.heads.has_box,
        )
        save_model(folder / "best.safetensors", learner.eval_model.state_dict(), meta)
    scaler = learner.accelerator.scaler
    state = {
        "history": history,
        "model": learner.inner.state_dict(),
        "ema": None if learner.ema is None else learner.ema.module.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "schedule": learner.schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    save_state(folder / "last.pt", state)
    write_metrics(folder, history)


def write_metrics(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes metrics.jsonl: one JSON line an epoch."""
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))


def best_row(history: Sequence[dict[str, Any]], keep: str = "best") -> dict[str, Any]:
    """The epoch whose weights are kept: the last, or the one with the highest validation macro-F1.

    Among equals the lowest loss, then the earliest.
    """
    if keep == "last":
        return history[-1]
    return max(history, key=lambda row: (row["val_macro_f1"], -row["val_loss"]))


def patience_over(history: Sequence[Mapping[str, Any]], patience: int, min_delta: float) -> bool:
    """Whether the last `patience` epochs brought no macro-F1 better by more than min_delta; 0 is never."""
    reference, waited = float("-inf"), 0
    for row in history:
        score = row.get("val_macro_f1", float("inf"))  # without validation crops there is nothing to wait for
        if score > reference + min_delta or score == float("inf"):
            reference, waited = score, 0
        else:
            waited += 1
    return 0 < patience <= waited
