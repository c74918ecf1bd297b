"""Prints the check of a dataset in the console."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.annotations import Problem
from common.cli import console
from common.display import counted, display_name, printable
from pipeline.check.box_findings import BOX_FINDINGS
from pipeline.check.dataset_check import DatasetCheck, Group
from pipeline.check.problem_groups import ProblemGroup
from pipeline.check.statistics import FACE_SIZES, NO_SPLIT, Histogram

MAX_GROUP_NAMES = 12  # photos of one group; a camera's frames may form one group of thousands
MAX_ITEMS = 5  # items of one kind that are listed; the page and the JSON file have all


def show(check: DatasetCheck) -> None:
    """Print the whole check."""
    screen = console()
    found, read = check.statistics, check.annotations
    screen.print(Text(headline(check), "bold"))
    screen.print(_class_table(check))
    if set(found.by_split) != {NO_SPLIT}:
        screen.print(_histogram_table("photos by split folder", found.by_split))
    screen.print(_histogram_table("photos by number of faces", found.faces_per_photo))
    screen.print(_histogram_table("photos by longer side (px)", found.photo_sizes))
    smallest, median, largest = (f"{width}x{height}" for width, height in found.size_range)
    _line(screen, f"Photo sizes: smallest {smallest}, median {median}, largest {largest}.")
    _show_problems(screen, check)
    _show_photos(screen, f"{incomplete_text(check)}:" if read.incomplete else "", read.incomplete)
    _show_photos(screen, f"{unlabelled_text(check)}:" if read.unlabelled else "", read.unlabelled)
    _show_boxes(screen, check)
    _show_near_duplicates(screen, check)
    for note in check.notes:
        _line(screen, f"note: {note}")
    screen.print(Text("\nNext:", "bold"))
    for step in check.next_steps:
        _line(screen, f"- {step.text}")
        if step.command:
            _line(screen, f"    {step.command}")


def headline(check: DatasetCheck) -> str:
    """Return the most important counts as one line."""
    found, read = check.statistics, check.annotations
    refused = counted(read.refused_count, "annotated face")
    counts = f"{counted(found.photos, 'photo')}, {counted(found.faces, 'face')}, {refused} refused"
    return f"{display_name(check.data)}: {read.format_name}, {counts}"


def incomplete_text(check: DatasetCheck) -> str:
    """Return how many photos may show a face without a box."""
    photos = counted(len(check.annotations.incomplete), "photo")
    return f"{photos} may show a face without a box, because an annotation was refused or is missing"


def unlabelled_text(check: DatasetCheck) -> str:
    """Return how many photos have no label file."""
    read = check.annotations
    doubtful = len(read.unlabelled) - read.face_free_count
    what = f"{doubtful} may show faces, the others are taken as face-free" if doubtful else "taken as face-free"
    return f"{counted(len(read.unlabelled), 'photo')} without a label file, {what}; --unlabelled skip leaves them out"


def clipped_text(check: DatasetCheck) -> str:
    """Return how many boxes were clipped."""
    read = check.annotations
    boxes = "1 box" if read.clipped_boxes == 1 else f"{read.clipped_boxes} boxes"
    return f"{boxes} past the edge of a photo, clipped, in {counted(len(read.clipped_in), 'photo')}"


def group_title(group: ProblemGroup) -> str:
    """Return a group's kind, number of problems, lost faces and reason."""
    lost = f", {counted(group.faces, 'face')} lost" if group.faces else ""
    return f"{group.kind}, {counted(len(group.problems), 'time')}{lost}: {group.reason}"


def problem_file(check: DatasetCheck, problem: Problem) -> str:
    """Return a problem's file for a reader: relative to the dataset where it is inside."""
    return display_name(relative(problem.file, check.data))


def relative(file: Path, data: Path) -> Path:
    """Return a file's path relative to the dataset's folder, or the path as it is."""
    folder = data.parent if data.is_file() else data
    return file.relative_to(folder) if file.is_relative_to(folder) else file


def group_text(group: Group) -> str:
    """Return the first photos of a group, with the split of each where there are any."""
    shown = group[:MAX_GROUP_NAMES]
    names = ", ".join(image.image_id + (f" ({image.split})" if image.split else "") for image in shown)
    return names + (f" and {len(group) - len(shown)} more" if len(group) > len(shown) else "")


def _class_table(check: DatasetCheck) -> Table:
    """Return the faces per class and size."""
    table = _table("faces by class and shorter side (px)")
    table.add_column("class", overflow="fold")
    for heading in (*FACE_SIZES, "faces", "photos"):
        table.add_column(heading, justify="right")
    classes = check.statistics.classes
    for each in classes:
        cells = (*each.by_size.values(), each.faces, each.photos)
        table.add_row(Text(printable(each.name)), *map(str, cells), end_section=each is classes[-1])
    sums = [sum(each.by_size[name] for each in classes) for name in FACE_SIZES]
    with_faces = check.statistics.photos - check.statistics.faces_per_photo["0"]
    table.add_row("all", *map(str, (*sums, check.statistics.faces, with_faces)))
    return table


def _table(title: str) -> Table:
    """Return an empty table, narrow enough for the three mask classes in 80 columns."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _histogram_table(title: str, values: Histogram) -> Table:
    """Return a table of one row."""
    table = _table(title)
    for name in values:
        table.add_column(name, justify="right")
    table.add_row(*map(str, values.values()))
    return table


def _show_problems(screen: Console, check: DatasetCheck) -> None:
    for group in check.problem_groups:
        _line(screen, f"\n{group_title(group)}:", "bold")
        for problem in group.problems[:MAX_ITEMS]:
            reason = "" if problem.reason == group.reason else f": {problem.reason}"
            _line(screen, f"  {problem_file(check, problem)}{reason}")
        _show_rest(screen, len(group.problems))
    if not check.annotations.problems:
        _line(screen, "No annotation was refused.")


def _show_photos(screen: Console, title: str, ids: Sequence[str]) -> None:
    """Print a title, unless it is empty, and the first photos."""
    if title:
        _line(screen, f"\n{title}", "bold")
        for name in ids[:MAX_ITEMS]:
            _line(screen, f"  {name}")
        _show_rest(screen, len(ids))


def _show_boxes(screen: Console, check: DatasetCheck) -> None:
    if check.annotations.clipped_in:
        _show_photos(screen, f"{clipped_text(check)}:", check.annotations.clipped_in)
    for kind, meaning in BOX_FINDINGS.items():
        if found := check.findings_of(kind):
            _line(screen, f"\n{meaning}: {len(found)}", "bold")
            for each in found[:MAX_ITEMS]:
                _line(screen, f"  {each.image.image_id}, {each.image.labels[each.face]}: {each.detail}")
            _show_rest(screen, len(found))


def _show_near_duplicates(screen: Console, check: DatasetCheck) -> None:
    groups = check.near_duplicates
    if groups is None:
        _line(screen, "\nNear-duplicates were not looked for.")
        return
    _line(screen, f"\n{duplicates_text(check)}", "bold")
    if check.leaks:
        _line(screen, f"warning: {leaks_text(check)}", "bold")
    for group in groups[:MAX_ITEMS]:
        _line(screen, f"  {group_text(group)}")
    _show_rest(screen, len(groups))


def duplicates_text(check: DatasetCheck) -> str:
    """Return how many photos show the same; the near-duplicates must have been looked for."""
    groups = check.near_duplicates
    if not groups:
        return "No photos show the same."
    photos = counted(sum(map(len, groups)), "photo")
    return f"{counted(len(groups), 'group')} of photos that show the same, {photos} in all."


def leaks_text(check: DatasetCheck) -> str:
    """Return how many groups are in several splits."""
    count = len(check.leaks)
    return f"{counted(count, 'group')} in more than one split: scores will look better than they are."


def _show_rest(screen: Console, total: int) -> None:
    if total > MAX_ITEMS:
        _line(screen, f"  and {total - MAX_ITEMS} more")


def _line(screen: Console, text: str, style: str = "") -> None:
    """Print one line as it is, without control characters; a line break at its start leaves a line free."""
    if text.startswith("\n"):
        screen.print()
    screen.print(Text(printable(text.removeprefix("\n")), style))
