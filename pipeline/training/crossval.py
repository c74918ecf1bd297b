"""Cross-validates the whole pipeline: trains it once for each fold, scores it on that fold's unseen photos.

    python -m pipeline.crossval --data DIR --out runs/crossval --external-data ../other-photos

In fold k the k-th part of the photos is scored, the next one fits what pipeline.bundle fits (calibration, threshold),
and cascade and classifiers learn from the rest. The stock cascade is scored on the same photos. Started again after a
kill, it goes on; trainings that are finished are not repeated.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.annotations import AnnotatedImage, read_dataset
from common.cli import console, program_name, progress, refuse_renamed, requires_extra, run_cli
from common.errors import UserError
from common.files import write_text
from common.images import read_image
from common.splits import SPLITS, read_splits
from pipeline.data.checks import check_apart, usable_images
from pipeline.evaluate.bootstrap import best_score, bootstrap
from pipeline.evaluate.evaluation import detect_samples
from pipeline.evaluate.face_free import face_free_part
from pipeline.evaluate.metrics import Sample, score_every_class, score_samples
from pipeline.evaluate.reliability import Reliability, scores_and_correct
from pipeline.evaluate.risk_coverage import risk_coverage
from pipeline.evaluate.selection import check_classes, merge_classes, merged_names, parse_merge
from pipeline.evaluate.tide_errors import filter_by_score
from pipeline.inference.bundle import Bundle
from pipeline.inference.predictor import Predictor
from pipeline.training.calibration import FLOOR, MATCH_IOU
from pipeline.training.plan import EXPERIMENTS, TrainingPlan, check_experiments
from pipeline.training.steps import RESUMABLE, Say, locked_workdir, run_parallel
from stage1_faces.faces import Detector
from stage1_faces.stock.reference import stock_detector

DETECTORS = ("stock", "fine-tuned")  # cascades, scored by the faces that they find
WHOLE = "whole pipeline"
SAMPLE_ARRAYS = ("gt_boxes", "gt_labels", "boxes", "scores", "labels")
Figures = dict[str, float | None]


# The present flag by its name in earlier versions.
RENAMED_FLAGS = {"--also": "--external-data", "--also-merge": "--external-merge", "--also-iou": "--external-iou"}


@dataclass(frozen=True)
class CrossvalArgs:
    """Train and score the whole pipeline once for each fold of the photos, the stock cascade beside it."""

    data: Path
    """Annotated photos: a Pascal VOC, COCO or YOLO folder."""
    out: Path = Path("runs/crossval")
    """Folder of the folds' splits, runs and scores."""
    folds: int = 5
    """How many folds."""
    seed: int = 0
    """Seed of the folds."""
    jobs: int = 2
    """Trainings at a time, each with one thread."""
    experiments: tuple[str, ...] = EXPERIMENTS
    """Stage 2's experiments, whose networks are averaged."""
    external_data: Path | None = None
    """Annotated photos from elsewhere that each fold is scored on, too; never learned from."""
    external_merge: tuple[str, ...] = ()
    """A=B: class A is counted as class B in --external-data, whose classes may be fewer."""
    external_iou: float = 0.35
    """IoU at which a box counts as on its face in --external-data, whose boxes may be drawn by other rules."""


@dataclass(frozen=True)
class Score:
    """One detector's figures on one fold's unseen photos, and the threshold that its validation photos chose."""

    detector: str
    threshold: float
    figures: Figures


def face_samples(
    detector: Detector, images: Iterable[AnnotatedImage], floor: float, advance: Callable[[], None] = lambda: None
) -> list[Sample]:
    """Each image's faces and detections from a score of `floor` on, classes aside."""
    samples = []
    for image in images:
        found = detector.detect(read_image(image.path), min_score=floor)
        none = np.zeros(len(image.boxes), np.intp)
        labels = np.zeros(len(found), np.intp)
        samples.append(Sample(image.image_id, image.boxes, none, found.boxes, found.scores.astype(np.float64), labels))
        advance()
    return samples


def face_figures(samples: Sequence[Sample]) -> Figures:
    """Average precision, recall, and recall by face size."""
    faces = score_samples(samples, ["face"]).faces
    overall = faces.overall
    figures: Figures = {
        "face AP50": overall.ap50,
        "face recall at IoU 0.5": overall.recall50,
        "face AP, IoU 0.50-0.95": overall.ap,
        "face AP75": overall.ap75,
    }
    return figures | {f"faces {size} px found": part.recall50 for size, part in faces.by_size.items()}


def false_alarms(detector: Detector, images: Iterable[AnnotatedImage], threshold: float) -> float | None:
    """Detections from `threshold` on, per face-free part of the images; None when no image has such a part."""
    counts = []
    for image in images:
        part = face_free_part(read_image(image.path), image)
        if part is not None:
            counts.append(len(detector.detect(np.ascontiguousarray(part), min_score=threshold)))
    return statistics.fmean(counts) if counts else None


def cross_dataset(detector: Detector, images: Sequence[AnnotatedImage], iou: float, floor: float) -> Figures:
    """Average precision and recall at `iou` on photos from elsewhere; nothing without photos."""
    if not images:
        return {}
    with progress() as bar:
        task = bar.add_task("photos from elsewhere", total=len(images))
        samples = face_samples(detector, images, floor, lambda: bar.advance(task))
    overall = score_samples(samples, ["face"], iou).faces.overall
    return {
        f"face AP at IoU {iou:g} elsewhere": overall.ap_at_iou,
        f"face recall at IoU {iou:g} elsewhere": overall.recall_at_iou,
    }


def score_fold(
    branch: TrainingPlan, images: Sequence[AnnotatedImage], also: Sequence[AnnotatedImage], args: CrossvalArgs
) -> tuple[list[Score], list[Sample]]:
    """Scores both cascades and the whole pipeline on a fold's test photos, the latter two elsewhere as well.

    Gives the whole pipeline's detections there, too.
    """
    from pipeline.training.pack import crop_scores

    sides = read_splits(branch.splits)
    val, test = ([i for i in images if sides.get(i.image_id) == side] for side in ("val", "test"))
    predictor = Predictor.load(branch.bundle)
    tuned = predictor.bundle.detector()
    scores = []
    detectors: dict[str, tuple[Detector, float]] = {"stock": (stock_detector(), 0.0), "fine-tuned": (tuned, FLOOR)}
    with progress() as bar:
        task = bar.add_task(branch.folder.name, total=len(detectors) * (len(val) + len(test)))
        for name, (detector, floor) in detectors.items():
            found = [face_samples(detector, some, floor, lambda: bar.advance(task)) for some in (val, test)]
            threshold = best_score(found[0], 1, MATCH_IOU)
            figures = face_figures(found[1])
            figures["false alarms per face-free part"] = false_alarms(detector, test, threshold)
            scores.append(Score(name, threshold, figures))
    scores[1].figures.update(cross_dataset(tuned, also, args.external_iou, FLOOR))
    names = predictor.bundle.meta.class_names
    samples, _ = detect_samples(predictor, test, names)
    accuracy, macro_f1 = crop_scores(predictor, test)
    figures = {
        **whole_figures(samples, names),
        "crop accuracy": accuracy,
        "crop macro-F1": macro_f1,
        **whole_cross_dataset(predictor, also, args),
    }
    scores.append(Score(WHOLE, predictor.bundle.meta.score_threshold, figures))
    return scores, samples


def whole_figures(samples: Sequence[Sample], class_names: Sequence[str]) -> Figures:
    """Mean average precision, every class scored and with one label a face; how far scores are probabilities."""
    one = score_samples(samples, class_names)
    each = score_every_class(samples, class_names, one)
    probabilities, right = scores_and_correct(samples, len(class_names), MATCH_IOU)
    return {
        "mAP50": each.mean.overall.ap50,
        "mAP50-95": each.mean.overall.ap,
        **{f"AP50 {c.name}": c.overall.ap50 for c in each.classes},
        "mAP50, one label a face": one.mean.overall.ap50,
        "mAP50-95, one label a face": one.mean.overall.ap,
        "face AP50 with stage 2's verdict": one.faces.overall.ap50,
        "face AP, IoU 0.50-0.95, with stage 2's verdict": one.faces.overall.ap,
        "expected calibration error": Reliability.above(FLOOR, probabilities, right).ece,
    }


def whole_cross_dataset(predictor: Predictor, also: Sequence[AnnotatedImage], args: CrossvalArgs) -> Figures:
    """Mean average precision on photos from elsewhere; nothing without photos."""
    if not also:
        return {}
    merge = parse_merge(args.external_merge)
    names = merged_names(predictor.bundle.meta.class_names, merge)
    merged = merge_classes(also, merge)
    check_classes(merged, names)
    with progress() as bar:
        task = bar.add_task("photos from elsewhere", total=len(also))
        samples, _ = detect_samples(predictor, merged, names, merge, advance=lambda: bar.advance(task))
    one = score_samples(samples, names, args.external_iou)
    each = score_every_class(samples, names, one)
    return {
        f"mAP at IoU {args.external_iou:g} elsewhere": each.mean.overall.ap_at_iou,
        f"mAP at IoU {args.external_iou:g} elsewhere, one label a face": one.mean.overall.ap_at_iou,
        f"face AP at IoU {args.external_iou:g} elsewhere, with stage 2's verdict": one.faces.overall.ap_at_iou,
    }


def summary(folds: Sequence[Sequence[Score]]) -> dict[str, dict[str, tuple[float, float] | None]]:
    """{figure: {detector: (mean, standard deviation over the folds)}}; None where no fold has the figure."""
    table: dict[str, dict[str, tuple[float, float] | None]] = {}
    for k, score in enumerate(folds[0]):
        for name in score.figures:
            values = [v for fold in folds if (v := fold[k].figures.get(name)) is not None]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            table.setdefault(name, {})[score.detector] = (statistics.fmean(values), spread) if values else None
    return table


def markdown(
    table: Mapping[str, Mapping[str, tuple[float, float] | None]], folds: int, columns: Sequence[str] = DETECTORS
) -> str:
    """The rows of the summary that any of the columns has, as a Markdown table."""
    lines = [f"| {folds}-fold, mean and spread | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in table.items():
        if not any(c in row for c in columns):
            continue
        cells = ["-" if row.get(c) is None else "{:.3f} ± {:.3f}".format(*row[c]) for c in columns]  # type: ignore[misc]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def pooled(samples: Sequence[Sample], class_names: Sequence[str]) -> str:
    """A Markdown table of the figures over all folds' unseen photos together, with bootstrap intervals over photos.

    Each fold's scores are calibrated on photos of its own, so they compare.
    """
    lines = ["| all folds' unseen photos together | value | 95% interval |", "|---|---|---|"]
    for name, interval in bootstrap(samples, class_names).items():
        lines.append(f"| {name} | {interval.value:.3f} | {interval.low:.3f}-{interval.high:.3f} |")
    probabilities, right = scores_and_correct(samples, len(class_names), MATCH_IOU)
    error = Reliability.above(FLOOR, probabilities, right).ece
    return "\n".join([*lines, f"| expected calibration error | {'-' if error is None else f'{error:.3f}'} | |"]) + "\n"


def fitted(bundles: Sequence[Bundle]) -> str:
    """A Markdown table of the calibration error on validation photos before and after fitting, by fold."""
    errors = [bundle.meta.metrics.get("val_calibration_error", {}) for bundle in bundles]
    lines = ["| calibration error on the photos that it was fitted on, by fold | |", "|---|---|"]
    for when in ("before", "after"):
        values = [error.get(when) for error in errors]
        lines.append(f"| {when} | {', '.join('-' if v is None else f'{v:.3f}' for v in values)} |")
    return "\n".join(lines) + "\n"


def unsure_table(samples: Sequence[Sample]) -> str:
    """A Markdown table of what calling faces unsure brings; `samples` hold what is reported."""
    lines = ["| margin | unsure, of the faces found | wrong labels, of the sure ones |", "|---|---|---|"]
    for trade in risk_coverage(samples, MATCH_IOU):
        shares = ("-" if v is None else f"{v:.3f}" for v in (trade.unsure_share, trade.wrong_share))
        lines.append(f"| {trade.margin:g} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def run(args: CrossvalArgs) -> int:
    """Splits, trains, scores, prints and writes crossval.md and crossval.json."""
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (missing: say so before an hour of training)
        import torch  # noqa: F401
    from stage1_faces.training.run_folder import fingerprint

    _check(args)
    out = console()

    def say(line: str) -> None:
        out.print(line, markup=False, highlight=False)

    read = read_dataset(args.data)
    images = usable_images(args.data, read, say)
    also = usable_images(args.external_data, read_dataset(args.external_data), say) if args.external_data else []
    merge = parse_merge(args.external_merge)
    check_classes(merge_classes(also, merge), merged_names(read.class_names, merge))
    record = {
        "folds": args.folds,
        "seed": args.seed,
        "data": fingerprint(images),
        "also": fingerprint(also) if also else None,
        "also_iou": args.external_iou,
        "also_merge": list(args.external_merge),
        "experiments": list(args.experiments),
    }
    with locked_workdir(args.out, "crossval_config.json", record, "cross-validation", "--out"):
        out.print(_cross_validate(args, images, also, read.class_names, say), markup=False, highlight=False)
    return 0


def _check(args: CrossvalArgs) -> None:
    """Raises UserError or UserError on what can be refused before the work."""
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give 1 or more")
    if args.folds < len(SPLITS):
        raise UserError(f"--folds {args.folds}: give 3 or more (one to test, one to validate, the rest to train)")
    if not 0.1 < args.external_iou < 1:
        raise UserError(f"--external-iou is {args.external_iou}, must lie between 0.1 and 1")
    if args.external_merge and args.external_data is None:
        raise UserError("--external-merge: says how to count the classes of --external-data; give that, too")
    check_experiments(args.experiments)
    for data in (args.data, args.external_data):
        if data is not None:
            check_apart(data, args.out, "--out")


def _cross_validate(
    args: CrossvalArgs, images: Sequence[AnnotatedImage], also: Sequence[AnnotatedImage], names: Sequence[str], say: Say
) -> str:
    """Trains and scores what is left to do, writes both files, and gives the text of crossval.md."""
    branches = [
        TrainingPlan(args.data, splits, args.out / f"fold{k}", args.experiments)
        for k, splits in enumerate(_splits(args))
    ]
    run_parallel([(b.folder, b.steps) for b in branches], args.jobs, say)
    folds, samples, reported, stock = [], [], [], _stock_elsewhere(args, also)
    for branch in branches:
        kept, beside = (branch.folder.with_suffix(suffix) for suffix in (".json", ".samples.json"))
        if not kept.is_file():
            scores, found = score_fold(branch, images, also, args)
            write_text(beside, json.dumps([_to_json(s) for s in found]) + "\n")
            write_text(kept, json.dumps([asdict(score) for score in scores], indent=1) + "\n")
            say(f"{branch.folder.name}: scored")
        folds.append(_read_scores(kept))
        folds[-1][0].figures.update(stock)
        found = _read_samples(beside, len(names))
        samples += found
        reported += filter_by_score(found, folds[-1][-1].threshold)
    table = summary(folds)
    parts = (markdown(table, args.folds), markdown(table, args.folds, (WHOLE,)), pooled(samples, names))
    text = "\n".join((*parts, fitted([Bundle.load(branch.bundle) for branch in branches]), unsure_table(reported)))
    write_text(args.out / "crossval.md", text)
    record = {"folds": [[asdict(s) for s in fold] for fold in folds], "mean_and_spread": table}
    write_text(args.out / "crossval.json", json.dumps(record, indent=1) + "\n")
    return text


def _splits(args: CrossvalArgs) -> list[Path]:
    """The folds' split files, made when they are not there."""
    from pipeline.data import split

    files = [args.out / f"splits.fold{k}.csv" for k in range(args.folds)]
    if not all(file.is_file() for file in files):
        split.run(split.SplitArgs(data=args.data, out=args.out / "splits.csv", folds=args.folds, seed=args.seed))
    return files


def _stock_elsewhere(args: CrossvalArgs, also: Sequence[AnnotatedImage]) -> Figures:
    """The stock cascade's figures on photos from elsewhere: the same for every fold."""
    kept = args.out / "stock_elsewhere.json"
    if also and not kept.is_file():
        write_text(kept, json.dumps(cross_dataset(stock_detector(), also, args.external_iou, 0.0)) + "\n")
    return json.loads(kept.read_text(encoding="utf-8")) if also else {}


def _read_scores(file: Path) -> list[Score]:
    try:
        return [Score(**record) for record in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); remove it to score this fold anew") from error


def _to_json(sample: Sample) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(sample).items()}


def _read_samples(file: Path, classes: int) -> list[Sample]:
    try:
        return [
            Sample(
                r["image_id"],
                **{name: np.array(r[name]) for name in SAMPLE_ARRAYS},
                class_scores=np.array(r["class_scores"]).reshape(-1, classes),  # without detections: (0, C)
            )
            for r in json.loads(file.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        mend = f"remove {file.name.replace('.samples', '')} to score this fold anew"
        raise UserError(f"{file}: damaged or missing ({error}); {mend}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m pipeline.crossval`."""

    def command() -> int:
        import tyro

        refuse_renamed(argv, RENAMED_FLAGS)
        return run(tyro.cli(CrossvalArgs, args=argv, description=__doc__, prog=program_name("pipeline.crossval")))

    return run_cli(command, interrupted=RESUMABLE)
