"""Command: show what an annotated dataset holds, before anything is trained."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from common.annotations import Annotations, read_dataset
from common.annotations.class_names import better_names
from common.annotations.collect import DatasetError
from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.display import display_name
from common.errors import UserError
from common.files import check_writable_file, check_writable_folder, write_text
from common.launcher import missing_package
from pipeline.check.console_report import show
from pipeline.check.dataset_check import (
    DatasetCheck,
    find_near_duplicates,
    summarize,
    to_json,
    without_unusable,
)
from pipeline.check.next_steps import next_steps
from pipeline.check.photo_reading import PhotoJob, read_photos
from pipeline.check.photo_selection import Selection, select
from pipeline.check.suspects.options import SuspectArgs
from pipeline.data.checks import check_apart

PAGE_NAME = "check.html"
PAGE_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class CheckArgs(SuspectArgs):
    """Show what an annotated dataset holds, before anything is trained: in the console and in one HTML page.

    The exit code is 1 where an annotation or a photo was refused, or an annotation has no photo. Photos without an
    annotation, near-duplicates and conspicuous boxes do not change it.
    """

    data: Path
    """Annotated dataset: a folder in one of the formats of docs/datasets.md."""
    out: Path | None = None
    """The page to write: a name that ends in .html, or a folder; check.html when not given."""
    page: bool = True
    """--no-page: only the console, and the file of --json."""
    json: Path | None = None
    """A file for the same numbers as JSON; its name ends in .json."""
    skip_duplicates: bool = False
    """Do not look for photos that show the same, which takes most of the time."""
    seed: int = 0
    """Decides which photos and faces the page shows."""
    workers: int = 2
    """Processes that read photos."""


def run(args: CheckArgs) -> int:
    """Read, check, write the files and print; return 1 where something was refused."""
    page_file = _page_file(args)
    duplicates = not args.skip_duplicates and _has_package("imagehash", "near-duplicates are not looked for")
    _check_args(args)
    for file in (page_file, args.json):
        if file is not None:
            check_writable_file(file)
    if args.suspects:
        check_writable_folder(args.suspects_out)
    try:
        check, selection = examine(args, duplicates, page_file is not None)
    except DatasetError as error:
        for problem in error.problems:
            print(f"warning: {problem}", file=sys.stderr)
        raise
    suspects = None
    if args.suspects:
        from pipeline.check.suspects.run import find_suspects  # loads the classifier

        suspects = find_suspects(check.annotations, args)
    if page_file is not None:
        from pipeline.check.page import render  # needs jinja2

        write_text(page_file, render(check, selection, suspects))
    if args.json is not None:
        write_text(args.json, json.dumps(to_json(check), indent=2) + "\n")
    show(check)
    if suspects is not None:
        from pipeline.check.suspects.files import write_and_show

        write_and_show(console(), suspects, args.suspects_out)
    for file in (page_file, args.json):
        if file is not None:
            console().print(f"wrote {display_name(file)}", markup=False, highlight=False)
    return 1 if check.failures else 0


def examine(args: CheckArgs, duplicates: bool, pictures: bool) -> tuple[DatasetCheck, Selection]:
    """Return the check of a dataset, and the pictures for its page.

    Args:
        args: the command's arguments.
        duplicates: whether to look for near-duplicates.
        pictures: whether the pictures are needed; every photo is decoded in any case.

    Raises:
        UserError: the dataset cannot be read; DatasetError, with the problems, where they are known.
    """
    annotations = read_dataset(args.data, args)
    if args.suspects:
        from pipeline.check.suspects.classes import check_classes

        check_classes(args, annotations.class_names)
    images = annotations.images
    groups = find_near_duplicates(images, args.workers) if duplicates else None
    selection = Selection()
    if pictures:
        selection = select(summarize(args.data, annotations, groups), random.Random(args.seed))
    jobs = [
        PhotoJob(image, image.image_id in selection.photos, tuple(sorted(selection.faces.get(image.image_id, ()))))
        for image in images
    ]
    results = read_photos(jobs, args.workers)
    for image, result in zip(images, results, strict=True):
        selection.add_pictures(image.image_id, result)
    usable = without_unusable(annotations, results, args.data)
    return _with_next_steps(summarize(args.data, usable, groups), args, usable), selection


def _with_next_steps(check: DatasetCheck, args: CheckArgs, annotations: Annotations) -> DatasetCheck:
    renames = better_names(label for image in annotations.images for label in image.labels)
    steps = next_steps(args.data, args, annotations.images, renames, check.failures, len(check.leaks))
    return replace(check, next_steps=steps)


def _page_file(args: CheckArgs) -> Path | None:
    """Return the page's file, or None where no page is written; raise UserError for a name of another type."""
    if not args.page:
        if args.out is not None:
            raise UserError("--out and --no-page exclude each other; give one of them")
        return None
    if args.out is None:
        return Path(PAGE_NAME) if _has_package("jinja2", "no page is written") else None
    with requires_extra("train"):
        import jinja2  # noqa: F401 (missing: an error before the work)
    if args.out.is_dir() or not args.out.suffix:
        return args.out / PAGE_NAME
    if args.out.suffix.lower() not in PAGE_SUFFIXES:
        raise UserError(f"{args.out}: is not the name of a page; give a name that ends in .html, or a folder")
    return args.out


def _has_package(name: str, otherwise: str) -> bool:
    """Return whether a package of the extra `train` is installed, and warn where it is not."""
    found = find_spec(name) is not None
    if not found:
        print(f"warning: {otherwise}: {missing_package(name, 'train')}", file=sys.stderr)
    return found


def _check_args(args: CheckArgs) -> None:
    """Raise UserError on options out of range, and where the JSON file would be read as data."""
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: give 1 or more")
    args.check_suspects()
    if args.suspects:
        check_apart(args.data, args.suspects_out, "--suspects-out")
    if args.json is not None:
        if args.json.suffix.lower() != ".json":
            raise UserError(f"--json {args.json}: give a name that ends in .json")
        check_apart(args.data, args.json, "--json")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.check`."""
    return run_cli(lambda: run(parse_args(CheckArgs, argv, "pipeline.check")))
