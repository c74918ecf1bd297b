"""Score the whole detector on annotated photos, end to end, next to any other detector's COCO results.

Example: python -m pipeline.evaluate --data DIR --splits splits.csv --split test --out evaluation

The data may have fewer classes than the detector. mAP is the mean over the classes that have annotated faces. So a face
with the name of another class is lost to its own class and counts for nothing else. To score it as one of the data's
classes, merge the classes. A mask worn wrongly is without_mask where annotators asked who is protected, and with_mask
where they asked who has a mask. The scores of merged classes are added up before a face gets its label.

A photo of which an annotation was refused may show a face without a box. There, a detection that overlaps no annotated
face is not counted, in any score: it may be that face.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from common.annotations import AnnotatedImage, ReadingArgs, load_dataset
from common.cli import console, program_name, refuse_renamed, requires_extra, run_cli
from common.errors import UserError
from common.files import check_writable_folder, write_text
from common.images import read_image
from pipeline.data.checks import check_apart
from pipeline.evaluate.coco_results import CocoNames, write_results
from pipeline.evaluate.detectors import BUNDLE_NAME, DetectorRun, free_name, read_run, run_bundle
from pipeline.evaluate.evaluation import DetectionEvaluation, EvaluationSettings, evaluate_samples
from pipeline.evaluate.metrics import MIN_CLASS_SCORE, every_class, one_label
from pipeline.evaluate.pictures import draw_confusion, draw_curves, draw_reliability, draw_worst
from pipeline.evaluate.report import data_notes, markdown, show, tables, to_json
from pipeline.evaluate.selection import check_classes, merge_classes, merged_names, parse_merge, select_images
from pipeline.evaluate.slices import FaceAttributes, face_attributes
from pipeline.evaluate.tide_errors import filter_by_score, list_errors
from pipeline.inference.predictor import Predictor

# The present flag by its name in earlier versions.
RENAMED_FLAGS = {
    "--ours": "no flag: the bundle is scored by default",
    "--no-ours": "--skip-bundle",
    "--score": "--score-threshold",
}


@dataclass(frozen=True)
class EvaluateArgs(ReadingArgs):
    """Score the detector, and any other detector's results, on annotated photos."""

    data: Path
    """Annotated photos: a folder in one of the formats of docs/datasets.md."""
    splits: Path | None = None
    """splits.csv of pipeline.split; not needed with --split all."""
    split: str = "test"
    """Which photos: train, val, test, or all."""
    bundle: Path | None = None
    """Bundle directory, or a bundle of the project by name; the default bundle without this option."""
    skip_bundle: bool = False
    """Score only the --predictions."""
    stock: bool = False
    """Also score the bundle's classifier on faces that the stock cascade (facenet-pytorch's MTCNN) finds."""
    predictions: tuple[Path, ...] = ()
    """COCO results of other detectors, scored in the same way."""
    categories: tuple[str, ...] = ()
    """Class names of the category ids in --predictions, in order, where the file does not name them."""
    first_category: int | None = None
    """Id of the first of --categories, 0 or 1, where the ids in the file leave it open."""
    coco_truth: Path | None = None
    """COCO ground truth whose images and categories name the ids in --predictions."""
    merge: tuple[str, ...] = ()
    """A=B: class A counts as class B, in annotations and detections (see above)."""
    iou: float = 0.5
    """IoU at which a box is on its face, in all scores but COCO's own; lower for boxes drawn by other rules."""
    min_score: float = 0.0
    """Leave out detections below this score, of all detectors; above 0 this lowers average precision."""
    score_threshold: float | None = None
    """Detections count as errors from this score on; default: the bundle's, for others that of the best F1 here."""
    bootstrap: int = 200
    """Resamples of the photos for the 95% intervals; 0 for none."""
    seed: int = 0
    """Seed of the resamples."""
    threads: int = 1
    """Threads for each net."""
    pictures: bool = True
    """Write contact sheets of the worst errors (they show the photos' faces)."""
    out: Path = Path("evaluation")
    """Folder of the report; each other detector has a folder for its pictures there."""


def run(args: EvaluateArgs) -> int:
    """Score the detectors, print the tables, write the report, and return the exit code."""
    _check(args)
    settings = EvaluationSettings(args.iou, args.bootstrap, args.seed, max(MIN_CLASS_SCORE, args.min_score))
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (a missing package is reported before minutes of detecting)
        import matplotlib  # noqa: F401

    merge = parse_merge(args.merge)
    dataset = load_dataset(args.data, args)
    images, notes = select_images(dataset.images, args.data, args.splits, args.split)
    notes += data_notes(dataset, images)
    images = merge_classes(images, merge)
    class_names = merged_names(dataset.class_names, merge)
    predictor = None if args.skip_bundle else Predictor.load(args.bundle, threads=args.threads)
    if predictor is not None:
        class_names = merged_names(predictor.bundle.meta.class_names, merge)
    check_classes(images, class_names)

    runs, attributes = _run_detectors(args, predictor, dataset.images, images, class_names, merge)
    evaluations = [_evaluate_run(args, name, run, class_names, settings, attributes) for name, run in runs.items()]
    notes += _notes(args, images, evaluations)
    shown = tables(evaluations)
    show(shown, notes)
    record = {
        "data": str(args.data),
        "splits": None if args.splits is None else str(args.splits),
        "split": args.split,
        "photos": len(images),
        "incomplete_photos": sum(not image.complete for image in images),
        "faces": {name: sum(image.labels.count(name) for image in images) for name in class_names},
        "min_score": args.min_score,
        "merge": merge,
        "notes": notes,
        "bundle": None if predictor is None else predictor.bundle.describe(),
        "detectors": [to_json(e) for e in evaluations],
    }
    _draw(args, evaluations, runs, images)
    if BUNDLE_NAME in runs:
        # One row per class of a box, so that any COCO tool computes the same average precision.
        rows = every_class(runs[BUNDLE_NAME].samples, settings.class_floor)
        write_results(args.out / "predictions.coco.json", rows, images, class_names)
    write_text(args.out / "evaluation.md", markdown("Evaluation", notes, shown))
    write_text(args.out / "evaluation.json", json.dumps(record, indent=1) + "\n")
    console().print(f"report: {args.out / 'evaluation.md'}", markup=False, highlight=False)
    return 0


def _check(args: EvaluateArgs) -> None:
    """Refuse bad options before minutes of detecting."""
    for name, value in (("--min-score", args.min_score), ("--score-threshold", args.score_threshold)):
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"{name} is {value}, must be in 0..1")
    if args.stock and args.skip_bundle:
        raise UserError("--stock and --skip-bundle exclude each other; give one of them")
    if args.skip_bundle and not args.predictions:
        raise UserError("nothing to score: --skip-bundle needs --predictions FILE")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: is a file; name a folder with --out")
    check_apart(args.data, args.out, "--out")
    check_writable_folder(args.out)
    for file in args.predictions:
        if not file.is_file():
            raise UserError(f"{file}: not found; check the name given with --predictions")


def _run_detectors(
    args: EvaluateArgs,
    predictor: Predictor | None,
    all_images: Sequence[AnnotatedImage],
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    merge: dict[str, str],
) -> tuple[dict[str, DetectorRun], list[FaceAttributes]]:
    """Return the runs by detector, and the face attributes of each image; `all_images` are those of every split."""
    attributes: dict[str, FaceAttributes] = {}

    def measure(image: AnnotatedImage, pixels: NDArray[np.uint8]) -> None:
        if image.image_id not in attributes:  # an earlier detector may have read the image
            attributes[image.image_id] = face_attributes(pixels, image.boxes)

    runs: dict[str, DetectorRun] = {}
    if predictor is not None:
        stock_threads = args.threads if args.stock else 0
        runs |= run_bundle(predictor, images, class_names, merge, args.min_score, stock_threads, measure, args.iou)
    names = CocoNames(args.coco_truth, args.categories, args.first_category, merge)
    for file in args.predictions:
        name = free_name(file.stem, runs)
        runs[name] = read_run(file, all_images, images, class_names, names, args.min_score, args.iou)
    for image in images:
        if image.image_id not in attributes:
            measure(image, read_image(image.path))
    return runs, [attributes[image.image_id] for image in images]


def _evaluate_run(
    args: EvaluateArgs,
    name: str,
    run: DetectorRun,
    class_names: Sequence[str],
    settings: EvaluationSettings,
    attributes: Sequence[FaceAttributes],
) -> DetectionEvaluation:
    threshold, source = args.score_threshold, "given"
    if threshold is None:
        threshold, source = run.threshold, "the bundle's"
    return evaluate_samples(
        run.samples, class_names, settings, name, threshold, source, run.seconds, attributes, run.unsure_margin
    )


def _notes(
    args: EvaluateArgs, images: Sequence[AnnotatedImage], evaluations: Sequence[DetectionEvaluation]
) -> list[str]:
    faces = sum(len(image.boxes) for image in images)
    notes = [f"split {args.split}: {len(images)} photos with {faces} faces; bootstrap seed {args.seed}"]
    what = "no detection" if all(image.complete for image in images) else "no detection that counts"
    for e in evaluations:
        if e.silent_images:
            notes.append(f"{e.name}: {what} in {e.silent_images} of {e.images} photos, counted as empty")
        absent = {c.name for c in e.scores.classes if not c.overall.gt_count}
        detected = {n: sum(row[k] for row in e.confusion) for k, n in enumerate(e.class_names) if n in absent}
        text = "a class without truths here, count as faces but not in mAP"
        notes += [f"{e.name}: {count} detections of {name}, {text}" for name, count in detected.items() if count]
    if args.min_score > 0:
        notes.append(f"detections below score {args.min_score:g} were left out, which lowers average precision")
    return notes


def _draw(
    args: EvaluateArgs,
    evaluations: Sequence[DetectionEvaluation],
    runs: dict[str, DetectorRun],
    images: Sequence[AnnotatedImage],
) -> None:
    @lru_cache(maxsize=16)
    def read(index: int) -> NDArray[np.uint8]:
        return read_image(images[index].path)

    draw_curves(evaluations, args.out / "pr_curves.png")
    for e in evaluations:
        folder = args.out if e.name == BUNDLE_NAME else args.out / e.name
        draw_confusion(e, folder / "confusion_matrix.png")
        draw_reliability(e, folder / "reliability.png")
        if args.pictures:
            reported = filter_by_score(one_label(runs[e.name].samples), e.threshold)
            draw_worst(folder, reported, list_errors(reported, e.settings.iou), e.class_names, read)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.evaluate`."""

    def command() -> int:
        refuse_renamed(argv, RENAMED_FLAGS)
        return run(tyro.cli(EvaluateArgs, args=argv, description=__doc__, prog=program_name("pipeline.evaluate")))

    return run_cli(command)
