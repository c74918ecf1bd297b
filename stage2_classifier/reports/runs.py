"""Reads the records of a training run: config.json, metrics.jsonl and summary.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import UserError
from stage2_classifier.config import TrainConfig, with_new_names

CONFIG_FIELDS = tuple(field.name for field in fields(TrainConfig))
# Fields of TrainConfig that runs of earlier versions lack: these runs were trained with the defaults.
LATER_FIELDS = (
    *("margin", "jitter", "mask_transfer_prob", "hard_negatives", "box_head", "checkpoint_epoch"),
    *("box_loss", "teacher", "distill_share", "distill_temperature"),
    *("mask_hanging_share", "occluder_prob", "mask_recolor_prob", "light_prob", "epoch_draws"),
)
_SUMMARY_FIELDS = ("best_epoch", "epochs_run", "stopped_early", "seconds", "parameters")
_EPOCH_FIELDS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1")


@dataclass(frozen=True)
class TrainedRun:
    """One finished run."""

    folder: Path
    config: dict[str, Any]  # the recorded fields of TrainConfig
    best: dict[str, Any]  # the row of metrics.jsonl of the epoch whose weights were kept
    best_epoch: int
    epochs_run: int
    stopped_early: bool
    seconds: float  # time of the whole training
    parameters: int  # number of the network's weights
    finished: datetime | None = None  # time with zone; None in runs of earlier versions

    @property
    def name(self) -> str:
        """Return the name of the run's folder."""
        return self.folder.resolve().name

    @property
    def weights(self) -> Path:
        """Return the file of the kept weights."""
        return self.folder / "best.safetensors"

    @property
    def train_config(self) -> TrainConfig:
        """Return the settings of the training."""
        return TrainConfig(**self.config)


def read_run(folder: Path | str) -> TrainedRun:
    """Read a run's folder.

    Runs of earlier versions may lack LATER_FIELDS, which get TrainConfig's defaults, and the time when they finished.

    Raises:
        UserError: a file or a field is missing, or the run has no validation scores to compare.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run; train it with `python -m stage2_classifier.train`")
    config = with_new_names(_read_json(folder / "config.json"))
    summary = _read_json(folder / "summary.json")
    if not (folder / "best.safetensors").is_file():
        raise UserError(f"{folder / 'best.safetensors'}: not found; train the run again")
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
    """Return the fields of TrainConfig; raise UserError when the recorded values make no sense."""
    try:
        return asdict(TrainConfig(**{name: recorded[name] for name in CONFIG_FIELDS if name in recorded}))
    except (UserError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not the settings of a training ({error}); train the run again") from error


def _time(file: Path, recorded: Any) -> datetime | None:
    """Parse the recorded time; one without a zone is UTC."""
    if recorded is None:
        return None
    try:
        time = datetime.fromisoformat(recorded)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: finished {recorded!r} is not an ISO 8601 time; train the run again") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raise UserError with the file."""
    if not file.is_file():
        raise UserError(f"{file}: not found; finish the run with `stage2_classifier.train --resume`")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); train the run again") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: not a JSON object; train the run again")
    return value


def _require(file: Path, values: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raise UserError when names are missing."""
    if missing := [name for name in names if name not in values]:
        raise UserError(f"{file}: lacks {', '.join(missing)}; train the run again")


def _epoch(file: Path, epoch: int) -> dict[str, Any]:
    """Return the last row of that epoch."""
    if not file.is_file():
        raise UserError(f"{file}: not found; train the run again")
    found: dict[str, Any] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if row["epoch"] == epoch:
                found = row
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}, line {number}: malformed ({error}); train the run again") from error
    if not found:
        raise UserError(f"{file}: has no epoch {epoch}, which summary.json calls the best; train the run again")
    if not any(name.startswith("val_") for name in found):
        fix = "leave the run out, or train it with crops that have a val split"
        raise UserError(f"{file}: epoch {epoch} has no validation scores to compare; {fix}")
    _require(file, found, _EPOCH_FIELDS)
    return found
