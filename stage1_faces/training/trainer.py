"""How one net of the cascade learns: learning rates, and one epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.utils import ModelEmaV3
from torch import nn

from stage1_faces.training.batches import Batches
from stage1_faces.training.compute import FLOAT32_CPU, ComputeMode
from stage1_faces.training.nets import normalize_pixels
from stage1_faces.training.prefetch import prefetch_batches

# Chosen by hand, not tuned.
WARMUP_STEPS = 200  # steps over which the learning rate rises
FINAL_RATE_SHARE = 0.005  # share of the largest learning rate that is left at the end
CLIP_NORM = 5.0  # largest norm of the gradient; it cuts a few steps at the beginning
# timm's warm-up of the weights' moving average: 1 - (1 + step) ** -power, up to the decay.
EMA_DECAY, EMA_POWER = 0.998, 0.75


@dataclass(frozen=True)
class StepSchedule:
    """The learning rate over the steps of a training."""

    steps: int  # in all
    per_epoch: int
    rate: float  # the largest

    @property
    def epochs(self) -> int:
        """Return the number of epochs; the last may be shorter."""
        return -(-self.steps // self.per_epoch)

    def steps_in(self, epoch: int) -> int:
        """Return the steps of an epoch, counted from 0."""
        return min(self.per_epoch, self.steps - epoch * self.per_epoch)

    def rate_at(self, step: int) -> float:
        """Return the learning rate: warm-up, then a cosine (Loshchilov & Hutter 2017)."""
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.rate * min(1.0, (step + 1) / WARMUP_STEPS) * (cosine + FINAL_RATE_SHARE)


def train_epoch(
    net: nn.Module,
    ema: ModelEmaV3,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    schedule: StepSchedule,
    epoch: int,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
    compute: ComputeMode = FLOAT32_CPU,
    workers: int = 0,
) -> dict[str, float]:
    """Train a net for one epoch.

    Args:
        net: the net, on the device of `compute`.
        ema: the moving average of its weights.
        optimizer: of the net and the batches' offsets.
        batches: makes the batches, on the CPU.
        schedule: learning rate and steps.
        epoch: number of the epoch, from 0.
        seed: of dropout.
        on_step: called after each step.
        compute: device and precision; losses are in float32.
        workers: processes that make batches; 0: a thread.

    Returns:
        the mean of each term of the loss.
    """
    net.train()
    torch.manual_seed(1000 * seed + epoch)  # dropout
    steps = schedule.steps_in(epoch)
    batches.start_epoch(epoch, steps)
    sums: dict[str, float] = {}
    for step, arrays in enumerate(prefetch_batches(batches, epoch, steps, workers)):
        total_step = epoch * schedule.per_epoch + step
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(total_step)
        pixels, *targets = (array.to(compute.device) for array in arrays)
        with compute.autocast():
            outputs = net(normalize_pixels(pixels.permute(0, 3, 1, 2).float()))
        outputs = outputs.float()
        losses = batches.loss(outputs, targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        ema.update(net, step=total_step)
        batches.after_step(step, outputs.detach().cpu())
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item() / steps
        on_step()
    return sums
