"""The tour's charts and diagrams, drawn from the results of its steps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from common.annotations import Annotations
from common.annotations.voc import read_voc
from common.files import atomic_replace
from common.images import read_image
from common.splits import SPLITS
from pipeline.evaluate.report import KIND_NAMES
from pipeline.inference.draw import class_colour
from stage2_classifier.config import TrainConfig
from stage2_classifier.cropping import crop_window, cut_crop
from stage2_classifier.data.loaders import BalancedSampler
from stage2_classifier.models import build_model
from stage2_classifier.training.losses import FocalLoss
from stage2_classifier.training.optimizer import LRSchedule

DPI = 100
SCHEDULES = ("cosine", "step", "onecycle", "constant")
POWERS = (0.0, 0.5, 1.0)
GREY = "0.6"


def face_sides(annotations: Annotations) -> NDArray[np.float64]:
    """Return (N,) the square root of each face's area in pixels, in the order of images and boxes."""
    boxes = np.concatenate([np.zeros((0, 4)), *(image.boxes for image in annotations.images)])
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def longer_sides(annotations: Annotations) -> NDArray[np.float64]:
    """Return (N,) the longer side of each box in pixels, in the order of images and boxes."""
    boxes = np.concatenate([np.zeros((0, 4)), *(image.boxes for image in annotations.images)])
    return np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def draw_set(annotations: Annotations, input_size: int, path: Path) -> None:
    """Draw the faces per class, their sizes, and the faces per photo."""
    names = annotations.class_names
    labels = np.array([label for image in annotations.images for label in image.labels])
    sides = face_sides(annotations)
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    classes, sizes, photos = figure.subplots(1, 3)

    counts = [int((labels == name).sum()) for name in names]
    bars = classes.barh(names, counts, color=_colours(names))
    classes.bar_label(bars, padding=3)
    classes.set(title="Faces per class", xlabel="faces", xlim=(0, 1.2 * max(counts)))
    classes.invert_yaxis()

    edges = np.geomspace(max(sides.min(), 1), sides.max() + 1, 28)
    parts = [sides[labels == name] for name in names]
    sizes.hist(parts, bins=edges.tolist(), stacked=True, color=_colours(names))
    sizes.axvline(float(np.median(sides)), color="black", linestyle=":", label=f"median {np.median(sides):.0f} px")
    sizes.axvline(input_size, color="black", label=f"network's input {input_size} px")
    sizes.set(
        title="Size of the faces", xlabel="side in px (square root of the box's area)", ylabel="faces", xscale="log"
    )
    ticks = [t for t in (4, 8, 16, 32, 64, 128, 256, 512) if edges[0] <= t <= edges[-1]]
    sizes.set_xticks(ticks, [str(t) for t in ticks])
    sizes.minorticks_off()
    sizes.set_ylim(top=1.25 * sizes.get_ylim()[1])  # room for the legend
    sizes.legend(fontsize="small", loc="upper right")

    per_photo = Counter(len(image.boxes) for image in annotations.images)
    most = max(per_photo)
    photos.hist([len(i.boxes) for i in annotations.images], bins=np.arange(most + 2) - 0.5, color=GREY)
    photos.set(title="Faces per photo", xlabel="faces", ylabel="photos", yscale="log")
    _save(figure, path)


def draw_split(annotations: Annotations, sides: Mapping[str, str], groups: Mapping[str, int], path: Path) -> None:
    """Draw each split's share of the photos and classes, and the sizes of near-duplicate groups."""
    names = annotations.class_names
    images = [image for image in annotations.images if image.image_id in sides]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    shares, sizes = figure.subplots(1, 2, width_ratios=(2, 1))
    left = np.zeros(1 + len(names))
    for split, tone in zip(SPLITS, ("#7ba3cc", "#bfd9ec", "#f2b66d"), strict=True):
        mine = [image for image in images if sides[image.image_id] == split]
        faces = Counter(label for image in mine for label in image.labels)
        counts = np.array([len(mine), *(faces[name] for name in names)])
        whole = np.array([len(images), *(sum(i.labels.count(name) for i in images) for name in names)])
        share = counts / np.maximum(whole, 1)
        bars = shares.barh(("photos", *names), share, left=left, color=tone, label=split)
        shares.bar_label(
            bars, [str(c) if s > 0.03 else "" for c, s in zip(counts, share, strict=True)], label_type="center"
        )
        left += share
    shares.set(title="Share of each split", xlabel="share", xlim=(0, 1))
    shares.invert_yaxis()
    shares.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    members = Counter(groups[image.image_id] for image in images)
    found = Counter(size for size in members.values() if size > 1)
    if found:
        bars = sizes.bar([str(size) for size in sorted(found)], [found[size] for size in sorted(found)], color=GREY)
        sizes.bar_label(bars)
    sizes.set(title="Groups of near-duplicates", xlabel="photos in a group", ylabel="groups")
    _save(figure, path)


def draw_crop(portraits: Path, cut_margin: float, margin: float, input_size: int, path: Path) -> None:
    """Draw a face's box in its photo with both margins, the crop's file, and the network's input."""
    image = read_voc(portraits).images[0]
    pixels, box = read_image(image.path), image.boxes[0]
    figure = Figure(figsize=(9.6, 3.1), layout="constrained")
    photo, crop, view = figure.subplots(1, 3, width_ratios=(pixels.shape[1] / pixels.shape[0], 1, 1))
    photo.imshow(pixels)
    windows = [("box", tuple(float(v) for v in box), "white")]
    windows += [
        (f"margin {share:g}", tuple(float(v) for v in crop_window(box, share)), colour)
        for share, colour in ((margin, "#f0e442"), (cut_margin, "#56b4e9"))
    ]
    for name, (left, top, right, bottom), colour in windows:
        photo.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=2))
        ground = {"facecolor": colour, "edgecolor": "none", "pad": 1}
        photo.text(left + 3, top + 3, name, fontsize=8, va="top", bbox=ground)
    wide = cut_crop(pixels, box, cut_margin)
    crop.imshow(wide)
    view.imshow(cut_crop(pixels, box, margin, input_size))
    photo.set_title("a face in its photo", fontsize=9)
    crop.set_title(f"the crop's file: {wide.shape[1]} px, margin {cut_margin:g}", fontsize=9)
    view.set_title(f"what the network sees: {input_size} px, margin {margin:g}", fontsize=9)
    for axes in (photo, crop, view):
        axes.set_axis_off()
    _save(figure, path)
    with Image.open(path) as picture:  # makes a third of the bytes
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with atomic_replace(path) as temporary:
        small.save(temporary, optimize=True)


def drawn_shares(counts: Sequence[int], power: float) -> NDArray[np.float64]:
    """Return (C,) each class's share of an epoch, counted over the sampler's own draws."""
    labels = np.repeat(np.arange(len(counts)), counts)
    drawn = labels[[i for _, i in BalancedSampler(labels, power=power)]]
    return np.bincount(drawn, minlength=len(counts)) / len(drawn)


def draw_shares(names: Sequence[str], counts: Sequence[int], baseline_power: float, path: Path) -> None:
    """Draw each class's share of an epoch, by the sampler's power."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots()
    powers = sorted({*POWERS, baseline_power})
    rows = [f"power {p:g}" + (" (baseline)" if p == baseline_power else "") for p in powers]
    left = np.zeros(len(powers))
    shares = np.stack([drawn_shares(counts, p) for p in powers])
    for k, (name, colour) in enumerate(zip(names, _colours(names), strict=True)):
        bars = axes.barh(rows, shares[:, k], left=left, color=colour, label=name)
        axes.bar_label(bars, [f"{s:.0%}" for s in shares[:, k]], label_type="center", fontsize="small")
        left += shares[:, k]
    axes.set(title="Classes of an epoch", xlabel="share of the draws", xlim=(0, 1))
    axes.invert_yaxis()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    _save(figure, path)


def draw_model(config: TrainConfig, names: Sequence[str], path: Path) -> None:
    """Draw the network's parts from left to right, with output shapes and numbers of weights."""
    model: Any = build_model("small_cnn", len(names)).eval()
    size = config.input_size
    x = torch.zeros(1, 3, size, size)
    boxes = [("input", "the crop, normalised", _shape(x), 0)]
    with torch.no_grad():
        x = model.stem(x)
        boxes.append(("stem", "3x3 convolution, stride 2\nbatch norm, ReLU", _shape(x), _weights(model.stem)))
        for name, block in model.blocks.named_children():
            x = block(x)
            what = "two 3x3 convolutions\nand a shortcut, halves"
            boxes.append((f"block {name}", what, _shape(x), _weights(block)))
        x = x.mean(dim=(2, 3))
        boxes.append(("pooling", "mean over the picture,\nthen dropout", str(x.shape[1]), 0))
        boxes.append(("head", "linear layer", f"{model.head(x).shape[1]} classes", _weights(model.head)))
    figure = Figure(figsize=(11, 1.9))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, len(boxes)), ylim=(0, 1))
    axes.set_axis_off()
    for k, (name, what, shape, weights) in enumerate(boxes):
        colour = "#dce9f5" if weights else "#f1f1f1"
        axes.add_patch(FancyBboxPatch((k + 0.08, 0.1), 0.8, 0.8, boxstyle="round,pad=0.02", facecolor=colour))
        axes.text(k + 0.48, 0.73, name, ha="center", fontsize=11, weight="bold")
        axes.text(k + 0.48, 0.55, what, ha="center", va="center", fontsize=6.5)
        axes.text(k + 0.48, 0.33, shape, ha="center", va="center", fontsize=10)
        axes.text(k + 0.48, 0.17, f"{weights:,} weights" if weights else "", ha="center", va="center", fontsize=7.5)
        if k:
            axes.annotate("", (k + 0.06, 0.5), (k - 0.1, 0.5), arrowprops={"arrowstyle": "->"})
    _save(figure, path)


def draw_loss_and_rate(config: TrainConfig, updates: int, classes: int, path: Path) -> None:
    """Draw the losses over the true class's probability, and the learning rates over `updates` per epoch."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    losses, rates = figure.subplots(1, 2)
    p = torch.linspace(0.005, 0.995, 199)
    rest = ((1 - p) / (classes - 1)).log()[:, None].expand(-1, classes - 1)
    logits, truth = torch.cat([p.log()[:, None], rest], dim=1), torch.zeros(1, dtype=torch.long)
    smooth = config.label_smoothing
    criteria: dict[str, nn.Module] = {
        "cross entropy": nn.CrossEntropyLoss(),
        f"cross entropy, label smoothing {smooth:g} (baseline)": nn.CrossEntropyLoss(label_smoothing=smooth),
        f"focal loss, gamma {config.focal_gamma:g}": FocalLoss(config.focal_gamma),
    }
    for name, criterion in criteria.items():
        losses.plot(p, [float(criterion(one[None], truth)) for one in logits], label=name)
    losses.set(title="Loss of one crop", xlabel="probability given to its true class", ylabel="loss", ylim=(0, 5))
    for name in SCHEDULES:
        thick = 2.5 if name == config.scheduler else 1.0
        label = f"{name} (baseline)" if name == config.scheduler else name
        rate = learning_rates(config, name, updates)
        rates.plot(np.arange(len(rate)) / updates, rate, linewidth=thick, label=label)
    rates.set(title="Learning rate", xlabel="epochs done", ylabel="rate")
    for axes in (losses, rates):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    _save(figure, path)


def learning_rates(config: TrainConfig, scheduler: str, updates: int) -> list[float]:
    """Return the rate of each update of a training with that scheduler and `updates` per epoch."""
    warmup = 0 if scheduler == "onecycle" else config.warmup_epochs
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = LRSchedule(optimizer, replace(config, scheduler=scheduler, warmup_epochs=warmup), updates)
    rates = []
    for update in range(1, config.epochs * updates + 1):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.after_update(update)
    return rates


def draw_comparison(
    histories: Mapping[str, Sequence[Mapping[str, float]]], scores: Mapping[str, tuple[float, float]], path: Path
) -> None:
    """Draw each run's validation macro-F1 by epoch, and the macro-F1 of its best weights.

    Args:
        histories: rows of metrics.jsonl of each run.
        scores: (training, validation) macro-F1 of each run, on crops without augmentation.
        path: the picture.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    curves, gaps = figure.subplots(1, 2)
    for name, rows in histories.items():
        curves.plot([row["epoch"] for row in rows], [row["val_macro_f1"] for row in rows], marker=".", label=name)
    curves.set(title="Validation macro-F1 by epoch", xlabel="epoch", ylim=(0, 1))
    curves.grid(alpha=0.3)
    curves.legend(fontsize="small", loc="lower right")
    places = np.arange(len(scores))
    for k, (name, colour) in enumerate((("training crops", "#9ecae9"), ("validation crops", "#4c78a8"))):
        bars = gaps.barh(places + 0.4 * k - 0.2, [pair[k] for pair in scores.values()], 0.4, color=colour, label=name)
        gaps.bar_label(bars, fmt="%.3f", padding=2, fontsize="small")
    gaps.set_yticks(places, list(scores))
    gaps.set(title="Macro-F1 of the best weights, no augmentation", xlim=(0, 1.15))
    gaps.invert_yaxis()
    gaps.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    _save(figure, path)


def draw_errors(detector: Mapping[str, Any], path: Path) -> None:
    """Draw the results for the faces of each size, and the gain if each kind of error were fixed.

    Args:
        detector: an entry of evaluation.json.
        path: the picture.
    """
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    results, gains = figure.subplots(1, 2, width_ratios=(3, 2))
    by_size = detector["errors"]["by_size"]
    rows = [f"{size} px ({row['truths']})" for size, row in by_size.items()]
    left = np.zeros(len(rows))
    kinds = {"correct": ("right", "#59a14f"), "wrong_class": ("wrong class (stage 2)", "#edc948")}
    kinds |= {"loose": ("box too loose (stage 1)", "#f28e2b"), "missed": ("missed (stage 1)", "#e15759")}
    for kind, (name, colour) in kinds.items():
        counts = np.array([row[kind] for row in by_size.values()])
        share = counts / np.maximum([row["truths"] for row in by_size.values()], 1)
        bars = results.barh(rows, share, left=left, color=colour, label=name)
        results.bar_label(
            bars, [str(c) if s > 0.04 else "" for c, s in zip(counts, share, strict=True)], label_type="center"
        )
        left += share
    results.set(title="Results of the faces, by size", xlabel="share of the faces", xlim=(0, 1))
    results.invert_yaxis()
    results.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, fontsize="x-small")
    now = detector["scores"]["mean"]["overall"]["ap_at_iou"]
    fixed = {KIND_NAMES[kind]: value - now for kind, value in detector["mended"].items() if value is not None}
    bars = gains.barh(list(fixed), list(fixed.values()), color=GREY)
    gains.bar_label(bars, [f"{gain:+.3f}" if gain >= 0.0005 else "" for gain in fixed.values()], padding=3)
    gains.xaxis.set_major_locator(MaxNLocator(4))
    limits = (min(0, *fixed.values()), 1.25 * max(0.01, *fixed.values()))
    gains.set(title="mAP gained if the error were fixed", xlim=limits)
    gains.invert_yaxis()
    _save(figure, path)


def read_history(run: Path) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _colours(names: Sequence[str]) -> list[tuple[float, ...]]:
    """Return the classes' colours, as in pictures of detections."""
    return [tuple(v / 255 for v in class_colour(k)) for k in range(len(names))]


def _shape(x: torch.Tensor) -> str:
    """Return a shape without the batch, as text."""
    return " x ".join(str(n) for n in x.shape[1:])


def _weights(part: nn.Module) -> int:
    """Return the number of weights."""
    return sum(p.numel() for p in part.parameters())


def _save(figure: Figure, path: Path) -> None:
    """Write a figure without upper and right frame lines."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_replace(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
