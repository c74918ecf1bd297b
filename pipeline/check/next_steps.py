"""What to do after a check: the exact next commands."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.annotations import AnnotatedImage, ReadingArgs
from common.display import counted, printable
from common.splits import SPLITS
from pipeline.data.checks import can_be_typed, class_name_fault, usable_name

MAX_RENAMES = 12  # in a command; with more, the classes are probably not those of masks


@dataclass(frozen=True)
class NextStep:
    """One thing to do."""

    text: str
    command: str = ""


def next_steps(
    data: Path,
    options: ReadingArgs,
    images: tuple[AnnotatedImage, ...],
    renames: Mapping[str, str],
    failures: int,
    leaks: int,
) -> tuple[NextStep, ...]:
    """Return what to do next, most urgent first.

    Args:
        data: the dataset.
        options: how it was read.
        images: its images.
        renames: better names of its classes, as `better_names` returns them.
        failures: number of problems that give exit code 1.
        leaks: number of groups of near-duplicates in more than one of the dataset's splits.
    """
    flags = options.reading_flags()
    steps = []
    if failures:
        text = f"Correct what was refused ({counted(failures, 'problem')}), then check again."
        steps.append(NextStep(text, _command("check", data, flags)))
    renamed = [f"{old}={new}" for old, new in renames.items() if can_be_typed(old) and can_be_typed(new)]
    if renamed and not options.rename and len(renamed) <= MAX_RENAMES:
        better = ReadingArgs(rename=tuple(renamed), unlabelled=options.unlabelled).reading_flags()
        text = "Are these other names of the same classes? Then give them one name, in this and all later commands."
        steps.append(NextStep(text, _command("check", data, better)))
        flags = better
    labels = sorted({label for image in images for label in image.labels})
    if faulty := {name: fault for name in labels if (fault := class_name_fault(name))}:
        name = next(iter(faulty))
        text = f"Training stores crops in a folder per class, and {printable(name)!r} {faulty[name]}. "
        typed = [f"{old}={usable_name(old, labels)}" for old in faulty if can_be_typed(old)]
        text += "Give it another name, in this and all later commands." if typed else "Rename it in the annotations."
        given = options.rename or (renamed if flags != options.reading_flags() else ())
        flags = ReadingArgs(rename=(*given, *typed), unlabelled=options.unlabelled).reading_flags()
        steps.append(NextStep(text, _command("check", data, flags)))
    keep = {image.split for image in images} == set(SPLITS) and not leaks
    if leaks:
        text = "The dataset's own splits share photos that show the same. Make a new split, without --keep-folders."
    elif keep:
        text = "Keep the dataset's own split (without --keep-folders, the photos are split again)."
    else:
        text = "Split the photos; those that show the same stay together."
    split = ["--out", "splits.csv", *(["--keep-folders"] if keep else []), *flags]
    steps.append(NextStep(text, _command("split", data, split)))
    train = ["--splits", "splits.csv", "--out", "my-bundle", *flags]
    steps.append(NextStep("Train both stages.", _command("train_all", data, train)))
    return tuple(steps)


def _command(name: str, data: Path, flags: list[str]) -> str:
    """Return a command line in the form in which the user typed this one."""
    typed = sys.argv[0].startswith("facemask ")
    program = ["facemask", name.replace("_", "-")] if typed else ["python", "-m", f"pipeline.{name}"]
    return shlex.join([*program, "--data", str(data), *flags])
