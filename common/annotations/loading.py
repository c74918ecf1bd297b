"""Read a dataset for a command, and tell its user what was refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from common.annotations.collect import DatasetError
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.reader import read_dataset
from common.annotations.types import AnnotatedImage, Annotations, Problem
from common.display import counted, printable
from common.errors import UserError

MAX_SHOWN = 5  # problems in a console
Log = Callable[[str], None]


def warn(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr)


def load_dataset(root: Path | str, options: ReadingArgs = DEFAULT_READING, log: Log = warn) -> Annotations:
    """Read a dataset, and report its problems, notes and incomplete images at once.

    They are reported before any later error can end the command.

    Args:
        root: as for `read_dataset`.
        options: the command's options of reading.
        log: gets each line.

    Raises:
        UserError: as `read_dataset` does; the problems are reported before.
    """
    try:
        annotations = read_dataset(root, options)
    except DatasetError as error:
        log_problems(error.problems, log)
        raise
    log_problems(annotations.problems, log)
    for line in summary_lines(annotations):
        log(f"note: {printable(line)}")
    return annotations


def log_problems(problems: Iterable[Problem], log: Log = warn) -> None:
    """Report the first MAX_SHOWN problems, and the number of the others."""
    found = list(problems)
    for problem in found[:MAX_SHOWN]:
        log(f"warning: {problem}")
    if len(found) > MAX_SHOWN:
        log(f"warning: and {len(found) - MAX_SHOWN} more problems; `python -m pipeline.check --data DIR` lists all")


def summary_lines(annotations: Annotations) -> list[str]:
    """Return what a user should know of a dataset as read, besides its problems, one line each."""
    lines = list(annotations.notes)
    if annotations.refused_count:
        total = annotations.face_count + annotations.refused_count
        lines.append(f"{annotations.refused_count} of {total} annotated faces were refused")
    if annotations.incomplete:
        photos = f"{counted(len(annotations.incomplete), 'photo')} may show a face without a box"
        lines.append(f"{photos}; their background teaches nothing, and no false alarm is counted there")
    if count := annotations.face_free_count:
        photos = f"{counted(count, 'photo')} {'has' if count == 1 else 'have'} no label file: taken as face-free"
        lines.append(f"{photos}; --unlabelled skip leaves out such photos")
    return lines


def count_line(annotations: Annotations) -> str:
    """Return one line for a command's summary: what was refused, is incomplete or unlabelled; empty without any."""
    counts = []
    if annotations.refused_count:
        total = annotations.face_count + annotations.refused_count
        counts.append(f"{annotations.refused_count} of {total} annotated faces refused")
    if annotations.incomplete:
        counts.append(f"{counted(len(annotations.incomplete), 'photo')} that may show a face without a box")
    if annotations.face_free_count:
        counts.append(f"{counted(annotations.face_free_count, 'photo')} without a label file, taken as face-free")
    return f"data: {'; '.join(counts)}" if counts else ""


def require_faces(images: Iterable[AnnotatedImage], what: str, fix: str) -> None:
    """Raise UserError when no image of a part of the dataset has a face.

    Args:
        images: the part's images.
        what: the part, such as "splits.csv: the test part".
        fix: what to do about it.
    """
    found = list(images)
    if not found:
        raise UserError(f"{what} has no photo; {fix}")
    if not any(len(image.boxes) for image in found):
        raise UserError(f"{what} has no face in its {counted(len(found), 'photo')}; {fix}")
