"""Leaves one source out: learn from all others, and score the bundle on the source that it has not seen.

This is the honest figure for a stranger's photos: other cameras, other annotators, other faces.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.annotations.source import Source
from common.cli import requires_extra
from common.errors import UserError
from common.files import write_bytes, write_text
from common.sources import SourcesArgs
from common.sources.loading import describe_sources
from common.sources.trust_file import read_trust_file
from pipeline.data import split
from pipeline.training.plan import TrainingPlan
from pipeline.training.steps import Log, TrainingStep, run_parallel

# Figures of the table, by their keys in evaluation.json's summary of a source.
FIGURES = {"mAP": "mAP at IoU", "mAP50-95": "mAP50-95", "face_AP": "face AP at IoU", "calibration_error": "ECE"}


@dataclass(frozen=True)
class LeftOutTraining:
    """The training without one source, and how that source is scored."""

    name: str
    data: Path  # folder of the source that is left out
    plan: TrainingPlan
    report: TrainingStep
    result: Path  # evaluation.json of the source that was left out

    @property
    def steps(self) -> list[TrainingStep]:
        """Return all steps in order."""
        return [*self.plan.steps, self.report]


def left_out_training(
    args: SourcesArgs, name: str, out: Path, experiments: tuple[str, ...], seed: int, scoring: Sequence[str]
) -> LeftOutTraining:
    """Return the training without a source; write its splits.csv and its file of sources.

    A source of the same photos at another size (`twins`) is left out with the main one. If the main source is left
    out, the first of the others is the main one, and its box edges are learned as they are.

    Args:
        args: the datasets.
        name: source to leave out.
        out: folder of the training.
        experiments: stage 2's experiments.
        seed: of the split of the main source.
        scoring: further flags of pipeline.evaluate.

    Raises:
        UserError: no source has that name, or no source with faces is left.
    """
    sources = describe_sources(args.data, args.sources)
    chosen = next((source for source in sources if source.name == name), None)
    if chosen is None or chosen.face_free:
        names = ", ".join(source.name for source in sources if not source.face_free)
        raise UserError(f"--leave-out-source {name}: is no source with faces; use {names}")
    rest = [s for s in sources if s is not chosen and not (chosen is sources[0] and s.twins is not None)]
    if not rest or rest[0].face_free:
        raise UserError(f"--leave-out-source {name}: no source with faces is left to learn from; give more --data")
    out.mkdir(parents=True, exist_ok=True)
    trust = _write_trust(args.sources, [*rest, chosen], out / "sources.yaml")
    reading = replace(args, data=tuple(source.data for source in rest), sources=trust)
    splits = out / "splits.csv"
    if not splits.is_file():
        flags = {"data": reading.data, "sources": trust, "rename": args.rename, "unlabelled": args.unlabelled}
        split.run(split.SplitArgs(**flags, out=splits, seed=seed), log=lambda _: None)  # type: ignore[arg-type]
    plan = TrainingPlan(
        reading.data, splits, out / "training", experiments, reading=tuple(args.reading_flags()), sources=trust
    )
    result = out / "report" / "evaluation.json"
    command = ("pipeline.evaluate", "--data", str(chosen.data), *args.reading_flags(), "--split", "all")
    command = (*command, "--sources", str(args.sources or trust))
    flags_of_name = [flag for flag in scoring if flag.startswith("--") or _is_about(flag, name)]
    scored = (*command, "--bundle", str(plan.bundle), "--out", str(result.parent), *_without_empty(flags_of_name))
    return LeftOutTraining(name, chosen.data, plan, TrainingStep("report", scored, result), result)


def run_left_out(trainings: Sequence[LeftOutTraining], out: Path, jobs: int, log: Log) -> str:
    """Run the remaining trainings; write left_out_NAME.json of each, and left_out.md. Return the table's text.

    Args:
        trainings: one per source that is left out.
        out: folder of the results.
        jobs: trainings at a time.
        log: gets each line.
    """
    run_parallel([(training.plan.folder, training.steps) for training in trainings], jobs, log)
    rows = []
    for training in trainings:
        write_bytes(out / f"left_out_{training.name}.json", training.result.read_bytes())
        rows.append(_row(training))
    head = ["left out", "photos", "IoU", *FIGURES.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows]
    text = "\n".join(lines) + "\n"
    write_text(out / "left_out.md", text)
    return text


def _row(training: LeftOutTraining) -> str:
    """Return a source's row: figures with their 95% intervals."""
    record = json.loads(training.result.read_text(encoding="utf-8"))
    found: dict[str, Any] = record["sources"][training.name]
    cells = [training.name, str(found["photos"]), f"{found['iou']:g}"]
    for key in FIGURES:
        value = found["summary"].get(key)
        cells.append("" if value is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
    return "| " + " | ".join(cells) + " |"


def _write_trust(file: Path | None, sources: Sequence[Source], out: Path) -> Path:
    """Write the file of sources, and return it; the edges of the first, the main one, are learned as they are."""
    with requires_extra("train"):
        import yaml
    trust = {} if file is None else read_trust_file(file)
    kept: dict[str, Any] = {}
    for number, source in enumerate(sources):
        given = trust.get(source.name, {}).items()
        fields: dict[str, Any] = {key: list(v) if isinstance(v, tuple) else v for key, v in given}
        if "left_out" in fields:
            fields["left_out"] = str(Path(fields["left_out"]).resolve())
        if number == 0:
            for key in ("edges", "share"):
                fields.pop(key, None)
        kept[source.name] = fields
    write_text(out, yaml.safe_dump(kept, sort_keys=False))
    return out


def _is_about(value: str, name: str) -> bool:
    """Return whether a value NAME=IOU or NAME:A=B is about that source."""
    return value.partition("=")[0].partition(":")[0] == name


def _without_empty(flags: Sequence[str]) -> list[str]:
    """Return the flags without those that have no value left."""
    following = [*flags[1:], "--"]
    return [
        flag for flag, after in zip(flags, following, strict=True) if not (flag.startswith("--") and after[:2] == "--")
    ]
