"""Plots a run's training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from common.files import atomic_replace

# Panels from left to right: title and series, each (key in a metrics.jsonl row, legend).
PANELS = (
    ("Loss", (("train_loss", "training (criterion)"), ("val_loss", "validation (cross entropy)"))),
    (
        "Accuracy and macro-F1",
        (
            ("train_accuracy", "training accuracy"),
            ("val_accuracy", "validation accuracy"),
            ("val_macro_f1", "validation macro-F1"),
        ),
    ),
    ("Learning rate", (("lr", "head"),)),
)


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path | str, title: str = "") -> None:
    """Plot the rows of metrics.jsonl as a PNG of three panels; a line marks the epoch of the best score."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    figure.suptitle(title)
    epochs = [row["epoch"] for row in history]
    for axes, (name, series) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for key, label in series:
            if all(key in row for row in history):
                axes.plot(epochs, [row[key] for row in history], marker=".", label=label)
        if history and "val_macro_f1" in history[0]:
            best = max(history, key=lambda row: (row["val_macro_f1"], -row["val_loss"]))
            axes.axvline(best["epoch"], color="grey", linestyle=":", label="best epoch")
        axes.set(title=name, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_replace(path) as temporary:
        figure.savefig(temporary, dpi=90)
