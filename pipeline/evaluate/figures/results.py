"""Reads the results that commands wrote: cross-validation, evaluation, leave one source out, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from common.cli import requires_extra
from common.errors import UserError

Record = Mapping[str, Any]
CROSSVAL, EVALUATION, LEFT_OUT, MEASURED = "crossval.json", "evaluation.json", "left_out_", "measured.json"
OURS = "ours"  # the bundle's name among the detectors of an evaluation


@dataclass(frozen=True)
class Figure:
    """One figure, with its spread over folds or its 95% interval, if it has one."""

    value: float
    spread: float | None = None  # standard deviation over folds
    low: float | None = None
    high: float | None = None

    def text(self, digits: int = 3) -> str:
        """Return the figure as a table's cell."""
        shown = f"{self.value:.{digits}f}"
        if self.spread is not None:
            shown += f" ± {self.spread:.{digits}f}"
        if self.low is not None and self.high is not None and self.low < self.high:
            shown += f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return shown


@dataclass(frozen=True)
class ColumnResults:
    """All results of one bundle or recipe; each part is empty where the file is missing."""

    crossval: Record = field(default_factory=dict)
    left_out: Mapping[str, Record] = field(default_factory=dict)  # {source that was not learned from: its results}
    sources: Mapping[str, Record] = field(default_factory=dict)  # {dataset: results of the bundle on it}
    face_free: Mapping[str, Record] = field(default_factory=dict)  # {folder: false alarms on it}
    measured: Mapping[str, Record] = field(default_factory=dict)  # {row: figure} of what no command writes


def read_column(folder: Path, assume_learned: bool = False) -> ColumnResults:
    """Return the results in a folder and its subfolders, by the names of the files; a missing folder has none.

    Args:
        folder: the results of one bundle.
        assume_learned: where a bundle does not record its sources, it learned from the photos without faces.

    Raises:
        UserError: a file is damaged, or two files hold the same results.
    """
    found: dict[str, Path] = {}
    evaluations: list[Path] = []
    for file in sorted(folder.rglob("*.json")):
        if file.name in (CROSSVAL, MEASURED) or file.name.startswith(LEFT_OUT):
            if file.name in found:
                raise UserError(f"{file}: has the name of {found[file.name]}; keep one of them")
            found[file.name] = file
        elif file.name == EVALUATION:
            evaluations.append(file)
    sources: dict[str, Record] = {}
    face_free: dict[str, Record] = {}
    for file in evaluations:
        for name, record in _sources_of(file):
            if name in sources:
                raise UserError(f"{file}: has results on {name}, as an earlier {EVALUATION}; keep one of them")
            sources[name] = record
        for name, record in read_json(file).get("face_free", {}).items():
            assumed = assume_learned and record.get("learned_from") != "no"
            face_free[name] = {**record, "learned_from": "yes"} if assumed else record
    left_out = {}
    for file_name, file in found.items():
        if file_name.startswith(LEFT_OUT):
            name = file_name.removeprefix(LEFT_OUT).removesuffix(".json")
            of_source = dict(_sources_of(file))
            if name not in of_source:
                raise UserError(f"{file}: has no results on {name}; rename it, or make it again")
            left_out[name] = of_source[name]
    crossval = read_json(found[CROSSVAL]) if CROSSVAL in found else {}
    measured = read_json(found[MEASURED]) if MEASURED in found else {}
    return ColumnResults(crossval, left_out, sources, face_free, measured)


def read_json(file: Path) -> Record:
    """Return a JSON object; raise UserError when the file is damaged."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove it, or make it again") from error
    if not isinstance(record, dict):
        raise UserError(f"{file}: is not a JSON object; remove it, or make it again")
    return record


def read_reference() -> Record:
    """Return reference.yaml: peers, the bundle before, targets, and the photos' origins."""
    with requires_extra("train"):
        import yaml
    text = (files("pipeline.evaluate.figures") / "reference.yaml").read_text(encoding="utf-8")
    record: Record = yaml.safe_load(text)
    return record


def as_figure(value: Any) -> Figure | None:
    """Return a figure of a number, of a list (mean, spread), or of a table with the fields of Figure."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        found = {key: float(value[key]) for key in ("value", "spread", "low", "high") if value.get(key) is not None}
        return Figure(**found) if "value" in found else None
    if isinstance(value, list | tuple):
        return Figure(float(value[0]), float(value[1]))
    return Figure(float(value))


def fold_figure(results: ColumnResults, metric: str, detector: str) -> Figure | None:
    """Return the mean and spread of a metric over the folds of the cross-validation."""
    return as_figure(results.crossval.get("mean_and_spread", {}).get(metric, {}).get(detector))


def summary_figure(record: Record | None, key: str) -> Figure | None:
    """Return a figure of an evaluation's summary of one dataset; None where it, or the evaluation, is missing.

    A dataset that the bundle learned from has no figure here: such a figure would flatter.
    """
    if record is None or record.get("learned_from") == "yes":
        return None
    return as_figure(record.get("summary", {}).get(key))


def _sources_of(file: Path) -> Iterator[tuple[str, Record]]:
    """Yield each dataset of an evaluation.json with its results, also of one that scored a single dataset."""
    record = read_json(file)
    if "sources" in record:
        yield from record["sources"].items()
    elif "detectors" in record:
        yield Path(record["data"]).name, {**record, "summary": _summary_of_one(file, record)}


def _summary_of_one(file: Path, record: Record) -> Record:
    """Return the summary of an evaluation of a single dataset, as one of several datasets has it."""
    try:
        own = next(d for d in record["detectors"] if d["name"] == OURS)
        iou, intervals = own["settings"]["iou"], own["intervals"]
        each, faces = own["each_class"]["mean"]["overall"], own["scores"]["faces"]["overall"]
        end = "50" if iou == 0.5 else f"@{iou:g}"
        points = {
            "mAP": intervals.get(f"mAP{end}", {"value": each["ap_at_iou"]}),
            "mAP50-95": intervals.get("mAP50-95", {"value": each["ap"]}),
            "face_AP": intervals.get(f"face_AP{end}", {"value": faces["ap_at_iou"]}),
            "face_recall": {"value": faces["recall_at_iou"]},
            "calibration_error": {"value": own["reliability"]["found"]["ece"]},
        }
    except StopIteration:
        return {}  # of other detectors alone
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: lacks {error}; evaluate again") from error
    return points
