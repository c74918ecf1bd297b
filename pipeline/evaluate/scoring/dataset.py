"""Score detectors on one dataset: detect, evaluate, tables, record, pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage, Annotations
from common.display import counted
from common.images import Pixels, read_image
from pipeline.data.checks import check_dataset
from pipeline.evaluate.coco_results import CocoNames, write_results
from pipeline.evaluate.detectors import BUNDLE_NAME, DetectorRun, free_name, read_run, run_bundle
from pipeline.evaluate.evaluation import DetectionEvaluation, EvaluationSettings, evaluate_samples
from pipeline.evaluate.metrics import MIN_CLASS_SCORE, every_class, one_label
from pipeline.evaluate.pictures import draw_confusion, draw_curves, draw_reliability, draw_worst
from pipeline.evaluate.report import Table, data_notes, tables, to_json
from pipeline.evaluate.scoring.args import EvaluateArgs
from pipeline.evaluate.selection import check_classes, merge_classes, merged_names, parse_merge
from pipeline.evaluate.slices import FaceAttributes, face_attributes
from pipeline.evaluate.tide_errors import filter_by_score, list_errors
from pipeline.inference.predictor import Predictor

OnImage = Callable[[AnnotatedImage, Pixels], None]


@dataclass(frozen=True)
class DatasetPart:
    """The photos of one dataset that are scored, and how."""

    data: Path
    dataset: Annotations  # as read; of all splits
    images: Sequence[AnnotatedImage]  # those that are scored, with merged classes
    class_names: tuple[str, ...]  # the scored classes
    merge: Mapping[str, str]  # {class: the class that it counts as}
    iou: float  # at which a box is on its face
    notes: tuple[str, ...]  # lines for the report
    unreadable: int = 0  # photos that are in no score because they cannot be read


@dataclass(frozen=True)
class ScoredDataset:
    """The results of all detectors on one dataset."""

    part: DatasetPart
    runs: dict[str, DetectorRun]  # by the detector's name
    evaluations: list[DetectionEvaluation]
    tables: list[Table]
    notes: list[str]
    record: dict[str, Any]  # as evaluation.json has it


def dataset_part(
    args: EvaluateArgs,
    predictor: Predictor | None,
    data: Path,
    dataset: Annotations,
    selected: Sequence[AnnotatedImage],
    notes: Sequence[str],
    merge: Sequence[str],
    iou: float,
) -> DatasetPart:
    """Return what is scored of a dataset.

    Args:
        args: the command's options.
        predictor: the detector, which names the classes; None takes the data's.
        data: the dataset's folder.
        dataset: the dataset as read.
        selected: the images that are scored, but for those that cannot be read, which are reported.
        notes: lines on the selection.
        merge: pairs A=B.
        iou: at which a box is on its face.

    Raises:
        UserError: a class is unknown, a value is out of range, or no photo can be read.
    """
    EvaluationSettings(iou, args.bootstrap, args.seed)
    classes = parse_merge(merge)
    readable = check_dataset(data, replace(dataset, images=tuple(selected)), partial(print, file=sys.stderr))
    images = merge_classes(readable, classes)
    class_names = merged_names(dataset.class_names, classes)
    if predictor is not None:
        class_names = merged_names(predictor.bundle.meta.class_names, classes)
    check_classes(images, class_names)
    notes = [*notes, *data_notes(dataset, readable)]
    if unreadable := len(selected) - len(readable):
        notes.append(f"left out of all scores: {counted(unreadable, 'unreadable photo')}")
    return DatasetPart(data, dataset, images, class_names, classes, iou, tuple(notes), unreadable)


def score_dataset(
    args: EvaluateArgs, predictor: Predictor | None, part: DatasetPart, on_image: OnImage | None = None
) -> ScoredDataset:
    """Detect in the photos of a dataset, and evaluate every detector.

    `on_image` is called once with each image and its pixels.
    """
    settings = EvaluationSettings(part.iou, args.bootstrap, args.seed, max(MIN_CLASS_SCORE, args.min_score))
    runs, attributes = _run_detectors(args, predictor, part, on_image)
    evaluations = [_evaluate_run(args, name, run, part, settings, attributes) for name, run in runs.items()]
    notes = [*part.notes, *_notes(args, part.images, evaluations)]
    record = {
        "data": str(part.data),
        "splits": None if args.splits is None else str(args.splits),
        "split": args.split,
        "photos": len(part.images),
        "unreadable_photos": part.unreadable,
        "incomplete_photos": sum(not image.complete for image in part.images),
        "faces": {name: sum(image.labels.count(name) for image in part.images) for name in part.class_names},
        "min_score": args.min_score,
        "merge": dict(part.merge),
        "notes": notes,
        "bundle": None if predictor is None else predictor.bundle.describe(),
        "detectors": [to_json(e) for e in evaluations],
    }
    return ScoredDataset(part, runs, evaluations, tables(evaluations), notes, record)


def draw_dataset(args: EvaluateArgs, scored: ScoredDataset, out: Path) -> None:
    """Write the pictures of every detector, and the bundle's detections as COCO JSON, into the folder `out`."""
    images, runs = scored.part.images, scored.runs

    @lru_cache(maxsize=16)
    def read(index: int) -> NDArray[np.uint8]:
        return read_image(images[index].path)

    draw_curves(scored.evaluations, out / "pr_curves.png")
    for e in scored.evaluations:
        folder = out if e.name == BUNDLE_NAME else out / e.name
        draw_confusion(e, folder / "confusion_matrix.png")
        draw_reliability(e, folder / "reliability.png")
        if args.pictures:
            reported = filter_by_score(one_label(runs[e.name].samples), e.threshold)
            draw_worst(folder, reported, list_errors(reported, e.settings.iou), e.class_names, read)
    if BUNDLE_NAME in runs:
        # One row per class of a box, so that any COCO tool computes the same average precision.
        rows = every_class(runs[BUNDLE_NAME].samples, scored.evaluations[0].settings.class_floor)
        write_results(out / "predictions.coco.json", rows, images, scored.part.class_names)


def _run_detectors(
    args: EvaluateArgs, predictor: Predictor | None, part: DatasetPart, on_image: OnImage | None
) -> tuple[dict[str, DetectorRun], list[FaceAttributes]]:
    """Return the runs by detector, and the face attributes of each image."""
    attributes: dict[str, FaceAttributes] = {}

    def measure(image: AnnotatedImage, pixels: Pixels) -> None:
        if image.image_id not in attributes:  # an earlier detector may have read the image
            attributes[image.image_id] = face_attributes(pixels, image.boxes)
            if on_image is not None:
                on_image(image, pixels)

    runs: dict[str, DetectorRun] = {}
    images, class_names, merge = part.images, part.class_names, dict(part.merge)
    if predictor is not None:
        stock_threads = args.threads if args.stock else 0
        runs |= run_bundle(predictor, images, class_names, merge, args.min_score, stock_threads, measure, part.iou)
    names = CocoNames(args.coco_truth, args.categories, args.first_category, merge)
    for file in args.predictions:
        name = free_name(file.stem, runs)
        runs[name] = read_run(file, part.dataset.images, images, class_names, names, args.min_score, part.iou)
    for image in images:
        if image.image_id not in attributes:
            measure(image, read_image(image.path))
    return runs, [attributes[image.image_id] for image in images]


def _evaluate_run(
    args: EvaluateArgs,
    name: str,
    run: DetectorRun,
    part: DatasetPart,
    settings: EvaluationSettings,
    attributes: Sequence[FaceAttributes],
) -> DetectionEvaluation:
    threshold, source = args.score_threshold, "given"
    if threshold is None:
        threshold, source = run.threshold, "the bundle's"
    return evaluate_samples(
        run.samples, part.class_names, settings, name, threshold, source, run.seconds, attributes, run.unsure_margin
    )


def _notes(
    args: EvaluateArgs, images: Sequence[AnnotatedImage], evaluations: Sequence[DetectionEvaluation]
) -> list[str]:
    faces = sum(len(image.boxes) for image in images)
    notes = [
        f"split {args.split}: {counted(len(images), 'photo')} with {counted(faces, 'face')}; bootstrap seed {args.seed}"
    ]
    what = "no detection" if all(image.complete for image in images) else "no detection that counts"
    for e in evaluations:
        if e.silent_images:
            notes.append(f"{e.name}: {what} in {e.silent_images} of {e.images} photos, counted as empty")
        absent = {c.name for c in e.scores.classes if not c.overall.gt_count}
        detected = {n: sum(row[k] for row in e.confusion) for k, n in enumerate(e.class_names) if n in absent}
        text = "a class without annotated faces here, count as faces but not in mAP"
        notes += [f"{e.name}: {count} detections of {name}, {text}" for name, count in detected.items() if count]
    if args.min_score > 0:
        notes.append(f"detections below score {args.min_score:g} were left out, which lowers average precision")
    return notes
