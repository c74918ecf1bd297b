"""Prints the results of a run: one row per face for a few images, one row per class for many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from common.display import display_name
from pipeline.inference.results import ImageResult

MAX_FACE_TABLES = 5  # images; for more, one table of the classes is printed


@dataclass
class DetectSummary:
    """Counts of a run."""

    images: int = 0  # images read
    without_faces: int = 0  # images without a face
    failed: int = 0  # files that could not be read or drawn
    faces: Counter[str] = field(default_factory=Counter)  # number of faces by label
    unsure: Counter[str] = field(default_factory=Counter)  # number of unsure faces by label
    images_by_label: Counter[str] = field(default_factory=Counter)  # number of images by label
    score_sums: dict[str, float] = field(default_factory=dict)  # sum of the faces' scores by label
    first_results: list[ImageResult] = field(default_factory=list)  # of the first MAX_FACE_TABLES images only
    last_picture: Path | None = None  # the annotated picture written last
    pictures: int = 0  # annotated pictures written

    def add(self, result: ImageResult) -> None:
        """Count one image."""
        self.images += 1
        self.without_faces += not result.faces
        self.images_by_label.update({face["label"] for face in result.faces})
        for face in result.faces:
            self.faces[face["label"]] += 1
            self.unsure[face["label"]] += face["unsure"]
            self.score_sums[face["label"]] = self.score_sums.get(face["label"], 0.0) + face["score"]
        if len(self.first_results) < MAX_FACE_TABLES:
            self.first_results.append(result)


def show_summary(screen: Console, summary: DetectSummary, class_names: Sequence[str]) -> None:
    """Print a table of faces for each of at most MAX_FACE_TABLES images, else one table of the classes."""
    if summary.images <= MAX_FACE_TABLES:
        for result in summary.first_results:
            _show_image(screen, result)
    else:
        _show_classes(screen, summary, class_names)
        counts = f"images: {summary.images}, faces: {summary.faces.total()}"
        screen.print(f"{counts}, images without a face: {summary.without_faces}", markup=False, highlight=False)
    if summary.failed:
        screen.print(f"failed: {summary.failed} (named above and in the JSON)", markup=False, highlight=False)


def _show_image(screen: Console, result: ImageResult) -> None:
    title = Text(f"{display_name(result.image.path)}  {result.width} x {result.height}", style="bold")
    if not result.faces:
        screen.print(title + Text(": no face found", style="not bold"))
        return
    numbers = (Column(name, justify="right") for name in ("score", "face score", "x1", "y1", "x2", "y2"))
    widest = max(len(face["label"]) + face["unsure"] for face in result.faces)  # shown whole, whatever gives way
    table = Table("#", Column("label", min_width=widest), *numbers, title=title, title_justify="left")
    for number, face in enumerate(result.faces, start=1):
        scores = (f"{face['score']:.3f}", f"{face['face_score']:.3f}")
        label = Text(face["label"] + ("?" if face["unsure"] else ""))
        table.add_row(str(number), label, *scores, *(f"{v:.0f}" for v in face["box"]))
    screen.print(table)


def _show_classes(screen: Console, summary: DetectSummary, class_names: Sequence[str]) -> None:
    numbers = (Column(name, justify="right") for name in ("faces", "unsure", "images", "mean score"))
    table = Table("label", *numbers)
    for name in class_names:
        count = summary.faces[name]
        mean = f"{summary.score_sums[name] / count:.3f}" if count else "-"
        table.add_row(Text(name), str(count), str(summary.unsure[name]), str(summary.images_by_label[name]), mean)
    screen.print(table)
