"""Trains one classifier as a TrainConfig says: puts the parts together and runs the epochs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from torch.utils.data import DataLoader

from common.cli import console, progress
from common.errors import UserError
from common.files import write_text
from stage2_classifier.augment.opencv_augment import POLICY
from stage2_classifier.augment.transforms import eval_transform, train_transform
from stage2_classifier.config import TrainConfig
from stage2_classifier.data.box_jitter import Jitter
from stage2_classifier.data.crop_dataset import BalancedSampler, CropDataset, build_loader
from stage2_classifier.data.crop_manifest import CropSet, read_crop_set
from stage2_classifier.models import build_model, check_finite, check_input_size, input_stats
from stage2_classifier.training.checkpoint import load_state
from stage2_classifier.training.curves import plot_curves
from stage2_classifier.training.engine import TrainState, train_one_epoch, validate
from stage2_classifier.training.losses import build_loss, heads_of
from stage2_classifier.training.optimizer import LRSchedule, build_ema, build_optimizer
from stage2_classifier.training.run_folder import (
    OUTPUTS,
    best_row,
    check_folder,
    patience_over,
    run_record,
    write_epoch,
    write_metrics,
)
from stage2_classifier.training.torchrun import check_gpus

Stats = tuple[float, float, float]


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
    """Trains as `config` says into runs/<config.name>/ and returns what summary.json holds.

    With `resume` a broken run goes on after its last whole epoch and, on the same machine with the same number of
    threads and processes, ends in the same numbers and weights as an unbroken one; a finished run is
    left as it is. Raises UserError when crops or config do not fit, or the run exists already.
    """
    crop_set = read_crop_set(crops)
    folder = Path(runs) / config.name
    record = run_record(config, crop_set, crops)
    finished = check_folder(folder, record, resume, overwrite)
    if finished is not None:
        return finished
    accelerator = _accelerator(config, folder, cpu, tensorboard)
    goes_on = resume and (folder / "config.json").is_file()  # without it nothing says that the rest fits
    state = load_state(folder / "last.pt") if goes_on and (folder / "last.pt").is_file() else None
    learner, train_loader, val_loader = _build(config, crop_set, accelerator, state, folder)
    history: list[dict[str, Any]] = [] if state is None else state["history"]
    accelerator.wait_for_everyone()  # every process has looked at the folder before one changes it
    if accelerator.is_main_process:
        if not goes_on:
            for name in OUTPUTS:
                (folder / name).unlink(missing_ok=True)
        write_text(folder / "config.json", json.dumps(record, indent=2) + "\n")
        write_metrics(folder, history)
    if tensorboard:
        accelerator.init_trackers("tensorboard")
    _run_epochs(learner, train_loader, val_loader, history, crop_set, folder)
    summary = _summary(learner, history)
    if accelerator.is_main_process:
        plot_curves(history, folder / "curves.png", title=f"{config.name}: {config.model}")
        write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    accelerator.end_training()
    return summary


def _accelerator(config: TrainConfig, folder: Path, cpu: bool, tensorboard: bool) -> Accelerator:
    gpu = torch.cuda.is_available() and not cpu
    if gpu:
        check_gpus(torch.cuda.device_count())
    precision = config.mixed_precision
    if precision == "auto":
        precision = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if gpu else "no"
    if precision == "fp16" and not gpu:
        raise UserError("mixed_precision: fp16 needs a GPU; set auto, no or bf16")
    if tensorboard and find_spec("tensorboard") is None:
        raise UserError("tensorboard: not installed; run `pip install tensorboard`")
    accelerator = Accelerator(
        cpu=cpu or (not gpu and "LOCAL_RANK" in os.environ),  # under torchrun without GPUs: gloo on the CPU
        mixed_precision=precision,
        log_with="tensorboard" if tensorboard else None,
        project_dir=str(folder),
        # A batch is split over the processes, so that batch_size means the same on any number of them.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=config.freeze_epochs > 0)],
    )
    if config.batch_size % accelerator.num_processes:
        raise UserError(
            f"batch_size: {config.batch_size} must be a multiple of the {accelerator.num_processes} processes"
        )
    # Autotuned kernels differ from run to run.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return accelerator


def _build(
    config: TrainConfig, crop_set: CropSet, accelerator: Accelerator, state: Mapping[str, Any] | None, folder: Path
) -> tuple[TrainState, DataLoader[Any], DataLoader[Any] | None]:
    """The learner (at `state`, that of `folder`, when there is one) and the loaders of training and validation crops.

    There may be no validation crops where the last epoch is kept anyway.
    """
    torch.manual_seed(config.seed)
    fresh = state is None  # a resumed model needs no weights from elsewhere
    with accelerator.main_process_first():  # one process downloads, the others find it
        model = build_model(
            config.model,
            heads_of(config, len(crop_set.class_names)).outputs,
            pretrained=config.pretrained and fresh,
            weights=config.weights if fresh else "",
            dropout=config.dropout,
        )
    check_input_size(model, config.input_size)
    stats = input_stats(model)
    train_set = training_crops(config, crop_set, stats)
    sampler = face_sampler(config, train_set)
    # A last batch of one crop would upset batch norm.
    train_loader = build_loader(
        train_set, config.batch_size, sampler, config.workers, drop_last=len(sampler) >= config.batch_size
    )
    val_loader = None
    if config.scheduler == "plateau" and not any(r.split == "val" for r in crop_set.records):
        raise UserError("scheduler: plateau waits for validation scores, and there are no validation crops")
    if config.checkpoint_epoch != "last" or any(r.split == "val" for r in crop_set.records):
        plain = eval_transform(config.input_size, *stats)
        val_set = CropDataset(crop_set, "val", plain, config.seed, margin=config.margin)
        val_loader = build_loader(val_set, 2 * config.batch_size, workers=config.workers)
    counts = [int((train_set.labels == i).sum()) for i in range(len(crop_set.class_names))]
    if accelerator.is_main_process:
        for name in (name for name, count in zip(crop_set.class_names, counts, strict=True) if not count):
            print(f"warning: no training crops of class {name!r}; it cannot be learned", file=sys.stderr)

    model.to(accelerator.device)
    model.to(memory_format=torch.channels_last)  # a fifth faster on CPUs, more on GPUs
    optimizer = build_optimizer(model, config)
    ema = build_ema(model, config)
    if state is not None:
        with _fitting(folder / "last.pt"):
            model.load_state_dict(state["model"])
            if ema is not None:
                ema.module.load_state_dict(state["ema"])
        check_finite(folder / "last.pt", state["model"])
    # Schedules take their rates from the new optimizer, before the kept state puts in the current ones.
    schedule = LRSchedule(optimizer, config, updates_per_epoch=len(train_loader))
    if state is not None:
        with _fitting(folder / "last.pt"):
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            if accelerator.scaler is not None and state["scaler"] is not None:
                accelerator.scaler.load_state_dict(state["scaler"])
    prepared = accelerator.prepare(model, optimizer, train_loader)
    criterion = build_loss(config, counts).to(accelerator.device)
    learner = TrainState(config, accelerator, prepared[0], criterion, prepared[1], schedule, ema)
    return learner, prepared[2], None if val_loader is None else accelerator.prepare(val_loader)


@contextmanager
def _fitting(file: Path) -> Iterator[None]:
    """Turns a state that is put back, and is another run's, into one line."""
    try:
        yield
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is another run's; copy the right one, or give --overwrite") from error


def training_crops(config: TrainConfig, crop_set: CropSet, stats: tuple[Stats, Stats]) -> CropDataset:
    """The training crops, viewed and augmented as `config` says. stats: the network's mean and std.

    Raises UserError when `config` wants rejects and the crops have none.
    """
    if config.hard_negatives and not any(r.split == "train" for r in crop_set.hard_negatives):
        raise UserError(
            f"rejects: {crop_set.root} has none for training; build crops with `pipeline.build_crops --cascade RUN`"
        )
    jitter, policy = None, POLICY
    if config.jitter:
        # The view moves and mirrors the face already, with the photo's own surroundings.
        jitter = Jitter().scaled(config.jitter, config.input_size)
        policy = replace(POLICY, flip_p=0.0, geometry_p=0.0)
    transform = train_transform(config.augment, config.input_size, *stats, policy)
    return CropDataset(
        crop_set,
        "train",
        transform,
        config.seed,
        margin=config.margin,
        jitter=jitter,
        rejects=config.hard_negatives > 0,
        spliced=config.mask_transfer_prob,
    )


def face_sampler(config: TrainConfig, crops: CropDataset) -> BalancedSampler:
    """Draws as many faces an epoch as there are, by `config.sampler_power`, and rejects beside them."""
    reject = len(crops.class_names)
    faces = int((crops.labels < reject).sum())
    fixed = {reject: config.hard_negatives} if config.hard_negatives else None
    draws = round(faces / (1 - config.hard_negatives))
    return BalancedSampler(crops.labels, draws, config.sampler_power, config.seed, fixed)


def _run_epochs(
    learner: TrainState,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any] | None,
    history: list[dict[str, Any]],
    crop_set: CropSet,
    folder: Path,
) -> None:
    """Trains until the epochs are over or patience is; adds a row to `history` and writes the files each epoch."""
    config, accelerator = learner.config, learner.accelerator
    bar = progress()
    bar.disable = bar.disable or not accelerator.is_main_process
    with bar:
        task = bar.add_task(
            config.name, total=config.epochs * len(train_loader), completed=len(history) * len(train_loader)
        )
        while len(history) < config.epochs and not patience_over(history, config.patience, config.min_delta):
            epoch = len(history)
            start = time.perf_counter()
            # accelerate's loader counts epochs itself and passes that on; with several processes to the sampler alone
            train_loader.set_epoch(epoch)  # type: ignore[attr-defined]
            train_loader.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
            trained = train_one_epoch(learner, train_loader, epoch, lambda: bar.advance(task))
            row = {"epoch": epoch + 1, **trained}
            if val_loader is not None:
                row.update(validate(learner, val_loader, crop_set.class_names))
                learner.schedule.after_epoch(row["val_macro_f1"])
            history.append({**row, "seconds": round(time.perf_counter() - start, 2)})
            accelerator.log({k: v for k, v in row.items() if isinstance(v, float)}, step=epoch + 1)
            if accelerator.is_main_process:
                write_epoch(learner, history, crop_set, folder)
                console().print(_epoch_line(config, row))
            accelerator.wait_for_everyone()


def _epoch_line(config: TrainConfig, row: Mapping[str, Any]) -> str:
    line = f"epoch {row['epoch']}/{config.epochs}  loss {row['train_loss']:.4f}"
    if "val_loss" in row:
        line += f"  val loss {row['val_loss']:.4f}  accuracy {row['val_accuracy']:.4f}"
        line += f"  macro-F1 {row['val_macro_f1']:.4f}"
    return line


def _summary(learner: TrainState, history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    best, accelerator = best_row(history, learner.config.checkpoint_epoch), learner.accelerator
    device = accelerator.device
    return {
        "best_epoch": best["epoch"],
        "best": {k: v for k, v in best.items() if k.startswith("val_")},
        "epochs_run": len(history),
        "stopped_early": len(history) < learner.config.epochs,
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": sum(p.numel() for p in learner.inner.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "mixed_precision": accelerator.mixed_precision,
    }
