"""Draws the pictures of an evaluation: confusion matrix, precision-recall curves, worst mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve

from common.display import figure_text
from common.files import atomic_replace
from stage2_classifier.reports.contact_sheet import Cell, contact_sheet
from stage2_classifier.reports.evaluation import CropEvaluation

MISTAKES, ACROSS = 24, 6  # crops of the sheet of mistakes, at most; crops in a row


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as a picture."""
    FigureCanvasAgg(figure)  # pyplot would keep every figure alive and set a backend for the whole process
    with atomic_replace(path) as temporary:
        figure.savefig(temporary, dpi=110)


def save_confusion_matrix(evaluation: CropEvaluation, path: Path) -> None:
    """Draw counts, and shares of each true class; rows are true classes, columns predicted ones."""
    counts, names = evaluation.confusion, list(map(figure_text, evaluation.class_names))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.9 * len(names)
    figure = Figure(figsize=(2 * side, side), layout="constrained")
    panels = ((counts, "crops", "d"), (shares, "share of the true class", ".2f"))
    for axes, (values, title, form) in zip(figure.subplots(1, 2), panels, strict=True):
        # Both panels are coloured by share: colours of counts would show only the most frequent class.
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(title)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        for row, column in np.ndindex(values.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, format(values[row, column], form), ha="center", va="center", color=colour)
    _save(figure, path)


def save_pr_curves(evaluation: CropEvaluation, path: Path) -> None:
    """Draw precision against recall of each class against the rest, with average precision."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for c, name in enumerate(map(figure_text, evaluation.class_names)):
        is_class, probs = evaluation.targets == c, evaluation.probs[:, c]
        if not is_class.any():
            axes.plot([], [], label=f"{name} (no crops in this split)")
            continue
        precision, recall, _ = precision_recall_curve(is_class, probs)
        label = f"{name} (AP {average_precision_score(is_class, probs):.3f}, {is_class.sum()} crops)"
        axes.step(recall, precision, where="post", label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize="small")
    _save(figure, path)


def worst_mistakes(evaluation: CropEvaluation, count: int) -> list[int]:
    """Return the indices of at most `count` wrong predictions, the most confident first."""
    wrong = np.flatnonzero(evaluation.predicted != evaluation.targets)
    confidence = evaluation.probs.max(axis=1)[wrong]
    return [int(i) for i in wrong[np.argsort(-confidence, kind="stable")][:count]]


def save_mistakes(evaluation: CropEvaluation, path: Path) -> int:
    """Write a contact sheet of the worst mistakes and return their number; without mistakes there is no file."""
    worst = worst_mistakes(evaluation, MISTAKES)
    if not worst:
        path.unlink(missing_ok=True)
        return 0
    names, predicted = evaluation.class_names, evaluation.predicted
    cells = []
    for i in worst:
        caption = f"true {names[evaluation.targets[i]]}\npredicted {names[predicted[i]]}"
        cells.append(Cell(evaluation.dataset.pixels(i), f"{caption}\n{evaluation.probs[i].max():.2f}"))
    rows = [cells[start : start + ACROSS] for start in range(0, len(cells), ACROSS)]
    with atomic_replace(path) as temporary:
        contact_sheet(rows, side=168, caption_lines=3).save(temporary)
    return len(worst)
