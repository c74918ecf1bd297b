"""Command: split a dataset by source image into train, val and test, stratified, near-duplicates together."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.annotations import AnnotatedImage, Annotations, Problem
from common.annotations.loading import Log, log_problems, warn
from common.annotations.photos import files_in
from common.annotations.tools.via import is_via_file
from common.annotations.yolo import label_file
from common.arguments import parse_args
from common.cli import console, run_cli
from common.display import display_name, printable
from common.errors import UserError
from common.files import check_writable_file
from common.paths import IMAGE_SUFFIXES
from common.sources import SourcesArgs, load_sources, main_part
from common.splits import SPLITS
from pipeline.data.duplicates import near_duplicate_groups
from pipeline.data.further_sources import FurtherSources
from pipeline.data.name_groups import name_groups, shown_groups
from pipeline.data.split_checks import check_faces, missing_classes, missing_parts, single_class, small_parts
from pipeline.data.splitting import (
    BY_TIME,
    GROUP_BY,
    SplitRow,
    TooFewGroupsError,
    check_folds,
    check_ratios,
    make_folds,
    make_split,
    split_by_folder,
    split_by_time,
    write_splits,
)

EXCLUSIVE = (
    *(("--folds", "--keep-folders"), ("--group-by", "--keep-folders")),
    *(("--by-time", "--keep-folders"), ("--by-time", "--group-by")),
)
DATA_SUFFIXES = IMAGE_SUFFIXES | {".data", ".json", ".labels", ".names", ".txt", ".xml", ".yaml", ".yml"}


@dataclass(frozen=True)
class SplitArgs(SourcesArgs):
    """Split a dataset into train, val and test, or into folds, and write the split of each photo as CSV.

    Photos that show the same (copies, re-crops, mirror images, near-identical shots) stay together. Each split gets
    its share of every class's faces and of the photos. Frames of one camera all show the same; they need --by-time,
    --group-by or --keep-folders. Of several --data, the first is split; the others are for training.
    """

    out: Path = Path("splits.csv")
    """The file to write; with --folds K, NAME.fold0.csv and so on next to it."""
    ratios: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, val and test; their sum is 1."""
    seed: int = 0
    """The same seed gives the same split."""
    folds: int | None = None
    """Write K splits instead: in split k, fold k is test, the next fold val, the rest train."""
    keep_folders: bool = False
    """Keep the dataset's own train, valid and test folders; warns of near-duplicates in two of them."""
    group_by: str | None = None
    """Keep together what this regular expression finds in a photo's id or path (its first parenthesis, if any)."""
    by_time: bool = False
    """Cut the photos in order of EXIF time or name: the first for train, the last for test. Scores look better."""
    workers: int = 2
    """Processes that compare photos."""


@dataclass(frozen=True)
class _MadeSplits:
    """The splits, and what is to be said about them."""

    args: SplitArgs
    splits: list[list[SplitRow]]  # one, or one per fold
    same_scene: tuple[int, ...]  # one number per image, equal for near-duplicates
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def divided_groups(self) -> list[str]:
        """Return a warning where near-duplicates are in more than one split."""
        divided: dict[int, str] = {}
        for rows in self.splits:
            members: dict[int, dict[str, str]] = defaultdict(dict)  # the first photo in each split
            for row, scene in zip(rows, self.same_scene, strict=True):
                members[scene].setdefault(row.split, row.image_id)
            for scene, firsts in members.items():
                if len(firsts) > 1:
                    divided.setdefault(scene, ", ".join(f"{name} ({split})" for split, name in firsts.items()))
        if not divided:
            return []
        flags = {"--keep-folders": self.args.keep_folders, "--by-time": self.args.by_time}
        used = next((flag for flag, given in flags.items() if given), "--group-by")
        fix = f". Remove {used} for a clean split" if len(set(self.same_scene)) >= len(SPLITS) else ""
        return [
            f"{len(divided)} groups of photos that show the same are in more than one split, "
            f"e.g. {divided[min(divided)]}; scores will look better than they are{fix}"
        ]

    def class_warnings(self, annotations: Annotations) -> list[str]:
        """Return warnings of one class alone, and of parts that lack a class."""
        found = single_class(annotations.images)
        for fold, rows in enumerate(self.splits):
            splits = [row.split for row in rows]
            if self.args.folds is None:
                found += missing_classes(annotations.images, splits, annotations.class_names)
            else:  # a fold's val is the next fold's test
                lacking = missing_classes(annotations.images, splits, annotations.class_names, ("train", "test"))
                found += [f"fold {fold}: {each}" for each in lacking]
        return found


def run(args: SplitArgs, log: Log = warn, compared: Mapping[Path, int] | None = None) -> int:
    """Read, group, split, write and print. Return 1 when a photo could not be read.

    Args:
        args: the command's arguments.
        log: gets what was refused.
        compared: as in `FurtherSources.find`.
    """
    _check_args(args)
    names = _output_files(args)
    for name in names:
        check_writable_file(name)
    _protect_data(names, (file for folder in args.data for file in _files_in(folder)))
    annotations = load_sources(args, log)
    # The files of photos outside the dataset's folder, too.
    used = ((image.path, label_file(image.path)) for image in annotations.images)
    _protect_data(names, (file for files in used for file in files if file))
    further = FurtherSources.find(annotations, args.workers, compared)
    annotations, same_scene, unreadable = _group_readable(args, main_part(annotations))
    annotations = replace(annotations, problems=(*annotations.problems, *further.unreadable))
    made = _split_images(args, annotations.images, same_scene)
    for fold, (name, rows) in enumerate(zip(names, made.splits, strict=True)):
        found = further.rows(rows, fold, args.folds)
        write_splits(name, [*rows, *found.rows])
        _print_table(name, rows, annotations)
        for line in found.lines():
            console().print(printable(line), markup=False, highlight=False)
    _print_notes(made, annotations)
    return 1 if unreadable or further.unreadable else 0


def _check_args(args: SplitArgs) -> None:
    """Raise UserError on options out of range."""
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give 0 or more")
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: give 1 or more")
    given = {
        "--folds": args.folds is not None,
        "--keep-folders": args.keep_folders,
        "--group-by": args.group_by is not None,
        "--by-time": args.by_time,
    }
    for one, other in EXCLUSIVE:
        if given[one] and given[other]:
            raise UserError(f"{one} and {other} exclude each other; give one of them")
    if args.folds is not None:
        check_folds(args.folds)
    elif not args.keep_folders:
        check_ratios(args.ratios)


def _split_images(args: SplitArgs, images: Sequence[AnnotatedImage], same_scene: Sequence[int]) -> _MadeSplits:
    """Return the splits that the options ask for, after a check of each; raise UserError on a part without a face."""
    notes, warnings, fix = [], [], "annotate more photos"
    groups: Sequence[int] = same_scene
    if args.keep_folders:
        splits, fix = [split_by_folder(images, groups)], "annotate more photos there, or leave out --keep-folders"
        warnings += missing_parts([row.split for row in splits[0]])
    elif args.by_time:
        splits, cut = split_by_time(images, groups, args.ratios, args.folds)
        fix = "annotate more photos, or leave out --by-time"
        ends = "; ".join(f"{images[a].image_id} and {images[b].image_id}" for a, b in cut.neighbours())
        notes.append(f"cut in order of {cut.source} between {ends}")
        warnings.append(
            "--by-time: photos next to a cut show nearly the same, in two parts; scores will look better than they are"
        )
    else:
        if args.group_by is not None:
            names = name_groups(images, args.main_data, args.group_by)
            groups = [list(dict.fromkeys(names)).index(name) for name in names]
            notes.append(f"--group-by makes {shown_groups(names)}")
        splits = _split_groups(args, images, groups)
        if args.folds is None:
            warnings += small_parts([row.split for row in splits[0]], groups, args.ratios, f"{BY_TIME} or {GROUP_BY}")
    for rows in splits:
        check_faces(images, [row.split for row in rows], fix, may_lack_parts=args.keep_folders)
    return _MadeSplits(args, splits, tuple(same_scene), tuple(notes), tuple(warnings))


def _split_groups(args: SplitArgs, images: Sequence[AnnotatedImage], groups: Sequence[int]) -> list[list[SplitRow]]:
    """Return the stratified split, or one per fold; where there are too few groups, name the ways that are left."""
    try:
        if args.folds is None:
            return [make_split(images, groups, args.ratios, args.seed)]
        return make_folds(images, groups, args.folds, args.seed)
    except TooFewGroupsError as error:
        if args.folds is None and args.group_by is None:
            raise
        folds = "fewer --folds, " if args.folds is not None and error.usable >= len(SPLITS) else ""
        pattern = GROUP_BY if args.group_by is None else "another --group-by"
        raise error.with_fix(f"use {folds}{pattern} or {BY_TIME}") from None


def _output_files(args: SplitArgs) -> list[Path]:
    """Return the file of each split."""
    if args.folds is None:
        return [args.out]
    return [args.out.with_name(f"{args.out.stem}.fold{k}{args.out.suffix}") for k in range(args.folds)]


def _group_readable(args: SplitArgs, annotations: Annotations) -> tuple[Annotations, list[int], bool]:
    """Return the annotations of readable photos, their groups, and whether any is unreadable (a problem then)."""
    found = near_duplicate_groups([image.path for image in annotations.images], args.workers)
    unreadable = dict(found.unreadable)
    usable = [i for i in range(len(annotations.images)) if i not in unreadable]
    if not usable:
        raise UserError(f"{args.main_data}: none of its {len(unreadable)} photos can be read; give other --data")
    problems = [Problem(annotations.images[i].path, f"{why}; not used") for i, why in found.unreadable]
    images = tuple(annotations.images[i] for i in usable)
    # The problems of reading were reported at once.
    annotations = replace(annotations, images=images, problems=tuple(problems))
    return annotations, [found.groups[i] for i in usable], bool(unreadable)


def _protect_data(names: Sequence[Path], files: Iterable[Path]) -> None:
    """Refuse to write over one of `files`, which belong to the dataset."""
    existing = {os.path.realpath(name): name for name in names if name.exists()}
    if not existing:
        return
    for file in files:
        if name := existing.get(os.path.realpath(file)):
            raise UserError(f"{name}: is one of the data's files; name another file with --out")


def _files_in(data: Path) -> Iterator[Path]:
    """Yield the photos, annotations and class names in a dataset's folder and in folders that it links to."""
    if data.is_file():
        yield data
        data = data.parent
    files = list(files_in(data, recursive=True, skip_unsearchable=True))  # reading the data names such a folder
    yield from (file for file in files if file.suffix.lower() in DATA_SUFFIXES)
    yield from (file for file in files if file.suffix.lower() == ".csv" and is_via_file(file))


def _print_table(name: Path, rows: Sequence[SplitRow], annotations: Annotations) -> None:
    """Print the photos and faces per split."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(display_name(name)))
    table.add_column("split")
    for heading in ("images", *annotations.class_names, "faces"):
        table.add_column(escape(printable(heading)), justify="right")
    labelled = [(row.split, image) for row, image in zip(rows, annotations.images, strict=True)]
    for split in (*SPLITS, "all"):
        images = [image for own, image in labelled if split in (own, "all")]
        faces = Counter(label for image in images for label in image.labels)
        cells = [len(images), *(faces[label] for label in annotations.class_names), faces.total()]
        table.add_row(split, *map(str, cells), end_section=split == SPLITS[-1])
    console().print(table)


def _print_notes(made: _MadeSplits, annotations: Annotations) -> None:
    """Print the groups, clipped boxes, warnings and problems."""
    out = console()
    shared = [count for count in Counter(made.same_scene).values() if count > 1]
    out.print(f"{len(shared)} groups of photos that show the same, {sum(shared)} photos in them")
    out.print(f"{annotations.clipped_boxes} boxes reached over the edge of their image and were clipped")
    for note in made.notes:
        out.print(printable(note), markup=False, highlight=False)
    for warning in (*made.warnings, *made.divided_groups(), *made.class_warnings(annotations)):
        print(f"warning: {printable(warning)}", file=sys.stderr)
    log_problems(annotations.problems)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.split`."""
    return run_cli(lambda: run(parse_args(SplitArgs, argv, "pipeline.split")))
