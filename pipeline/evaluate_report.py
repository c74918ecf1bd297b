"""An evaluation as tables (console and Markdown) and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table as RichTable

from pipeline.errors_by_stage import KINDS, STAGE
from pipeline.evaluation import Evaluation
from pipeline.metrics import SIZES, CategoryScores, Figures

BACKGROUND = "background"
KIND_NAMES = {
    "missed": "face missed",
    "loose": "box too loose",
    "wrong_class": "wrong class",
    "false_alarm": "false alarm",
    "duplicate": "duplicate",
}


@dataclass(frozen=True)
class Table:
    """A titled table of finished text; every row is as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """As a Markdown section."""
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        return f"## {self.title}\n\n{table}\n" + (f"\n{self.note}\n" if self.note else "")

    def rich(self) -> RichTable:
        """As a table for the console."""
        table = RichTable(title=self.title, caption=self.note or None, title_justify="left", caption_justify="left")
        for k, name in enumerate(self.header):
            table.add_column(name, justify="right" if k else "left", overflow="fold")  # wrapped, never cut off
        for row in self.rows:
            table.add_row(*row)
        return table


def tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """The headline with a row for each detector, then each detector's details."""
    details = []
    for e in evaluations:
        details += [_by_class(e), _by_size(e), _confusion(e), _errors(e)]
    return [_headline(evaluations), *details]


def markdown(evaluations: Sequence[Evaluation], facts: Sequence[str]) -> str:
    """The whole report; `facts` (what was scored and how) open it."""
    parts = ["# Evaluation\n", "\n".join(f"- {fact}" for fact in facts) + "\n"]
    return "\n".join([*parts, *(table.markdown() for table in tables(evaluations))])


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything in full precision, as plain JSON values; what has no value is null."""
    record = asdict(evaluation)
    record["confusion"] = {
        "labels": [*evaluation.class_names, BACKGROUND],
        "rows_true_columns_predicted": record["confusion"],
    }
    return record


def _headline(evaluations: Sequence[Evaluation]) -> Table:
    first = evaluations[0]
    iou = first.settings.iou
    own = iou != 0.5
    header = ["detector", "mAP50-95", "mAP50", "mAP75", "face AP50", "face AP50-95", "face recall50"]
    header += [f"mAP@{iou:g}", f"face AP@{iou:g}"] if own else []
    rows = []
    for e in evaluations:
        mean, faces = e.scores.mean.overall, e.scores.faces.overall
        row = [
            e.name,
            _between(mean.ap, e, "mAP50-95"),
            _between(mean.ap50, e, "mAP50"),
            _number(mean.ap75),
            _between(faces.ap50, e, "face_AP50"),
            _number(faces.ap),
            _number(faces.recall50),
        ]
        if own:
            row.append(_between(mean.ap_at_iou, e, f"mAP@{iou:g}"))
            row.append(_between(faces.ap_at_iou, e, f"face_AP@{iou:g}"))
        rows.append((*row, "-" if e.seconds is None else f"{e.seconds * 1000:.0f}"))
    note = "mAP: mean over the classes that have truths. "
    if first.intervals:
        note += f"In brackets: 95% bootstrap intervals over images, {first.settings.rounds} resamples."
    return Table("Headline", (*header, "ms/photo"), tuple(rows), note.strip())


def _by_class(e: Evaluation) -> Table:
    rows = [(c.name, *_cells(c.overall, _between(c.overall.ap50, e, f"AP50/{c.name}"))) for c in _categories(e)]
    return Table(f"{e.name}: by class", ("class", "faces", "AP50-95", "AP50", "AP75", "recall50"), tuple(rows))


def _by_size(e: Evaluation) -> Table:
    rows = [
        (c.name, size, *_cells(c.by_size[size], _number(c.by_size[size].ap50)))
        for c in _categories(e)
        for size in SIZES
    ]
    header = ("class", "size (px)", "faces", "AP50-95", "AP50", "AP75", "recall50")
    return Table(f"{e.name}: by face size", header, tuple(rows), "Size is the square root of the box's area.")


def _confusion(e: Evaluation) -> Table:
    names = (*e.class_names, BACKGROUND)
    rows = [(f"true {name}", *(str(v) for v in row)) for name, row in zip(names, e.confusion, strict=True)]
    note = f"At IoU {e.settings.iou:g} and score {e.threshold:.3g} ({e.threshold_from})."
    return Table(f"{e.name}: confusion matrix", ("", *names), tuple(rows), note)


def _errors(e: Evaluation) -> Table:
    counts, now = e.errors, e.scores.mean.overall.ap_at_iou
    rows = []
    for kind in KINDS:
        sizes = [str(row[kind]) if kind in row else "-" for row in counts.by_size.values()]
        then = e.mended[kind]
        gain = "-" if then is None or now is None else f"{then:.3f} ({then - now:+.3f})"
        rows.append((KIND_NAMES[kind], str(STAGE[kind]), str(counts.kinds[kind]), *sizes, gain))
    header = ("error", "stage", "count", *(f"{size} px" for size in SIZES), f"mAP@{e.settings.iou:g} if mended")
    note = (
        f"Of {counts.truths} faces and {counts.detections} detections with score {e.threshold:.3g} or more, "
        f"{counts.correct} are right. The last column is over detections of any score, mending one kind at a time."
    )
    return Table(f"{e.name}: errors by stage", header, tuple(rows), note)


def _categories(e: Evaluation) -> list[CategoryScores]:
    return [*e.scores.classes, e.scores.mean, e.scores.faces]


def _cells(figures: Figures, ap50: str) -> tuple[str, ...]:
    return str(figures.truths), _number(figures.ap), ap50, _number(figures.ap75), _number(figures.recall50)


def _between(value: float | None, e: Evaluation, key: str) -> str:
    interval = e.intervals.get(key)
    return _number(value) + (f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
