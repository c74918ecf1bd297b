"""What a dataset holds: the result of `pipeline.check`, from which the console, the page and the JSON are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.annotations import AnnotatedImage, Annotations, Problem
from common.annotations.collect import DatasetError
from common.display import path_text
from pipeline.check.box_findings import BOX_FINDINGS, BoxFinding, find_boxes
from pipeline.check.next_steps import NextStep
from pipeline.check.photo_reading import InspectedPhoto
from pipeline.check.problem_groups import KIND_ORDER, ProblemGroup, group_problems, is_failure
from pipeline.check.statistics import Statistics, count
from pipeline.data.duplicates import near_duplicate_groups

Group = tuple[AnnotatedImage, ...]  # photos that show the same


@dataclass(frozen=True)
class DatasetCheck:
    """Everything that was found out about a dataset."""

    data: Path
    annotations: Annotations  # of the photos that can be used; the problems name the others
    statistics: Statistics
    problem_groups: tuple[ProblemGroup, ...]
    box_findings: tuple[BoxFinding, ...]
    near_duplicates: tuple[Group, ...] | None  # those in several splits first; None where they were not looked for
    next_steps: tuple[NextStep, ...] = ()

    @property
    def leaks(self) -> tuple[Group, ...]:
        """Return the near-duplicates that are in more than one of the dataset's own splits."""
        return tuple(group for group in self.near_duplicates or () if is_leak(group))

    @property
    def notes(self) -> tuple[str, ...]:
        """Return facts about the whole dataset, one line each."""
        classes = [each.name for each in self.statistics.classes if each.faces]
        if len(classes) > 1:
            return self.annotations.notes
        return (*self.annotations.notes, f"{classes[0]!r} is the only class; stage 2 needs two classes or more")

    @property
    def failures(self) -> int:
        """Return the number of problems that give exit code 1."""
        return sum(map(is_failure, self.annotations.problems))

    def problems_of(self, kind: str) -> list[Problem]:
        """Return the problems of one kind."""
        return [problem for problem in self.annotations.problems if problem.kind == kind]

    def findings_of(self, kind: str) -> list[BoxFinding]:
        """Return the box findings of one kind."""
        return [finding for finding in self.box_findings if finding.kind == kind]


def is_leak(group: Group) -> bool:
    """Return whether photos that show the same are in more than one split."""
    return len({image.split for image in group if image.split}) > 1


def find_near_duplicates(images: Sequence[AnnotatedImage], workers: int) -> list[Group]:
    """Return the groups of two photos or more that show the same, those in several splits first.

    Args:
        images: the dataset's images.
        workers: number of processes.

    Raises:
        UserError: imagehash is not installed.
    """
    found = near_duplicate_groups([image.path for image in images], workers)
    groups: dict[int, list[AnnotatedImage]] = {}
    for image, number in zip(images, found.groups, strict=True):
        groups.setdefault(number, []).append(image)
    several = [tuple(group) for group in groups.values() if len(group) > 1]
    return sorted(several, key=lambda group: (not is_leak(group), -len(group)))


def without_unusable(annotations: Annotations, results: Iterable[InspectedPhoto], data: Path) -> Annotations:
    """Return the annotations of the photos that could be decoded; each other photo is a problem with its faces.

    Args:
        annotations: the dataset as read.
        results: one per image.
        data: the dataset, for the message.

    Raises:
        DatasetError: no photo with a face could be decoded.
    """
    pairs = list(zip(annotations.images, results, strict=True))
    images = tuple(image for image, result in pairs if not result.fault)
    found = (
        Problem(image.path, f"{result.fault}; not used", objects=len(image.labels))
        for image, result in pairs
        if result.fault
    )
    problems = (*annotations.problems, *found)
    if not images:
        raise DatasetError(f"{data}: none of its {len(pairs)} photos can be read; give other --data", problems)
    if not any(image.labels for image in images):
        raise DatasetError(f"{data}: no photo that can be read has a face; give other --data", problems)
    used = {image.image_id for image in images}
    return replace(
        annotations,
        images=images,
        problems=problems,
        unlabelled=tuple(name for name in annotations.unlabelled if name in used),
        clipped_in=tuple(name for name in annotations.clipped_in if name in used),
    )


def summarize(data: Path, annotations: Annotations, near_duplicates: Sequence[Group] | None) -> DatasetCheck:
    """Return the check of a dataset, without next steps.

    Args:
        data: the dataset.
        annotations: of the photos that can be used.
        near_duplicates: as of `find_near_duplicates`; None where they were not looked for.
    """
    used = {image.image_id for image in annotations.images}
    groups = None
    if near_duplicates is not None:
        kept = (tuple(image for image in group if image.image_id in used) for group in near_duplicates)
        groups = tuple(group for group in kept if len(group) > 1)
    return DatasetCheck(
        data,
        annotations,
        count(annotations.images, annotations.class_names),
        tuple(group_problems(annotations.problems)),
        tuple(find_boxes(annotations.images)),
        groups,
    )


def to_json(check: DatasetCheck) -> dict[str, Any]:
    """Return the check as plain JSON values."""
    found, read = check.statistics, check.annotations
    groups = check.near_duplicates
    return {
        "data": path_text(check.data),
        "format": read.format_name,
        "photos": found.photos,
        "photos_by_split": dict(found.by_split),
        "photo_sizes": {
            "by_longer_side": dict(found.photo_sizes),
            **dict(zip(("smallest", "median", "largest"), map(list, found.size_range), strict=True)),
        },
        "faces": found.faces,
        "refused_faces": read.refused_count,
        "classes": [
            {"name": each.name, "faces": each.faces, "photos": each.photos, "by_shorter_side": dict(each.by_size)}
            for each in found.classes
        ],
        "faces_per_photo": dict(found.faces_per_photo),
        "problem_counts": {kind: len(check.problems_of(kind)) for kind in KIND_ORDER},
        "problems": [
            {"kind": problem.kind, "file": path_text(problem.file), "reason": problem.reason, "faces": problem.objects}
            for problem in read.problems
        ],
        "incomplete": list(read.incomplete),
        "unlabelled": list(read.unlabelled),
        "notes": list(check.notes),
        "clipped_boxes": read.clipped_boxes,
        "clipped_in": list(read.clipped_in),
        "boxes": {kind: [_finding_json(each) for each in check.findings_of(kind)] for kind in BOX_FINDINGS},
        "near_duplicates": None if groups is None else [[image.image_id for image in group] for group in groups],
        "near_duplicates_in_several_splits": None if groups is None else len(check.leaks),
        "next_steps": [{"text": step.text, "command": step.command} for step in check.next_steps],
        "exit_code": int(check.failures > 0),
    }


def _finding_json(finding: BoxFinding) -> dict[str, Any]:
    image, face = finding.image, finding.face
    return {
        "photo": image.image_id,
        "label": image.labels[face],
        "box": [round(float(v), 2) for v in image.boxes[face]],
        "detail": finding.detail,
    }
