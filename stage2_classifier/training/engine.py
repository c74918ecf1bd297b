"""One epoch of training, and prediction: the loops themselves, on any device and any number of processes."""

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
from stage2_classifier.heads import Heads, JointLoss
from stage2_classifier.models import backbone_modules, split_parameters
from stage2_classifier.training.optimizer import LRSchedule


@dataclass(frozen=True)
class TrainState:
    """Everything that one epoch of training changes or uses.

    model and optimizer are as `accelerator.prepare` returned them; ema averages the model within.
    """

    config: TrainConfig
    accelerator: Accelerator
    model: nn.Module
    criterion: JointLoss
    optimizer: torch.optim.Optimizer
    schedule: LRSchedule
    ema: ModelEmaV3 | None

    @property
    def inner(self) -> nn.Module:
        """The model without what distributes it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def eval_model(self) -> nn.Module:
        """The model that is validated and saved: the averaged one where there is one."""
        return self.inner if self.ema is None else self.ema.module


def seed_epoch(seed: int, epoch: int, process: int = 0) -> np.random.Generator:
    """Seeds torch (dropout) from (seed, epoch, process) and returns a generator for mixup.

    Nothing random is carried from one epoch to the next, so a resumed run needs no random state.
    """
    torch_seed, numpy_seed = np.random.SeedSequence((seed, epoch, process)).spawn(2)
    torch.manual_seed(int(torch_seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))
    return np.random.default_rng(numpy_seed)


def set_training_mode(model: nn.Module, freeze_backbone: bool) -> None:
    """Train mode; with a frozen backbone its weights take no gradient and its batch norms keep their statistics."""
    model.train()
    for parameter in split_parameters(model)[0]:
        parameter.requires_grad_(not freeze_backbone)
    if freeze_backbone:
        for module in backbone_modules(model):
            module.eval()


def train_one_epoch(
    learner: TrainState, loader: DataLoader[Any], epoch: int, advance: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Trains one epoch (0-based) and returns train_loss, train_accuracy and lr (the head's, at the last update).

    The loss is the criterion's, on augmented crops as the sampler draws them; the accuracy is over faces, with mixup
    against the label that dominates. `advance` is called after each update. Raises UserError when the loss
    is not finite any more.
    """
    config, accelerator = learner.config, learner.accelerator
    rng = seed_epoch(config.seed, epoch, accelerator.process_index)
    learner.model.train()
    set_training_mode(learner.inner, freeze_backbone=epoch < config.freeze_epochs)
    updates = epoch * len(loader)
    sums = torch.zeros(4, dtype=torch.float64 if accelerator.device.type != "mps" else torch.float32)
    sums = sums.to(accelerator.device)  # loss, correct, faces, crops: kept on the device, read once
    heads = learner.criterion.heads
    lr = 0.0
    for images, targets, numbers in loader:
        outputs, loss = _forward(learner, images.contiguous(memory_format=torch.channels_last), targets, numbers, rng)
        accelerator.backward(loss)
        if config.grad_clip > 0:
            accelerator.clip_grad_norm_(learner.model.parameters(), config.grad_clip)
        lr = learner.optimizer.param_groups[0]["lr"]
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        updates += 1
        learner.schedule.after_update(updates)
        if learner.ema is not None:
            learner.ema.update(learner.inner, step=updates)
        n = torch.tensor(len(targets), device=sums.device)
        correct = (heads.class_logits(outputs.detach()).argmax(dim=1) == targets).sum()
        faces = (targets < heads.classes).sum()
        sums += torch.stack([loss.detach() * n, correct, faces, n]).to(sums.dtype)
        advance()
    total_loss, correct_faces, faces_seen, crops = accelerator.reduce(sums, reduction="sum").tolist()
    if not np.isfinite(total_loss):
        raise UserError(f"lr: the loss is not finite in epoch {epoch + 1}; lower lr {config.lr:g} or set grad_clip")
    return {"train_loss": total_loss / crops, "train_accuracy": correct_faces / max(faces_seen, 1), "lr": lr}


def _forward(
    learner: TrainState, images: Tensor, targets: Tensor, numbers: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Outputs (N, heads.outputs) and the loss, with mixup (Zhang et al. 2018) when the config says so."""
    alpha = learner.config.mixup
    if alpha == 0:
        outputs = learner.model(images)
        return outputs, learner.criterion(outputs, targets, numbers)
    share = rng.beta(alpha, alpha)
    share = max(share, 1 - share)  # the first label dominates
    partner = torch.from_numpy(rng.permutation(len(targets))).to(targets.device)
    outputs = learner.model(share * images + (1 - share) * images[partner])
    first = learner.criterion(outputs, targets, numbers)
    second = learner.criterion(outputs, targets[partner], numbers[partner])
    return outputs, share * first + (1 - share) * second


@torch.no_grad()
def predict(
    model: nn.Module, loader: DataLoader[Any], heads: Heads, accelerator: Accelerator | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Class probabilities float32 (N, C) and class indices int64 (N,) of all crops, in the loader's order.

    With an accelerator the loader must be prepared by it, and every process gets all crops, each once. Without
    one the model runs where it is. Leaves the model in the mode in which it was.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    all_probs, all_targets = [], []
    for images, targets, _ in loader:
        with nullcontext() if accelerator is None else accelerator.autocast():
            logits = heads.class_logits(model(images.to(device).contiguous(memory_format=torch.channels_last)))
        both = (logits, targets) if accelerator is None else accelerator.gather_for_metrics((logits, targets))
        all_probs.append(both[0].float().softmax(dim=1).cpu())
        all_targets.append(both[1].cpu())
    model.train(was_training)
    return torch.cat(all_probs).numpy(), torch.cat(all_targets).numpy().astype(np.int64)


def validate(learner: TrainState, loader: DataLoader[Any], class_names: Sequence[str]) -> dict[str, Any]:
    """val_loss, val_accuracy, val_macro_f1 and val_f1 {class: F1} of the kept model.

    val_loss is plain cross entropy whatever the training loss, so that experiments compare.
    """
    kept = learner.eval_model
    if learner.accelerator.num_processes > 1:
        # Each process has seen other crops, so batch norm's statistics differ; the main process's are saved.
        for buffer in kept.buffers():
            buffer.copy_(broadcast(buffer))
    probs, targets = predict(kept, loader, learner.criterion.heads, learner.accelerator)
    return score(probs, targets, class_names)


def score(probs: NDArray[np.float32], targets: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Any]:
    """Scores of probabilities (N, C) against class indices (N,). The macro-F1 is over classes that have crops."""
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
