"""The one table: each figure of the targets, next to the peers' figures, with the command that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.evaluate.figures.results import ColumnResults, Figure, Record, as_figure, fold_figure, summary_figure

PIPELINE, CASCADE = "whole pipeline", "fine-tuned"  # detectors of the cross-validation
COLUMNS = ("kaggle", "default")
MAIN, OTHER = "face-mask-detection", "other-photos"
FALSE_ALARMS = "false alarms per face-free photo"  # in the cross-validation: of each fold's own unseen photos

CROSSVAL_ONE = "`python -m pipeline.crossval --data $DATA`"
CROSSVAL_SEVERAL = "`python -m pipeline.crossval --data $DATA MORE... --sources sources.yaml`"
CROSSVAL = f"{CROSSVAL_ONE}, for `default` with `MORE...` and `--sources sources.yaml`"
LEAVE_OUT = "`python -m pipeline.crossval --leave-out-source NAME`, `--match-iou` and `--merge` as in docs/sources.md"
EVALUATE = (
    "`python -m pipeline.evaluate --data OTHER --split all --iou 0.35 --merge mask_weared_incorrect=without_mask`"
)
FACE_FREE = "`python -m pipeline.crossval`, each fold on photos without faces that it did not learn from; or "
FACE_FREE += "`python -m pipeline.evaluate --face-free DIR` where the bundle did not learn from them"
UNSEEN_ONE = (
    "`python -m pipeline.evaluate --bundle kaggle --data ilc tv-news near-faces --split all`, `--match-iou` and "
)
UNSEEN_ONE += "`--merge` as in docs/sources.md"
UNSEEN = f"{LEAVE_OUT}; for `kaggle`, {UNSEEN_ONE}"
ELSEWHERE = f"{EVALUATE}, and {LEAVE_OUT}"
BENCH = "CPU time of `Predictor.detect` on 60 of the Kaggle photos, the bundles in turn"
TRAIN = "`python -m pipeline.train_all` on two CPU cores"
# Where a table has one bundle, its own command.
OF_BUNDLE = {
    "kaggle": {CROSSVAL: CROSSVAL_ONE, UNSEEN: UNSEEN_ONE, ELSEWHERE: f"{EVALUATE}, and {UNSEEN_ONE}"},
    "default": {CROSSVAL: CROSSVAL_SEVERAL, UNSEEN: LEAVE_OUT},
}
Get = Callable[[ColumnResults], Figure | None]


@dataclass(frozen=True)
class FigureRow:
    """One row of the table."""

    key: str  # in reference.yaml and measured.json
    title: str
    get: Get
    command: str
    digits: int = 3
    less_is_better: bool = False


def _fold(metric: str, detector: str = PIPELINE) -> Get:
    return lambda results: fold_figure(results, metric, detector)


def _unseen(source: str) -> Get:
    return lambda results: summary_figure(_unseen_records(results).get(source), "mAP")


def _unseen_records(results: ColumnResults) -> dict[str, Record]:
    """Return the results by source, of sources that were not learned from: left out, or of other makers than MAIN."""
    others = {n: r for n, r in results.sources.items() if n != MAIN and r.get("learned_from") != "yes"}
    return {**others, **results.left_out}


def _pooled_rare(results: ColumnResults) -> Figure | None:
    return as_figure(results.crossval.get("pooled", {}).get("AP50/mask_weared_incorrect"))


def _other_photos(results: ColumnResults) -> Figure | None:
    found = summary_figure(results.sources.get(OTHER), "mAP")
    return found or fold_figure(results, "mAP at IoU 0.35 on external photos", PIPELINE)


def _false_alarms(results: ColumnResults) -> Figure | None:
    """Return false alarms per photo; those of a bundle on photos that it learned from would flatter."""
    if (found := fold_figure(results, FALSE_ALARMS, PIPELINE)) is not None:
        return found
    unseen = [r["per_photo"] for r in results.face_free.values() if r.get("learned_from") != "yes"]
    return as_figure(unseen[0]) if len(unseen) == 1 else None


def _worst_calibration(results: ColumnResults) -> Figure | None:
    """Return the largest calibration error among the sources that were not learned from: a mean could hide one."""
    records = [record for name, record in _unseen_records(results).items() if name != MAIN]
    errors = [error for r in records if (error := summary_figure(r, "calibration_error")) is not None]
    return max(errors, key=lambda error: error.value, default=None)


def _measured(key: str) -> Get:
    return lambda results: as_figure(results.measured.get(key))


ROWS = (
    FigureRow("map50", "Kaggle photos, 5 folds: mAP50", _fold("mAP50"), CROSSVAL),
    FigureRow("map50_95", "Kaggle photos, 5 folds: mAP50-95", _fold("mAP50-95"), CROSSVAL),
    FigureRow("ap50_incorrect", "AP50 `mask_weared_incorrect`, all folds' photos together", _pooled_rare, CROSSVAL),
    FigureRow("face_ap50", "face AP50, 5 folds", _fold("face AP50", CASCADE), CROSSVAL),
    FigureRow("face_recall", "face recall at IoU 0.5, 5 folds", _fold("face recall at IoU 0.5", CASCADE), CROSSVAL),
    FigureRow("face_ap75", "face AP75, 5 folds", _fold("face AP75", CASCADE), CROSSVAL),
    FigureRow("crop_accuracy", "crops, 5 folds: accuracy", _fold("crop accuracy"), CROSSVAL),
    FigureRow("crop_macro_f1", "crops, 5 folds: macro-F1", _fold("crop macro-F1"), CROSSVAL),
    FigureRow("other_photos", "`other-photos`: two-class mAP at IoU 0.35", _other_photos, EVALUATE),
    FigureRow("left_out_ilc", "`ilc`, not learned from: three-class mAP at IoU 0.35", _unseen("ilc"), UNSEEN),
    FigureRow("left_out_tv_news", "`tv-news`, not learned from: two-class mAP at IoU 0.5", _unseen("tv-news"), UNSEEN),
    FigureRow(
        "left_out_near_faces",
        "`near-faces`, not learned from: two-class mAP at IoU 0.35",
        _unseen("near-faces"),
        UNSEEN,
    ),
    FigureRow("left_out_kaggle", "Kaggle photos, not learned from: mAP50", _unseen(MAIN), UNSEEN),
    FigureRow("false_alarms", "false alarms per photo without faces", _false_alarms, FACE_FREE, less_is_better=True),
    FigureRow(
        "calibration",
        "calibration error of `score`, Kaggle photos, 5 folds",
        _fold("expected calibration error"),
        CROSSVAL,
        less_is_better=True,
    ),
    FigureRow(
        "calibration_elsewhere",
        "calibration error of `score`, the worst source that was not learned from",
        _worst_calibration,
        ELSEWHERE,
        less_is_better=True,
    ),
    FigureRow("time", "CPU time per photo; the bundle of 2026-11-26: 1", _measured("time"), BENCH, 2, True),
    FigureRow("training_hours", "hours of training on two CPU cores", _measured("training_hours"), TRAIN, 2, True),
)


def figures_table(columns: Mapping[str, ColumnResults], reference: Record) -> str:
    """Return the table as Markdown: peers, the bundle before, each of COLUMNS, targets, and the commands' numbers.

    A figure that misses its target is marked by "below", or "above" where less is better. A missing result is an
    empty cell.

    Args:
        columns: results by the names of COLUMNS.
        reference: the content of reference.yaml.
    """
    commands = list(dict.fromkeys(row.command for row in ROWS))
    header = ("figure", "published", "measured", "before", *(f"`{name}`" for name in COLUMNS), "target", "made by")
    lines = [header, ("---",) * len(header)]
    before, targets = reference["before"]["figures"], reference["targets"]
    for row in ROWS:
        own = [_own_cell(row, row.get(columns[name]), targets[name].get(row.key)) for name in COLUMNS]
        wanted = [targets[name].get(row.key) for name in COLUMNS]
        target = " / ".join("-" if value is None else f"{value:g}" for value in wanted)
        earlier = as_figure(before.get(row.key))
        lines.append(
            (
                row.title,
                *(_peer_cell(row, kind, reference["peers"]) for kind in ("published", "measured")),
                "" if earlier is None else earlier.text(row.digits),
                *own,
                "" if wanted == [None, None] else target,
                str(commands.index(row.command) + 1),
            )
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    made_by = "\n".join(f"{number}. {command}" for number, command in enumerate(commands, start=1))
    return f"{table}\n\nMade by:\n\n{made_by}\n"


def peer_notes(reference: Record) -> list[str]:
    """Return where the figures of the other detectors, and of the bundle before, are from."""
    notes = [f"{peer['name']} ({peer['kind']}): {peer['source']}." for peer in reference["peers"]]
    return [*notes, f"Before: {reference['before']['source']}."]


def _own_cell(row: FigureRow, figure: Figure | None, target: float | None) -> str:
    if figure is None:
        return ""
    text = figure.text(row.digits)
    missed = target is not None and (figure.value > target if row.less_is_better else figure.value < target)
    return f"{text} ({'above' if row.less_is_better else 'below'})" if missed else text


def _peer_cell(row: FigureRow, kind: str, peers: Sequence[Record]) -> str:
    found = [(p["name"], p["figures"][row.key]) for p in peers if p["kind"] == kind and row.key in p["figures"]]
    return "; ".join(f"{name} {value:.{row.digits}f}" for name, value in found)
