"""Assign groups of images to parts so that each part gets its share of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def stratify_groups(counts: NDArray[np.float64], shares: Sequence[float], seed: int) -> list[int]:
    """Return the part of each group, as an index into `shares`; no part is empty if there are enough groups.

    The method follows iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011). The quantity that is rarest
    among the remaining groups is assigned first. Its largest groups come first, so that small groups balance the rest.
    The paper picks a group's part by that one quantity. Our groups hold faces of several classes, so we pick the
    part with the smallest chi-squared distance: the sum over parts and quantities of (wanted - assigned)^2 / wanted.

    Args:
        counts: (G, Q), how much of each quantity a group holds (faces per class, images).
        shares: each part's fraction; their sum is 1.
        seed: shuffles groups that are equal.
    """
    rng = np.random.default_rng(seed)
    total = counts.sum(axis=0)
    # As fractions of each quantity's total: rare and common classes weigh the same.
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
    """Give each empty part the smallest group of the part with the most groups (in place)."""
    for part in range(n_parts):
        sizes = np.bincount(parts, minlength=n_parts)
        if sizes[part] == 0 and sizes.max() > 1:
            donors = np.flatnonzero(parts == int(np.argmax(sizes)))
            parts[donors[np.argmin(counts[donors].sum(axis=1))]] = part


def spread_faces(parts: Sequence[int], faces: Sequence[int], n_parts: int) -> list[int]:
    """Return the groups' parts, changed where a part has no face: it gets one group with faces from another part.

    Args:
        parts: the part of each group.
        faces: the number of faces in each group.
        n_parts: number of parts; at least this number of groups has faces.
    """
    changed = list(parts)
    for part in range(n_parts):
        holders = [[i for i, own in enumerate(changed) if own == other and faces[i]] for other in range(n_parts)]
        if not holders[part]:
            donor = max(holders, key=len)
            changed[min(donor, key=faces.__getitem__)] = part
    return changed
