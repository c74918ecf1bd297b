"""Cross-validates the fine-tuned cascade: fine-tunes it once for each fold, scores it on that fold's unseen photos.

    python -m pipeline.crossval --data DIR --out runs/crossval --also ../other-photos

In fold k the k-th part of the photos is scored, the next one calibrates scores and chooses the threshold, and the
cascade learns from the rest. The stock cascade is scored on the same photos. Started again after a kill, it goes on;
fine-tunings that are finished are not repeated.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.background import face_free_part
from pipeline.calibration import FLOOR, MATCH_IOU, calibrated
from pipeline.errors import USER_ERRORS, PipelineError
from pipeline.extras import needs
from pipeline.metrics import Sample, score_samples
from pipeline.resampling import best_score
from pipeline.stock import stock_detector
from stage1_faces.annotations import AnnotatedImage, read_dataset
from stage1_faces.detector import CascadeConfig, FaceDetector
from stage1_faces.faces import Detector
from stage1_faces.images import MediaError, read_image
from stage1_faces.splits import SPLITS, read_splits
from stage2_classifier.console import console, guarded, progress
from stage2_classifier.files import write_text

DETECTORS = ("stock", "fine-tuned")
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Args:
    """Fine-tune and score the cascade once for each fold of the photos, beside the stock cascade."""

    data: Path
    """Annotated photos: a Pascal VOC, COCO or YOLO folder."""
    out: Path = Path("runs/crossval")
    """Folder of the folds' splits, runs and scores."""
    folds: int = 5
    """How many folds."""
    seed: int = 0
    """Seed of the folds."""
    jobs: int = 2
    """Fine-tunings at a time, each with one thread."""
    also: Path | None = None
    """Annotated photos from elsewhere that each fold's cascade is scored on, too; never learned from."""
    also_iou: float = 0.35
    """IoU at which a box counts as on its face in --also, whose boxes may be drawn by other rules."""


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


def elsewhere(detector: Detector, images: Sequence[AnnotatedImage], iou: float, floor: float) -> Figures:
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
    run: Path, splits: Path, images: Sequence[AnnotatedImage], also: Sequence[AnnotatedImage], also_iou: float
) -> list[Score]:
    """Scores the stock and a fold's fine-tuned cascade on the fold's test photos, the latter elsewhere as well."""
    from stage1_faces.export import FINE_TUNED, export_cascade, runtime
    from stage1_faces.nets import Answers
    from stage1_faces.run_folder import load_net

    sides = read_splits(splits)
    val, test = ([i for i in images if sides.get(i.image_id) == side] for side in ("val", "test"))
    graphs = export_cascade({name: Answers(load_net(run, name)) for name in FINE_TUNED}, FINE_TUNED)
    nets = (runtime(graphs["pnet"]), runtime(graphs["rnet"]), runtime(graphs["onet"]))
    search = calibrated(FaceDetector(*nets), CascadeConfig(), val)
    tuned = FaceDetector(*nets, search)
    scores = []
    detectors: dict[str, tuple[Detector, float]] = {"stock": (stock_detector(), 0.0), "fine-tuned": (tuned, FLOOR)}
    with progress() as bar:
        task = bar.add_task(run.name, total=len(detectors) * (len(val) + len(test)))
        for name, (detector, floor) in detectors.items():
            found = [face_samples(detector, some, floor, lambda: bar.advance(task)) for some in (val, test)]
            threshold = best_score(found[0], 1, MATCH_IOU)
            figures = face_figures(found[1])
            figures["false alarms per face-free part"] = false_alarms(detector, test, threshold)
            scores.append(Score(name, threshold, figures))
    scores[1].figures.update(elsewhere(tuned, also, also_iou, FLOOR))
    return scores


def summary(folds: Sequence[Sequence[Score]]) -> dict[str, dict[str, tuple[float, float] | None]]:
    """{figure: {detector: (mean, standard deviation over the folds)}}; None where no fold has the figure."""
    table: dict[str, dict[str, tuple[float, float] | None]] = {}
    for k, score in enumerate(folds[0]):
        for name in score.figures:
            values = [v for fold in folds if (v := fold[k].figures.get(name)) is not None]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            table.setdefault(name, {})[score.detector] = (statistics.fmean(values), spread) if values else None
    return table


def markdown(table: Mapping[str, Mapping[str, tuple[float, float] | None]], folds: int) -> str:
    """The summary as a Markdown table."""
    lines = [f"| {folds}-fold, mean and spread | " + " | ".join(DETECTORS) + " |", "|---" * (len(DETECTORS) + 1) + "|"]
    for name, row in table.items():
        cells = ["-" if row.get(d) is None else "{:.3f} ± {:.3f}".format(*row[d]) for d in DETECTORS]  # type: ignore[misc]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run(args: Args) -> int:
    """Splits, fine-tunes, scores, prints and writes crossval.md and crossval.json."""
    with needs("train"):
        import faster_coco_eval  # noqa: F401 (missing: say so before an hour of training)
        import torch  # noqa: F401
    if args.jobs < 1:
        raise PipelineError(f"--jobs {args.jobs}: give 1 or more")
    if args.folds < len(SPLITS):
        raise PipelineError(f"--folds {args.folds}: give 3 or more (one to test, one to validate, the rest to train)")
    if not 0.1 < args.also_iou < 1:
        raise PipelineError(f"--also-iou is {args.also_iou}, must lie between 0.1 and 1")
    images = _readable(args.data)
    also = _readable(args.also) if args.also else []
    _start(args, images, also)
    splits = _splits(args)
    runs = [args.out / f"fold{k}" for k in range(args.folds)]
    _finetune(args, splits, runs)
    folds, stock = [], _stock_elsewhere(args, also)
    for fold, file in zip(runs, splits, strict=True):
        kept = fold.with_suffix(".json")
        if not kept.is_file():
            scores = score_fold(fold, file, images, also, args.also_iou)
            write_text(kept, json.dumps([asdict(score) for score in scores], indent=1) + "\n")
        folds.append(_read_scores(kept))
        folds[-1][0].figures.update(stock)
    table = summary(folds)
    text = markdown(table, args.folds)
    write_text(args.out / "crossval.md", text)
    record = {"folds": [[asdict(s) for s in fold] for fold in folds], "mean_and_spread": table}
    write_text(args.out / "crossval.json", json.dumps(record, indent=1) + "\n")
    console().print(text, markup=False, highlight=False)
    return 0


def _readable(data: Path) -> list[AnnotatedImage]:
    """The annotated photos that can be read; a warning names each of the others."""
    read = read_dataset(data)
    images, problems = [], [str(problem) for problem in read.problems]
    for image in read.images:
        try:
            read_image(image.path)
            images.append(image)
        except MediaError as error:
            problems.append(f"{error}; left out")
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return images


def _start(args: Args, images: Sequence[AnnotatedImage], also: Sequence[AnnotatedImage]) -> None:
    """Takes --out for this cross-validation, or goes on with it. Raises PipelineError when it holds another one."""
    from stage1_faces.run_folder import fingerprint

    file = args.out / "crossval_config.json"
    record = {
        "folds": args.folds,
        "seed": args.seed,
        "data": fingerprint(images),
        "also": fingerprint(also) if also else None,
        "also_iou": args.also_iou,
    }
    if file.is_file():
        try:
            before = dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise PipelineError(f"{file}: damaged ({error}); give another --out") from error
        for name, value in record.items():
            if before.get(name) != value:
                raise PipelineError(f"{args.out}: holds a cross-validation with another {name}; give another --out")
    write_text(file, json.dumps(record, indent=1) + "\n")


def _splits(args: Args) -> list[Path]:
    """The folds' split files, made when they are not there."""
    from pipeline import split

    files = [args.out / f"splits.fold{k}.csv" for k in range(args.folds)]
    if not all(file.is_file() for file in files):
        split.run(split.Args(data=args.data, out=args.out / "splits.csv", folds=args.folds, seed=args.seed))
    return files


def _finetune(args: Args, splits: Sequence[Path], runs: Sequence[Path]) -> None:
    """Fine-tunes each fold in a process of its own, `jobs` at a time; what they print goes to foldK.log."""

    def one(k: int) -> int:
        command = [sys.executable, "-m", "stage1_faces.finetune", "--threads", "1"]
        command += ["--data", str(args.data), "--splits", str(splits[k]), "--out", str(runs[k])]
        with runs[k].with_suffix(".log").open("a", encoding="utf-8") as log:
            return subprocess.run(command, stdout=log, stderr=log, check=False).returncode

    with progress() as bar, ThreadPoolExecutor(args.jobs) as pool:
        codes = list(bar.track(pool.map(one, range(args.folds)), total=args.folds, description="fine-tuning"))
    for fold, code in zip(runs, codes, strict=True):
        if code:
            log = fold.with_suffix(".log")
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise PipelineError(f"{log}: fine-tuning this fold failed: {lines[-1] if lines else f'exit code {code}'}")


def _stock_elsewhere(args: Args, also: Sequence[AnnotatedImage]) -> Figures:
    """The stock cascade's figures on photos from elsewhere: the same for every fold."""
    kept = args.out / "stock_elsewhere.json"
    if also and not kept.is_file():
        write_text(kept, json.dumps(elsewhere(stock_detector(), also, args.also_iou, 0.0)) + "\n")
    return json.loads(kept.read_text(encoding="utf-8")) if also else {}


def _read_scores(file: Path) -> list[Score]:
    try:
        return [Score(**record) for record in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise PipelineError(f"{file}: damaged ({error}); remove it to score this fold anew") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m pipeline.crossval`."""
    import tyro

    args = tyro.cli(Args, args=argv, description=__doc__, prog="python -m pipeline.crossval")
    return guarded(lambda: run(args), *USER_ERRORS)


if __name__ == "__main__":
    sys.exit(main())
