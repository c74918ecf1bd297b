"""Optimizer, learning-rate schedule and moving average of the weights, as a TrainConfig says."""

from __future__ import annotations

import difflib
from typing import Any

from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from common.errors import UserError
from stage2_classifier.config import TrainConfig
from stage2_classifier.models import split_parameters


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return up to four groups: head, then backbone, each with and without weight decay.

    Biases, norms and the parameters in the model's no_weight_decay() do not decay.
    """
    backbone, head = split_parameters(model)
    named: set[str] = getattr(model, "no_weight_decay", set)()
    exempt = {id(p) for name, p in model.named_parameters() if p.ndim <= 1 or name in named}
    groups = []
    for parameters, lr in ((head, config.lr), (backbone, config.lr * config.backbone_lr_scale)):
        for decays in (True, False):
            chosen = [p for p in parameters if (id(p) not in exempt) == decays]
            if chosen:
                groups.append({"params": chosen, "lr": lr, "weight_decay": config.weight_decay if decays else 0.0})
    return groups


def build_optimizer(model: nn.Module, config: TrainConfig, extra: nn.Parameter | None = None) -> Optimizer:
    """Return the timm optimizer that `config` names; raise UserError on an unknown name.

    It is over parameter_groups, and over the parameter `extra`, which learns like the head but does not decay.
    """
    groups = parameter_groups(model, config)
    if extra is not None and extra.numel():
        groups.append({"params": [extra], "lr": config.lr, "weight_decay": 0.0})
    try:
        return create_optimizer_v2(groups, config.optimizer, lr=config.lr, weight_decay=0.0, momentum=config.momentum)
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        close = difflib.get_close_matches(config.optimizer, [str(name) for name in list_optimizers()], n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.optim.list_optimizers() lists all"
        raise UserError(f"optimizer: cannot build {config.optimizer!r}; {hint}") from error


class LRSchedule:
    """The learning rate over a run.

    The state is a plain dictionary. It is empty with timm's schedules, which are functions of the update count.

    Args:
        optimizer: its groups hold the highest rates.
        config: the settings.
        updates_per_epoch: batches per epoch.
    """

    def __init__(self, optimizer: Optimizer, config: TrainConfig, updates_per_epoch: int) -> None:
        self._timm: Scheduler | None = None
        self._torch: OneCycleLR | ReduceLROnPlateau | None = None
        if config.scheduler == "onecycle":
            self._torch = OneCycleLR(
                optimizer,
                max_lr=[group["lr"] for group in optimizer.param_groups],
                total_steps=config.epochs * updates_per_epoch + 1,  # one step after each update, one at the start
                cycle_momentum=False,
            )
        elif config.scheduler == "plateau":
            self._torch = ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=max(config.patience // 3, 2))
        else:
            self._timm, _ = create_scheduler_v2(
                optimizer,
                config.scheduler,
                num_epochs=config.epochs,
                decay_epochs=max(config.epochs // 3, 1),
                decay_rate=1.0 if config.scheduler == "poly" else 0.1,  # for poly this is the power
                warmup_epochs=config.warmup_epochs,
                warmup_lr=config.lr * 1e-3,
                step_on_epochs=False,
                updates_per_epoch=updates_per_epoch,
            )

    def after_update(self, updates: int) -> None:
        """Set the rate of the next update; `updates` were made since the run began."""
        if self._timm is not None:
            self._timm.step_update(updates)
        elif isinstance(self._torch, OneCycleLR):
            self._torch.step()

    def after_epoch(self, score: float) -> None:
        """Pass the validation score (higher is better) to the plateau schedule."""
        if isinstance(self._torch, ReduceLROnPlateau):
            self._torch.step(score)

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which a resumed run continues."""
        return {} if self._torch is None else self._torch.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state."""
        if self._torch is not None:
            self._torch.load_state_dict(state)


def build_ema(model: nn.Module, config: TrainConfig) -> ModelEmaV3 | None:
    """Return the moving average of the weights, or None when it is off.

    The decay warms up, so that a short run does not average in the random first weights.
    """
    return ModelEmaV3(model, decay=config.ema_decay, use_warmup=True) if config.ema_decay > 0 else None
