"""Cross-validates the whole pipeline: trains it once per fold, and scores it on that fold's test photos.

    python -m pipeline.crossval --data DIR --out runs/crossval --external-data ../other-photos

In fold k, part k of the photos is the test set. Part k + 1 fits what pipeline.pack fits (calibration, threshold). The
cascade and the classifiers train on the rest. The stock cascade is scored on the same test photos. After a kill, the
same command resumes: finished trainings are not repeated. Of several `--data`, only the first has folds; the others are
learned from in each fold (docs/sources.md), except for a part of the photos without faces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.annotations import AnnotatedImage, Annotations, ReadingArgs, count_line, load_dataset
from common.annotations.photos import photos_in
from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.errors import MediaError, UserError
from common.files import write_text
from common.images import read_image
from common.run_folder import RunFolder
from common.sources import SourcesArgs, load_sources, main_part
from common.splits import SPLITS, read_splits
from pipeline.data import split
from pipeline.data.checks import check_apart, check_dataset
from pipeline.data.further_sources import FurtherSources
from pipeline.evaluate.bootstrap import bootstrap
from pipeline.evaluate.metrics import MAX_IOU, MIN_IOU
from pipeline.evaluate.selection import check_classes, merge_classes, merged_names, parse_merge
from pipeline.evaluate.tide_errors import filter_by_score
from pipeline.training.fold_scoring import (
    PIPELINE,
    ExternalData,
    read_samples,
    read_scores,
    score_fold,
    stock_cross_dataset,
    write_fold,
)
from pipeline.training.fold_tables import calibration_table, fold_table, pooled_table, summarize_folds, unsure_table
from pipeline.training.left_out import (
    SPLITS_FILE,
    check_left_out,
    left_out_training,
    run_left_out,
    same_as_left_out,
)
from pipeline.training.plan import RECIPE_EXPERIMENTS, TrainingPlan, check_experiments, check_parts, check_workers
from pipeline.training.steps import RESUMABLE, Log, run_parallel

# The present flag by its name in earlier versions.
RENAMED_FLAGS = {"--also": "--external-data", "--also-merge": "--external-merge", "--also-iou": "--external-iou"}


@dataclass(frozen=True)
class CrossvalArgs(SourcesArgs):
    """Train and score the whole pipeline once per fold of the photos, and score the stock cascade, too.

    --rename is of --data alone; --external-merge names the classes of --external-data.
    """

    out: Path = Path("runs/crossval")
    """Folder of the folds' splits, runs and scores."""
    folds: int = 5
    """Number of folds."""
    seed: int = 0
    """Seed of the folds."""
    group_by: str | None = None
    """Keep photos together as pipeline.split --group-by does, instead of photos that show the same."""
    by_time: bool = False
    """Cut the folds in order of time, as pipeline.split --by-time does; scores look better than they are."""
    jobs: int = 2
    """Trainings at a time, each with one thread."""
    workers: int = 0
    """Processes per training that make its batches, for a GPU, which waits for them; 0: none."""
    experiments: tuple[str, ...] = RECIPE_EXPERIMENTS
    """Stage 2's experiments, whose networks are averaged."""
    leave_out_source: tuple[str, ...] = ()
    """Instead of folds: for each of these --data (names of folders), learn from the others and score on it."""
    match_iou: tuple[str, ...] = ()
    """NAME=0.35: IoU from which a box matches a face of a source that is left out; 0.5 without it."""
    merge: tuple[str, ...] = ()
    """NAME:A=B: class A counts as class B in a source that is left out."""
    face_free: tuple[Path, ...] = ()
    """Folders of photos without any face, never trained on: each fold's false alarms are counted there."""
    external_data: Path | None = None
    """Annotated photos of another dataset that each fold is scored on, too; never trained on."""
    external_merge: tuple[str, ...] = ()
    """A=B: class A counts as class B in --external-data, which may have fewer classes."""
    external_iou: float = 0.35
    """IoU from which a box matches a face in --external-data, whose boxes may be drawn by other rules."""


def run(args: CrossvalArgs) -> int:
    """Split, train, score and print, and write crossval.md and crossval.json."""
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (missing: an error before an hour of training)
        import torch  # noqa: F401
    from common.annotations.types import fingerprint

    _check_args(args)
    log = partial(console().print, markup=False, highlight=False)
    if args.leave_out_source:
        return _leave_out(args, log)
    annotations = load_sources(args)
    images = check_dataset(args.main_data, main_part(annotations), log)
    ids = {image.image_id for image in images}
    external = _read_external(args, annotations.class_names, log)
    face_free = _face_free_photos(args, annotations, log)
    record: dict[str, Any] = {
        "folds": args.folds,
        "seed": args.seed,
        "group_by": args.group_by,
        "by_time": args.by_time or None,  # as in earlier records, which lack it
        "data": fingerprint(images),
        "also": fingerprint(external.images) if external.images else None,
        "also_iou": args.external_iou,
        "also_merge": list(args.external_merge),
        "face_free": sorted(face_free) or None,
        "experiments": list(args.experiments),
    }
    if annotations.sources:
        record["sources"] = [source.facts() for source in annotations.sources]
        record["further_data"] = fingerprint([image for image in annotations.images if image.image_id not in ids])
    with RunFolder(args.out, "cross-validation", "--out", "crossval_config.json").held(record):
        log(_cross_validate(args, images, external, face_free, annotations.class_names, log))
    if counts := count_line(annotations):
        log(counts)
    return 0


def _leave_out(args: CrossvalArgs, log: Log) -> int:
    """Train without each of the named sources, score on it, and print the table."""
    from common.annotations.types import fingerprint

    annotations = load_sources(args)
    record: dict[str, Any] = {
        "leave_out": list(args.leave_out_source),
        "seed": args.seed,
        "data": fingerprint(annotations.images),
        "sources": [source.facts() for source in annotations.sources],
        "experiments": list(args.experiments),
        "match_iou": list(args.match_iou),
        "merge": list(args.merge),
    }
    check_left_out(args, annotations, args.leave_out_source, args.match_iou, args.merge)
    with RunFolder(args.out, "cross-validation", "--out", "crossval_config.json").held(record):
        folders = {name: args.out / f"left_out_{name}" for name in args.leave_out_source}
        scenes: Mapping[str, int] = {}
        compared = None
        if not all((folder / SPLITS_FILE).is_file() for folder in folders.values()):
            found = FurtherSources.find(annotations)  # once; each split of fewer sources takes its scenes from there
            scenes, compared = found.scenes, found.scenes_of_files(annotations)
        options = (args.experiments, args.seed, args.match_iou, args.merge)
        trainings = [
            left_out_training(
                args, name, folder, *options, same_as_left_out(annotations, scenes, name), compared, args.workers
            )
            for name, folder in folders.items()
        ]
        log(run_left_out(trainings, args.out, args.jobs, log))
    return 0


def _check_args(args: CrossvalArgs) -> None:
    """Raise UserError on arguments that can be refused before the work."""
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: use 1 or more")
    check_workers(args.workers)
    if args.folds < len(SPLITS):
        raise UserError(f"--folds {args.folds}: give 3 or more (one to test, one to validate, the rest to train)")
    if args.by_time and args.group_by is not None:
        raise UserError("--by-time and --group-by exclude each other; give one of them")
    if not MIN_IOU < args.external_iou < MAX_IOU:
        bounds = f"between {MIN_IOU:g} and {MAX_IOU:g}"
        raise UserError(f"--external-iou is {args.external_iou}, must be {bounds}; the default is 0.35")
    if (args.match_iou or args.merge) and not args.leave_out_source:
        raise UserError("--match-iou, --merge: are for sources that are left out; give --leave-out-source")
    for_folds: dict[str, object] = {"--external-data": args.external_data, "--face-free": args.face_free}
    for_folds |= {"--group-by": args.group_by, "--by-time": args.by_time}
    if args.leave_out_source and (given := [flag for flag, value in for_folds.items() if value]):
        raise UserError(f"{given[0]}: is for folds; leave it out, or leave out --leave-out-source")
    if args.external_merge and args.external_data is None:
        raise UserError("--external-merge: needs --external-data, whose classes it merges; give both")
    check_experiments(args.experiments)
    for data in (*args.data, *args.face_free, args.external_data):
        if data is not None:
            check_apart(data, args.out, "--out")


def _read_external(args: CrossvalArgs, class_names: Sequence[str], log: Log) -> ExternalData:
    """Read the external photos, and check their classes."""
    path, merge = args.external_data, parse_merge(args.external_merge)
    reading = ReadingArgs(unlabelled=args.unlabelled)
    images = check_dataset(path, load_dataset(path, reading), log) if path else []
    check_classes(merge_classes(images, merge), merged_names(class_names, merge), "--external-merge")
    return ExternalData(args.external_iou, images, merge)


def _face_free_photos(args: CrossvalArgs, annotations: Annotations, log: Log) -> dict[str, Path]:
    """Return {id: file} of the photos without any face that can be read: of --face-free, and of such sources."""
    sources = {source.name for source in annotations.sources if source.face_free}
    found = {image.image_id: image.path for image in annotations.images if image.source in sources}
    for folder in args.face_free:
        if (name := folder.resolve().name) in sources:
            raise UserError(f"--face-free: {name!r} is the name of another folder; give it once, or rename it")
        sources.add(name)
        photos = photos_in(folder, recursive=True)
        if not photos:
            raise UserError(f"--face-free {folder}: holds no photos; check the folder")
        found |= {f"{name}/{file.relative_to(folder).as_posix()}": file for file in photos}
    usable = {}
    for image_id, file in found.items():
        try:
            read_image(file)
            usable[image_id] = file
        except MediaError as error:
            log(f"warning: {error}; no false alarms are counted there")
    return usable


def _cross_validate(
    args: CrossvalArgs,
    images: Sequence[AnnotatedImage],
    external: ExternalData,
    face_free: Mapping[str, Path],
    names: Sequence[str],
    log: Log,
) -> str:
    """Train and score the remaining folds, write both files, and return the text of crossval.md."""
    reading = tuple(args.reading_flags())
    plans = []
    for k, splits in enumerate(_split_files(args)):
        of_image = read_splits(splits)
        parts = {name: [i for i in images if of_image.get(i.image_id) == name] for name in SPLITS}
        check_parts(splits, parts, "use fewer --folds, another --seed or more photos, with another --out")
        options: dict[str, Any] = {"reading": reading, "sources": args.sources, "workers": args.workers}
        plans.append(TrainingPlan(args.data, splits, args.out / f"fold{k}", args.experiments, **options))
    unscored = {plan.folder: plan for plan in plans if not _scores_file(plan).is_file()}

    def score(folder: Path) -> None:
        files = (_scores_file(unscored[folder]), _samples_file(unscored[folder]))
        write_fold(*files, *score_fold(unscored[folder], images, external, face_free))
        log(f"{folder.name}: scored")

    run_parallel([(folder, plan.steps) for folder, plan in unscored.items()], args.jobs, log, score)
    folds, samples, reported = [], [], []
    stock = stock_cross_dataset(args.out / "stock_elsewhere.json", external)
    for plan in plans:
        scores, found = read_scores(_scores_file(plan)), read_samples(_samples_file(plan), len(names))
        scores[0].figures.update(stock)
        folds.append(scores)
        samples += found
        reported += filter_by_score(found, scores[-1].threshold)
    table = summarize_folds(folds)
    pooled = bootstrap(samples, names)
    tables = [fold_table(table, args.folds), fold_table(table, args.folds, (PIPELINE,))]
    tables.append(pooled_table(samples, names, pooled))
    calibration = calibration_table([scores[-1].calibration for scores in folds])
    text = "\n".join([*tables, calibration, unsure_table(reported)])
    write_text(args.out / "crossval.md", text)
    record = {
        "folds": [[asdict(s) for s in fold] for fold in folds],
        "mean_and_spread": table,
        "pooled": {name: asdict(interval) for name, interval in pooled.items()},
    }
    write_text(args.out / "crossval.json", json.dumps(record, indent=1) + "\n")
    return text


def _scores_file(plan: TrainingPlan) -> Path:
    """Return the file of a fold's scores; with it, the fold is finished, and its folder is needed no more."""
    return plan.folder.with_suffix(".json")


def _samples_file(plan: TrainingPlan) -> Path:
    """Return the file of a fold's detections."""
    return plan.folder.with_suffix(".samples.json")


def _split_files(args: CrossvalArgs) -> list[Path]:
    """Return the folds' split files, made when missing."""
    files = [args.out / f"splits.fold{k}.csv" for k in range(args.folds)]
    if not all(file.is_file() for file in files):
        folds = split.SplitArgs(
            data=args.data,
            sources=args.sources,
            out=args.out / "splits.csv",
            folds=args.folds,
            seed=args.seed,
            group_by=args.group_by,
            by_time=args.by_time,
            rename=args.rename,
            unlabelled=args.unlabelled,
        )
        split.run(folds, log=lambda _: None)  # what was refused is reported already
    return files


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.crossval`."""

    def command() -> int:
        return run(parse_args(CrossvalArgs, argv, "pipeline.crossval", RENAMED_FLAGS, description=__doc__))

    return run_cli(command, interrupted=RESUMABLE)
