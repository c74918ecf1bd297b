"""Counts of a dataset: photos by split and size, faces by class and size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.annotations import AnnotatedImage

Histogram = Mapping[str, int]  # number of items by the name of their range, without gaps
Ranges = Mapping[str, int]  # name of a range: its start; a range ends where the next one starts

FACE_SIZES: Ranges = {"<12": 0, "12-24": 12, "24-48": 24, "48-96": 48, "96-192": 96, "192+": 192}  # px
FACES_PER_PHOTO: Ranges = {"0": 0, "1": 1, "2": 2, "3-5": 3, "6-10": 6, "11-20": 11, "21+": 21}
PHOTO_SIZES: Ranges = {"<320": 0, "320-640": 320, "640-1280": 640, "1280-2560": 1280, "2560+": 2560}  # px
NO_SPLIT = "no split folder"
SPLIT_ORDER = ("train", "val", "test", NO_SPLIT)


@dataclass(frozen=True)
class ClassCount:
    """The faces of one class."""

    name: str
    faces: int
    photos: int  # photos with such a face
    by_size: Histogram  # by the shorter side, in the ranges of FACE_SIZES


@dataclass(frozen=True)
class Statistics:
    """Counts of the photos that can be used."""

    photos: int
    faces: int
    by_split: Histogram  # photos; a split without photos is left out
    classes: tuple[ClassCount, ...]
    faces_per_photo: Histogram  # photos, in the ranges of FACES_PER_PHOTO
    photo_sizes: Histogram  # photos by the longer side, in the ranges of PHOTO_SIZES
    size_range: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # (width, height): smallest, median, largest


def count(images: Sequence[AnnotatedImage], class_names: Sequence[str]) -> Statistics:
    """Return the counts of a dataset.

    Args:
        images: at least one.
        class_names: the classes, in the order of the result.
    """
    by_area = sorted((image.size for image in images), key=lambda size: (size[0] * size[1], size))
    splits = Counter(image.split or NO_SPLIT for image in images)
    sides: dict[str, list[float]] = {name: [] for name in class_names}
    photos: Counter[str] = Counter()
    for image in images:
        photos.update(set(image.labels))
        for label, side in zip(image.labels, shorter_sides(image).tolist(), strict=True):
            sides[label].append(side)
    return Statistics(
        photos=len(images),
        faces=sum(len(image.labels) for image in images),
        by_split={split: splits[split] for split in SPLIT_ORDER if splits[split]},
        classes=tuple(
            ClassCount(name, len(found), photos[name], histogram(found, FACE_SIZES)) for name, found in sides.items()
        ),
        faces_per_photo=histogram((len(image.labels) for image in images), FACES_PER_PHOTO),
        photo_sizes=histogram((max(image.size) for image in images), PHOTO_SIZES),
        size_range=(by_area[0], by_area[len(by_area) // 2], by_area[-1]),
    )


def shorter_sides(image: AnnotatedImage) -> np.ndarray:
    """Return the shorter side of each face's box, float32 (N,) in pixels."""
    return (image.boxes[:, 2:] - image.boxes[:, :2]).min(axis=1)


def histogram(values: Iterable[float], ranges: Ranges) -> dict[str, int]:
    """Return the number of values in each range; a value below the first range counts there."""
    starts = list(ranges.values())[1:]
    found = np.bincount(np.searchsorted(starts, list(values), side="right"), minlength=len(ranges))
    return dict(zip(ranges, map(int, found), strict=True))
