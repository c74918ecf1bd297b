"""An evaluation as tables (console and Markdown) and as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from common.annotations import AnnotatedImage, Annotations, count_line
from common.cli import console
from common.display import counted
from pipeline.evaluate.bootstrap import ONE_LABEL
from pipeline.evaluate.evaluation import DetectionEvaluation
from pipeline.evaluate.metrics import NEAR_SIZES, SIZES, APMetrics, CategoryScores
from pipeline.evaluate.reliability import MIN_SCORE
from pipeline.evaluate.slices import DETAIL_SIDE, slice_bounds
from pipeline.evaluate.tide_errors import ERROR_KINDS, REPORT_KEYS, STAGE

BACKGROUND = "background"
KIND_NAMES = {  # by the values of REPORT_KEYS
    "missed": "face missed",
    "loose": "box too loose",
    "wrong_class": "wrong class",
    "false_alarm": "false alarm",
    "duplicate": "duplicate",
}
# The key in evaluation.json of each field that has another name there.
JSON_KEYS = {"gt_count": "truths", "oracle_fixed": "mended", **REPORT_KEYS}
AP_COLUMNS = ("faces", "AP50-95", "AP50", "AP75", "AP50, one label", "recall50, one label")
AP_NOTE = "AP scores every class of a face, and of faces classes aside; one label: its best label alone counts."
HEADLINE_NOTE = (
    "mAP: mean over the classes that have annotated faces. It and AP50 score every class of a face, as COCO's "
    "protocol does with one-stage detectors, so they compare with such detectors' published figures; "
    '"one label" counts each face with its best label alone, as it is reported. '
)


@dataclass(frozen=True)
class Table:
    """A titled table of finished text; every row is as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """Return the table as a Markdown section."""
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        return f"## {self.title}\n\n{table}\n" + (f"\n{self.note}\n" if self.note else "")

    def rich(self) -> RichTable:
        """Return the table for the console."""
        # As Text: names of files and classes are no markup.
        title, note = Text(self.title), Text(self.note) if self.note else None
        table = RichTable(title=title, caption=note, title_justify="left", caption_justify="left")
        for k, name in enumerate(map(Text, self.header)):
            table.add_column(name, justify="right" if k else "left", overflow="fold")  # wrapped, never cut off
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def tables(evaluations: Sequence[DetectionEvaluation]) -> list[Table]:
    """Return the headline with one column per detector, then each detector's details."""
    details = []
    for e in evaluations:
        details += [_by_class(e), _by_size(e), _confusion(e), _errors(e), _slices(e), _reliability(e)]
        details += [_unsure(e)] if e.unsure else []
    return [_headline(evaluations), *details]


def data_notes(dataset: Annotations, images: Sequence[AnnotatedImage]) -> list[str]:
    """Return the notes of a report on the data: what was refused, and how incomplete photos were scored.

    Args:
        dataset: the dataset as read.
        images: those of its images that are scored.
    """
    notes = [f"{counted(len(dataset.problems), 'problem')} in the data, the first: {p}" for p in dataset.problems[:1]]
    notes += [line] if (line := count_line(dataset)) else []
    if incomplete := sum(not image.complete for image in images):
        fate = "detections there that overlap no annotated face are not counted"
        notes.append(f"{counted(incomplete, 'scored photo')} may show a face without a box: {fate}")
    return notes


def markdown(title: str, notes: Sequence[str], shown: Sequence[Table]) -> str:
    """Return a whole report; it starts with the notes (what was scored and how)."""
    parts = [f"# {title}\n", "\n".join(f"- {note}" for note in notes) + "\n"]
    return "\n".join([*parts, *(table.markdown() for table in shown)])


def show(shown: Sequence[Table], notes: Sequence[str]) -> None:
    """Print tables and notes."""
    screen = console()
    for table in shown:
        screen.print(table.rich())
    for note in notes:
        screen.print(f"- {note}", markup=False, highlight=False)


def to_json(evaluation: DetectionEvaluation) -> dict[str, Any]:
    """Return the evaluation in full precision, as plain JSON values; a missing value is null.

    The keys are the fields of DetectionEvaluation, by the names of JSON_KEYS. "slice_cuts" holds the bounds of the
    slices by light and by blur.
    """
    record: dict[str, Any] = _with_json_keys(asdict(evaluation))
    record["confusion"] = {
        "labels": [*evaluation.class_names, BACKGROUND],
        "rows_true_columns_predicted": record["confusion"],
    }
    return record | {"slice_cuts": slice_bounds()}


def _with_json_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {JSON_KEYS.get(key, key): _with_json_keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_json_keys(item) for item in value]
    return value


def _headline(evaluations: Sequence[DetectionEvaluation]) -> Table:
    first = evaluations[0]

    def row(name: str, values: Iterable[float | None], interval: str = "") -> tuple[str, ...]:
        return (name, *(_with_interval(v, e, interval) for v, e in zip(values, evaluations, strict=True)))

    each, one = [e.each_class.mean.overall for e in evaluations], [e.scores.mean.overall for e in evaluations]
    faces = [e.scores.faces.overall for e in evaluations]
    rows = [row("mAP50", (m.ap50 for m in each), "mAP50"), row("mAP50-95", (m.ap for m in each), "mAP50-95")]
    for k, name in enumerate(first.class_names):
        rows.append(row(f"AP50 {name}", [e.each_class.classes[k].overall.ap50 for e in evaluations], f"AP50/{name}"))
    rows += [
        row("mAP50, one label", (m.ap50 for m in one), f"mAP50{ONE_LABEL}"),
        row("face AP50", (m.ap50 for m in faces), "face_AP50"),
        row("face AP50-95", (m.ap for m in faces)),
        row("face recall50", (m.recall50 for m in faces)),
    ]
    if first.settings.iou != 0.5:
        ap = f"AP@{first.settings.iou:g}"
        rows += [
            row(f"m{ap}", (m.ap_at_iou for m in each), f"m{ap}"),
            row(f"m{ap}, one label", (m.ap_at_iou for m in one), f"m{ap}{ONE_LABEL}"),
            row(f"face {ap}", (m.ap_at_iou for m in faces), f"face_{ap}"),
        ]
    rows += [
        row(f"calibration error, score >= {MIN_SCORE:g}", (e.reliability["found"].ece for e in evaluations)),
        row("calibration error, reported", (e.reliability["reported"].ece for e in evaluations)),
        ("ms/photo", *("-" if e.seconds is None else f"{e.seconds * 1000:.0f}" for e in evaluations)),
    ]
    note = HEADLINE_NOTE
    if first.intervals:
        note += f"In brackets: 95% bootstrap intervals over images, {first.settings.rounds} resamples."
    return Table("Headline", ("", *(e.name for e in evaluations)), tuple(rows), note.strip())


def _by_class(e: DetectionEvaluation) -> Table:
    rows = tuple((c.name, *_cells(e, c.overall, one.overall, f"AP50/{c.name}")) for c, one in _categories(e))
    return Table(f"{e.name}: by class", ("class", *AP_COLUMNS), rows, AP_NOTE)


def _by_size(e: DetectionEvaluation) -> Table:
    rows = tuple(
        (each.name, size, *_cells(e, each.by_size[size], one.by_size[size]))
        for each, one in _categories(e)
        for size in each.by_size
    )
    note = f"Size is the square root of the box's area. {_near_note(e)}{AP_NOTE}"
    return Table(f"{e.name}: by face size", ("class", "size (px)", *AP_COLUMNS), rows, note)


def _confusion(e: DetectionEvaluation) -> Table:
    names = (*e.class_names, BACKGROUND)
    rows = [(f"true {name}", *(str(v) for v in row)) for name, row in zip(names, e.confusion, strict=True)]
    return Table(f"{e.name}: confusion matrix", ("", *names), tuple(rows), _at_threshold(e))


def _errors(e: DetectionEvaluation) -> Table:
    counts, ap = e.errors, e.scores.mean.overall.ap_at_iou
    rows = []
    for kind in ERROR_KINDS:
        key = REPORT_KEYS[kind]
        sizes = [str(row[kind]) if kind in row else "-" for row in counts.by_size.values()]
        fixed_ap = e.oracle_fixed[kind]
        gain = "-" if fixed_ap is None or ap is None else f"{fixed_ap:.3f} ({fixed_ap - ap:+.3f})"
        rows.append((KIND_NAMES[key], str(STAGE[key]), str(counts.kinds[kind]), *sizes, gain))
    fixed_column = f"mAP@{e.settings.iou:g}, one label, if fixed"
    header = ("error", "stage", "count", *(f"{size} px" for size in SIZES), fixed_column)
    note = (
        f"Of {counts.gt_count} faces and {counts.detections} detections with score {e.threshold:.3g} or more, "
        f"{counts.correct} are right. The last column is over detections of any score, fixing one kind at a time."
    )
    return Table(f"{e.name}: errors by stage", header, tuple(rows), note)


def _slices(e: DetectionEvaluation) -> Table:
    rows = [
        (s.by, s.name, str(s.gt_count), str(s.found), number(s.recall), number(s.right_share), number(s.ap50))
        for s in e.slices
    ]
    bounds = slice_bounds()
    (dark, bright), (blurred, sharp) = bounds["luma"], bounds["detail"]
    note = (
        f"{_at_threshold(e)} Found: with a box on it, whatever its label. AP50: of a size classes aside, of a class "
        f"with every class scored; a false alarm has no light or blur of its own. {_near_note(e)}"
    )
    if any(s.by == "light" for s in e.slices):
        note += (
            f"Light: mean luma of the face box, dark under {dark:g}, bright from {bright:g} on, of 255. Blur: variance "
            f"of the Laplacian of the face at {DETAIL_SIDE} px a side, blurred under {blurred:g}, sharp from {sharp:g} "
            "on; smaller faces are too small to tell."
        )
    header = ("by", "slice", "faces", "found", "recall", "right label of found", "AP50")
    return Table(f"{e.name}: where it is weak", header, tuple(rows), note.strip())


def _reliability(e: DetectionEvaluation) -> Table:
    parts = [{(b.low, b.high): b for b in r.bins} for r in e.reliability.values()]
    rows = []
    for low, high in sorted({edges for bins in parts for edges in bins}):
        found = [bins.get((low, high)) for bins in parts]
        cells = [(str(b.count), f"{b.score:.3f}", f"{b.right:.3f}") if b else ("-",) * 3 for b in found]
        rows.append((f"{low:.1f}-{high:.1f}", *itertools.chain(*cells)))
    rows.append(("all", *(v for r in e.reliability.values() for v in (str(r.count), "-", f"ECE {number(r.ece)}"))))
    header = ("score", *(cell for name in e.reliability for cell in (name, "mean score", "right")))
    floors = "; ".join(f"{name}: score {r.floor:.3g} or more" for name, r in e.reliability.items())
    note = (
        f"{floors}. Right: share on a face of its class that no better one has. ECE: the expected calibration error, "
        "the mean distance of score and share right over the detections."
    )
    return Table(f"{e.name}: reliability of the scores", header, tuple(rows), note)


def _unsure(e: DetectionEvaluation) -> Table:
    rows = [
        (
            f"{point.margin:.3g}" + (" (the bundle's)" if point.own else ""),
            f"{point.unsure} ({number(point.unsure_share)})",
            f"{point.wrong} ({number(point.wrong_share)})",
        )
        for point in e.unsure
    ]
    header = ("margin", "unsure (share of found)", "wrong labels (share of sure)")
    note = (
        f"{_at_threshold(e)} Of {e.unsure[0].found} faces found; unsure are those whose two best class probabilities "
        "are closer than the margin."
    )
    return Table(f"{e.name}: what calling faces unsure brings", header, tuple(rows), note)


def _at_threshold(e: DetectionEvaluation) -> str:
    return f"At IoU {e.settings.iou:g} and score {e.threshold:.3g} ({e.threshold_from})."


def _near_note(e: DetectionEvaluation) -> str:
    near = NEAR_SIZES.keys() & e.scores.faces.by_size.keys()
    return f"Faces {', '.join(near)} px are among those >48 px. " if near else ""


def _categories(e: DetectionEvaluation) -> list[tuple[CategoryScores, CategoryScores]]:
    """Return each category with every class scored, and the same category with one label per face."""
    each = (*e.each_class.classes, e.each_class.mean, e.each_class.faces)
    return list(zip(each, (*e.scores.classes, e.scores.mean, e.scores.faces), strict=True))


def _cells(e: DetectionEvaluation, each: APMetrics, one: APMetrics, key: str = "") -> tuple[str, ...]:
    """Return the cells under AP_COLUMNS; `key` names the interval of AP50."""
    ap50, one_ap50 = _with_interval(each.ap50, e, key), _with_interval(one.ap50, e, key + ONE_LABEL)
    return str(each.gt_count), number(each.ap), ap50, number(each.ap75), one_ap50, number(one.recall50)


def _with_interval(value: float | None, e: DetectionEvaluation, key: str) -> str:
    interval = e.intervals.get(key)
    return number(value) + (f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else "")


def number(value: float | None) -> str:
    """Return a score with three digits; "-" where it is missing."""
    return "-" if value is None else f"{value:.3f}"
