"""Score a bundle on annotated photos as they are, and changed: dark, in coloured light, blurred, compressed.

Example: python -m pipeline.evaluate.robustness --data DIR --splits splits.csv --bundle BUNDLE --out robustness

Faces stay where they are, so the annotations hold for every change. The changes are made here: they say how much a
bundle depends on light and sharpness, and not how good it is on photos of such cameras.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from common.annotations import AnnotatedImage, ReadingArgs, load_dataset, require_faces
from common.annotations.loading import warn
from common.arguments import parse_args
from common.cli import console, progress, requires_extra, run_cli
from common.display import counted
from common.errors import UserError
from common.files import check_writable_folder, write_text
from common.images import Pixels
from pipeline.data.checks import check_apart, check_dataset
from pipeline.evaluate.evaluation import EvaluationSettings, detect_samples
from pipeline.evaluate.metrics import one_label, score_every_class, score_samples
from pipeline.evaluate.report import Table, data_notes, markdown, show
from pipeline.evaluate.robustness.changes import CHANGES
from pipeline.evaluate.scoring.crops import accuracy, crop_confusion
from pipeline.evaluate.scoring.learned import LEARNED_NOTES, learned_from
from pipeline.evaluate.selection import check_classes, merge_classes, merged_names, parse_merge, select_images
from pipeline.evaluate.tide_errors import confusion_matrix, filter_by_score
from pipeline.inference.predictor import Predictor

HEADER = ("change", "mAP", "face AP", "found", "right label, of the found", "false alarms per photo", "crops: accuracy")

# The present flag by its name in earlier versions.
RENAMED_FLAGS = {"--every": "--photo-stride"}


@dataclass(frozen=True)
class RobustnessArgs(ReadingArgs):
    """Score a bundle on photos as they are, and changed."""

    data: Path
    """Annotated photos: a folder in one of the formats of docs/datasets.md."""
    splits: Path | None = None
    """splits.csv of pipeline.split; not needed with --split all."""
    split: str = "val"
    """Which photos: train, val, test, or all."""
    photo_stride: int = 1
    """Take every Nth of these photos."""
    bundle: Path | None = None
    """Bundle directory, or a bundle of the project by name; the default bundle without this option."""
    merge: tuple[str, ...] = ()
    """A=B: class A counts as class B, in annotations and detections."""
    iou: float = 0.5
    """IoU at which a box is on its face; lower for boxes drawn by other rules."""
    seed: int = 0
    """Seed of the noise."""
    threads: int = 1
    """Threads for each net."""
    out: Path = Path("robustness")
    """Folder of the report."""


@dataclass(frozen=True)
class ChangeScores:
    """The scores on photos with one change."""

    change: str
    mean_ap: float | None  # at the IoU, every class with its own score
    face_ap: float | None
    found: float  # share of the annotated faces, at the bundle's threshold
    right_label: float | None  # share of the found ones; None where none is found
    false_alarms: float  # per photo, at the threshold
    crops_accuracy: float  # of the classifier, at the annotated boxes


def run(args: RobustnessArgs) -> int:
    """Score every change, print the table, write the report, and return the exit code."""
    _check(args)
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (a missing package is reported before minutes of detecting)
    merge = parse_merge(args.merge)
    dataset = load_dataset(args.data, args)
    selected, notes = select_images(dataset.images, args.data, args.splits, args.split)
    chosen = selected[:: args.photo_stride]
    readable = check_dataset(args.data, replace(dataset, images=tuple(chosen)), warn)
    images = merge_classes(readable, merge)
    require_faces(images, str(args.data), "name photos with annotated faces, or a lower --photo-stride")
    predictor = Predictor.load(args.bundle, threads=args.threads)
    class_names = merged_names(predictor.bundle.meta.class_names, merge)
    check_classes(images, class_names)
    with progress() as bar:
        advance = partial(bar.advance, bar.add_task("detecting", total=len(images) * len(CHANGES)))
        rows = [_score(args, predictor, images, class_names, name, advance) for name in CHANGES]
    threshold = predictor.bundle.meta.thresholds["score"]
    faces = sum(len(image.boxes) for image in images)
    notes = [*notes, *data_notes(dataset, images)]
    if unreadable := len(chosen) - len(readable):
        notes.append(f"left out of all scores: {counted(unreadable, 'unreadable photo')}")
    notes.append(f"{counted(len(images), 'photo')} with {counted(faces, 'face')}, split {args.split}, IoU {args.iou:g}")
    notes.append(f"found, right label and false alarms: from the bundle's score threshold on, {threshold:.3g}")
    provenance = predictor.bundle.describe().get("provenance", {})
    learned = learned_from(provenance, args.data.resolve().name, dataset.images, images, args.splits)
    notes.append(LEARNED_NOTES[learned])
    table = Table("Scores", HEADER, tuple(_cells(row) for row in rows))
    show([table], notes)
    record = {"bundle": predictor.bundle.describe(), "notes": notes, "changes": [asdict(row) for row in rows]}
    write_text(args.out / "robustness.md", markdown("Changed photos", notes, [table]))
    write_text(args.out / "robustness.json", json.dumps(record, indent=1) + "\n")
    console().print(f"report: {args.out / 'robustness.md'}", markup=False, highlight=False)
    return 1 if unreadable else 0


def _check(args: RobustnessArgs) -> None:
    EvaluationSettings(args.iou, 0, args.seed)
    if args.photo_stride < 1:
        raise UserError(f"--photo-stride is {args.photo_stride}; use 1 or more")
    if args.threads < 1:
        raise UserError(f"--threads is {args.threads}; use 1 or more")
    check_apart(args.data, args.out, "--out")
    check_writable_folder(args.out)


def _score(
    args: RobustnessArgs,
    predictor: Predictor,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    name: str,
    advance: Callable[[], None],
) -> ChangeScores:
    """Detect in all photos with one change, and score."""
    merge, confusion = parse_merge(args.merge), np.zeros((len(class_names), len(class_names)), np.intp)

    def change(image: AnnotatedImage, pixels: Pixels) -> Pixels:
        # The noise of a photo depends on its name alone, not on which others are scored.
        return CHANGES[name](pixels, np.random.default_rng((args.seed, zlib.crc32(os.fsencode(image.image_id)))))

    def classify(image: AnnotatedImage, pixels: Pixels) -> None:
        np.add(confusion, crop_confusion(predictor, image, pixels, class_names, merge), out=confusion)

    samples, _ = detect_samples(
        predictor, images, class_names, merge, 0.0, advance, classify, match_iou=args.iou, change=change
    )
    best = one_label(samples)
    scores = score_samples(best, class_names, args.iou)
    each_class = score_every_class(samples, class_names, scores)
    reported = filter_by_score(best, predictor.bundle.meta.thresholds["score"])
    counts = confusion_matrix(reported, len(class_names), args.iou)
    faces, found = int(counts[:-1].sum()), int(counts[:-1, :-1].sum())
    return ChangeScores(
        change=name,
        mean_ap=each_class.mean.overall.ap_at_iou,
        face_ap=scores.faces.overall.ap_at_iou,
        found=found / faces,
        right_label=int(np.trace(counts[:-1, :-1])) / found if found else None,
        false_alarms=int(counts[-1].sum()) / len(images),
        crops_accuracy=accuracy(confusion),
    )


def _cells(row: ChangeScores) -> tuple[str, ...]:
    values = (row.mean_ap, row.face_ap, row.found, row.right_label, row.false_alarms, row.crops_accuracy)
    return (row.change, *("-" if value is None else f"{value:.3f}" for value in values))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.evaluate.robustness`."""

    def command() -> int:
        return run(parse_args(RobustnessArgs, argv, "pipeline.evaluate.robustness", RENAMED_FLAGS, description=__doc__))

    return run_cli(command)
