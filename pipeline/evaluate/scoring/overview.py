"""One picture of several datasets: mAP and face AP with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.display import figure_text
from pipeline.evaluate import pictures
from pipeline.evaluate.bootstrap import Interval

SHOWN = {"mAP": "mAP", "face_AP": "face AP", "face_recall": "face recall", "crop_accuracy": "crops: accuracy"}


def draw_overview(summaries: Mapping[str, Mapping[str, Interval | None]], path: Path) -> None:
    """Write one panel per figure, and one row per dataset with its interval; args by dataset and by figure."""
    names = list(summaries)
    figure = pictures.new_figure(3.2 * len(SHOWN), 1.2 + 0.45 * len(names))
    for k, (key, title) in enumerate(SHOWN.items(), start=1):
        axes = figure.add_subplot(1, len(SHOWN), k)
        for row, name in enumerate(names):
            if (interval := summaries[name].get(key)) is not None:
                axes.plot([interval.low, interval.high], [row, row], color="steelblue", linewidth=3, alpha=0.5)
                axes.plot([interval.value], [row], "o", color="steelblue")
                axes.text(min(interval.value, 0.93), row - 0.14, f"{interval.value:.3f}", ha="center", va="bottom")
        axes.set_yticks(range(len(names)), list(map(figure_text, names)) if k == 1 else [""] * len(names))
        axes.set(xlim=(0, 1.05), ylim=(len(names) - 0.4, -0.8), title=title)
        axes.grid(alpha=0.3)
    pictures.save_figure(figure, path)
