"""An evaluation as tables (console and Markdown) and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table as RichTable

from pipeline.evaluate.bootstrap import ONE_LABEL
from pipeline.evaluate.evaluation import DetectionEvaluation
from pipeline.evaluate.metrics import SIZES, APMetrics, CategoryScores
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
    "mAP: mean over the classes that have truths. It and AP50 score every class of a face, as COCO's protocol does "
    'with one-stage detectors, so they compare with such detectors\' published figures; "one label" counts each '
    "face with its best label alone, as it is reported. "
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
        table = RichTable(title=self.title, caption=self.note or None, title_justify="left", caption_justify="left")
        for k, name in enumerate(self.header):
            table.add_column(name, justify="right" if k else "left", overflow="fold")  # wrapped, never cut off
        for row in self.rows:
            table.add_row(*row)
        return table


def tables(evaluations: Sequence[DetectionEvaluation]) -> list[Table]:
    """Return the headline with one column per detector, then each detector's details."""
    details = []
    for e in evaluations:
        details += [_by_class(e), _by_size(e), _confusion(e), _errors(e), _slices(e), _reliability(e)]
        details += [_unsure(e)] if e.unsure else []
    return [_headline(evaluations), *details]


def markdown(evaluations: Sequence[DetectionEvaluation], notes: Sequence[str]) -> str:
    """Return the whole report; it starts with the notes (what was scored and how)."""
    parts = ["# Evaluation\n", "\n".join(f"- {note}" for note in notes) + "\n"]
    return "\n".join([*parts, *(table.markdown() for table in tables(evaluations))])


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
    rows = [
        ("mAP50", [_with_interval(e.each_class.mean.overall.ap50, e, "mAP50") for e in evaluations]),
        ("mAP50-95", [_with_interval(e.each_class.mean.overall.ap, e, "mAP50-95") for e in evaluations]),
    ]
    for k, name in enumerate(first.class_names):
        cells = [_with_interval(e.each_class.classes[k].overall.ap50, e, f"AP50/{name}") for e in evaluations]
        rows.append((f"AP50 {name}", cells))
    rows += [
        ("mAP50, one label", [_with_interval(e.scores.mean.overall.ap50, e, f"mAP50{ONE_LABEL}") for e in evaluations]),
        ("face AP50", [_with_interval(e.scores.faces.overall.ap50, e, "face_AP50") for e in evaluations]),
        ("face AP50-95", [_number(e.scores.faces.overall.ap) for e in evaluations]),
        ("face recall50", [_number(e.scores.faces.overall.recall50) for e in evaluations]),
    ]
    if first.settings.iou != 0.5:
        rows += _rows_at_iou(evaluations, f"AP@{first.settings.iou:g}")
    rows += [
        (f"calibration error, score >= {MIN_SCORE:g}", [_number(e.reliability["found"].ece) for e in evaluations]),
        ("calibration error, reported", [_number(e.reliability["reported"].ece) for e in evaluations]),
        ("ms/photo", ["-" if e.seconds is None else f"{e.seconds * 1000:.0f}" for e in evaluations]),
    ]
    note = HEADLINE_NOTE
    if first.intervals:
        note += f"In brackets: 95% bootstrap intervals over images, {first.settings.rounds} resamples."
    header = ("", *(e.name for e in evaluations))
    return Table("Headline", header, tuple((name, *cells) for name, cells in rows), note.strip())


def _rows_at_iou(evaluations: Sequence[DetectionEvaluation], ap: str) -> list[tuple[str, list[str]]]:
    """Return the headline's rows at the IoU of the run; `ap` is the name of average precision there."""
    mean, face = f"m{ap}", f"face_{ap}"
    single = [_with_interval(e.scores.mean.overall.ap_at_iou, e, f"{mean}{ONE_LABEL}") for e in evaluations]
    return [
        (mean, [_with_interval(e.each_class.mean.overall.ap_at_iou, e, mean) for e in evaluations]),
        (f"{mean}, one label", single),
        (f"face {ap}", [_with_interval(e.scores.faces.overall.ap_at_iou, e, face) for e in evaluations]),
    ]


def _by_class(e: DetectionEvaluation) -> Table:
    rows = []
    for each, one in _categories(e):
        key = f"AP50/{each.name}"
        single = _with_interval(one.overall.ap50, e, key + ONE_LABEL)
        rows.append((each.name, *_cells(each.overall, one.overall, _with_interval(each.overall.ap50, e, key), single)))
    return Table(f"{e.name}: by class", ("class", *AP_COLUMNS), tuple(rows), AP_NOTE)


def _by_size(e: DetectionEvaluation) -> Table:
    rows = []
    for each, one in _categories(e):
        for size in SIZES:
            every, single = each.by_size[size], one.by_size[size]
            rows.append((each.name, size, *_cells(every, single, _number(every.ap50), _number(single.ap50))))
    note = f"Size is the square root of the box's area. {AP_NOTE}"
    return Table(f"{e.name}: by face size", ("class", "size (px)", *AP_COLUMNS), tuple(rows), note)


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
    fixed_column = f"mAP@{e.settings.iou:g}, one label, if mended"
    header = ("error", "stage", "count", *(f"{size} px" for size in SIZES), fixed_column)
    note = (
        f"Of {counts.gt_count} faces and {counts.detections} detections with score {e.threshold:.3g} or more, "
        f"{counts.correct} are right. The last column is over detections of any score, mending one kind at a time."
    )
    return Table(f"{e.name}: errors by stage", header, tuple(rows), note)


def _slices(e: DetectionEvaluation) -> Table:
    rows = [
        (s.by, s.name, str(s.gt_count), str(s.found), _number(s.recall), _number(s.right_share), _number(s.ap50))
        for s in e.slices
    ]
    bounds = slice_bounds()
    (dark, bright), (blurred, sharp) = bounds["luma"], bounds["detail"]
    note = (
        f"{_at_threshold(e)} Found: with a box on it, whatever its label. AP50: of a size classes aside, of a class "
        "with every class scored; a false alarm has no light or blur of its own. "
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
    parts = {name: {b.low: b for b in r.bins} for name, r in e.reliability.items()}
    lows = sorted({low for bins in parts.values() for low in bins})
    rows = []
    for low in lows:
        cells = []
        for bins in parts.values():
            b = bins.get(low)
            cells += ["-"] * 3 if b is None else [str(b.count), f"{b.score:.3f}", f"{b.right:.3f}"]
        high = next(bins[low].high for bins in parts.values() if low in bins)
        rows.append((f"{low:.1f}-{high:.1f}", *cells))
    total = [cell for r in e.reliability.values() for cell in (str(r.count), "-", f"ECE {_number(r.ece)}")]
    rows.append(("all", *total))
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
            f"{point.unsure} ({_number(point.unsure_share)})",
            f"{point.wrong} ({_number(point.wrong_share)})",
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


def _categories(e: DetectionEvaluation) -> list[tuple[CategoryScores, CategoryScores]]:
    """Return each category with every class scored, and the same category with one label per face."""
    each = (*e.each_class.classes, e.each_class.mean, e.each_class.faces)
    return list(zip(each, (*e.scores.classes, e.scores.mean, e.scores.faces), strict=True))


def _cells(each: APMetrics, one: APMetrics, ap50: str, one_ap50: str) -> tuple[str, ...]:
    """Return the cells under AP_COLUMNS."""
    return str(each.gt_count), _number(each.ap), ap50, _number(each.ap75), one_ap50, _number(one.recall50)


def _with_interval(value: float | None, e: DetectionEvaluation, key: str) -> str:
    interval = e.intervals.get(key)
    return _number(value) + (f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
