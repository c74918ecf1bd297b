"""Prints the results of a run: one row per face for a few images, one row per class for many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.display import display_name
from pipeline.inference.results import ImageResult

MAX_FACE_TABLES = 5  # images; for more, one table of the classes is printed


@dataclass
class DetectSummary:
    """Counts of a run.

    Attributes:
        images: number of images read.
        without_faces: number of images without a face.
        failed: number of files that could not be read or drawn.
        faces: number of faces by label.
        unsure: number of unsure faces by label.
        images_by_label: number of images by label.
        score_sums: sum of the faces' scores by label.
        first_results: results of the first MAX_FACE_TABLES images only.
        last_picture: the annotated picture written last.
        pictures: number of annotated pictures written.
    """

    images: int = 0
    without_faces: int = 0
    failed: int = 0
    faces: Counter[str] = field(default_factory=Counter)
    unsure: Counter[str] = field(default_factory=Counter)
    images_by_label: Counter[str] = field(default_factory=Counter)
    score_sums: dict[str, float] = field(default_factory=dict)
    first_results: list[ImageResult] = field(default_factory=list)
    last_picture: Path | None = None
    pictures: int = 0

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
        line = (
            f"images: {summary.images}, faces: {summary.faces.total()}, images without a face: {summary.without_faces}"
        )
        screen.print(line, markup=False, highlight=False)
    if summary.failed:
        screen.print(f"failed: {summary.failed} (named above and in the JSON)", markup=False, highlight=False)


def _show_image(screen: Console, result: ImageResult) -> None:
    title = Text(f"{display_name(result.image.path)}  {result.width} x {result.height}", style="bold")
    if not result.faces:
        screen.print(title + Text(": no face found", style="not bold"))
        return
    table = Table("#", "label", title=title, title_justify="left")
    for name in ("score", "face score", "x1", "y1", "x2", "y2"):
        table.add_column(name, justify="right")
    for number, face in enumerate(result.faces, start=1):
        scores = (f"{face['score']:.3f}", f"{face['face_score']:.3f}")
        label = Text(face["label"] + ("?" if face["unsure"] else ""))
        table.add_row(str(number), label, *scores, *(f"{v:.1f}" for v in face["box"]))
    screen.print(table)


def _show_classes(screen: Console, summary: DetectSummary, class_names: Sequence[str]) -> None:
    table = Table("label")
    for name in ("faces", "unsure", "images", "mean score"):
        table.add_column(name, justify="right")
    for name in class_names:
        count = summary.faces[name]
        mean = f"{summary.score_sums[name] / count:.3f}" if count else "-"
        table.add_row(Text(name), str(count), str(summary.unsure[name]), str(summary.images_by_label[name]), mean)
    screen.print(table)
