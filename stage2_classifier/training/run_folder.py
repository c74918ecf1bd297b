"""The folder of one run: the record of the run, the files written after each epoch, and the plot of its curves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from common.display import figure_text
from common.errors import UserError
from common.files import atomic_replace, write_text
from common.run_folder import RunFolder
from common.training.state_file import save_state
from stage2_classifier.config import TrainConfig, with_new_names
from stage2_classifier.data.crop_manifest import CropSet
from stage2_classifier.models import input_stats
from stage2_classifier.pretrained import pretrained_origin
from stage2_classifier.training.checkpoint import ModelMeta, save_model
from stage2_classifier.training.engine import TrainState

# summary.json is removed first: a run whose outputs are being removed does not count as finished. config.json is
# removed last: it tells that the other files are a run's.
OUTPUTS = ("summary.json", "metrics.jsonl", "curves.png", "best.safetensors", "last.pt", "config.json")
PACKAGES = ("torch", "timm", "accelerate", "numpy", "torchvision", "albumentations")
# A resumed run may differ in these: they do not change the result.
FREE_KEYS = ("description", "workers", "crops", "packages", "teacher")
# Entries of a record that only some runs have, and what their absence means. The teachers' weights are compared, not
# their folders.
OPTIONAL: dict[str, list[Any]] = {"sources": [], "teachers": []}
_SCORES = (
    ("train_accuracy", "training accuracy"),
    ("val_accuracy", "validation accuracy"),
    ("val_macro_f1", "validation macro-F1"),
)
# Panels of the curves from left to right: title and series, each (key in a metrics.jsonl row, legend).
PANELS = (
    ("Loss", (("train_loss", "training (criterion)"), ("val_loss", "validation (cross entropy)"))),
    ("Accuracy and macro-F1", _SCORES),
    ("Learning rate", (("lr", "head"),)),
)


def run_record(config: TrainConfig, crop_set: CropSet, crops: Path | str) -> dict[str, Any]:
    """Return what config.json holds: the config's fields, facts of the crops, and package versions."""
    known = [r for r in crop_set.records if r.class_known]
    counts = {
        split: {n: sum(r.label == n and r.split == split for r in known) for n in crop_set.class_names}
        for split in ("train", "val")
    }
    record = {
        **asdict(config),
        "crops": str(crops),
        "class_names": list(crop_set.class_names),
        "cut_margin": crop_set.margin,
        "reject_crops": len(crop_set.hard_negatives),
        "class_counts": counts,
        "packages": {name: version(name) for name in PACKAGES},
    }
    if crop_set.sources:
        faces = Counter(r.source for r in crop_set.records if r.split == "train")
        unknown = Counter(r.source for r in crop_set.records if r.split == "train" and not r.class_known)
        record["sources"] = [
            {**source.facts(), "faces": faces[source.name], "class_unknown": unknown[source.name]}
            for source in crop_set.sources
        ]
    return record


def source_facts(config: TrainConfig, crop_set: CropSet) -> dict[str, Any]:
    """Return the entry of summary.json about several sources: what each gave to the training; empty with one.

    Faces are counted by class where their class is learned; `photos` are those of the crops.
    """
    facts = {}
    negatives = crop_set.hard_negatives if config.hard_negatives else ()
    for source in crop_set.sources:
        faces, alarms = (
            [r for r in records if r.split == "train" and r.source == source.name]
            for records in (crop_set.records, negatives)
        )
        counts = Counter(r.label for r in faces if r.class_known)
        facts[source.name] = {
            "edges": source.edges,
            "share": source.share,
            "photos": len({r.image_id for r in (*faces, *alarms)}),
            "faces": len(faces),
            "class_counts": {name: counts[name] for name in crop_set.class_names if counts[name]},
            "class_unknown": len(faces) - counts.total(),
            "false_alarms": len(alarms),
        }
    return {"sources": facts} if facts else {}


def check_folder(folder: Path, record: Mapping[str, Any], resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Return the summary of a finished run that is not to be trained again; None where training is needed.

    `record` is what config.json will hold. Raises UserError when the folder holds other files, when it holds a run and
    neither flag is given, or when the run's record is not `record`.
    """
    if resume and overwrite:
        raise UserError("resume: contradicts overwrite; give one of the two")
    run = RunFolder(folder, "run", "--name", outputs=OUTPUTS, free_keys=FREE_KEYS)
    run.refuse_other_files()
    summary_file = folder / "summary.json"
    if overwrite or not run.record_file.is_file():
        return None
    if not resume:
        state = "a finished run" if summary_file.is_file() else "an unfinished run"
        raise UserError(f"{folder}: holds {state}; give --resume, --overwrite or another --name")
    # Runs of earlier versions lack later fields: they were trained with the defaults.
    run.check_same(OPTIONAL | dict(record), OPTIONAL | asdict(TrainConfig()) | with_new_names(run.read_record()))
    if not summary_file.is_file():
        return None
    try:
        return dict(json.loads(summary_file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{summary_file}: damaged ({error}); give --overwrite") from error


def write_epoch(learner: TrainState, history: list[dict[str, Any]], crop_set: CropSet, folder: Path) -> None:
    """Write best.safetensors (if this epoch is the best), last.pt and metrics.jsonl after the history's last row."""
    # In this order a kill between two files is harmless: the repeated epoch writes best.safetensors again, and
    # metrics.jsonl is written again from the history in last.pt.
    row = history[-1]
    if best_row(history, learner.config.checkpoint_epoch) is row:
        mean, std = input_stats(learner.inner)
        heads = learner.criterion.heads
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
            has_objectness=heads.has_objectness,
            has_box=heads.has_box,
            pretrained=first_weights(learner),
        )
        save_model(folder / "best.safetensors", learner.eval_model.state_dict(), meta)
    scaler = learner.accelerator.scaler
    state = {
        "history": history,
        "model": learner.inner.state_dict(),
        "ema": None if learner.ema is None else learner.ema.module.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "schedule": learner.schedule.state_dict(),
        "offsets": learner.criterion.offsets.detach(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    save_state(folder / "last.pt", state)
    write_metrics(folder, history)


def first_weights(state: TrainState) -> dict[str, str]:
    """Return where the pretrained weights of a training are from; empty when it began with other weights."""
    config = state.config
    return pretrained_origin(config.model, state.inner) if config.pretrained else {}


def write_metrics(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.jsonl: one JSON line per epoch."""
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))


def best_row(history: Sequence[dict[str, Any]], keep: str = "best") -> dict[str, Any]:
    """Return the row of the epoch whose weights are saved.

    `keep` is "last", or "best": the highest validation macro-F1; among equals the lowest loss, then the earliest.
    """
    if keep == "last":
        return history[-1]
    return max(history, key=lambda row: (row["val_macro_f1"], -row["val_loss"]))


def patience_over(history: Sequence[Mapping[str, Any]], patience: int, min_delta: float) -> bool:
    """Return whether the last `patience` epochs did not raise macro-F1 by more than min_delta; patience 0: never."""
    reference, waited = float("-inf"), 0
    for row in history:
        score = row.get("val_macro_f1", float("inf"))  # without validation crops there is no score
        if score > reference + min_delta or score == float("inf"):
            reference, waited = score, 0
        else:
            waited += 1
    return 0 < patience <= waited


def plot_curves(history: Sequence[dict[str, Any]], path: Path | str, title: str = "") -> None:
    """Plot the rows of metrics.jsonl as a PNG of three panels; a line marks the epoch of the best score."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    figure.suptitle(figure_text(title))
    epochs = [row["epoch"] for row in history]
    for axes, (name, series) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for key, label in series:
            if all(key in row for row in history):
                axes.plot(epochs, [row[key] for row in history], marker=".", label=label)
        if history and "val_macro_f1" in history[0]:
            axes.axvline(best_row(history)["epoch"], color="grey", linestyle=":", label="best epoch")
        axes.set(title=name, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_replace(path) as temporary:
        figure.savefig(temporary, dpi=90)
