"""From a folder of annotated photos to a detector: split, fine-tune, crops, classifiers, bundle, report.

    python -m pipeline.train_all --data DIR --out my-bundle
    python -m pipeline.train_all --data DIR MORE... --sources sources.yaml --out my-bundle

Of several folders, the first is split, validated and tested; the others are only learned from (docs/sources.md). All
annotation formats and class names are possible. The recipe is trained twice, in parallel. The first training uses the
split's training part. Its settings are fitted on the validation photos, and it is scored on the test photos. The second
training uses all photos and gives the bundle's weights. After a kill, the same command resumes.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from common.annotations import AnnotatedImage, Annotations, count_line
from common.annotations.loading import log_problems
from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.display import first_names
from common.errors import UserError
from common.files import write_bytes
from common.run_folder import RunFolder
from common.sources import SourcesArgs, load_sources, main_part
from common.splits import SPLITS, read_splits
from pipeline.data.checks import check_apart, check_class_names, check_dataset
from pipeline.data.duplicates import near_duplicate_groups
from pipeline.data.further_sources import FurtherSources
from pipeline.data.splitting import SplitRow, TooFewGroupsError, make_split, write_splits
from pipeline.evaluate.bootstrap import ONE_LABEL
from pipeline.evaluate.scoring.learned import sources_table
from pipeline.inference.bundle import GRAPHS, Bundle, check_destination, write_bundle
from pipeline.training.plan import RECIPE_EXPERIMENTS, TrainingPlan, check_experiments, check_parts, check_workers
from pipeline.training.steps import RESUMABLE, Log, TrainingStep, run_parallel, run_steps

ALL_SPLITS = "splits.all.csv"
RESERVED = ("part", "all", "report", "splits.csv", ALL_SPLITS, "train_all.json")  # in --work-dir
QUICK_REMARK = "--quick: a few steps of each training, as a check that everything fits; the detector will be poor"
ALL_PHOTOS_REMARK = """\
This bundle's weights were learned from all photos. The metrics below are those of the same recipe, learned from the
training part alone, on the test photos: none was seen in training. The bundle has that training's settings.

"""

# The present flag by its name in earlier versions.
RENAMED_FLAGS = {"--work": "--work-dir"}


@dataclass(frozen=True)
class TrainAllArgs(SourcesArgs):
    """Train a detector on annotated photos, from the first step to the last."""

    out: Path
    """Bundle directory to write."""
    work_dir: Path = Path("runs/train_all")
    """Folder of all intermediate results: splits, runs, crops, logs, the report."""
    splits: Path | None = None
    """splits.csv to follow; made with pipeline.split's defaults when not given."""
    all_photos: bool = True
    """--no-all-photos: the bundle has the weights learned from the training photos alone, for half the work."""
    experiments: tuple[str, ...] = RECIPE_EXPERIMENTS
    """Stage 2's experiments (python -m stage2_classifier.train --list), whose networks are averaged."""
    seed: int = 0
    """Seed of the split."""
    jobs: int = 2
    """Trainings at a time, each with one thread."""
    workers: int = 0
    """Processes per training that make its batches, for a GPU, which waits for them; 0: none."""
    int8: bool = True
    """--no-int8: all nets of the bundle compute in float32; use it when pipeline.pack refuses INT8."""
    quick: bool = False
    """Run only a few steps of each training, as a check that everything fits; the detector will be poor."""


def run(args: TrainAllArgs) -> int:
    """Run the remaining work, and print the main metrics and the report's place."""
    _check_args(args)
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (missing: an error before an hour of training)
        import torch  # noqa: F401
    from common.annotations.types import fingerprint

    annotations = load_sources(args)
    check_class_names(annotations.class_names)
    if args.splits is not None:
        read_splits(args.splits)
    record: dict[str, Any] = {
        "data": fingerprint(annotations.images),
        "splits": None if args.splits is None else args.splits.read_text(encoding="utf-8"),
        "seed": args.seed,
        "experiments": list(args.experiments),
        "quick": args.quick,
    }
    if annotations.sources:
        record["sources"] = [source.facts() for source in annotations.sources]
    log = partial(console().print, markup=False, highlight=False)
    with RunFolder(args.work_dir, "training", "--work-dir", "train_all.json").held(record) as resumed:
        if resumed:
            log(f"{args.work_dir}: resumed")
        if args.quick:
            log(QUICK_REMARK)
        _train(args, annotations, log)
    return 0


def _check_args(args: TrainAllArgs) -> None:
    """Raise UserError on arguments that can be refused before the work."""
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: use 1 or more")
    check_workers(args.workers)
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: use 0 or more")
    check_experiments(args.experiments)
    check_destination(args.out)
    work, out = args.work_dir.resolve(), args.out.resolve()
    if work.is_relative_to(out) or any(out.is_relative_to(work / name) for name in RESERVED):
        raise UserError(f"{args.out}: is reserved for files in --work-dir; give another --out")
    for folder in args.data:
        check_apart(folder, args.work_dir, "--work-dir")
        check_apart(folder, args.out, "--out")


def _train(args: TrainAllArgs, annotations: Annotations, log: Log) -> None:
    """Train, score and write the bundle."""
    start = time.monotonic()
    splits = _splits(args, annotations, log)
    plans = _plans(args, splits)
    run_parallel([(plan.folder, plan.detector_steps()) for plan in plans], args.jobs, log)
    run_parallel([(plan.folder, plan.classifier_steps()) for plan in plans], args.jobs, log)
    for plan in plans:  # the second bundle takes its settings from the first
        run_steps(plan.folder, [plan.bundle_step()], log)
    folder = args.work_dir / "report"
    report, record = folder / "evaluation.md", folder / "evaluation.json"
    photos = ("--data", str(args.main_data), "--splits", str(splits), *_main_reading(args, annotations))
    scored = (*photos, "--bundle", str(plans[0].bundle))
    command = ("pipeline.evaluate", *scored, "--out", str(folder))
    run_steps(args.work_dir, [TrainingStep("report", command, record)], log)
    text = report.read_text(encoding="utf-8")
    made = Bundle.load(plans[-1].bundle)
    graphs = {name: made.graph_bytes(name) for name in GRAPHS}
    write_bundle(args.out, made.meta, graphs, _remark(made) + text if args.all_photos else text)
    log(f"{args.out}: classes {', '.join(made.meta.class_names)}; report.md in it")
    for line in _main_metrics(record):
        log(line)
    if counts := count_line(annotations):
        log(counts)
    log(f"{report}: the report, with pictures next to it; took {time.monotonic() - start:.0f} s now")


def _remark(made: Bundle) -> str:
    """Return the start of the report of a bundle that learned from all photos: what these were, and what follows."""
    learned = sources_table(made.meta.provenance, "Sources learned from, all photos")
    return ALL_PHOTOS_REMARK + (f"{learned.markdown()}\n" if learned else "")


def _main_reading(args: TrainAllArgs, annotations: Annotations) -> list[str]:
    """Return the flags that read the main data alone, with its `rename` of the file of sources."""
    own = annotations.sources[0].rename if annotations.sources else ()
    return replace(args, rename=(*args.rename, *own)).reading_flags()


def _plans(args: TrainAllArgs, splits: Path) -> list[TrainingPlan]:
    """Return the plan of the training part, and that of all photos if asked for."""
    folder, reading = args.work_dir / "part", tuple(args.reading_flags())
    part = TrainingPlan(
        args.data,
        splits,
        folder,
        args.experiments,
        quick=args.quick,
        reading=reading,
        sources=args.sources,
        int8=args.int8,
        workers=args.workers,
    )
    if not args.all_photos:
        return [part]
    all_splits, folder = args.work_dir / ALL_SPLITS, args.work_dir / "all"
    whole = replace(part, splits=all_splits, folder=folder, settings_from=part.bundle, sibling_runs=(part.folder,))
    return [replace(part, sibling_runs=(folder,)), whole]


def _splits(args: TrainAllArgs, annotations: Annotations, log: Log) -> Path:
    """Return the split file of the usable photos, made when missing. Raises UserError as `check_parts` does."""
    file = args.work_dir / "splits.csv"
    if file.is_file():
        return file
    main = main_part(annotations)
    images = {image.image_id: image for image in check_dataset(args.main_data, main, log)}
    further_ids = {image.image_id for image in annotations.images} - {image.image_id for image in main.images}
    rows = _new_split(args, images, log) if args.splits is None else _given_split(args.splits, images, further_ids, log)
    parts = {split: [images[row.image_id] for row in rows if row.split == split] for split in SPLITS}
    fix = "use another --seed or more photos" if args.splits is None else "use other --splits"
    check_parts(args.splits or args.main_data, parts, fix)
    faces = {split: Counter(label for image in part for label in image.labels) for split, part in parts.items()}
    for split, counts in faces.items():
        if absent := [name for name in annotations.class_names if not counts[name]]:
            log(f"warning: split {split} has no face of class {', '.join(absent)}")
    photos = Counter(row.split for row in rows)
    log("split: " + "; ".join(f"{split} {photos[split]} photos, {faces[split].total()} faces" for split in SPLITS))
    further = FurtherSources.find(annotations)
    log_problems(further.unreadable, log)
    found = further.rows(rows)
    for line in found.lines():
        log(line)
    every = [*(row.image_id for row in rows), *further.photos]
    write_splits(args.work_dir / ALL_SPLITS, [SplitRow(name, "train", i) for i, name in enumerate(every)])
    used = {row.image_id: row.split for row in (*rows, *found.rows)}
    if args.splits is not None and used == read_splits(args.splits):
        write_bytes(file, args.splits.read_bytes())  # unchanged: bundles record its sha256
    else:
        write_splits(file, [*rows, *found.rows])
    return file


def _new_split(args: TrainAllArgs, images: Mapping[str, AnnotatedImage], log: Log) -> list[SplitRow]:
    """Return a split as pipeline.split makes it."""
    found = near_duplicate_groups([image.path for image in images.values()])
    several = [count for count in Counter(found.groups).values() if count > 1]
    if several:
        log(f"{len(several)} groups of photos that show the same, {sum(several)} photos in them, are kept together")
    try:
        return make_split(list(images.values()), found.groups, seed=args.seed)
    except TooFewGroupsError as error:
        raise error.with_command(args.data, Path("splits.csv"), args.source_flags()) from None


def _given_split(
    splits: Path, images: Mapping[str, AnnotatedImage], further: Container[str], log: Log
) -> list[SplitRow]:
    """Return the rows of a given split whose photos can be used; rows of further sources are made again."""
    given = {name: split for name, split in read_splits(splits).items() if name not in further}
    if lost := [name for name in given if name not in images]:
        log(f"warning: {splits}: left out {len(lost)} photos that are missing or unusable: {first_names(lost)}")
    if stray := [name for name in images if name not in given]:
        log(f"warning: {splits}: lacks {len(stray)} photos of the data, which are left out: {first_names(stray)}")
    return [SplitRow(name, split, number) for number, (name, split) in enumerate(given.items()) if name in images]


def _main_metrics(file: Path) -> list[str]:
    """Return the main metrics of evaluation.json, one per line."""
    record = json.loads(file.read_text(encoding="utf-8"))
    ours = record["detectors"][0]
    each = [f"AP50/{name}" for name in ours["class_names"]]
    shown = [
        f"{name.replace('/', ' ')} {v['value']:.3f} [{v['low']:.3f}, {v['high']:.3f}]"
        for name in ("mAP50", "mAP50-95", *each, f"mAP50{ONE_LABEL}")
        if (v := ours["intervals"].get(name)) is not None
    ]
    return [f"{record['photos']} test photos, by weights learned from the training photos:", *shown]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.train_all`."""

    def command() -> int:
        return run(parse_args(TrainAllArgs, argv, "pipeline.train_all", RENAMED_FLAGS, description=__doc__))

    return run_cli(command, interrupted=RESUMABLE)
