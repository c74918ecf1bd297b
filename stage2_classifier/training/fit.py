"""Trains one classifier as a TrainConfig says, and writes the run's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from common.cli import console, progress
from common.files import write_text
from common.run_folder import lock_folder
from stage2_classifier.config import TrainConfig
from stage2_classifier.data.crop_manifest import CropSet, read_crop_set
from stage2_classifier.training.checkpoint import load_state
from stage2_classifier.training.distillation import load_teacher, teacher_record
from stage2_classifier.training.engine import TrainState, train_one_epoch, validate
from stage2_classifier.training.run_folder import (
    OUTPUTS,
    best_row,
    check_folder,
    first_weights,
    patience_over,
    plot_curves,
    run_record,
    source_facts,
    write_epoch,
    write_metrics,
)
from stage2_classifier.training.setup import SavedState, build_accelerator, build_training, check_class_counts


def fit(
    config: TrainConfig,
    crops: Path | str,
    runs: Path | str = "runs",
    *,
    resume: bool = False,
    overwrite: bool = False,
    cpu: bool = False,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train one classifier into the folder runs/<config.name>/, and return the content of summary.json.

    A resumed run continues after the last whole epoch. With the same machine, threads and processes, it
    ends in the same scores and weights as an unbroken run. A finished run stays as it is.

    Args:
        config: the experiment.
        crops: folder of crops that pipeline.build_crops made.
        runs: folder of all runs.
        resume: continue a broken run.
        overwrite: start again even if the run exists.
        cpu: do not use a GPU.
        tensorboard: also log to runs/<config.name>/tensorboard.

    Raises:
        UserError: crops and config do not fit, the run exists, or another process trains it.
    """
    crop_set = read_crop_set(crops)
    folder = Path(runs) / config.name
    teacher = load_teacher(config.teacher, crop_set)
    record = run_record(config, crop_set, crops) | teacher_record(teacher)
    if (finished := check_folder(folder, record, resume, overwrite)) is not None:
        return finished
    check_class_counts(crop_set)
    accelerator = build_accelerator(config, folder, cpu, tensorboard)
    resumes = resume and (folder / "config.json").is_file()  # without config.json nothing says that the rest fits
    state_file = folder / "last.pt"
    saved = SavedState(state_file, load_state(state_file)) if resumes and state_file.is_file() else None
    state, train_loader, val_loader = build_training(config, crop_set, accelerator, saved, teacher)
    history: list[dict[str, Any]] = [] if saved is None else saved.content["history"]
    accelerator.wait_for_everyone()  # every process has read the folder before one changes it
    with _held(folder, accelerator):
        if accelerator.is_main_process:
            if not resumes:
                for name in OUTPUTS:
                    (folder / name).unlink(missing_ok=True)
            write_text(folder / "config.json", json.dumps(record, indent=2) + "\n")
            write_metrics(folder, history)
        if tensorboard:
            accelerator.init_trackers("tensorboard")
        _run_epochs(state, train_loader, val_loader, history, crop_set, folder)
        summary = _summary(state, history, crop_set)
        if accelerator.is_main_process:
            plot_curves(history, folder / "curves.png", title=f"{config.name}: {config.model}")
            write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        accelerator.end_training()
    return summary


@contextmanager
def _held(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold the run's folder inside the block, in the main process: no other training may write there."""
    if not accelerator.is_main_process:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        yield


def _run_epochs(
    state: TrainState,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any] | None,
    history: list[dict[str, Any]],
    crop_set: CropSet,
    folder: Path,
) -> None:
    """Train until the last epoch or the end of patience. Each epoch adds a row to `history` and writes files."""
    config, accelerator = state.config, state.accelerator
    bar = progress()
    bar.disable = bar.disable or not accelerator.is_main_process
    with bar:
        updates = len(train_loader)
        task = bar.add_task(config.name, total=config.epochs * updates, completed=len(history) * updates)
        while len(history) < config.epochs and not patience_over(history, config.patience, config.min_delta):
            epoch = len(history)
            start = time.perf_counter()
            # accelerate's loader counts epochs itself; with several processes it passes the count to the sampler only.
            train_loader.set_epoch(epoch)  # type: ignore[attr-defined]
            train_loader.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
            trained = train_one_epoch(state, train_loader, epoch, lambda: bar.advance(task))
            row = {"epoch": epoch + 1, **trained}
            if val_loader is not None:
                row.update(validate(state, val_loader, crop_set.class_names))
                state.schedule.after_epoch(row["val_macro_f1"])
            history.append({**row, "seconds": round(time.perf_counter() - start, 2)})
            accelerator.log({k: v for k, v in row.items() if isinstance(v, float)}, step=epoch + 1)
            if accelerator.is_main_process:
                write_epoch(state, history, crop_set, folder)
                console().print(_epoch_line(config, row))
            accelerator.wait_for_everyone()


def _epoch_line(config: TrainConfig, row: Mapping[str, Any]) -> str:
    """Return the printed line of an epoch."""
    line = f"epoch {row['epoch']}/{config.epochs}  loss {row['train_loss']:.4f}"
    if "val_loss" in row:
        line += f"  val loss {row['val_loss']:.4f}  accuracy {row['val_accuracy']:.4f}"
        line += f"  macro-F1 {row['val_macro_f1']:.4f}"
    return line


def _summary(state: TrainState, history: Sequence[dict[str, Any]], crop_set: CropSet) -> dict[str, Any]:
    """Return the content of summary.json."""
    best, accelerator = best_row(history, state.config.checkpoint_epoch), state.accelerator
    device = accelerator.device
    summary = {
        "best_epoch": best["epoch"],
        "best": {k: v for k, v in best.items() if k.startswith("val_")},
        "epochs_run": len(history),
        "stopped_early": len(history) < state.config.epochs,
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": sum(p.numel() for p in state.inner.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "mixed_precision": accelerator.mixed_precision,
        **({"pretrained_weights": origin} if (origin := first_weights(state)) else {}),
        **source_facts(state.config, crop_set),
    }
    if len(offsets := state.criterion.offsets):
        summary["edge_offsets"] = dict(zip(crop_set.offset_sources, offsets.tolist(), strict=True))
    return summary | teacher_record(state.teacher)
