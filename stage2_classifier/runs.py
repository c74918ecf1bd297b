"""Reads what a training run recorded in its folder: config.json, metrics.jsonl, summary.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stage2_classifier.config import TrainConfig
from stage2_classifier.errors import ClassifierError

CONFIG_FIELDS = tuple(field.name for field in fields(TrainConfig))
_SUMMARY_FIELDS = ("best_epoch", "epochs_run", "stopped_early", "seconds", "parameters")
_EPOCH_FIELDS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1")


@dataclass(frozen=True)
class Run:
    """One finished run.

    config: TrainConfig's fields as they were recorded. best: the metrics.jsonl row of the epoch whose weights were
    kept. seconds: of the whole training. parameters: of the network, counted.
    """

    folder: Path
    config: dict[str, Any]
    best: dict[str, Any]
    best_epoch: int
    epochs_run: int
    stopped_early: bool
    seconds: float
    parameters: int

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def weights(self) -> Path:
        return self.folder / "best.safetensors"


def read_run(folder: Path | str) -> Run:
    """Reads a run's folder; raises ClassifierError naming the file and the mend when something is missing."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ClassifierError(f"{folder}: no such run; train it with `python -m stage2_classifier.train`")
    config = _read_json(folder / "config.json")
    summary = _read_json(folder / "summary.json")
    if not (folder / "best.safetensors").is_file():
        raise ClassifierError(f"{folder / 'best.safetensors'}: not found; train the run anew")
    _require(folder / "config.json", config, CONFIG_FIELDS)
    _require(folder / "summary.json", summary, _SUMMARY_FIELDS)
    return Run(
        folder=folder,
        config={name: config[name] for name in CONFIG_FIELDS},
        best=_epoch(folder / "metrics.jsonl", int(summary["best_epoch"])),
        best_epoch=int(summary["best_epoch"]),
        epochs_run=int(summary["epochs_run"]),
        stopped_early=bool(summary["stopped_early"]),
        seconds=float(summary["seconds"]),
        parameters=int(summary["parameters"]),
    )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ClassifierError(f"{file}: not found; finish the run with `stage2_classifier.train --resume`")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ClassifierError(f"{file}: not JSON ({error}); train the run anew") from error
    if not isinstance(value, dict):
        raise ClassifierError(f"{file}: not a JSON object; train the run anew")
    return value


def _require(file: Path, values: dict[str, Any], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in values]
    if missing:
        raise ClassifierError(f"{file}: lacks {', '.join(missing)}; train the run anew")


def _epoch(file: Path, epoch: int) -> dict[str, Any]:
    """The last row of that epoch."""
    if not file.is_file():
        raise ClassifierError(f"{file}: not found; train the run anew")
    found: dict[str, Any] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if row["epoch"] == epoch:
                found = row
        except (ValueError, KeyError, TypeError) as error:
            raise ClassifierError(f"{file}, line {number}: malformed ({error}); train the run anew") from error
    if not found:
        raise ClassifierError(f"{file}: has no epoch {epoch}, which summary.json calls the best; train the run anew")
    _require(file, found, _EPOCH_FIELDS)
    return found
