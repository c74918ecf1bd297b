"""Reads what a training run recorded in its folder: config.json, metrics.jsonl, summary.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import UserError
from stage2_classifier.config import TrainConfig, with_new_names

CONFIG_FIELDS = tuple(field.name for field in fields(TrainConfig))
# TrainConfig's fields that runs of earlier versions did not have: they were trained as their defaults say.
LATER_FIELDS = ("margin", "jitter", "mask_transfer_prob", "hard_negatives", "box_head", "checkpoint_epoch")
_SUMMARY_FIELDS = ("best_epoch", "epochs_run", "stopped_early", "seconds", "parameters")
_EPOCH_FIELDS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1")


@dataclass(frozen=True)
class TrainedRun:
    """One finished run.

    config: TrainConfig's fields as they were recorded. best: the metrics.jsonl row of the epoch whose weights were
    kept. seconds: of the whole training. parameters: of the network, counted. finished: when, with its time zone;
    None where an earlier version did not record it.
    """

    folder: Path
    config: dict[str, Any]
    best: dict[str, Any]
    best_epoch: int
    epochs_run: int
    stopped_early: bool
    seconds: float
    parameters: int
    finished: datetime | None = None

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def weights(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def settings(self) -> TrainConfig:
        """What it was trained with, as training takes it."""
        return TrainConfig(**self.config)


def read_run(folder: Path | str) -> TrainedRun:
    """Reads a run's folder; raises UserError naming the file and the mend when something is missing.

    Runs of earlier versions lack LATER_FIELDS in their config.json, which get TrainConfig's defaults here, and the time
    at which they finished. A run without validation scores is refused: nothing compares it with others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run; train it with `python -m stage2_classifier.train`")
    config = with_new_names(_read_json(folder / "config.json"))
    summary = _read_json(folder / "summary.json")
    if not (folder / "best.safetensors").is_file():
        raise UserError(f"{folder / 'best.safetensors'}: not found; train the run anew")
    _require(folder / "config.json", config, tuple(name for name in CONFIG_FIELDS if name not in LATER_FIELDS))
    _require(folder / "summary.json", summary, _SUMMARY_FIELDS)
    return TrainedRun(
        folder=folder,
        config=_config(folder / "config.json", config),
        best=_epoch(folder / "metrics.jsonl", int(summary["best_epoch"])),
        best_epoch=int(summary["best_epoch"]),
        epochs_run=int(summary["epochs_run"]),
        stopped_early=bool(summary["stopped_early"]),
        seconds=float(summary["seconds"]),
        parameters=int(summary["parameters"]),
        finished=_time(folder / "summary.json", summary.get("finished")),
    )


def _config(file: Path, recorded: dict[str, Any]) -> dict[str, Any]:
    """TrainConfig's fields; raises UserError when it does not take what was recorded."""
    try:
        return asdict(TrainConfig(**{name: recorded[name] for name in CONFIG_FIELDS if name in recorded}))
    except (UserError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is no training's ({error}); train the run anew") from error


def _time(file: Path, recorded: Any) -> datetime | None:
    if recorded is None:
        return None
    try:
        time = datetime.fromisoformat(recorded)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: finished {recorded!r} is no ISO 8601 time; train the run anew") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"{file}: not found; finish the run with `stage2_classifier.train --resume`")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); train the run anew") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: not a JSON object; train the run anew")
    return value


def _require(file: Path, values: dict[str, Any], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in values]
    if missing:
        raise UserError(f"{file}: lacks {', '.join(missing)}; train the run anew")


def _epoch(file: Path, epoch: int) -> dict[str, Any]:
    """The last row of that epoch."""
    if not file.is_file():
        raise UserError(f"{file}: not found; train the run anew")
    found: dict[str, Any] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if row["epoch"] == epoch:
                found = row
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}, line {number}: malformed ({error}); train the run anew") from error
    if not found:
        raise UserError(f"{file}: has no epoch {epoch}, which summary.json calls the best; train the run anew")
    if not any(name.startswith("val_") for name in found):
        raise UserError(
            f"{file}: epoch {epoch} has no validation scores, by which runs are compared; leave the run out, or train "
            "it with crops that have a val split"
        )
    _require(file, found, _EPOCH_FIELDS)
    return found
