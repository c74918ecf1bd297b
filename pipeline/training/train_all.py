"""From a folder of annotated photos to a detector: split, fine-tune, crops, classifiers, bundle, report.

    python -m pipeline.train_all --data DIR --out my-bundle

Any of the annotation formats, any class names. The recipe is learned twice, side by side: once from the training part
of the split, to fit settings on the validation photos and to score it on the test photos, and once from all photos,
which gives the bundle's weights. Started again after a kill, it goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.annotations import AnnotatedImage, Annotations, read_dataset
from common.cli import console, program_name, refuse_renamed, requires_extra, run_cli
from common.errors import UserError
from common.files import write_bytes
from common.splits import SPLITS, read_splits
from pipeline.data.build_crops import check_class_names
from pipeline.data.checks import FEW, check_apart, usable_images
from pipeline.data.duplicates import near_duplicate_groups
from pipeline.data.split import SplitRow, make_split, write_splits
from pipeline.evaluate.bootstrap import ONE_LABEL
from pipeline.inference.bundle import GRAPHS, Bundle, check_place, write_bundle
from pipeline.training.plan import EXPERIMENTS, TrainingPlan, check_experiments
from pipeline.training.steps import RESUMABLE, Say, TrainingStep, locked_workdir, run_parallel, run_steps

OWN = ("part", "all", "report", "splits.csv", "splits.all.csv", "train_all.json")  # in --work-dir
QUICK_REMARK = "--quick: a few steps of each training, to see that everything fits; the detector will be poor"
ALL_PHOTOS_REMARK = """\
This bundle's weights were learned from all photos. The figures below are those of the same recipe learned from the
training part alone, whose settings the bundle has, on the test photos: none was seen in training.

"""


# The present flag by its name in earlier versions.
RENAMED_FLAGS = {"--work": "--work-dir"}


@dataclass(frozen=True)
class TrainAllArgs:
    """Train a detector on annotated photos, from beginning to end."""

    data: Path
    """Annotated photos: a Pascal VOC, COCO or YOLO folder."""
    out: Path
    """Bundle directory to write."""
    work_dir: Path = Path("runs/train_all")
    """Folder of everything on the way: splits, runs, crops, logs, the report."""
    splits: Path | None = None
    """splits.csv to follow; made with pipeline.split's defaults when not given."""
    all_photos: bool = True
    """--no-all-photos: the bundle's weights are those that learned from the training photos alone; half the work."""
    experiments: tuple[str, ...] = EXPERIMENTS
    """Stage 2's experiments (python -m stage2_classifier.train --list), whose networks are averaged."""
    seed: int = 0
    """Seed of the split."""
    jobs: int = 2
    """Trainings at a time, each with one thread."""
    quick: bool = False
    """Only a few steps of each training, to see that everything fits; the detector will be poor."""


def run(args: TrainAllArgs) -> int:
    """Runs what is left to do, prints the headline and says where the report lies."""
    _check(args)
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (missing: say so before an hour of training)
        import torch  # noqa: F401
    from stage1_faces.training.run_folder import fingerprint

    read = read_dataset(args.data)
    check_class_names(read.class_names)
    if args.splits is not None:
        read_splits(args.splits)
    record = {
        "data": fingerprint(read.images),
        "splits": None if args.splits is None else args.splits.read_text(encoding="utf-8"),
        "seed": args.seed,
        "experiments": list(args.experiments),
        "quick": args.quick,
    }
    out = console()

    def say(line: str) -> None:
        out.print(line, markup=False, highlight=False)

    with locked_workdir(args.work_dir, "train_all.json", record, "training", "--work-dir") as goes_on:
        if goes_on:
            say(f"{args.work_dir}: goes on")
        if args.quick:
            say(QUICK_REMARK)
        _train(args, read, say)
    return 0


def _check(args: TrainAllArgs) -> None:
    """Raises UserError or UserError on what can be refused before the work."""
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give 1 or more")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give 0 or more")
    check_experiments(args.experiments)
    check_place(args.out)
    work, out = args.work_dir.resolve(), args.out.resolve()
    if work.is_relative_to(out) or any(out.is_relative_to(work / name) for name in OWN):
        raise UserError(f"{args.out}: --work-dir needs this place for itself; give another --out")
    check_apart(args.data, args.work_dir, "--work-dir")
    check_apart(args.data, args.out, "--out")


def _train(args: TrainAllArgs, read: Annotations, say: Say) -> None:
    start = time.monotonic()
    splits = _splits(args, read, say)
    part = TrainingPlan(args.data, splits, args.work_dir / "part", args.experiments, quick=args.quick)
    branches = [part]
    if args.all_photos:
        every = args.work_dir / "splits.all.csv"
        write_splits(every, [SplitRow(name, "train", i) for i, name in enumerate(read_splits(splits))])
        whole = replace(
            part, splits=every, folder=args.work_dir / "all", settings_from=part.bundle, sibling_runs=(part.folder,)
        )
        branches = [replace(part, sibling_runs=(whole.folder,)), whole]
    run_parallel([(branch.folder, branch.detector_steps()) for branch in branches], args.jobs, say)
    run_parallel([(branch.folder, branch.classifier_steps()) for branch in branches], args.jobs, say)
    for branch in branches:  # the second takes its settings from the first
        run_steps(branch.folder, [branch.bundle_step()], say)
    report, figures = args.work_dir / "report" / "evaluation.md", args.work_dir / "report" / "evaluation.json"
    scored = ("--data", str(args.data), "--splits", str(splits), "--bundle", str(part.bundle))
    command = ("pipeline.evaluate", *scored, "--out", str(report.parent))
    run_steps(args.work_dir, [TrainingStep("report", command, figures)], say)
    text = report.read_text(encoding="utf-8")
    bundle = _deliver(branches[-1].bundle, args.out, ALL_PHOTOS_REMARK + text if args.all_photos else text)
    say(f"{args.out}: classes {', '.join(bundle.meta.class_names)}; report.md in it")
    for line in _headline(figures):
        say(line)
    say(f"{report}: the report, with pictures beside it; took {time.monotonic() - start:.0f} s now")


def _splits(args: TrainAllArgs, read: Annotations, say: Say) -> Path:
    """The split of the photos that can be used, made when it is not there; what is left out of it is named.

    Raises UserError when a side of it has no faces.
    """
    file = args.work_dir / "splits.csv"
    if file.is_file():
        return file
    images = {image.image_id: image for image in usable_images(args.data, read, say)}
    rows = _dealt(images, args.seed, say) if args.splits is None else _followed(args.splits, images, say)
    faces = {side: Counter[str]() for side in SPLITS}
    for row in rows:
        faces[row.split].update(images[row.image_id].labels)
    for side, counts in faces.items():
        if not counts:
            mend = "another --seed or more photos" if args.splits is None else "other --splits"
            raise UserError(f"{args.data}: no face in split {side}, and a training needs all three; give {mend}")
        if blank := [name for name in read.class_names if not counts[name]]:
            say(f"warning: split {side} has no face of class {', '.join(blank)}")
    photos = Counter(row.split for row in rows)
    say("split: " + "; ".join(f"{side} {photos[side]} photos, {faces[side].total()} faces" for side in SPLITS))
    if args.splits is not None and len(rows) == len(read_splits(args.splits)):
        write_bytes(file, args.splits.read_bytes())  # as it is: bundles record its sha256
    else:
        write_splits(file, rows)
    return file


def _dealt(images: Mapping[str, AnnotatedImage], seed: int, say: Say) -> list[SplitRow]:
    """A split as pipeline.split makes it."""
    found = near_duplicate_groups([image.path for image in images.values()])
    several = [count for count in Counter(found.groups).values() if count > 1]
    if several:
        say(f"{len(several)} groups of photos that show the same, {sum(several)} photos in them, are kept together")
    return make_split(list(images.values()), found.groups, seed=seed)


def _followed(splits: Path, images: Mapping[str, AnnotatedImage], say: Say) -> list[SplitRow]:
    """The part of a given split whose photos can be used."""
    sides = read_splits(splits)
    if lost := [name for name in sides if name not in images]:
        say(f"warning: {splits}: left out {len(lost)} photos that are missing or of no use: {_some(lost)}")
    if stray := [name for name in images if name not in sides]:
        say(f"warning: {splits}: lacks {len(stray)} photos of the data, which are left out: {_some(stray)}")
    return [SplitRow(name, side, number) for number, (name, side) in enumerate(sides.items()) if name in images]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:FEW]) + (", ..." if len(names) > FEW else "")


def _deliver(made: Path, out: Path, report: str) -> Bundle:
    """Copies a bundle to `out`, with its report, in one step."""
    bundle = Bundle.load(made)
    return write_bundle(out, bundle.meta, {name: bundle.graph_bytes(name) for name in GRAPHS}, report)


def _headline(file: Path) -> list[str]:
    """The report's first figures."""
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
    """Command line of `python -m pipeline.train_all`."""

    def command() -> int:
        import tyro

        refuse_renamed(argv, RENAMED_FLAGS)
        return run(tyro.cli(TrainAllArgs, args=argv, description=__doc__, prog=program_name("pipeline.train_all")))

    return run_cli(command, interrupted=RESUMABLE)
