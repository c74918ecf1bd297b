"""Score the bundle on several datasets, each on its own: nothing is pooled, so that no dataset hides another.

The file of sources says what may be learned from a dataset. It does not make scores better: all faces are scored as
they are annotated. Labels that it does not trust are left out of the figures of crops alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage, ReadingArgs, load_dataset
from common.annotations.photos import photos_in
from common.annotations.source import Source
from common.cli import console
from common.display import counted
from common.errors import UserError
from common.files import write_text
from common.images import Pixels
from common.sources.loading import describe_sources
from pipeline.evaluate.bootstrap import Interval
from pipeline.evaluate.detectors import BUNDLE_NAME
from pipeline.evaluate.report import Table, markdown, number, show
from pipeline.evaluate.scoring.args import EvaluateArgs, match_ious, merges_by_source
from pipeline.evaluate.scoring.crops import crop_confusion
from pipeline.evaluate.scoring.dataset import DatasetPart, ScoredDataset, dataset_part, draw_dataset, score_dataset
from pipeline.evaluate.scoring.face_free_photos import FaceFreeScore, score_face_free
from pipeline.evaluate.scoring.intervals import (
    calibration_error,
    crop_statistics,
    face_recall,
    interval_over_photos,
)
from pipeline.evaluate.scoring.learned import learned_from, names_source, sources_table
from pipeline.evaluate.scoring.overview import draw_overview
from pipeline.evaluate.selection import select_images
from pipeline.inference.predictor import Predictor

SUMMARY = {  # the columns of the summary, by the keys of a source's "summary" in evaluation.json
    "mAP": "mAP at IoU",
    "mAP50-95": "mAP50-95",
    "face_AP": "face AP at IoU",
    "face_recall": "face recall at IoU",
    "calibration_error": "calibration error",
    "crop_accuracy": "crops: accuracy",
    "crop_macro_f1": "crops: macro-F1",
}
SUMMARY_NOTE = (
    "mAP: over the classes that have faces; every class of a face is scored. mAP and face AP are at the row's IoU. "
    "Calibration error: of all detections from 0.01 on, whether right at that IoU. Crops: the classifier on the "
    "annotated boxes whose label is trusted. In brackets: 95% bootstrap intervals over photos."
)


@dataclass(frozen=True)
class SourceScore:
    """The results on one dataset of several."""

    source: Source
    scored: ScoredDataset
    summary: dict[str, Interval | None]  # by the keys of SUMMARY; None where undefined
    learned_from: str  # "yes", "no", or "not recorded"


def run_several(args: EvaluateArgs, predictor: Predictor) -> int:
    """Score every dataset, print the summary and write the report; return 1 where a photo cannot be read, else 0."""
    sources = describe_sources(args.data, args.sources)
    annotated = [source for source in sources if not source.face_free]
    names = [source.name for source in annotated]
    ious, merges = match_ious(args.match_iou, names, args.iou), merges_by_source(args.merge, names)
    folders = _face_free_folders(args, sources)
    parts = [_read(args, predictor, s, s is annotated[0], merges[s.name], ious[s.name]) for s in annotated]
    scores = [_score(args, predictor, source, part) for source, part in zip(annotated, parts, strict=True)]
    threshold = args.score_threshold
    if threshold is None:
        threshold = predictor.bundle.meta.thresholds["score"]
    provenance = predictor.bundle.describe().get("provenance", {})
    face_free = [
        replace(
            score_face_free(predictor, name, folder, threshold, args.bootstrap, args.seed),
            learned_from=names_source(provenance, name),
        )
        for name, folder in folders.items()
    ]
    tables = [*([_summary_table(scores)] if scores else []), *([_face_free_table(face_free)] if face_free else [])]
    show([*([_console_table(scores)] if scores else []), *tables[bool(scores) :]], [])
    _write(args, predictor, tables, scores, face_free)
    console().print(f"report: {args.out / 'evaluation.md'}", markup=False, highlight=False)
    return int(any(part.unreadable for part in parts) or any(score.unreadable for score in face_free))


def _face_free_folders(args: EvaluateArgs, sources: Sequence[Source]) -> dict[str, Path]:
    """Return the folders of photos without faces, by name.

    Raises:
        UserError: two folders have the same name, or a folder holds no photo.
    """
    folders = {source.name: source.data for source in sources if source.face_free}
    annotated = {source.name for source in sources if not source.face_free}
    for folder in args.face_free:
        if (name := folder.resolve().name) in {*annotated, *folders}:
            raise UserError(f"--face-free: {name!r} is the name of another folder; give it once, or rename it")
        folders[name] = folder
    for folder in folders.values():
        if not photos_in(folder, recursive=True):
            raise UserError(f"{folder}: holds no photo; check the folder")
    return folders


def _read(
    args: EvaluateArgs, predictor: Predictor, source: Source, is_first: bool, merge: Sequence[str], iou: float
) -> DatasetPart:
    """Read one dataset; the photos of --split are taken from the first one, all of the others."""
    rename = (*args.rename, *source.rename) if is_first else source.rename
    dataset = load_dataset(source.data, ReadingArgs(rename=rename, unlabelled=args.unlabelled))
    split = args.split if is_first else "all"
    images, notes = select_images(dataset.images, source.data, args.splits, split)
    if not is_first and args.split != "all":
        notes.append(f"all photos are scored: --split {args.split} is of {args.data[0].resolve().name}")
    if untrusted := sorted({label for image in images for label in image.labels if not source.trusts(label)}):
        notes.append(f"labels {', '.join(untrusted)} are not trusted: scored as annotated, but left out of the crops")
    if not source.background:
        notes.append("faces may lack their box: where one is found, it counts as a false alarm")
    known = [
        replace(image, class_known=np.array([source.trusts(label) for label in image.labels], bool)) for image in images
    ]
    return dataset_part(args, predictor, source.data, dataset, known, notes, merge, iou)


def _score(args: EvaluateArgs, predictor: Predictor, source: Source, part: DatasetPart) -> SourceScore:
    """Score one dataset, with the crops."""
    confusions: dict[str, NDArray[np.intp]] = {}

    def classify(image: AnnotatedImage, pixels: Pixels) -> None:
        confusions[image.image_id] = crop_confusion(predictor, image, pixels, part.class_names, part.merge)

    scored = score_dataset(args, predictor, part, classify)
    samples = scored.runs[BUNDLE_NAME].samples
    own = scored.evaluations[0]
    end = "50" if part.iou == 0.5 else f"@{part.iou:g}"
    statistics = {
        "face_recall": face_recall(samples, part.iou),
        "calibration_error": calibration_error(samples, len(part.class_names), part.iou),
        **crop_statistics([confusions[image.image_id] for image in part.images]),
    }
    means = own.each_class.mean.overall, own.scores.faces.overall
    points = {"mAP": means[0].ap_at_iou, "mAP50-95": means[0].ap, "face_AP": means[1].ap_at_iou}
    keys = {"mAP": f"mAP{end}", "mAP50-95": "mAP50-95", "face_AP": f"face_AP{end}"}
    summary: dict[str, Interval | None] = {
        name: own.intervals.get(keys[name]) or (None if value is None else Interval(value, value, value))
        for name, value in points.items()
    }
    for name, statistic in statistics.items():
        summary[name] = interval_over_photos(statistic, len(part.images), args.bootstrap, args.seed)
    provenance = predictor.bundle.describe().get("provenance", {})
    learned = learned_from(provenance, source.name, part.dataset.images, part.images, args.splits)
    return SourceScore(source, scored, summary, learned)


def _summary_table(scores: Sequence[SourceScore]) -> Table:
    """Return one row per dataset."""
    rows = []
    for score in scores:
        faces = score.scored.record["faces"]
        rows.append(
            (
                score.source.name,
                str(len(score.scored.part.images)),
                str(sum(faces.values())),
                str(sum(count > 0 for count in faces.values())),
                f"{score.scored.part.iou:g}",
                *(with_interval(score.summary[key]) for key in SUMMARY),
                score.learned_from,
            )
        )
    header = ("source", "photos", "faces", "classes", "IoU", *SUMMARY.values(), "learned from")
    return Table("By source", header, tuple(rows), SUMMARY_NOTE)


def _console_table(scores: Sequence[SourceScore]) -> Table:
    """Return the summary for a terminal of 80 columns: one column per dataset, without the intervals."""
    facts = {
        "photos": [str(len(s.scored.part.images)) for s in scores],
        "IoU": [f"{s.scored.part.iou:g}" for s in scores],
        **{SUMMARY[k]: [number(None if (v := s.summary[k]) is None else v.value) for s in scores] for k in SUMMARY},
        "learned from": [s.learned_from for s in scores],
    }
    rows = tuple((name, *values) for name, values in facts.items())
    return Table("By source", ("", *(s.source.name for s in scores)), rows, "Intervals are in the report.")


def _face_free_table(scores: Sequence[FaceFreeScore]) -> Table:
    """Return one row per folder of photos without faces."""
    rows = [
        (
            *(score.name, str(score.photos), f"{score.threshold:.3g}", str(score.false_alarms)),
            *(str(score.photos_with_one), with_interval(score.per_photo), score.learned_from),
        )
        for score in scores
    ]
    header = (
        "folder",
        "photos",
        "score from",
        "false alarms",
        "photos with one or more",
        "false alarms per photo",
        "learned from",
    )
    left_out = [f"{score.name}: {line}" for score in scores for line in score.unreadable]
    note = f"Not read: {'; '.join(left_out)}." if left_out else ""
    return Table("Photos without faces", header, tuple(rows), note)


def with_interval(interval: Interval | None) -> str:
    """Return a figure with its interval in brackets; "-" where it is missing."""
    if interval is None:
        return "-"
    return number(interval.value) + (
        f" [{interval.low:.3f}, {interval.high:.3f}]" if interval.low < interval.high else ""
    )


def _write(
    args: EvaluateArgs,
    predictor: Predictor,
    tables: Sequence[Table],
    scores: Sequence[SourceScore],
    face_free: Sequence[FaceFreeScore],
) -> None:
    """Write the pictures, evaluation.md and evaluation.json."""
    total = f"{counted(len(scores), 'dataset')} scored each on its own, {len(face_free)} without faces"
    notes = [f"{total}; bootstrap seed {args.seed}", f"bundle: {predictor.bundle.describe().get('name', 'default')}"]
    learned = sources_table(predictor.bundle.describe().get("provenance", {}))
    text = markdown("Evaluation by source", notes, [*tables, *([learned] if learned else [])])
    if scores:
        draw_overview({s.source.name: s.summary for s in scores}, args.out / "sources.png")
        text += "\n![mAP and face AP by source](sources.png)\n"
    for score in scores:
        name = score.source.name
        draw_dataset(args, score.scored, args.out / name)
        text += "\n" + markdown(name, score.scored.notes, score.scored.tables)
        text += f"\n![Precision and recall]({name}/pr_curves.png)\n\n![Reliability]({name}/reliability.png)\n"
    write_text(args.out / "evaluation.md", text)
    record = {
        "bundle": predictor.bundle.describe(),
        "sources": {score.source.name: _record(score) for score in scores},
        "face_free": {score.name: asdict(score) for score in face_free},
    }
    write_text(args.out / "evaluation.json", json.dumps(record, indent=1) + "\n")


def _record(score: SourceScore) -> Mapping[str, Any]:
    """Return one dataset's part of evaluation.json."""
    record = {key: value for key, value in score.scored.record.items() if key != "bundle"}
    summary = {name: None if value is None else asdict(value) for name, value in score.summary.items()}
    return {**record, "iou": score.scored.part.iou, "summary": summary, "learned_from": score.learned_from}
