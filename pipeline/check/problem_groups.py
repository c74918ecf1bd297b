"""The problems of a dataset, grouped by their kind of reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from common.annotations import Problem
from common.annotations.types import ProblemKind
from common.paths import IMAGE_SUFFIXES

KIND_ORDER: tuple[ProblemKind, ...] = ("refused", "unmatched", "changed")
# What differs between problems of one kind of reason, and what is written instead.
_VARYING = (
    (re.compile(r"'[^']*'|\"[^\"]*\""), "…"),  # quoted values
    (re.compile(r"\(.*\)"), "(…)"),
    (re.compile(r"[^\s(]*[/\\][^\s,;:)]*"), "…"),  # paths
    (re.compile(r"[^\s(]+\.[\w*]+"), "…"),  # file names
    (re.compile(r"(?<![A-Za-z])(?<![A-Za-z]-)-?\d+(x\d+)?"), "N"),  # not in "UTF-8"
)


@dataclass(frozen=True)
class ProblemGroup:
    """Problems with one kind of reason."""

    kind: ProblemKind
    reason: str  # without names and numbers, where they differ
    problems: tuple[Problem, ...]

    @property
    def faces(self) -> int:
        """Return the number of annotated faces that were lost."""
        return sum(problem.objects for problem in self.problems)


def group_problems(problems: Iterable[Problem]) -> list[ProblemGroup]:
    """Return the problems in groups: refused, unmatched, changed; the largest group of each kind first."""
    groups: dict[tuple[ProblemKind, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.kind, reason_pattern(problem.reason)), []).append(problem)
    found = []
    for (kind, pattern), alike in groups.items():
        reasons = {problem.reason for problem in alike}
        found.append(ProblemGroup(kind, reasons.pop() if len(reasons) == 1 else pattern, tuple(alike)))
    return sorted(found, key=lambda group: (KIND_ORDER.index(group.kind), -len(group.problems)))


def reason_pattern(reason: str) -> str:
    """Return a reason with "N" for numbers and an ellipsis for names, paths and values in brackets."""
    pattern = " ".join(reason.split())
    for varying, replacement in _VARYING:
        pattern = varying.sub(replacement, pattern)
    return pattern


def is_failure(problem: Problem) -> bool:
    """Return whether a problem gives exit code 1: something was refused, or an annotation has no photo.

    A photo without an annotation is no failure: no annotation was lost.
    """
    is_photo = problem.file.suffix.lower() in IMAGE_SUFFIXES
    return problem.kind == "refused" or (problem.kind == "unmatched" and (problem.objects > 0 or not is_photo))
