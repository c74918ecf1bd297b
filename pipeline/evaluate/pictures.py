"""An evaluation as pictures: confusion matrix, precision-recall curves, reliability, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import area, clip
from common.cli import requires_extra
from common.files import replacing
from pipeline.evaluate.evaluation import DetectionEvaluation
from pipeline.evaluate.metrics import RECALLS, Sample
from pipeline.evaluate.report import BACKGROUND, KIND_NAMES
from pipeline.evaluate.tide_errors import KINDS, Mistake
from stage2_classifier.cropping import crop_window, cut_crop, resize_crop

TRUE_COLOUR, FOUND_COLOUR = (0, 200, 60), (230, 40, 40)
TILE = 160  # pixels
CONTEXT = 1.0  # of the box's longer side, on each side: enough to see what the mistake was


def draw_confusion(evaluation: DetectionEvaluation, path: Path) -> None:
    """Writes the confusion matrix as counts and as shares of each true class."""
    counts = np.array(evaluation.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [*evaluation.class_names, BACKGROUND]
    figure = _figure(6.2 * 2, 5.4)
    for axes, title, texts in (
        (figure.add_subplot(1, 2, 1), "counts", [[str(v) for v in row] for row in counts]),
        (figure.add_subplot(1, 2, 2), "share of the true class", [[f"{v:.2f}" for v in row] for row in share]),
    ):
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="predicted", ylabel="true", title=title)
        for (i, j), value in np.ndenumerate(share):
            axes.text(j, i, texts[i][j], ha="center", va="center", color="white" if value > 0.5 else "black")
    figure.suptitle(f"{evaluation.name}: IoU {evaluation.settings.iou:g}, score {evaluation.threshold:.3g} or more")
    _save(figure, path)


def draw_curves(evaluations: Sequence[DetectionEvaluation], path: Path) -> None:
    """Writes precision over recall at the run's IoU: a panel for each class and for faces, a line for each detector.

    Every class of a face is scored.
    """
    names = [*evaluations[0].class_names, "face"]
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = _figure(3.6 * columns, 3.4 * rows)
    for k, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, k + 1)
        for e in evaluations:
            category = [*e.each_class.classes, e.each_class.faces][k]
            if category.precision is not None:
                label = f"{e.name} ({category.overall.ap_at_iou:.3f})"
                axes.plot(RECALLS, category.precision, label=label)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=name)
        if axes.lines:
            axes.legend(loc="best", fontsize="small", title=f"AP@{e.settings.iou:g}")
        axes.grid(alpha=0.3)
    _save(figure, path)


def draw_reliability(evaluation: DetectionEvaluation, path: Path) -> None:
    """Writes the share of right detections over their score, and how many have that score, found and reported.

    Of scores that are probabilities the bars end on the diagonal (DeGroot & Fienberg 1983).
    """
    figure = _figure(9, 5)
    axes = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    for column, (name, part) in enumerate(evaluation.reliability.items()):
        share, count = axes[:, column]
        lows, widths = [b.low for b in part.bins], [b.high - b.low for b in part.bins]
        share.bar(lows, [b.right for b in part.bins], widths, align="edge", edgecolor="white", label="share right")
        share.plot([b.score for b in part.bins], [b.right for b in part.bins], "k.", label="at the mean score")
        share.plot([0, 1], [0, 1], "k--", linewidth=0.8)
        error = "-" if part.ece is None else f"{part.ece:.3f}"
        title = f"{name}: score {part.floor:.3g} or more, calibration error {error}"
        share.set(xlim=(0, 1), ylim=(0, 1), ylabel="share right")
        share.set_title(title, fontsize="medium")
        share.legend(loc="upper left", fontsize="small")
        count.bar(lows, [b.count for b in part.bins], widths, align="edge", edgecolor="white", color="grey")
        count.set(xlabel="score", ylabel="detections", yscale="log", ylim=(0.5, None))
    figure.suptitle(f"{evaluation.name}: right means IoU {evaluation.settings.iou:g} and the right class")
    _save(figure, path)


def draw_worst(
    folder: Path,
    samples: Sequence[Sample],
    mistakes: Sequence[Mistake],
    class_names: Sequence[str],
    read: Callable[[int], NDArray[np.uint8]],
    most: int = 24,
) -> list[Path]:
    """Writes worst_<kind>.png for each kind of error that occurs, and returns their paths; an older one goes.

    The worst are the detections with the highest score, and of faces without one the largest. The true box is green,
    the found one red. read: the pixels of a sample's image (H, W, 3 RGB).
    """
    written = []
    for kind in KINDS:
        path = folder / f"worst_{kind}.png"
        own = [m for m in mistakes if m.kind == kind]
        worst = sorted(own, key=lambda m: _badness(samples[m.sample], m), reverse=True)[:most]
        tiles = [
            (tile, _caption(samples[m.sample], m, class_names))
            for m in worst
            if (tile := _tile(samples, m, read)) is not None
        ]
        if not tiles:
            path.unlink(missing_ok=True)
            continue
        columns = min(len(tiles), 6)
        rows = -(-len(tiles) // columns)
        figure = _figure(2 * columns, 2.5 * rows + 0.5)
        for k, (tile, caption) in enumerate(tiles):
            axes = figure.add_subplot(rows, columns, k + 1)
            axes.imshow(tile)
            axes.set_axis_off()
            axes.set_title(caption, fontsize=6)
        figure.suptitle(f"{KIND_NAMES[kind]}: the worst {len(tiles)} of {len(own)}", fontsize=9)
        _save(figure, path)
        written.append(path)
    return written


def _badness(s: Sample, m: Mistake) -> float:
    if m.detection is not None:
        return float(s.scores[m.detection])
    return float(area(s.gt_boxes)[m.truth])


def _caption(s: Sample, m: Mistake, class_names: Sequence[str]) -> str:
    lines = [s.image_id[-28:]]
    if m.truth is not None:
        lines.append(f"true: {class_names[s.gt_labels[m.truth]]}")
    if m.detection is not None:
        lines.append(f"found: {class_names[s.labels[m.detection]]} {s.scores[m.detection]:.2f}")
    return "\n".join(lines)


def _tile(samples: Sequence[Sample], m: Mistake, read: Callable[[int], NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
    """The neighbourhood of a mistake, (TILE, TILE, 3); None when its box lies outside the image."""
    s, image = samples[m.sample], read(m.sample)
    true = None if m.truth is None else s.gt_boxes[m.truth]
    found = None if m.detection is None else s.boxes[m.detection]
    centre = true if true is not None else found
    if centre is None:
        return None
    inside = clip(centre[None], (image.shape[1], image.shape[0]))
    if area(inside)[0] < 1:
        return None
    left, top, right, _ = crop_window(inside[0], CONTEXT)
    tile = resize_crop(cut_crop(image, inside[0], CONTEXT), TILE).copy()
    scale = TILE / (right - left)
    for box, colour in ((true, TRUE_COLOUR), (found, FOUND_COLOUR)):
        if box is not None:
            x1, y1, x2, y2 = (round(float(v)) for v in (box - np.array([left, top, left, top])) * scale)
            cv2.rectangle(tile, (x1, y1), (x2, y2), colour, 1)
    return tile


def _figure(width: float, height: float) -> Any:
    """A figure of its own, in inches: pyplot would keep it alive in a global list."""
    with requires_extra("train"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="tight")


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
