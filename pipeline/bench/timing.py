"""Times several detectors: their calls alternate on the same photos, so that a busy moment slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.images import Pixels


@dataclass(frozen=True)
class TimedDetector:
    """A detector to time. count_faces: number of faces found in each photo. batch: photos per call."""

    name: str
    count_faces: Callable[[Sequence[Pixels]], Sequence[int]]
    batch: int = 1


@dataclass(frozen=True)
class Timings:
    """The times of one detector."""

    seconds: NDArray[np.float64]  # (calls, rounds)
    photos: NDArray[np.intp]  # (calls,) number in each call
    faces: NDArray[np.intp]  # (calls,) number found in each call

    @property
    def median_seconds(self) -> NDArray[np.float64]:
        """Return the seconds (calls,) of each call: the median of its rounds."""
        return np.asarray(np.median(self.seconds, axis=1))


@dataclass(frozen=True)
class Quartiles:
    """First quartile, median and third quartile."""

    q1: float
    median: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64]) -> Quartiles:
        """Return the quartiles of one number or more."""
        return cls(*(float(v) for v in np.percentile(values, (25, 50, 75))))


@dataclass(frozen=True)
class TimingStats:
    """A detector's figures over all photos; a batch counts once for each of its photos."""

    photos: int
    ms: Quartiles  # milliseconds per photo
    mean_ms: float  # per photo; unlike the median, it gives slow photos the weight that they have in a whole run
    faces_per_photo: float


def time_interleaved(
    detectors: Sequence[TimedDetector],
    photos: Sequence[Callable[[], Pixels]],
    rounds: int,
    rest: float = 0.0,
    on_progress: Callable[[int], None] = lambda count: None,
) -> list[Timings]:
    """Time each detector on all photos, `rounds` times; return the detectors' times in their order.

    The photos are processed in groups as large as the largest batch. In every round each photo goes to each detector in
    turn; a detector with a larger batch is called when its batch is full or the group ends.

    Args:
        detectors, photos: one or more; a photo is a function that reads it, which is not timed.
        rounds: 1 or more.
        rest: seconds before each call.
        on_progress: called with the number of photos finished since its last call.
    """
    rows: list[list[tuple[NDArray[np.float64], int, int]]] = [[] for _ in detectors]  # seconds, photos, faces of calls
    largest = max(detector.batch for detector in detectors)
    for start in range(0, len(photos), largest):
        group = [read() for read in photos[start : start + largest]]
        calls = list(_call_order(detectors, len(group)))
        took, found = np.empty((len(calls), rounds)), [0] * len(calls)
        for r in range(rounds):
            for k, (d, part) in enumerate(calls):
                if rest:
                    time.sleep(rest)
                start_time = time.perf_counter()
                counts = detectors[d].count_faces(group[part])
                took[k, r] = time.perf_counter() - start_time
                found[k] = sum(counts)
        for k, (d, part) in enumerate(calls):
            rows[d].append((took[k], part.stop - part.start, found[k]))
        on_progress(len(group))
    columns = (zip(*calls, strict=True) for calls in rows)
    return [Timings(np.stack(s), np.array(n, np.intp), np.array(f, np.intp)) for s, n, f in columns]


def _call_order(detectors: Sequence[TimedDetector], count: int) -> Iterator[tuple[int, slice]]:
    """Yield each call over a group of `count` photos: the detector's index, and the photos of its full batch."""
    for k in range(count):
        for d, detector in enumerate(detectors):
            if (k + 1) % detector.batch == 0 or k + 1 == count:
                yield d, slice(k // detector.batch * detector.batch, k + 1)


def timing_stats(timings: Timings) -> TimingStats:
    """Return the figures of one detector."""
    typical, photos = timings.median_seconds, timings.photos
    total = int(photos.sum())
    ms = Quartiles.of(np.repeat(typical / photos, photos) * 1000)
    return TimingStats(total, ms, float(typical.sum() / total * 1000), float(timings.faces.sum() / total))


def time_ratio(slow: Timings, quick: Timings) -> Quartiles:
    """Return the quartiles over photos of the ratio of two detectors' times on the same photo.

    Where `quick` was timed in batches, a batch's photos count together. Raises ValueError when `slow` was not timed
    photo by photo on the same number of photos.
    """
    photos = quick.photos
    total = int(photos.sum())
    if len(slow.photos) != total or (slow.photos != 1).any():
        raise ValueError(f"{total} calls of one photo are needed, there are {len(slow.photos)} calls")
    starts = np.cumsum(photos) - photos
    return Quartiles.of(np.repeat(np.add.reduceat(slow.median_seconds, starts) / quick.median_seconds, photos))
