"""Train a one-stage baseline epoch by epoch, and detect with it."""

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
from pipeline.baseline.data import TrainPhotos, image_to_tensor, train_loader
from pipeline.baseline.model import build_detector, load_pretrained, load_weights
from pipeline.baseline.run_folder import BaselineFolder, Best
from pipeline.evaluate.bootstrap import best_f1_threshold
from pipeline.evaluate.metrics import Sample, make_sample, one_label, score_samples
from stage1_faces.training.trainer import EMA_DECAY, EMA_POWER, StepSchedule
from stage2_classifier.training.engine import seed_epoch

CLIP_NORM = 5.0
TIMED_PHOTOS = 50  # at most


@dataclass(frozen=True)
class BaselineTrainState:
    """What training changes; `ema` is a moving average of the model's weights, or None."""

    model: nn.Module
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer

    @property
    def eval_model(self) -> nn.Module:
        """Return the model that is validated and saved."""
        return self.model if self.ema is None else self.ema.module

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        average = None if self.ema is None else self.ema.module.state_dict()
        return {"model": self.model.state_dict(), "average": average, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Load a state of `state`."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


def fit(
    config: BaselineConfig,
    train: Sequence[AnnotatedImage],
    val: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    folder: BaselineFolder,
    device: torch.device,
    workers: int = 0,
) -> None:
    """Train, and write best.safetensors to `folder`: the epoch with the best mAP50 on the validation photos.

    A killed run resumes after its last whole epoch. On the same CPU with the same number of threads, it ends with the
    same weights as an unbroken run.

    `workers` processes read and augment the photos; 0 for none. Raises UserError when the weights to start from cannot
    be used, or when the loss is not finite.
    """
    if folder.finished(config.epochs):
        return
    state = folder.state()
    train_state = start_state(config, len(class_names), device, fresh=state is None)
    history: list[dict[str, Any]] = []
    if state is not None:
        train_state.load(state)
        history = state["history"]
        folder.write_rows(history)  # a kill may have come between the state and the log
    per_epoch = max(len(train) // config.batch_size, 1)
    schedule = StepSchedule(config.epochs * per_epoch, per_epoch, config.lr)
    with progress() as bar:
        task = bar.add_task(config.model, total=schedule.steps, completed=len(history) * per_epoch)
        while len(history) < config.epochs:
            epoch, begin = len(history), time.perf_counter()
            order = seed_epoch(config.seed, epoch).permutation(len(train))
            photos = TrainPhotos(train, class_names, config.seed, epoch)
            loader = train_loader(photos, config.batch_size, order, workers)
            losses = train_epoch(train_state, loader, schedule, epoch, lambda: bar.advance(task))
            samples = find_faces(train_state.eval_model, val, class_names)
            row = {"epoch": epoch + 1, "epochs": config.epochs, **losses, **val_scores(samples, class_names)}
            history.append({**row, "seconds": round(time.perf_counter() - begin, 1)})
            if best_row(history) is history[-1]:
                threshold = best_f1_threshold(one_label(samples), len(class_names), 0.5)
                network = (config.model, tuple(class_names), config.size, config.small_anchors)
                folder.save_best(train_state.eval_model, Best(*network, epoch + 1, row["val_map50"], threshold))
            folder.write_epoch(train_state.state(), history)
            line = f"epoch {epoch + 1}/{config.epochs}  loss {row['loss']:.4f}  val mAP50 {row['val_map50']:.4f}"
            console().print(line, highlight=False)
    folder.tidy()


def start_state(config: BaselineConfig, classes: int, device: torch.device, fresh: bool = True) -> BaselineTrainState:
    """Return the state before the first step; `fresh` loads the weights to start from (a saved state replaces them)."""
    torch.manual_seed(config.seed)
    model = build_detector(config.model, classes, config.size, config.small_anchors)
    if fresh and config.pretrained:
        load_pretrained(model, config.model)
    if fresh and config.weights is not None:
        load_weights(model, config.weights)
    model.to(device)
    ema = ModelEmaV3(model, decay=EMA_DECAY, use_warmup=True, warmup_power=EMA_POWER) if config.ema else None
    # timm leaves biases and norms out of the weight decay.
    optimizer = create_optimizer_v2(model, "adamw", lr=config.lr, weight_decay=config.weight_decay)
    return BaselineTrainState(model, ema, optimizer)


def train_epoch(
    train_state: BaselineTrainState,
    loader: DataLoader[Any],
    schedule: StepSchedule,
    epoch: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train one epoch, counted from 0, and return the mean loss and the mean of each part of the loss.

    `advance` is called after each step. Raises UserError when the loss is not finite.
    """
    model, optimizer = train_state.model.train(), train_state.optimizer
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
        if train_state.ema is not None:
            train_state.ema.update(model, step=step)
        for name, part in {"loss": loss, **parts}.items():
            sums[name] = sums.get(name, 0.0) + part.item()
        advance()
    return {name: round(value / len(loader), 5) for name, value in sums.items()}


@torch.inference_mode()
def detect(model: nn.Module, pixels: NDArray[np.uint8]) -> tuple[Boxes, NDArray[np.float64], NDArray[np.intp]]:
    """Detect faces in a photo uint8 (H, W, 3) RGB with a model in eval mode.

    Returns boxes (M, 4) in the photo's pixels, scores (M,), and class indices (M,) from 0 on.
    """
    device = next(model.parameters()).device
    output = model([image_to_tensor(pixels).to(device).float() / 255])[0]
    is_face = output["labels"] > 0  # heads with one sigmoid per class also have one for background
    boxes, scores, labels = (output[name][is_face].cpu().numpy() for name in ("boxes", "scores", "labels"))
    return boxes, scores.astype(np.float64), labels.astype(np.intp) - 1


def find_faces(
    model: nn.Module,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    on_image: Callable[[AnnotatedImage, NDArray[np.uint8]], None] = lambda image, pixels: None,
) -> list[Sample]:
    """Set the model to eval mode, and return each photo's annotated faces and detections (one row per class of a box).

    `on_image` is called after each photo with the photo's pixels (H, W, 3) RGB.
    """
    model.eval()
    samples = []
    for image in images:
        pixels = read_image(image.path)
        samples.append(make_sample(image, class_names, *detect(model, pixels)))
        on_image(image, pixels)
    return samples


def seconds_per_photo(model: nn.Module, images: Sequence[AnnotatedImage]) -> float:
    """Return the median time to detect in one of up to TIMED_PHOTOS photos, evenly spaced, without reading them."""
    model.eval()
    seconds: list[float] = []
    for image in images[:: -(-len(images) // TIMED_PHOTOS)]:
        pixels = read_image(image.path)
        if not seconds:
            detect(model, pixels)  # the first call is slower
        start = time.perf_counter()
        detect(model, pixels)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def val_scores(samples: Sequence[Sample], class_names: Sequence[str]) -> dict[str, Any]:
    """Return val_map50, val_map (mean of IoU 0.50-0.95) and val_ap50 {class: AP50}; None without annotated faces."""
    scores = score_samples(samples, class_names)
    by_class = {c.name: c.overall.ap50 for c in scores.classes}
    return {"val_map50": scores.mean.overall.ap50, "val_map": scores.mean.overall.ap, "val_ap50": by_class}


def best_row(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the epoch with the highest validation mAP50; of equals the earliest."""
    return max(history, key=lambda row: row["val_map50"])
