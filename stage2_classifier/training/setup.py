"""Builds the parts of a training: accelerator, model, crops, optimizer and schedule, restored from a saved state."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from common.annotations.source import draw_factors
from common.errors import UserError
from common.launcher import missing_package
from stage2_classifier.augment.policy import DEFAULT_POLICY
from stage2_classifier.augment.transforms import eval_transform, train_transform
from stage2_classifier.config import TrainConfig
from stage2_classifier.data.box_jitter import BoxJitter
from stage2_classifier.data.crop_dataset import CLASS_UNKNOWN, CropDataset, TeacherView
from stage2_classifier.data.crop_manifest import CropSet
from stage2_classifier.data.loaders import BalancedSampler, build_loader
from stage2_classifier.models import build_model, check_finite, check_input_size, input_stats
from stage2_classifier.training.distillation import Teacher
from stage2_classifier.training.engine import TrainState
from stage2_classifier.training.joint_loss import JointLoss
from stage2_classifier.training.losses import build_loss, heads_of
from stage2_classifier.training.optimizer import LRSchedule, build_ema, build_optimizer
from stage2_classifier.training.torchrun import check_gpus, rank

Stats = tuple[float, float, float]  # per channel


def build_accelerator(config: TrainConfig, folder: Path, cpu: bool, tensorboard: bool) -> Accelerator:
    """Return the accelerator; raise UserError when the device or the batch size does not fit."""
    gpu = torch.cuda.is_available() and not cpu
    if gpu:
        check_gpus(torch.cuda.device_count())
    precision = config.mixed_precision
    if precision == "auto":
        precision = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if gpu else "no"
    if precision == "fp16" and not gpu:
        raise UserError("mixed_precision: fp16 needs a GPU; use auto, no or bf16")
    if tensorboard and find_spec("tensorboard") is None:
        raise UserError(missing_package("tensorboard", "train"))
    accelerator = Accelerator(
        cpu=cpu or (not gpu and "LOCAL_RANK" in os.environ),  # under torchrun without GPUs: gloo on the CPU
        mixed_precision=precision,
        log_with="tensorboard" if tensorboard else None,
        project_dir=str(folder),
        # Each batch is split over the processes, so that batch_size means the same on any number of them.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=config.freeze_epochs > 0)],
    )
    if config.batch_size % (processes := accelerator.num_processes):
        raise UserError(f"batch_size: {config.batch_size} must be a multiple of the {processes} processes")
    # Autotuned kernels differ from run to run.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return accelerator


@dataclass(frozen=True)
class SavedState:
    """The content of a run's last.pt; loading another run's state raises UserError with the file."""

    file: Path
    content: Mapping[str, Any]

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Turn the error of a state that does not fit into one line."""
        try:
            yield
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self.file}: is another run's; copy the right one, or use --overwrite") from error

    def load_model(self, model: nn.Module, ema: ModelEmaV3 | None) -> None:
        """Put the weights into the model and into the moving average."""
        with self._checked():
            model.load_state_dict(self.content["model"])
            if ema is not None:
                ema.module.load_state_dict(self.content["ema"])
        check_finite(self.file, self.content["model"])

    def load_offsets(self, criterion: JointLoss) -> None:
        """Put the sources' edge offsets into the loss, if it learns any."""
        with self._checked(), torch.no_grad():
            if len(criterion.offsets):
                criterion.offsets.copy_(self.content["offsets"])

    def load_optimizer(self, optimizer: Optimizer, schedule: LRSchedule, accelerator: Accelerator) -> None:
        """Put the state into the optimizer, the schedule and the gradient scaler."""
        with self._checked():
            optimizer.load_state_dict(self.content["optimizer"])
            schedule.load_state_dict(self.content["schedule"])
            if accelerator.scaler is not None and self.content["scaler"] is not None:
                accelerator.scaler.load_state_dict(self.content["scaler"])


def check_class_counts(crop_set: CropSet) -> None:
    """Raise UserError when the training crops are of one class only; warn of classes without validation crops."""
    known = [r for r in crop_set.records if r.class_known]
    train, val = (Counter(r.label for r in known if r.split == split) for split in ("train", "val"))
    if len(train) == 1:
        reason = f"the training crops are all of class {next(iter(train))!r}: a classifier has nothing to tell apart"
        fix = "use data with two or more classes; stage1_faces.finetune alone finds faces"
        raise UserError(f"{crop_set.root}: {reason}; {fix}")
    if rank() == 0 and val and (absent := sorted(train.keys() - val.keys())):
        print(f"warning: no validation crops of class {', '.join(absent)}; no score shows it", file=sys.stderr)


def build_training(
    config: TrainConfig,
    crop_set: CropSet,
    accelerator: Accelerator,
    saved: SavedState | None,
    teacher: Teacher | None = None,
) -> tuple[TrainState, DataLoader[Any], DataLoader[Any] | None]:
    """Return the train state, from `saved` if given, and the loaders of training and of validation crops (or None)."""
    model = _build_model(config, crop_set, accelerator, from_scratch=saved is None)
    stats = input_stats(model)
    train_set = training_crops(config, crop_set, stats, teacher)
    sampler = build_sampler(config, train_set)
    drop_last = len(sampler) >= config.batch_size  # a last batch of one crop would upset batch norm
    train_loader = build_loader(train_set, config.batch_size, sampler, config.workers, drop_last)
    val_loader = _build_val_loader(config, crop_set, stats)
    class_counts = [int((train_set.labels == i).sum()) for i in range(len(crop_set.class_names))]
    for name, count in zip(crop_set.class_names, class_counts, strict=True):
        if not count and accelerator.is_main_process:
            print(f"warning: no training crops of class {name!r}; it cannot be learned", file=sys.stderr)
    model.to(accelerator.device)
    model.to(memory_format=torch.channels_last)  # a fifth faster on CPUs, more on GPUs
    criterion = build_loss(config, class_counts, len(crop_set.offset_sources)).to(accelerator.device)
    optimizer = build_optimizer(model, config, criterion.offsets)
    ema = build_ema(model, config)
    if saved is not None:
        saved.load_model(model, ema)
        saved.load_offsets(criterion)
    # Schedules take their rates from the new optimizer, so the saved optimizer is loaded later.
    schedule = LRSchedule(optimizer, config, updates_per_epoch=len(train_loader))
    if saved is not None:
        saved.load_optimizer(optimizer, schedule, accelerator)
    prepared = accelerator.prepare(model, optimizer, train_loader)
    teacher = None if teacher is None else teacher.to(accelerator.device)
    state = TrainState(config, accelerator, prepared[0], criterion, prepared[1], schedule, ema, teacher)
    return state, prepared[2], None if val_loader is None else accelerator.prepare(val_loader)


def _build_model(config: TrainConfig, crop_set: CropSet, accelerator: Accelerator, from_scratch: bool) -> nn.Module:
    """Return the network with seeded weights; a resumed one (not `from_scratch`) needs no weights from elsewhere."""
    torch.manual_seed(config.seed)
    with accelerator.main_process_first():  # one process downloads, the others find the file
        model = build_model(
            config.model,
            heads_of(config, len(crop_set.class_names)).outputs,
            pretrained=config.pretrained and from_scratch,
            weights=config.weights if from_scratch else "",
            dropout=config.dropout,
        )
    check_input_size(model, config.input_size)
    return model


def training_crops(
    config: TrainConfig, crop_set: CropSet, stats: tuple[Stats, Stats], teacher: Teacher | None = None
) -> CropDataset:
    """Return the training crops, jittered and augmented as `config` says; `stats` are the network's mean and std.

    A teacher's views are augmented alike.

    Raises UserError when `config` wants hard negatives and the crops have none.
    """
    if config.hard_negatives and not any(r.split == "train" for r in crop_set.hard_negatives):
        build = "build crops with `pipeline.build_crops --cascade RUN`"
        raise UserError(f"hard_negatives: {crop_set.root} has none for training; {build}")
    jitter, policy = None, replace(DEFAULT_POLICY, light_p=config.light_prob)
    if config.jitter:
        # The jittered view already shifts and mirrors the face, with the photo's own surroundings.
        jitter = BoxJitter().scaled(config.jitter, config.input_size)
        policy = replace(policy, flip_p=0.0, geometry_p=0.0)
    return CropDataset(
        crop_set,
        "train",
        train_transform(config.augment, config.input_size, *stats, policy),
        config.seed,
        margin=config.margin,
        jitter=jitter,
        hard_negatives=config.hard_negatives > 0,
        mask_transfer_prob=config.mask_transfer_prob,
        # A face whose class is not known teaches objectness and box, and what the teacher says of its class.
        class_unknown=config.hard_negatives > 0 or bool(config.teacher),
        teacher_views=[
            TeacherView(train_transform(config.augment, one.size, one.mean, one.std, policy), one.size, one.margin)
            for one in (() if teacher is None else teacher.inputs)
        ],
        mask_hanging_share=config.mask_hanging_share,
        occluder_prob=config.occluder_prob,
        mask_recolor_prob=config.mask_recolor_prob,
    )


def build_sampler(config: TrainConfig, crops: CropDataset) -> BalancedSampler:
    """Return a sampler of `config.epoch_draws` crops per epoch, or of as many faces as there are plus hard negatives.

    Faces whose class is not known are drawn by their number. A source's faces are drawn more or less often by its share
    (common.annotations.source.draw_factors), before the classes are balanced.
    """
    is_face = crops.labels < len(crops.class_names)
    unknown = crops.labels == CLASS_UNKNOWN
    weights = _source_weights(crops, is_face)
    fixed = {len(crops.class_names): config.hard_negatives} if config.hard_negatives else {}
    if not weights[is_face & ~unknown].any():
        raise UserError("sources: no face whose class is known is drawn; give its source a higher share")
    if unknown.any():
        fixed[CLASS_UNKNOWN] = (1 - config.hard_negatives) * float(weights[unknown].sum() / weights[is_face].sum())
    draws = config.epoch_draws or round(int(is_face.sum()) / (1 - config.hard_negatives))
    return BalancedSampler(crops.labels, draws, config.sampler_power, config.seed, fixed, weights)


def _source_weights(crops: CropDataset, is_face: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how often each crop (N,) is drawn, compared with others of its class: the factor of the face's source."""
    weights = np.ones(len(crops))
    if crops.sources:
        names = np.array([record.source for record in crops.records])
        counts = Counter(names[is_face].tolist())
        for name, factor in draw_factors(counts, {source.name: source.share for source in crops.sources}).items():
            weights[is_face & (names == name)] = round(factor, 9)  # so that factors of 1 are all alike
    return weights


def _build_val_loader(config: TrainConfig, crop_set: CropSet, stats: tuple[Stats, Stats]) -> DataLoader[Any] | None:
    """Return the loader of validation crops; None when there are none and the last epoch is kept anyway."""
    has_crops = any(r.split == "val" for r in crop_set.records)
    if config.scheduler == "plateau" and not has_crops:
        raise UserError("scheduler: plateau needs validation crops, and there are none; use another scheduler")
    if config.checkpoint_epoch == "last" and not has_crops:
        return None
    val_set = CropDataset(crop_set, "val", eval_transform(config.input_size, *stats), config.seed, margin=config.margin)
    return build_loader(val_set, 2 * config.batch_size, workers=config.workers)
