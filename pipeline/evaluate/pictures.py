"""An evaluation as pictures: confusion matrix, precision-recall curves, reliability, and the worst errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import area, clip
from common.cli import requires_extra
from common.display import figure_text
from common.files import atomic_replace
from pipeline.evaluate.evaluation import DetectionEvaluation
from pipeline.evaluate.metrics import RECALLS, Sample
from pipeline.evaluate.report import BACKGROUND, KIND_NAMES
from pipeline.evaluate.tide_errors import ERROR_KINDS, REPORT_KEYS, DetectionError
from stage2_classifier.cropping import crop_window, cut_crop, resize_crop

GT_COLOUR, DETECTION_COLOUR = (0, 200, 60), (230, 40, 40)
TILE, MAX_TILES = 160, 24  # pixels, and tiles of one kind of error
CONTEXT = 1.0  # of the box's longer side, on each side: enough to see the cause of the error


def draw_confusion(evaluation: DetectionEvaluation, path: Path) -> None:
    """Write the confusion matrix as counts and as shares of each true class."""
    counts = np.array(evaluation.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [*map(figure_text, evaluation.class_names), BACKGROUND]
    figure = new_figure(6.2 * 2, 5.4)
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
    rule = f"IoU {evaluation.settings.iou:g}, score {evaluation.threshold:.3g} or more"
    figure.suptitle(f"{figure_text(evaluation.name)}: {rule}")
    save_figure(figure, path)


def draw_curves(evaluations: Sequence[DetectionEvaluation], path: Path) -> None:
    """Write precision over recall at the run's IoU: one panel per class and one for faces, one line per detector.

    Every class of a face is scored.
    """
    names = [*map(figure_text, evaluations[0].class_names), "face"]
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = new_figure(3.6 * columns, 3.4 * rows)
    for k, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, k + 1)
        for e in evaluations:
            category = [*e.each_class.classes, e.each_class.faces][k]
            if category.precision is not None:
                axes.plot(
                    RECALLS, category.precision, label=f"{figure_text(e.name)} ({category.overall.ap_at_iou:.3f})"
                )
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=name)
        if axes.lines:
            axes.legend(loc="best", fontsize="small", title=f"AP@{e.settings.iou:g}")
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def draw_reliability(evaluation: DetectionEvaluation, path: Path) -> None:
    """Write the share of right detections over their score, and the number of detections, found and reported.

    Where scores are probabilities, the bars end on the diagonal (DeGroot & Fienberg 1983).
    """
    figure = new_figure(9, 5)
    axes = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    for column, (name, part) in enumerate(evaluation.reliability.items()):
        share, count = axes[:, column]
        lows, widths = [b.low for b in part.bins], [b.high - b.low for b in part.bins]
        share.bar(lows, [b.right for b in part.bins], widths, align="edge", edgecolor="white", label="share right")
        share.plot([b.score for b in part.bins], [b.right for b in part.bins], "k.", label="at the mean score")
        share.plot([0, 1], [0, 1], "k--", linewidth=0.8)
        error = "-" if part.ece is None else f"{part.ece:.3f}"
        share.set(xlim=(0, 1), ylim=(0, 1), ylabel="share right")
        share.set_title(f"{name}: score {part.floor:.3g} or more, calibration error {error}", fontsize="medium")
        share.legend(loc="upper left", fontsize="small")
        count.bar(lows, [b.count for b in part.bins], widths, align="edge", edgecolor="white", color="grey")
        count.set(xlabel="score", ylabel="detections", yscale="log", ylim=(0.5, None))
    figure.suptitle(f"{figure_text(evaluation.name)}: right means IoU {evaluation.settings.iou:g} and the right class")
    save_figure(figure, path)


def draw_worst(
    folder: Path,
    samples: Sequence[Sample],
    errors: Sequence[DetectionError],
    class_names: Sequence[str],
    read: Callable[[int], NDArray[np.uint8]],
) -> None:
    """Write worst_<kind>.png for each kind of error that occurs, and remove the files of the other kinds.

    The worst errors are the detections with the highest score, and the largest faces without a detection. The true box
    is green, the detected one red. `read` returns the pixels (H, W, 3) RGB of the image of sample i.
    """
    for kind in ERROR_KINDS:
        path = folder / f"worst_{REPORT_KEYS[kind]}.png"
        of_kind = [e for e in errors if e.kind == kind]
        worst = sorted(of_kind, key=lambda e: _severity(samples[e.sample], e), reverse=True)[:MAX_TILES]
        tiles = [(tile, e) for e in worst if (tile := _tile(samples, e, read)) is not None]
        if not tiles:
            path.unlink(missing_ok=True)
            continue
        columns = min(len(tiles), 6)
        rows = -(-len(tiles) // columns)
        figure = new_figure(2 * columns, 2.5 * rows + 0.5)
        for k, (tile, e) in enumerate(tiles, start=1):
            axes = figure.add_subplot(rows, columns, k)
            axes.imshow(tile)
            axes.set_axis_off()
            axes.set_title(figure_text(_caption(samples[e.sample], e, class_names)), fontsize=6)
        figure.suptitle(f"{KIND_NAMES[REPORT_KEYS[kind]]}: the worst {len(tiles)} of {len(of_kind)}", fontsize=9)
        save_figure(figure, path)


def _severity(s: Sample, e: DetectionError) -> float:
    return float(area(s.gt_boxes)[e.gt] if e.detection is None else s.scores[e.detection])


def _caption(s: Sample, e: DetectionError, class_names: Sequence[str]) -> str:
    lines = [s.image_id[-28:]]
    if e.gt is not None:
        lines.append(f"true: {class_names[s.gt_labels[e.gt]]}")
    if e.detection is not None:
        lines.append(f"found: {class_names[s.labels[e.detection]]} {s.scores[e.detection]:.2f}")
    return "\n".join(lines)


def _tile(
    samples: Sequence[Sample], e: DetectionError, read: Callable[[int], NDArray[np.uint8]]
) -> NDArray[np.uint8] | None:
    """Return the surroundings of an error (TILE, TILE, 3); None when the box is outside the image."""
    s, image = samples[e.sample], read(e.sample)
    gt = None if e.gt is None else s.gt_boxes[e.gt]
    detection = None if e.detection is None else s.boxes[e.detection]
    centre = s.boxes[e.detection] if gt is None else gt
    inside = clip(centre[None], (image.shape[1], image.shape[0]))
    if area(inside)[0] < 1:
        return None
    left, top, right, _ = crop_window(inside[0], CONTEXT)
    tile = resize_crop(cut_crop(image, inside[0], CONTEXT), TILE).copy()
    scale = TILE / (right - left)
    for box, colour in ((gt, GT_COLOUR), (detection, DETECTION_COLOUR)):
        if box is not None:
            x1, y1, x2, y2 = (round(float(v)) for v in (box - np.array([left, top, left, top])) * scale)
            cv2.rectangle(tile, (x1, y1), (x2, y2), colour, 1)
    return tile


def new_figure(width: float, height: float) -> Any:
    """Return a figure of this size in inches; pyplot would keep the figure alive in a global list."""
    with requires_extra("train"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="tight")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as a PNG file."""
    with atomic_replace(path) as temporary:
        figure.savefig(temporary, dpi=130)
