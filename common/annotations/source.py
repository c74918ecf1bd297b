"""Source: one of several datasets, and what may be learned from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from common.errors import UserError

# How box edges are learned: as they are, through an offset of this source's own (other annotators draw boxes by other
# rules), or not at all.
EdgeTrust = Literal["same", "offset", "none"]


@dataclass(frozen=True)
class Source:
    """One dataset of several, and what may be learned from it.

    Raises:
        UserError: a value is out of its range, or values contradict each other.
    """

    name: str  # name in reports and in image ids
    data: Path  # folder of the dataset
    classes: tuple[str, ...] | None = None  # classes whose labels are learned; None: all
    absent_classes: tuple[str, ...] = ()  # classes that its annotators did not use, so that no label rules them out
    edges: EdgeTrust = "same"  # how box edges are learned
    background: bool = True  # False: faces may lack their box, so that nothing in its photos is background
    face_free: bool = False  # photos without any face and without annotations, as background
    share: float | None = None  # share of the draws of a training; None: as many as its faces among those without one
    twins: Path | None = None  # CSV of pairs: file name here, file name in the main source, of one photo at two sizes
    left_out: Path | None = None  # CSV of faces whose label is doubtful (common.sources.doubtful)
    rename: tuple[str, ...] = ()  # OLD=NEW of classes, as --rename

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UserError(f"source {self.name!r}: use a name of letters, digits, '.', '_' and '-'")
        if self.edges not in get_args(EdgeTrust):
            raise UserError(
                f"source {self.name}: edges {self.edges!r} is unknown; use {', '.join(get_args(EdgeTrust))}"
            )
        if self.share is not None and not 0 <= self.share < 1:
            raise UserError(f"source {self.name}: share {self.share} must be 0 or more and below 1")
        if both := sorted(set(self.classes or ()) & set(self.absent_classes)):
            raise UserError(f"source {self.name}: {both[0]!r} is in classes and in absent_classes; remove one")
        if self.face_free and (self.classes is not None or self.twins or self.left_out):
            raise UserError(f"source {self.name}: face_free photos have no classes, twins or left_out; remove these")

    def facts(self) -> dict[str, object]:
        """Return what may be learned from the source, for records; without places on this machine."""
        return {
            "name": self.name,
            "classes": None if self.classes is None else list(self.classes),
            **({"absent_classes": list(self.absent_classes)} if self.absent_classes else {}),
            "edges": self.edges,
            "background": self.background,
            "face_free": self.face_free,
            "share": self.share,
        }

    def trusts(self, label: str) -> bool:
        """Return whether labels of that class are learned."""
        return self.classes is None or label in self.classes


def draw_factors(counts: Mapping[str, int], shares: Mapping[str, float | None]) -> dict[str, float]:
    """Return the factor by which each source's faces are drawn more or less often than others.

    Args:
        counts: {source name: number of its training faces}.
        shares: {source name: share of the draws}; those of None, or without an entry, divide what is left by their
            numbers of faces.

    Returns:
        {source name: factor}, so that factor x count is proportional to the source's share; 0 without faces.

    Raises:
        UserError: the shares sum to 1 or more and another source is left without draws.
    """
    fixed = {name: share for name, share in shares.items() if share is not None and counts.get(name)}
    free = sum(count for name, count in counts.items() if name not in fixed)
    left = 1 - sum(fixed.values())
    if left < -1e-9 or (free and left <= 0):
        raise UserError(f"sources: the shares sum to {1 - left:g}, which leaves no draws for others; lower them")
    total = sum(counts.values())
    factors = {}
    for name, count in counts.items():
        share = fixed.get(name, left * count / free if free else 0.0)
        factors[name] = share * total / count if count else 0.0
    return factors
