"""Command: split a dataset by source image into train, val and test, stratified, near-duplicates together."""

from __future__ import annotations

import csv
import math
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from common.annotations import AnnotatedImage, Annotations, Problem, ReadingArgs, load_dataset
from common.annotations.loading import Log, log_problems, warn
from common.annotations.yolo import label_file
from common.cli import console, program_name, run_cli
from common.errors import UserError
from common.files import atomic_text, check_writable_file
from common.paths import IMAGE_SUFFIXES
from common.splits import SPLITS
from pipeline.data.duplicates import near_duplicate_groups
from pipeline.data.stratify import stratify_groups

DATA_SUFFIXES = IMAGE_SUFFIXES | {".json", ".names", ".txt", ".xml", ".yaml", ".yml"}


@dataclass(frozen=True)
class SplitArgs(ReadingArgs):
    """Split a dataset into train, val and test, or into folds, and write the split of each photo as CSV.

    Photos that show the same (copies, re-crops, near-identical shots) stay together. Each split gets its share of
    every class's faces and of the photos.
    """

    data: Path
    """Annotated dataset: Pascal VOC, COCO or YOLO."""
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
    workers: int = 2
    """Processes that compare photos."""


class SplitRow(NamedTuple):
    """A row of splits.csv."""

    image_id: str
    split: str  # train, val or test
    group: int  # a number that photos of the same scene share


def make_split(
    images: Sequence[AnnotatedImage],
    groups: Sequence[int],
    ratios: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> list[SplitRow]:
    """Return one split, stratified over whole groups.

    Args:
        images: the dataset's images.
        groups: one number per image, equal for near-duplicates.
        ratios: shares of train, val and test.
        seed: decides among equal groups.

    Raises:
        UserError: the ratios do not sum to 1, or there are fewer than 3 groups.
    """
    if not all(math.isfinite(r) and r > 0 for r in ratios) or abs(sum(ratios) - 1) > 1e-6:
        raise UserError(f"--ratios {' '.join(map(str, ratios))}: give three positive numbers whose sum is 1")
    parts = _stratify_images(images, groups, ratios, seed)
    return _rows(images, [SPLITS[part] for part in parts], groups)


def make_folds(
    images: Sequence[AnnotatedImage], groups: Sequence[int], folds: int, seed: int = 0
) -> list[list[SplitRow]]:
    """Return one split per fold: in split k, fold k is test and fold k + 1 (cyclic) is val.

    Raises UserError when `folds` is under 3, or there are fewer groups than folds.
    """
    if folds < len(SPLITS):
        raise UserError(f"--folds {folds}: give 3 or more (one to test, one to validate, the rest to train)")
    parts = _stratify_images(images, groups, [1 / folds] * folds, seed)
    names = [{k: "test", (k + 1) % folds: "val"} for k in range(folds)]
    return [_rows(images, [own.get(part, "train") for part in parts], groups) for own in names]


def split_by_folder(images: Sequence[AnnotatedImage], groups: Sequence[int]) -> list[SplitRow]:
    """Return the split by the dataset's own folders. Raise UserError when an image is in none of them."""
    splits = []
    for image in images:
        if image.split is None:
            raise UserError(f"{image.path}: in no train, valid or test folder; leave out --keep-folders")
        splits.append(image.split)
    return _rows(images, splits, groups)


def _rows(images: Sequence[AnnotatedImage], splits: Sequence[str], groups: Sequence[int]) -> list[SplitRow]:
    """Return one row per image."""
    return [SplitRow(image.image_id, split, group) for image, split, group in zip(images, splits, groups, strict=True)]


def write_splits(path: Path, rows: Iterable[SplitRow]) -> None:
    """Write splits.csv, sorted by image_id, in one step."""
    with atomic_text(path, newline="") as f:
        writer = csv.writer(f)
        writer.writerow(SplitRow._fields)
        writer.writerows(sorted(rows, key=attrgetter("image_id")))


def _stratify_images(
    images: Sequence[AnnotatedImage], groups: Sequence[int], shares: Sequence[float], seed: int
) -> list[int]:
    """Return the part of each image, the same within a group."""
    numbers = sorted(set(groups))
    if len(numbers) < len(shares):
        different = f"{len(images)} photos make {len(numbers)} groups of different ones"
        raise UserError(f"{different}, too few for {len(shares)} parts; use more photos")
    column = {label: i for i, label in enumerate(sorted({label for image in images for label in image.labels}))}
    row = {number: i for i, number in enumerate(numbers)}
    counts = np.zeros((len(numbers), len(column) + 1))
    for image, group in zip(images, groups, strict=True):
        counts[row[group], -1] += 1
        for label in image.labels:
            counts[row[group], column[label]] += 1
    parts = stratify_groups(counts, shares, seed)
    return [parts[row[group]] for group in groups]


def run(args: SplitArgs, log: Log = warn) -> int:
    """Read, group, split, write and print; `log` gets what was refused. Return 1 when a photo could not be read."""
    _check_args(args)
    names = _output_files(args)
    for name in names:
        check_writable_file(name)
    _protect_data(names, _files_in(args.data))
    annotations = load_dataset(args.data, args, log)
    # The files of photos outside the dataset's folder, too.
    used = ((image.path, label_file(image.path)) for image in annotations.images)
    _protect_data(names, (file for files in used for file in files if file))
    annotations, groups, unreadable = _group_readable(args, annotations)
    images = annotations.images
    if args.folds is not None:
        splits = make_folds(images, groups, args.folds, args.seed)
    elif args.keep_folders:
        splits = [split_by_folder(images, groups)]
    else:
        splits = [make_split(images, groups, args.ratios, args.seed)]
    for name, rows in zip(names, splits, strict=True):
        write_splits(name, rows)
        _print_table(name, rows, annotations)
    _print_notes(splits[0], annotations)
    return 1 if unreadable else 0


def _check_args(args: SplitArgs) -> None:
    """Raise UserError on options out of range."""
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give 0 or more")
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: give 1 or more")
    if args.folds is not None and args.keep_folders:
        raise UserError("--folds and --keep-folders exclude each other; give one of them")


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
        raise UserError(f"{args.data}: none of its {len(unreadable)} photos can be read; give other --data")
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
    seen = set()
    for folder, inner, files in os.walk(data, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links may form a circle
            inner.clear()
            continue
        seen.add(real)
        yield from (Path(folder, file) for file in files if Path(file).suffix.lower() in DATA_SUFFIXES)


def _print_table(name: Path, rows: Sequence[SplitRow], annotations: Annotations) -> None:
    """Print the photos and faces per split."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(str(name)))
    table.add_column("split")
    for heading in ("images", *annotations.class_names, "faces"):
        table.add_column(escape(heading), justify="right")
    labelled = [(row.split, image) for row, image in zip(rows, annotations.images, strict=True)]
    for split in (*SPLITS, "all"):
        images = [image for own, image in labelled if split in (own, "all")]
        faces = Counter(label for image in images for label in image.labels)
        cells = [len(images), *(faces[label] for label in annotations.class_names), faces.total()]
        table.add_row(split, *map(str, cells), end_section=split == SPLITS[-1])
    console().print(table)


def _print_notes(rows: Sequence[SplitRow], annotations: Annotations) -> None:
    """Print the near-duplicates, clipped boxes and problems."""
    members: dict[int, list[SplitRow]] = defaultdict(list)
    for row in rows:
        members[row.group].append(row)
    shared = [group for group in members.values() if len(group) > 1]
    out = console()
    out.print(f"{len(shared)} groups of photos that show the same, {sum(map(len, shared))} photos in them")
    out.print(f"{annotations.clipped_boxes} boxes reached over the edge of their image and were clipped")
    divided = [group for group in shared if len({row.split for row in group}) > 1]
    if divided:  # only with --keep-folders
        names = ", ".join(f"{row.image_id} ({row.split})" for row in divided[0])
        print(
            f"warning: {len(divided)} groups of photos that show the same are in more than one split, e.g. {names}; "
            "scores will look better than they are. Remove --keep-folders for a clean split",
            file=sys.stderr,
        )
    log_problems(annotations.problems)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.split`."""
    return run_cli(lambda: run(tyro.cli(SplitArgs, args=argv, prog=program_name("pipeline.split"))))
