"""Leaves one source out: learn from all others, and score the bundle on the source that it has not seen.

This is the figure to expect on photos from a new source: other cameras, other annotators, other faces.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.annotations.source import Source
from common.annotations.types import Annotations, ordered_classes
from common.cli import requires_extra
from common.errors import UserError
from common.files import write_bytes, write_text
from common.sources import SourcesArgs
from common.sources.loading import describe_sources
from common.sources.trust_file import read_trust_file
from pipeline.data import split
from pipeline.data.splitting import SplitRow, write_splits
from pipeline.evaluate.bootstrap import Interval
from pipeline.evaluate.report import Table
from pipeline.evaluate.scoring.args import match_ious, merges_by_source
from pipeline.evaluate.scoring.several import with_interval
from pipeline.evaluate.selection import check_classes, merge_classes, merged_names, parse_merge
from pipeline.training.plan import TrainingPlan
from pipeline.training.steps import Log, TrainingStep, run_parallel

SPLITS_FILE = "splits.csv"  # in the folder of a training
DEFAULT_IOU = 0.5  # pipeline.evaluate's

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


def check_left_out(
    args: SourcesArgs, annotations: Annotations, names: Sequence[str], match_iou: Sequence[str], merge: Sequence[str]
) -> None:
    """Refuse what would end the scoring after hours of training.

    Args:
        args: the datasets.
        annotations: of all of them.
        names: the sources to leave out.
        match_iou: NAME=IOU of sources that are left out.
        merge: NAME:A=B of sources that are left out.

    Raises:
        UserError: a source cannot be left out, or a pair is not about one, or a class would be unknown.
    """
    if len(set(names)) < len(names):
        raise UserError("--leave-out-source: name each source once")
    sources = describe_sources(args.data, args.sources)
    rests = {name: _without(sources, name)[1] for name in names}
    match_ious(match_iou, names, DEFAULT_IOU)
    if without_name := [pair for pair in merge if ":" not in pair.partition("=")[0]]:
        raise UserError(f"--merge {without_name[0]!r}: name a source that is left out, as in NAME:A=B")
    merges = merges_by_source(merge, names)
    for name, rest in rests.items():
        merged = parse_merge(merges[name])
        images = [image for image in annotations.images if image.source == name]
        merged_names(_classes(annotations, name), merged)
        check_classes(
            merge_classes(images, merged), merged_names(_classes(annotations, rest[0].name), merged), "--merge"
        )


def left_out_training(
    args: SourcesArgs,
    name: str,
    out: Path,
    experiments: tuple[str, ...],
    seed: int,
    match_iou: Sequence[str] = (),
    merge: Sequence[str] = (),
    same: Set[str] = frozenset(),
    compared: Mapping[Path, int] | None = None,
    workers: int = 0,
) -> LeftOutTraining:
    """Return the training without a source; write its splits.csv and its file of sources.

    A source of the same photos at another size (`twins`) is left out with the main one. If the main source is left
    out, the first of the others is the main one, and its box edges are learned as they are.

    Args:
        args: the datasets. `--rename` is of the main one, in training and scoring.
        name: source to leave out.
        out: folder of the training.
        experiments: stage 2's experiments.
        seed: of the split of the main source.
        match_iou: NAME=IOU; those of other sources are not used.
        merge: NAME:A=B; those of other sources are not used.
        same: image ids of photos that are not learned from, as they show the same as a photo of that source.
        compared: as in `FurtherSources.find`.
        workers: processes that make batches; 0: none.

    Raises:
        UserError: no source has that name, or it cannot be left out.
    """
    sources = describe_sources(args.data, args.sources)
    chosen, rest = _without(sources, name)
    out.mkdir(parents=True, exist_ok=True)
    trust = _write_trust(args.sources, [*rest, chosen], out / "sources.yaml")
    training = replace(args, data=tuple(source.data for source in rest), sources=trust)
    scoring = args if chosen is sources[0] else replace(args, rename=())
    if chosen is sources[0]:
        training = replace(training, rename=())
    splits = out / SPLITS_FILE
    if not splits.is_file():
        every = splits.with_name("splits.every.csv")  # splits.csv is there when it is complete
        flags = {"data": training.data, "sources": trust, "out": every, "seed": seed}
        flags |= {"rename": training.rename, "unlabelled": training.unlabelled}
        split.run(split.SplitArgs(**flags), log=lambda _: None, compared=compared)  # type: ignore[arg-type]
        # The ids of the main source's photos have no name of a source before them.
        named = f"{rest[0].name}/" if chosen is sources[0] else ""
        _copy_without(every, splits, {image_id.removeprefix(named) for image_id in same})
        every.unlink()
    options = {"reading": tuple(training.reading_flags()), "sources": trust, "workers": workers}
    plan = TrainingPlan(training.data, splits, out / "training", experiments, **options)  # type: ignore[arg-type]
    result = out / "report" / "evaluation.json"
    command = ["pipeline.evaluate", "--data", str(chosen.data), *scoring.reading_flags(), "--split", "all"]
    command += ["--sources", str(args.sources or trust), "--bundle", str(plan.bundle), "--out", str(result.parent)]
    if own := [pair for pair in match_iou if pair.partition("=")[0] == name]:
        command += ["--match-iou", *own]
    if own := [pair for pair in merge if pair.partition(":")[0] == name]:
        command += ["--merge", *own]
    return LeftOutTraining(name, chosen.data, plan, TrainingStep("report", tuple(command), result), result)


def same_as_left_out(annotations: Annotations, scenes: Mapping[str, int], name: str) -> set[str]:
    """Return the ids of other sources' photos that show the same as a photo of the source that is left out.

    Args:
        annotations: of all sources.
        scenes: {image id: a number that near-duplicates of all sources share}.
        name: the source that is left out.
    """
    shown = {scenes.get(image.image_id) for image in annotations.images if image.source == name} - {None}
    return {i.image_id for i in annotations.images if i.source != name and scenes.get(i.image_id) in shown}


def _copy_without(every: Path, splits: Path, image_ids: Set[str]) -> None:
    """Write a copy of a file of splits without some photos."""
    with every.open(newline="", encoding="utf-8") as file:
        rows = [SplitRow(row["image_id"], row["split"], int(row["group"])) for row in csv.DictReader(file)]
    write_splits(splits, [row for row in rows if row.image_id not in image_ids])


def run_left_out(trainings: Sequence[LeftOutTraining], out: Path, jobs: int, log: Log) -> str:
    """Run the remaining trainings; write left_out_NAME.json of each, and left_out.md. Return the table's text.

    A source with its left_out_NAME.json is finished, and its folder is needed no more.

    Args:
        trainings: one per source that is left out.
        out: folder of the results.
        jobs: trainings at a time.
        log: gets each line.
    """
    files = {training.name: out / f"left_out_{training.name}.json" for training in trainings}
    remaining = {each.plan.folder: each for each in trainings if not files[each.name].is_file()}

    def keep(folder: Path) -> None:
        write_bytes(files[remaining[folder].name], remaining[folder].result.read_bytes())

    run_parallel([(folder, training.steps) for folder, training in remaining.items()], jobs, log, keep)
    rows = [_row(name, file) for name, file in files.items()]
    header = ("left out", "photos", "IoU", *FIGURES.values())
    text = Table("Leave one source out", header, tuple(rows), "In brackets: 95% intervals over photos.").markdown()
    write_text(out / "left_out.md", text)
    return text


def _row(name: str, file: Path) -> tuple[str, ...]:
    """Return a source's row: figures with their 95% intervals; raise UserError when its file is damaged."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["sources"][name]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); remove it to score this source again") from error
    summary = {key: None if value is None else Interval(**value) for key, value in found["summary"].items()}
    figures = (with_interval(summary.get(key)) for key in FIGURES)
    return (name, str(found["photos"]), f"{found['iou']:g}", *figures)


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
            for key in ("edges", "share", "absent_classes"):
                fields.pop(key, None)
        kept[source.name] = fields
    write_text(out, yaml.safe_dump(kept, sort_keys=False))
    return out


def _without(sources: Sequence[Source], name: str) -> tuple[Source, list[Source]]:
    """Return the source of that name, and those that are learned from without it; raise UserError if there are none."""
    main = sources[0]
    chosen = next((source for source in sources if source.name == name and not source.face_free), None)
    if chosen is None:
        names = ", ".join(source.name for source in sources if not source.face_free)
        raise UserError(f"--leave-out-source {name}: is not among the sources with faces; use {names}")
    if chosen is not main and chosen.twins is not None:
        reason = f"has the photos of {main.name}, which would be learned from"
        raise UserError(f"--leave-out-source {name}: {reason}; leave out {main.name}")
    rest = [s for s in sources if s is not chosen and not (chosen is main and s.twins is not None)]
    with_faces = [source for source in rest if not source.face_free]
    if not with_faces:
        raise UserError(f"--leave-out-source {name}: no source with faces is left to learn from; give more --data")
    first = with_faces[0]
    return chosen, [first, *(source for source in rest if source is not first)]


def _classes(annotations: Annotations, source: str) -> tuple[str, ...]:
    """Return the classes of a source."""
    return ordered_classes(label for image in annotations.images if image.source == source for label in image.labels)
