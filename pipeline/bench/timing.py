"""Times detectors side by side: their calls take turns on the same photos, so that a busy moment slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.images import Pixels


@dataclass(frozen=True)
class Contender:
    """A detector to be timed. find: how many faces it finds in each of the photos; it gets `batch` photos a call."""

    name: str
    find: Callable[[Sequence[Pixels]], Sequence[int]]
    batch: int = 1


@dataclass(frozen=True)
class Timings:
    """What one contender took. seconds (calls, rounds); photos, faces (calls,): how many a call had and found.

    Raises ValueError on shapes that do not fit, or when a call had no photo or took no time.
    """

    seconds: NDArray[np.float64]
    photos: NDArray[np.intp]
    faces: NDArray[np.intp]

    def __post_init__(self) -> None:
        calls = len(self.photos)
        if self.seconds.ndim != 2 or len(self.seconds) != calls or self.faces.shape != (calls,) or not calls:
            raise ValueError(f"seconds {self.seconds.shape} and faces {self.faces.shape} do not fit {calls} calls")
        if self.seconds.size == 0 or not (self.seconds > 0).all() or not (self.photos > 0).all():
            raise ValueError("every call must have a photo and take time")

    @property
    def typical(self) -> NDArray[np.float64]:
        """(calls,) seconds a call: the median of its rounds."""
        return np.asarray(np.median(self.seconds, axis=1))


@dataclass(frozen=True)
class Spread:
    """The quartiles of some numbers."""

    q1: float
    median: float
    q3: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Spread:
        """Of one number or more."""
        return cls(*(float(v) for v in np.percentile(values, (25, 50, 75))))


@dataclass(frozen=True)
class TimingStats:
    """A contender's figures over all photos; a batch counts once for each of its photos.

    mean_ms weighs long photos as a whole run would, the median of `ms` does not.
    """

    photos: int
    ms: Spread
    mean_ms: float
    faces_per_photo: float


def take_turns(
    contenders: Sequence[Contender],
    photos: Sequence[Callable[[], Pixels]],
    rounds: int,
    rest: float = 0.0,
    done: Callable[[int], None] = lambda count: None,
) -> list[Timings]:
    """Times each contender on all photos, `rounds` times.

    photos: functions that read one (not timed). They are gone through in groups of the largest batch: in every round
    each photo goes to each contender in turn, to those with larger batches once theirs is full or the group ends.
    rest: seconds before each call. done: told how many more photos are finished.
    Raises ValueError when there is no contender, photo or round.
    """
    seconds: list[list[NDArray[np.float64]]] = [[] for _ in contenders]
    sizes: list[list[int]] = [[] for _ in contenders]
    faces: list[list[int]] = [[] for _ in contenders]
    if not (contenders and photos and rounds >= 1):
        raise ValueError(f"{len(contenders)} contenders, {len(photos)} photos, {rounds} rounds: nothing to time")
    largest = max(contender.batch for contender in contenders)
    for start in range(0, len(photos), largest):
        group = [read() for read in photos[start : start + largest]]
        turns = list(_turns(contenders, len(group)))
        took, found = np.empty((len(turns), rounds)), [0] * len(turns)
        for r in range(rounds):
            for t, (c, part) in enumerate(turns):
                if rest:
                    time.sleep(rest)
                begin = time.perf_counter()
                counts = contenders[c].find(group[part])
                took[t, r] = time.perf_counter() - begin
                found[t] = sum(counts)
        for t, (c, part) in enumerate(turns):
            seconds[c].append(took[t])
            sizes[c].append(part.stop - part.start)
            faces[c].append(found[t])
        done(len(group))
    return [
        Timings(np.stack(s), np.array(n, np.intp), np.array(f, np.intp))
        for s, n, f in zip(seconds, sizes, faces, strict=True)
    ]


def _turns(contenders: Sequence[Contender], count: int) -> Iterator[tuple[int, slice]]:
    """Who is called on which of a group's `count` photos, in order: a contender once its batch is full."""
    for k in range(count):
        for c, contender in enumerate(contenders):
            if (k + 1) % contender.batch == 0 or k + 1 == count:
                yield c, slice(k // contender.batch * contender.batch, k + 1)


def timing_stats(timings: Timings) -> TimingStats:
    """The figures of one contender."""
    typical, photos = timings.typical, timings.photos
    total = int(photos.sum())
    return TimingStats(
        photos=total,
        ms=Spread.of(np.repeat(typical / photos, photos) * 1000),
        mean_ms=float(typical.sum() / total * 1000),
        faces_per_photo=float(timings.faces.sum() / total),
    )


def ratio(slow: Timings, quick: Timings) -> Spread:
    """How many times as long the one takes on the same photo as the other; over photos.

    Where the other was timed in batches, a batch's photos count together. Raises ValueError when `slow` was not timed
    photo by photo on as many photos.
    """
    photos = quick.photos
    total = int(photos.sum())
    if len(slow.photos) != total or (slow.photos != 1).any():
        raise ValueError(f"{total} calls of one photo are needed, there are {len(slow.photos)} calls")
    starts = np.cumsum(photos) - photos
    return Spread.of(np.repeat(np.add.reduceat(slow.typical, starts) / quick.typical, photos))
