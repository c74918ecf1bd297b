"""Splits of a dataset by source image: stratified over whole groups, by the data's own folders, or in order of time."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.annotations import AnnotatedImage
from common.errors import UserError
from common.files import atomic_text
from common.splits import SPLITS
from pipeline.data.stratify import spread_faces, stratify_groups
from pipeline.data.time_order import TimeCut, cut_by_time

# Ways to split photos that all show the same, for messages.
BY_TIME = "--by-time (cut in order of time)"
GROUP_BY = "--group-by REGEX (groups by a part of the names)"
KEEP_FOLDERS = "--keep-folders (the dataset's own train, valid and test)"
WAYS = f"{BY_TIME}, {GROUP_BY} or {KEEP_FOLDERS}"


class SplitRow(NamedTuple):
    """A row of splits.csv."""

    image_id: str
    split: str  # train, val or test
    group: int  # a number that photos of the same scene share


class TooFewGroupsError(UserError):
    """Groups of photos that are too few for a split; the message names other ways to split."""

    def __init__(self, found: str, usable: int, fix: str = f"use more photos, or {WAYS}") -> None:
        self.found = found  # how many photos, groups and parts
        self.usable = usable  # groups with faces
        super().__init__(f"{found}; {fix}")

    def with_fix(self, fix: str) -> TooFewGroupsError:
        """Return the same error with other advice."""
        return TooFewGroupsError(self.found, self.usable, fix)

    def with_command(self, data: Sequence[Path], splits: Path, flags: Sequence[str]) -> TooFewGroupsError:
        """Return the error for a command that has no flags for other ways: run pipeline.split, then give the file.

        Args:
            data: the datasets.
            splits: the file to write.
            flags: more arguments of pipeline.split.
        """
        folders = map(str, data)
        command = shlex.join(["python", "-m", "pipeline.split", "--data", *folders, "--out", str(splits), *flags])
        return self.with_fix(f"run `{command}` with {WAYS}, then give --splits {shlex.quote(str(splits))}")


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
        UserError: the ratios do not sum to 1, or no image has a face.
        TooFewGroupsError: there are fewer than 3 groups with faces.
    """
    check_ratios(ratios)
    parts = _stratify_images(images, groups, ratios, seed)
    return _rows(images, [SPLITS[part] for part in parts], groups)


def make_folds(
    images: Sequence[AnnotatedImage], groups: Sequence[int], folds: int, seed: int = 0
) -> list[list[SplitRow]]:
    """Return one split per fold: in split k, fold k is test and fold k + 1 (cyclic) is val.

    Raises UserError when `folds` is under 3, or there are fewer groups with faces than folds.
    """
    check_folds(folds)
    return _fold_rows(images, _stratify_images(images, groups, [1 / folds] * folds, seed), groups, folds)


def split_by_time(
    images: Sequence[AnnotatedImage],
    groups: Sequence[int],
    ratios: tuple[float, float, float] = (0.7, 0.15, 0.15),
    folds: int | None = None,
) -> tuple[list[list[SplitRow]], TimeCut]:
    """Return one split, or one per fold, of contiguous blocks in order of time; groups may be divided.

    Raises UserError when the ratios do not sum to 1, `folds` is under 3, or there are fewer images than parts.
    """
    if folds is None:
        check_ratios(ratios)
        cut = cut_by_time(images, ratios)
        return [_rows(images, [SPLITS[part] for part in cut.parts], groups)], cut
    check_folds(folds)
    cut = cut_by_time(images, [1 / folds] * folds)
    return _fold_rows(images, cut.parts, groups, folds), cut


def check_ratios(ratios: tuple[float, float, float]) -> None:
    """Raise UserError for shares of train, val and test that are not positive or do not sum to 1."""
    if not all(math.isfinite(r) and r > 0 for r in ratios) or abs(sum(ratios) - 1) > 1e-6:
        raise UserError(f"--ratios {' '.join(map(str, ratios))}: give three positive numbers whose sum is 1")


def check_folds(folds: int) -> None:
    """Raise UserError for too few folds."""
    if folds < len(SPLITS):
        raise UserError(f"--folds {folds}: give 3 or more (one to test, one to validate, the rest to train)")


def _fold_rows(
    images: Sequence[AnnotatedImage], parts: Sequence[int], groups: Sequence[int], folds: int
) -> list[list[SplitRow]]:
    """Return the rows of each fold's split."""
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
    found = f"{len(images)} photos make {len(numbers)} group{'s' * (len(numbers) != 1)} of different ones"
    column = {label: i for i, label in enumerate(sorted({label for image in images for label in image.labels}))}
    row = {number: i for i, number in enumerate(numbers)}
    counts = np.zeros((len(numbers), len(column) + 1))
    for image, group in zip(images, groups, strict=True):
        counts[row[group], -1] += 1
        for label in image.labels:
            counts[row[group], column[label]] += 1
    faces = [int(count) for count in counts[:, :-1].sum(axis=1)]
    holders = sum(count > 0 for count in faces)
    if holders == 0:
        raise UserError(f"none of the {len(images)} photos has an annotated face; give photos with faces")
    if holders < len(shares):
        with_faces = "" if holders == len(numbers) else f", {holders} with faces"
        found = f"{found}{with_faces}, too few for {len(shares)} parts"
        if sum(bool(image.labels) for image in images) < len(shares):
            raise UserError(f"{found}; use more photos with faces")  # no other way helps
        raise TooFewGroupsError(found, holders)
    parts = spread_faces(stratify_groups(counts, shares, seed), faces, len(shares))
    return [parts[row[group]] for group in groups]
