"""Trains a one-stage baseline, epoch by epoch, and finds faces with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader

from common.annotations import AnnotatedImage
from common.boxes import Boxes
from common.cli import console, progress
from common.errors import UserError
from common.images import read_image
from pipeline.baseline.config import BaselineConfig
from pipeline.baseline.data import TrainPhotos, as_input, train_loader
from pipeline.baseline.model import build_detector, load_pretrained, load_weights
from pipeline.baseline.run_folder import BaselineFolder, Best
from pipeline.evaluate.bootstrap import best_score
from pipeline.evaluate.metrics import Sample, one_label, score_samples
from stage1_faces.training.trainer import AVERAGE_DECAY, AVERAGE_POWER, StepSchedule
from stage2_classifier.training.engine import seed_epoch

CLIP_NORM = 5.0
TIMED = 50  # photos that are timed


@dataclass(frozen=True)
class BaselineTrainState:
    """What training changes; average: a moving average of the model's weights, or None."""

    model: nn.Module
    average: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer

    @property
    def eval_model(self) -> nn.Module:
        """The model that is validated and saved."""
        return self.model if self.average is None else self.average.module

    def state(self) -> dict[str, Any]:
        """What must be kept to go on after a break."""
        average = None if self.average is None else self.average.module.state_dict()
        return {"model": self.model.state_dict(), "average": average, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Takes up a kept state."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


def fit(
    recipe: BaselineConfig,
    train: Sequence[AnnotatedImage],
    val: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    folder: BaselineFolder,
    device: torch.device,
    workers: int = 0,
) -> None:
    """Trains into `folder`, which holds best.safetensors then: the epoch with the best mAP50 on the `val` photos.

    A run that was killed goes on after its last whole epoch and, on the same CPU with the same number of threads, ends
    in the same weights as an unbroken one. Raises UserError when the weights to start from cannot be used
    and when the loss is not finite any more.
    """
    if folder.finished(recipe.epochs):
        return
    state = folder.state()
    learner = start(recipe, len(class_names), device, fresh=state is None)
    history: list[dict[str, Any]] = []
    if state is not None:
        learner.load(state)
        history = state["history"]
        folder.write_log(history)  # a kill may have come between the state and the log
    per_epoch = max(len(train) // recipe.batch_size, 1)
    schedule = StepSchedule(recipe.epochs * per_epoch, per_epoch, recipe.lr)
    with progress() as bar:
        task = bar.add_task(recipe.model, total=schedule.steps, completed=len(history) * per_epoch)
        while len(history) < recipe.epochs:
            epoch, begin = len(history), time.perf_counter()
            order = seed_epoch(recipe.seed, epoch).permutation(len(train))
            photos = TrainPhotos(train, class_names, recipe.seed, epoch)
            loader = train_loader(photos, recipe.batch_size, order, workers)
            losses = train_epoch(learner, loader, schedule, epoch, lambda: bar.advance(task))
            samples = find_faces(learner.eval_model, val, class_names)
            row = {"epoch": epoch + 1, "epochs": recipe.epochs, **losses, **val_figures(samples, class_names)}
            history.append({**row, "seconds": round(time.perf_counter() - begin, 1)})
            if best_row(history) is history[-1]:
                threshold = best_score(one_label(samples), len(class_names), 0.5)
                facts = (recipe.model, tuple(class_names), recipe.size, recipe.small_anchors)
                folder.save_best(learner.eval_model, Best(*facts, epoch + 1, row["val_map50"], threshold))
            folder.write_epoch(learner.state(), history)
            shown = f"epoch {epoch + 1}/{recipe.epochs}  loss {row['loss']:.4f}  val mAP50 {row['val_map50']:.4f}"
            console().print(shown, highlight=False)
    folder.tidy()


def start(recipe: BaselineConfig, classes: int, device: torch.device, fresh: bool = True) -> BaselineTrainState:
    """Everything as before the first step; unless `fresh`, without weights from elsewhere, as others will follow."""
    torch.manual_seed(recipe.seed)
    model = build_detector(recipe.model, classes, recipe.size, recipe.small_anchors)
    if fresh and recipe.pretrained:
        load_pretrained(model, recipe.model)
    if fresh and recipe.weights is not None:
        load_weights(model, recipe.weights)
    model.to(device)
    average = None
    if recipe.ema:
        average = ModelEmaV3(model, decay=AVERAGE_DECAY, use_warmup=True, warmup_power=AVERAGE_POWER)
    # timm leaves biases and norms out of the weight decay.
    optimizer = create_optimizer_v2(model, "adamw", lr=recipe.lr, weight_decay=recipe.weight_decay)
    return BaselineTrainState(model, average, optimizer)


def train_epoch(
    learner: BaselineTrainState,
    loader: DataLoader[Any],
    schedule: StepSchedule,
    epoch: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """One epoch, counted from 0; the mean loss, and each part of it. advance: called after each step.

    Raises UserError when the loss is not finite.
    """
    model, optimizer = learner.model.train(), learner.optimizer
    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    for step, (photos, targets) in enumerate(loader, start=epoch * schedule.per_epoch):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(step)
        on_device = [{name: t.to(device) for name, t in target.items()} for target in targets]
        parts = model([photo.to(device) for photo in photos], on_device)
        loss = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(loss):
            raise UserError(f"--lr: the loss is not finite in epoch {epoch + 1}; lower {schedule.rate:g}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        if learner.average is not None:
            learner.average.update(model, step=step)
        for name, part in {"loss": loss, **parts}.items():
            sums[name] = sums.get(name, 0.0) + part.item()
        advance()
    return {name: round(value / len(loader), 5) for name, value in sums.items()}


@torch.inference_mode()
def detect(model: nn.Module, pixels: NDArray[np.uint8]) -> tuple[Boxes, NDArray[np.float64], NDArray[np.intp]]:
    """Finds faces in a photo uint8 (H, W, 3): boxes (M, 4) in its pixels, scores (M,), class indices (M,) from 0 on.

    The model must be in eval mode.
    """
    device = next(model.parameters()).device
    found = model([as_input(pixels).to(device).float() / 255])[0]
    boxes, scores, labels = (found[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
    face = labels > 0  # heads with a sigmoid a class have one for background, too
    boxes, scores, labels = boxes[face], scores[face], labels[face]
    return boxes, scores.astype(np.float64), labels.astype(np.intp) - 1


def find_faces(
    model: nn.Module,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    seen: Callable[[AnnotatedImage, NDArray[np.uint8]], None] = lambda image, pixels: None,
) -> list[Sample]:
    """Each photo's truths and detections, where a box may have a row for each class; puts the model into eval mode.

    seen: called after each photo, with its pixels (H, W, 3 RGB).
    """
    model.eval()
    samples = []
    for image in images:
        truths = np.array([class_names.index(label) for label in image.labels], np.intp)
        pixels = read_image(image.path)
        samples.append(Sample(image.image_id, image.boxes, truths, *detect(model, pixels)))
        seen(image, pixels)
    return samples


def seconds_a_photo(model: nn.Module, images: Sequence[AnnotatedImage]) -> float:
    """The median time of finding faces in one of up to TIMED photos, evenly spaced; reading them is not timed."""
    model.eval()
    seconds: list[float] = []
    for image in images[:: -(-len(images) // TIMED)]:
        pixels = read_image(image.path)
        if not seconds:
            detect(model, pixels)  # the first call is slower
        start = time.perf_counter()
        detect(model, pixels)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def val_figures(samples: Sequence[Sample], class_names: Sequence[str]) -> dict[str, Any]:
    """val_map50, val_map (mean of IoU 0.50-0.95) and val_ap50 {class: AP50}; None where there is no truth."""
    scores = score_samples(samples, class_names)
    by_class = {c.name: c.overall.ap50 for c in scores.classes}
    return {"val_map50": scores.mean.overall.ap50, "val_map": scores.mean.overall.ap, "val_ap50": by_class}


def best_row(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The epoch with the highest validation mAP50; among equals the earliest."""
    return max(history, key=lambda row: row["val_map50"])
