"""False alarms on photos without any face, at the bundle's threshold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.annotations.photos import photos_in
from common.cli import progress
from common.errors import MediaError, UserError
from common.images import read_image
from pipeline.evaluate.bootstrap import Interval
from pipeline.evaluate.scoring.intervals import interval_over_photos
from pipeline.inference.predictor import Predictor

# Upper end of the 95% interval of a Poisson count of which none was seen (Garwood, 1936): -ln(0.025).
NONE_SEEN = 3.689


@dataclass(frozen=True)
class FaceFreeScore:
    """False alarms of one detector on one folder of photos without faces."""

    name: str
    photos: int
    threshold: float  # a detection counts from this score on
    false_alarms: int
    photos_with_one: int  # photos with a false alarm or more
    per_photo: Interval  # false alarms per photo
    unreadable: tuple[str, ...]  # photos that could not be read, and why
    learned_from: str = "not recorded"  # or "yes", "no": whether the bundle learned from the folder


def score_face_free(
    predictor: Predictor, name: str, folder: Path, threshold: float, rounds: int, seed: int
) -> FaceFreeScore:
    """Detect in every photo of a folder, with its subfolders, and count the detections.

    Args:
        predictor: the detector.
        name: the folder's name in reports.
        folder: photos without any face; annotation files there are not read.
        threshold: a detection counts from this score on.
        rounds: bootstrap resamples over photos.
        seed: seed of the resamples.

    Raises:
        UserError: no photo can be read.
    """
    counts, unreadable = [], []
    photos = list(photos_in(folder, recursive=True))
    with progress() as bar:
        task = bar.add_task(f"{name}: detecting", total=len(photos))
        for photo in photos:
            try:
                counts.append(len(predictor.detect(read_image(photo), min_score=threshold).boxes))
            except MediaError as error:
                unreadable.append(f"{photo.name}: {error.reason}")
            bar.advance(task)
    if not counts:
        raise UserError(f"{folder}: holds no photo that can be read; check the folder")
    return summarize_counts(name, counts, threshold, rounds, seed, unreadable)


def summarize_counts(
    name: str,
    counts: Sequence[int],
    threshold: float,
    rounds: int = 200,
    seed: int = 0,
    unreadable: Iterable[str] = (),
) -> FaceFreeScore:
    """Return the score of a folder from the number of detections in each photo; args as in `score_face_free`."""
    found, count = np.array(counts), len(counts)
    interval = interval_over_photos(lambda weights: float((weights * found).sum() / count), count, rounds, seed)
    assert interval is not None
    if not found.any():  # resamples of zeros are all zero, which would say that there are never any
        interval = replace(interval, high=NONE_SEEN / count)
    with_one = int((found > 0).sum())
    return FaceFreeScore(name, count, threshold, int(found.sum()), with_one, interval, tuple(unreadable))
