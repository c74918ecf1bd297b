"""The loops of one epoch of training and of prediction, on any device and any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.errors import UserError
from stage2_classifier.config import TrainConfig
from stage2_classifier.data.crop_dataset import CropView
from stage2_classifier.heads import Heads
from stage2_classifier.models import backbone_modules, split_parameters
from stage2_classifier.training.distillation import Teacher
from stage2_classifier.training.joint_loss import JointLoss, TeacherTargets
from stage2_classifier.training.optimizer import LRSchedule


@dataclass(frozen=True)
class TrainState:
    """Everything that one epoch of training uses or changes."""

    config: TrainConfig
    accelerator: Accelerator
    model: nn.Module  # as `accelerator.prepare` returned it
    criterion: JointLoss
    optimizer: torch.optim.Optimizer  # as `accelerator.prepare` returned it
    schedule: LRSchedule
    ema: ModelEmaV3 | None  # moving average of the inner model's weights
    teacher: Teacher | None = None  # on the accelerator's device

    @property
    def inner(self) -> nn.Module:
        """Return the model without the wrapper that distributes it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def eval_model(self) -> nn.Module:
        """Return the model that is validated and saved: the moving average, if there is one."""
        return self.inner if self.ema is None else self.ema.module


def seed_epoch(seed: int, epoch: int, process: int = 0) -> np.random.Generator:
    """Seed torch (dropout) from (seed, epoch, process) and return a generator for mixup.

    No random state passes from one epoch to the next, so a resumed run needs none.
    """
    torch_seed, numpy_seed = np.random.SeedSequence((seed, epoch, process)).spawn(2)
    torch.manual_seed(int(torch_seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))
    return np.random.default_rng(numpy_seed)


def set_training_mode(model: nn.Module, freeze_backbone: bool) -> None:
    """Set train mode; a frozen backbone's weights get no gradient and its batch norms keep their statistics."""
    model.train()
    for parameter in split_parameters(model)[0]:
        parameter.requires_grad_(not freeze_backbone)
    if freeze_backbone:
        for module in backbone_modules(model):
            module.eval()


def train_one_epoch(
    state: TrainState, loader: DataLoader[Any], epoch: int, advance: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Train one epoch.

    Args:
        state: network, loss, optimizer and schedule, which the epoch changes.
        loader: batches of CropView.
        epoch: number of the epoch, from 0.
        advance: called after each update.

    Returns:
        train_loss (the criterion's), train_accuracy (over faces whose class is known; with mixup against the label of
        the larger share) and lr (the head's, at the last update).

    Raises:
        UserError: the loss is no longer finite.
    """
    config, accelerator = state.config, state.accelerator
    rng = seed_epoch(config.seed, epoch, accelerator.process_index)
    state.model.train()
    set_training_mode(state.inner, freeze_backbone=epoch < config.freeze_epochs)
    updates = epoch * len(loader)
    dtype = torch.float64 if accelerator.device.type != "mps" else torch.float32
    sums = torch.zeros(4, dtype=dtype, device=accelerator.device)  # loss, correct, faces, crops: read once
    heads = state.criterion.heads
    lr = 0.0
    for batch in loader:
        targets = batch.target
        outputs, loss = _forward(state, batch, rng)
        accelerator.backward(loss)
        _average_offsets(state)
        if config.grad_clip > 0:
            accelerator.clip_grad_norm_(state.model.parameters(), config.grad_clip)
        lr = state.optimizer.param_groups[0]["lr"]
        state.optimizer.step()
        state.optimizer.zero_grad()
        updates += 1
        state.schedule.after_update(updates)
        if state.ema is not None:
            state.ema.update(state.inner, step=updates)
        n = torch.tensor(len(targets), device=sums.device)
        correct = (heads.class_logits(outputs.detach()).argmax(dim=1) == targets).sum()
        faces = ((targets >= 0) & (targets < heads.classes)).sum()
        sums += torch.stack([loss.detach() * n, correct, faces, n]).to(sums.dtype)
        advance()
    total_loss, correct_faces, faces_seen, crops = accelerator.reduce(sums, reduction="sum").tolist()
    if not np.isfinite(total_loss):
        raise UserError(f"lr: the loss is not finite in epoch {epoch + 1}; lower lr {config.lr:g} or set grad_clip")
    return {"train_loss": total_loss / crops, "train_accuracy": correct_faces / max(faces_seen, 1), "lr": lr}


def _average_offsets(state: TrainState) -> None:
    """Average the gradient of the edge offsets over the processes; the model's wrapper does so for the model."""
    offsets = state.criterion.offsets
    if offsets.grad is not None and state.accelerator.num_processes > 1:
        offsets.grad = state.accelerator.reduce(offsets.grad, reduction="mean")


def _forward(state: TrainState, batch: CropView, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the outputs (N, heads.outputs) and the loss, with mixup (Zhang et al. 2018) if the config says so."""
    images = batch.image.contiguous(memory_format=torch.channels_last)
    targets: tuple[Any, ...] = (batch.target, batch.box_deltas, batch.edge_offset, batch.annotated_classes)
    alpha = state.config.mixup
    if alpha == 0:
        outputs = state.model(images)
        return outputs, state.criterion(outputs, *targets, _teacher_targets(state, batch))
    share = rng.beta(alpha, alpha)
    share = max(share, 1 - share)  # the first label has the larger share
    partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    outputs = state.model(share * images + (1 - share) * images[partner])
    first = state.criterion(outputs, *targets)
    second = state.criterion(outputs, *(part[partner] for part in targets))
    return outputs, share * first + (1 - share) * second


def _teacher_targets(state: TrainState, batch: CropView) -> TeacherTargets | None:
    """Return the teacher's outputs for a batch; None without a teacher."""
    if state.teacher is None:
        return None
    with state.accelerator.autocast():
        return state.teacher.targets(batch.teacher_images, state.config.distill_temperature)


@torch.no_grad()
def predict(
    model: nn.Module, loader: DataLoader[Any], heads: Heads, accelerator: Accelerator | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return class probabilities float32 (N, C) and class indices int64 (N,) of all crops, in the loader's order.

    Args:
        model: a network, which runs in eval mode; its mode stays as it was.
        loader: batches of CropView.
        heads: what the network's outputs are.
        accelerator: must have prepared the loader; each process then gets all crops, each once. Without one the model
            runs on its own device.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    all_probs, all_targets = [], []
    for images, targets, *_ in loader:
        with nullcontext() if accelerator is None else accelerator.autocast():
            logits = heads.class_logits(model(images.to(device).contiguous(memory_format=torch.channels_last)))
        both = (logits, targets) if accelerator is None else accelerator.gather_for_metrics((logits, targets))
        all_probs.append(both[0].float().softmax(dim=1).cpu())
        all_targets.append(both[1].cpu())
    model.train(was_training)
    return torch.cat(all_probs).numpy(), torch.cat(all_targets).numpy().astype(np.int64)


def validate(state: TrainState, loader: DataLoader[Any], class_names: Sequence[str]) -> dict[str, Any]:
    """Return val_loss, val_accuracy, val_macro_f1 and val_f1 {class: F1} of the eval model.

    val_loss is plain cross entropy whatever the training loss, so that experiments can be compared.

    Args:
        state: the training, whose averaged weights are the eval model.
        loader: batches of the validation crops.
        class_names: the classes, in the order of their indices.
    """
    if state.accelerator.num_processes > 1:
        # Each process saw other crops, so their batch norm statistics differ; the main process's are saved.
        for buffer in state.eval_model.buffers():
            buffer.copy_(broadcast(buffer))
    return score(*predict(state.eval_model, loader, state.criterion.heads, state.accelerator), class_names)


def score(probs: NDArray[np.float32], targets: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Any]:
    """Score class probabilities; the macro-F1 is over classes that have crops.

    Args:
        probs: float32 (N, C).
        targets: class indices int64 (N,).
        class_names: the C classes.

    Returns:
        val_loss, val_accuracy, val_macro_f1 and val_f1 {class: F1}.
    """
    predicted = probs.argmax(axis=1)
    present = sorted(set(targets.tolist()))
    f1 = f1_score(targets, predicted, labels=present, average=None, zero_division=0)
    true_probs = probs[np.arange(len(targets)), targets].astype(np.float64)
    return {
        "val_loss": float(-np.log(np.maximum(true_probs, 1e-12)).mean()),
        "val_accuracy": float((predicted == targets).mean()),
        "val_macro_f1": float(f1.mean()),
        "val_f1": {class_names[i]: float(value) for i, value in zip(present, f1, strict=True)},
    }
