"""pipeline.bench.timing: the order of the calls, and the figures computed from given times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from common.images import Pixels
from pipeline.bench.timing import Quartiles, TimedDetector, Timings, time_interleaved, time_ratio, timing_stats


def timings(seconds: Sequence[Sequence[float]], photos: Sequence[int], faces: Sequence[int] | None = None) -> Timings:
    found = [0] * len(photos) if faces is None else faces
    return Timings(np.array(seconds, np.float64), np.array(photos, np.intp), np.array(found, np.intp))


# The median round of each photo counts: 10, 20, 40, 50 ms; the other rounds were on a busy machine.
OURS = timings([[0.010, 0.009, 0.9], [0.020, 0.020, 0.020], [0.001, 0.040, 0.7], [0.050, 0.051, 0.049]], [1] * 4)
THEIRS = timings([[0.030] * 3, [0.040] * 3, [0.040] * 3, [0.200] * 3], [1] * 4, [1, 0, 3, 2])


def as_tuple(quartiles: Quartiles) -> tuple[float, float, float]:
    return quartiles.q1, quartiles.median, quartiles.q3


def test_the_figures_use_the_median_round_of_each_photo() -> None:
    found = timing_stats(OURS)
    assert found.photos == 4
    assert as_tuple(found.ms) == pytest.approx((17.5, 30, 42.5))
    assert found.mean_ms == pytest.approx(30)
    assert timing_stats(THEIRS).faces_per_photo == 1.5


def test_the_ratio_is_the_median_over_photos() -> None:
    # 30/10, 40/20, 40/40 and 200/50. (The ratio of the two medians would be 40/30.)
    assert as_tuple(time_ratio(THEIRS, OURS)) == pytest.approx((1.75, 2.5, 3.25))


def test_a_batch_counts_once_for_each_of_its_photos() -> None:
    batched = timings([[0.09], [0.06]], [3, 1], [4, 2])  # 30 ms for three photos, 60 ms for one
    found = timing_stats(batched)
    assert found.photos == 4
    assert as_tuple(found.ms) == pytest.approx((30, 30, 37.5))
    assert found.mean_ms == pytest.approx(37.5)
    assert found.faces_per_photo == 1.5
    # The slow one takes 110 ms for the first three, 200 ms for the last.
    assert as_tuple(time_ratio(THEIRS, batched)) == pytest.approx(
        tuple(np.percentile([11 / 9] * 3 + [10 / 3], (25, 50, 75)))
    )


@pytest.mark.parametrize("slow", [timings([[1.0]] * 3, [1] * 3), timings([[1.0]] * 2, [2, 2])])
def test_a_ratio_to_other_photos_is_refused(slow: Timings) -> None:
    with pytest.raises(ValueError, match="4 calls of one photo"):
        time_ratio(slow, OURS)


def numbered(count: int) -> list[Callable[[], Pixels]]:
    """Return readers of photos whose first pixel is the photo's number."""
    return [lambda k=k: np.full((2, 2, 3), k, np.uint8) for k in range(count)]  # type: ignore[misc]


def test_detectors_take_turns_on_each_photo() -> None:
    calls: list[tuple[str, list[int]]] = []

    def detector(name: str, batch: int = 1) -> TimedDetector:
        def count_faces(photos: Sequence[Pixels]) -> list[int]:
            time.sleep(0.001)
            numbers = [int(photo[0, 0, 0]) for photo in photos]
            calls.append((name, numbers))
            return numbers  # the number of the photo as its number of faces

        return TimedDetector(name, count_faces, batch)

    progress: list[int] = []
    a, b, both = time_interleaved(
        [detector("a"), detector("b"), detector("both", 2)], numbered(3), 2, 0.0, progress.append
    )
    first = [("a", [0]), ("b", [0]), ("a", [1]), ("b", [1]), ("both", [0, 1])]
    last = [("a", [2]), ("b", [2]), ("both", [2])]
    assert calls == first * 2 + last * 2
    assert progress == [2, 1]
    assert a.seconds.shape == b.seconds.shape == (3, 2)
    assert both.seconds.shape == (2, 2)
    assert (a.seconds >= 0.001).all()
    assert a.photos.tolist() == [1, 1, 1] and both.photos.tolist() == [2, 1]
    assert a.faces.tolist() == [0, 1, 2] and both.faces.tolist() == [1, 2]


def test_reading_a_photo_is_not_timed() -> None:
    def read() -> Pixels:
        time.sleep(0.2)
        return np.zeros((2, 2, 3), np.uint8)

    (found,) = time_interleaved([TimedDetector("a", lambda photos: [0])], [read], 1)
    assert found.seconds.max() < 0.2
