"""Deals groups of images out to parts so that each part gets its share of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def stratify_groups(counts: NDArray[np.float64], shares: Sequence[float], seed: int) -> list[int]:
    """The part (index into `shares`) of each group.

    counts: (G, C), how much group g holds of each quantity (faces of each class, images). shares: the part's
    fractions, summing to 1. No part stays empty where there are as many groups as parts.

    After iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011): the quantity that is rarest among the
    groups left is dealt first, while there is still choice, its largest groups first, so that small ones even out
    the rest. Their rule for where a group goes looks at that one quantity; as our groups hold many faces of
    several classes, ours takes the part that leaves the smallest sum, over parts and quantities, of
    (wanted - dealt)^2 / wanted, the chi-squared distance. The seed shuffles equals.
    """
    rng = np.random.default_rng(seed)
    total = counts.sum(axis=0)
    # As fractions of each quantity's total, so that rare and common classes weigh the same.
    held = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    wanted = np.asarray(shares, np.float64)[:, None]
    lacking = wanted * (total > 0)
    parts = np.full(len(counts), -1)
    shuffled = rng.permutation(len(counts))
    while (parts < 0).any():
        left = shuffled[parts[shuffled] < 0]
        remaining = counts[left].sum(axis=0)
        if not (remaining > 0).any():
            parts[left] = int(np.argmax(lacking.sum(axis=1)))
            break
        rarest = int(np.argmin(np.where(remaining > 0, remaining, np.inf)))
        holders = left[counts[left, rarest] > 0]
        for group in holders[np.argsort(-counts[holders, rarest], kind="stable")]:
            change = ((lacking - held[group]) ** 2 - lacking**2) / wanted
            part = int(np.argmin(change.sum(axis=1)))
            parts[group] = part
            lacking[part] -= held[group]
    _fill_empty(parts, counts, len(shares))
    return [int(part) for part in parts]


def _fill_empty(parts: NDArray[np.intp], counts: NDArray[np.float64], n_parts: int) -> None:
    """Gives each empty part the smallest group of the part with the most groups (in place)."""
    for part in range(n_parts):
        sizes = np.bincount(parts, minlength=n_parts)
        if sizes[part] == 0 and sizes.max() > 1:
            givers = np.flatnonzero(parts == int(np.argmax(sizes)))
            parts[givers[np.argmin(counts[givers].sum(axis=1))]] = part
