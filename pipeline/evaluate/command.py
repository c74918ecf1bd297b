"""Scores the whole detector on annotated photos, end to end, beside any other detector's COCO results.

Example: python -m pipeline.evaluate --data DIR --splits splits.csv --split test --out evaluation

Data with fewer classes than the detector: mAP is over the classes that have truths, so a face called by another name
is lost to its own class and counts for nothing else. To score it as one of them, merge the classes: a mask worn wrongly
is without_mask to annotators who asked who is protected, with_mask to those who asked where a mask is seen. The
scores of merged classes are added up before a face gets its label.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage, read_dataset
from common.cli import console, program_name, progress, refuse_renamed, requires_extra, run_cli
from common.errors import UserError
from common.files import check_folder, write_text
from common.images import read_image
from common.splits import SPLITS, read_splits
from pipeline.data.checks import check_apart
from pipeline.evaluate.coco_results import CocoNames, read_results, write_results
from pipeline.evaluate.evaluation import (
    DetectionEvaluation,
    Settings,
    check_classes,
    detect_samples,
    evaluate_samples,
    merge_classes,
)
from pipeline.evaluate.metrics import CLASS_FLOOR, Sample, every_class, one_label
from pipeline.evaluate.report import markdown, tables, to_json
from pipeline.evaluate.slices import FaceAttributes, face_attributes
from pipeline.evaluate.tide_errors import filter_by_score, list_mistakes
from stage1_faces.stock.reference import stock_detector

if TYPE_CHECKING:
    from pipeline.inference.predictor import Predictor

STOCK_NAME = "stock cascade"


@dataclass(frozen=True)
class DetectorRun:
    """What one detector found in each image, and what it brings along.

    seconds: per photo. threshold: its own score from which on a face is reported. margin: its own of `unsure`.
    """

    samples: list[Sample]
    seconds: float | None = None
    threshold: float | None = None
    margin: float | None = None


# The present flag by its name in earlier versions.
RENAMED_FLAGS = {"--no-ours": "--skip-bundle", "--score": "--score-threshold"}


@dataclass(frozen=True)
class EvaluateArgs:
    """Score the detector, and any other detector's results, on annotated photos."""

    data: Path
    """Annotated photos: a Pascal VOC, COCO or YOLO folder."""
    splits: Path | None = None
    """splits.csv of pipeline.split; not needed with --split all."""
    split: str = "test"
    """Which photos: train, val, test, or all."""
    bundle: Path | None = None
    """Bundle directory; the default bundle when none is named."""
    skip_bundle: bool = False
    """Score only the --predictions."""
    stock: bool = False
    """Also score the bundle's classifier on faces that the stock cascade (facenet-pytorch's MTCNN) finds."""
    predictions: tuple[Path, ...] = ()
    """COCO results of other detectors, scored the same way."""
    categories: tuple[str, ...] = ()
    """Class names of the category ids in --predictions, in order, where the file does not name them."""
    first_category: int | None = None
    """The id of the first of --categories, 0 or 1, where the ids in the file do not tell."""
    coco_truth: Path | None = None
    """COCO ground truth whose images and categories explain the ids in --predictions."""
    merge: tuple[str, ...] = ()
    """A=B: class A is counted as class B, in truth and detections alike (see above)."""
    iou: float = 0.5
    """IoU at which a box counts as on its face, in all but COCO's own figures; lower for boxes drawn by other rules."""
    min_score: float = 0.0
    """Leaves out detections below this score, of ours and others alike; above 0 it lowers average precision."""
    score_threshold: float | None = None
    """From which on detections count as errors; default: the bundle's, for others that of the best F1 here."""
    bootstrap: int = 200
    """Resamples of the photos for the 95% intervals; 0 for none."""
    seed: int = 0
    """Seed of the resamples."""
    threads: int = 1
    """Threads for each net."""
    pictures: bool = True
    """--no-pictures writes no contact sheets of mistakes (they show the photos' faces)."""
    out: Path = Path("evaluation")
    """Where the report goes; other detectors' pictures go into a folder each inside it."""


def run(args: EvaluateArgs) -> int:
    """Evaluates, prints the tables and writes the report."""
    _check(args)
    settings = Settings(args.iou, args.bootstrap, args.seed, max(CLASS_FLOOR, args.min_score))
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (missing: say so before minutes of detecting)
        import matplotlib  # noqa: F401

    merge = parse_merge(args.merge)
    dataset = read_dataset(args.data)
    images, facts = select_images(dataset.images, args.data, args.splits, args.split)
    facts += [f"{len(dataset.problems)} problems in the data, the first: {p}" for p in dataset.problems[:1]]
    images = merge_classes(images, merge)

    looks: dict[str, FaceAttributes] = {}

    def see(image: AnnotatedImage, pixels: NDArray[np.uint8]) -> None:
        if image.image_id not in looks:  # it may have been seen with another detector
            looks[image.image_id] = face_attributes(pixels, image.boxes)

    runs: dict[str, DetectorRun] = {}
    bundle: dict[str, Any] | None = None
    class_names = merged_names(dataset.class_names, merge)
    if not args.skip_bundle:
        from pipeline.inference.predictor import Predictor

        predictor = Predictor.load(args.bundle, threads=args.threads)
        bundle, class_names = predictor.bundle.describe(), merged_names(predictor.bundle.meta.class_names, merge)
        check_classes(images, class_names)
        runs |= _detect(args, predictor, images, class_names, merge, see)
    check_classes(images, class_names)
    names = CocoNames(args.coco_truth, args.categories, args.first_category, merge)
    for file in args.predictions:
        results = read_results(file, dataset.images, class_names, names)
        samples = [results.sample(image, class_names) for image in images]
        if args.min_score > 0:
            samples = filter_by_score(samples, args.min_score)
        runs[_free_name(file.stem, runs)] = DetectorRun(samples)
    for image in images:
        if image.image_id not in looks:
            see(image, read_image(image.path))

    evaluations = [
        evaluate_samples(
            found.samples,
            class_names,
            settings,
            name,
            found.threshold if args.score_threshold is None else args.score_threshold,
            "the bundle's" if args.score_threshold is None else "given",
            found.seconds,
            [looks[image.image_id] for image in images],
            found.margin,
        )
        for name, found in runs.items()
    ]
    facts += _facts(args, images, evaluations)
    out = console()
    for table in tables(evaluations):
        out.print(table.rich())
    for fact in facts:
        out.print(f"- {fact}", markup=False, highlight=False)
    record = {
        "data": str(args.data),
        "splits": None if args.splits is None else str(args.splits),
        "split": args.split,
        "photos": len(images),
        "faces": {name: sum(image.labels.count(name) for image in images) for name in class_names},
        "min_score": args.min_score,
        "merge": merge,
        "notes": facts,
        "bundle": bundle,
        "detectors": [to_json(e) for e in evaluations],
    }
    samples_of = {name: found.samples for name, found in runs.items()}
    _write(args, record, markdown(evaluations, facts), evaluations, samples_of, images)
    out.print(f"report: {args.out / 'evaluation.md'}", markup=False, highlight=False)
    return 0


def _detect(
    args: EvaluateArgs,
    predictor: Predictor,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    merge: dict[str, str],
    see: Callable[[AnnotatedImage, NDArray[np.uint8]], None],
) -> dict[str, DetectorRun]:
    """What the bundle finds, and the stock cascade with its classifier where that is asked for."""
    from pipeline.inference.predictor import Predictor

    meta, runs = predictor.bundle.meta, {}
    predictors = {"ours": predictor}
    if args.stock:
        predictors[STOCK_NAME] = Predictor(predictor.bundle, args.threads, detector=stock_detector(args.threads))
    with progress() as bar:
        task = bar.add_task("detecting", total=len(images) * len(predictors))
        for name, each in predictors.items():
            advance = partial(bar.advance, task)
            samples, seconds = detect_samples(each, images, class_names, merge, args.min_score, advance, see)
            # The bundle's threshold was chosen for its own cascade's scores.
            threshold = meta.thresholds["score"] if name == "ours" else None
            runs[name] = DetectorRun(samples, seconds, threshold, meta.fusion.unsure_margin)
    return runs


def _check(args: EvaluateArgs) -> None:
    """Raises UserError on what can be refused before minutes of detecting."""
    for name, value in (("--min-score", args.min_score), ("--score-threshold", args.score_threshold)):
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"{name} is {value}, must lie in 0..1")
    if args.stock and args.skip_bundle:
        raise UserError("--stock and --skip-bundle exclude each other; give one of them")
    if args.skip_bundle and not args.predictions:
        raise UserError("nothing to score: --skip-bundle needs --predictions FILE")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: is a file; name a folder with --out")
    check_apart(args.data, args.out, "--out")
    check_folder(args.out)
    for file in args.predictions:
        if not file.is_file():
            raise UserError(f"{file}: not found; check the name given with --predictions")


def select_images(
    images: Sequence[AnnotatedImage], data: Path, splits: Path | None, split: str
) -> tuple[list[AnnotatedImage], list[str]]:
    """The images of one split, or of "all", and remarks on what was left out.

    Raises UserError on an unknown or empty split, and when splits.csv puts an image into the split that the data
    lacks: a score over the rest would be another split's.
    """
    if split == "all":
        return list(images), []
    if split not in SPLITS:
        raise UserError(f"--split is {split!r}, must be one of {', '.join(SPLITS)}, all")
    if splits is None:
        raise UserError("give --splits FILE (made by pipeline.split), or --split all")
    sides = read_splits(splits)
    known = {image.image_id for image in images}
    missing = [i for i, side in sides.items() if side == split and i not in known]
    if missing:
        raise UserError(
            f"{splits}: {len(missing)} images of split {split} are not in {data} ({_some(missing)}); "
            "name the data that the split was made from, or make the split anew"
        )
    selected = [image for image in images if sides.get(image.image_id) == split]
    if not selected:
        raise UserError(f"{splits}: no images in split {split!r}; choose another --split or make the split anew")
    stray = [i for i in sorted(known) if i not in sides]
    return selected, [f"{len(stray)} images of the data are not in {splits}: {_some(stray)}"] if stray else []


def parse_merge(pairs: Sequence[str]) -> dict[str, str]:
    """{"A": "B"} from "A=B". Raises UserError on anything else, and where a target is itself merged."""
    merge = {}
    for pair in pairs:
        source, equals, target = pair.partition("=")
        if not (source and equals and target):
            raise UserError(f"--merge {pair!r} is not of the form A=B")
        merge[source] = target
    chained = sorted(set(merge.values()) & set(merge))
    if chained:
        raise UserError(f"--merge: {chained[0]!r} stands on both sides of =; name the last class at once")
    return merge


def merged_names(class_names: Sequence[str], merge: dict[str, str]) -> tuple[str, ...]:
    """The classes that are left, in their order. Raises UserError when a target is none of them."""
    names = tuple(dict.fromkeys(merge.get(name, name) for name in class_names))
    unknown = sorted(set(merge.values()) - set(class_names))
    if unknown:
        raise UserError(f"--merge: {unknown[0]!r} is none of {', '.join(class_names)}")
    return names


def _facts(
    args: EvaluateArgs, images: Sequence[AnnotatedImage], evaluations: Sequence[DetectionEvaluation]
) -> list[str]:
    faces = sum(len(image.boxes) for image in images)
    facts = [f"split {args.split}: {len(images)} photos with {faces} faces; bootstrap seed {args.seed}"]
    for e in evaluations:
        if e.silent_images:
            facts.append(f"{e.name}: no detection in {e.silent_images} of {e.images} photos, counted as empty")
        blank = {c.name for c in e.scores.classes if not c.overall.gt_count}
        spare = {n: sum(row[k] for row in e.confusion) for k, n in enumerate(e.class_names) if n in blank}
        facts += [
            f"{e.name}: {count} detections of {name}, a class without truths here, count as faces but not in mAP"
            for name, count in spare.items()
            if count
        ]
    if args.min_score > 0:
        facts.append(f"detections below score {args.min_score:g} were left out, which lowers average precision")
    return facts


def _write(
    args: EvaluateArgs,
    record: dict[str, Any],
    report: str,
    evaluations: Sequence[DetectionEvaluation],
    samples: dict[str, list[Sample]],
    images: Sequence[AnnotatedImage],
) -> None:
    from pipeline.evaluate.pictures import draw_confusion, draw_curves, draw_reliability, draw_worst

    @lru_cache(maxsize=16)
    def read(index: int) -> NDArray[np.uint8]:
        return read_image(images[index].path)

    draw_curves(evaluations, args.out / "pr_curves.png")
    for e in evaluations:
        folder = args.out if e.name == "ours" else args.out / e.name
        draw_confusion(e, folder / "confusion_matrix.png")
        draw_reliability(e, folder / "reliability.png")
        if args.pictures:
            kept = filter_by_score(one_label(samples[e.name]), e.threshold)
            draw_worst(folder, kept, list_mistakes(kept, e.settings.iou), e.class_names, read)
    if "ours" in samples:
        # A row for each class, so that any COCO tool comes to the same average precision.
        rows = every_class(samples["ours"], evaluations[0].settings.class_floor)
        write_results(args.out / "predictions.coco.json", rows, images, evaluations[0].class_names)
    write_text(args.out / "evaluation.md", report)
    write_text(args.out / "evaluation.json", json.dumps(record, indent=1) + "\n")


def _free_name(stem: str, taken: dict[str, Any]) -> str:
    name, number = stem, 2
    while name in taken or name in ("ours", STOCK_NAME):
        name, number = f"{stem}-{number}", number + 1
    return name


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m pipeline.evaluate`."""

    def command() -> int:
        import tyro

        refuse_renamed(argv, RENAMED_FLAGS)
        return run(tyro.cli(EvaluateArgs, args=argv, description=__doc__, prog=program_name("pipeline.evaluate")))

    return run_cli(command)
