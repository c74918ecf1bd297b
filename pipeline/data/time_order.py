"""Order photos by time, and cut the order into one block per part, such as train, val and test.

Time is the EXIF time of taking, where all photos have it. Otherwise it is the natural order of their ids: frame
9 before frame 10. A cut may move a little from its share, so that each part gets faces of every class where possible.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags

from common.annotations import AnnotatedImage
from common.errors import MediaError, UserError
from common.images import open_image_file, open_undecoded

DIGITS = re.compile(r"([0-9]+)")
# A cut moves by at most the smallest part's photos, and by at most these; the second bounds the time of the search.
MIN_REACH, MAX_REACH = 3, 500
# The costs of a part without any face, and of a class that a part lacks. The shares of all moves sum to less than 1.
NO_FACE, NO_CLASS = 1e6, 1e3


@dataclass(frozen=True)
class TimeCut:
    """Images in order of time, cut into contiguous blocks."""

    order: tuple[int, ...]  # indices of the images
    source: str  # what gave the order, for messages
    parts: tuple[int, ...]  # (N,) the block of each image, in the given order of the images

    def neighbours(self) -> list[tuple[int, int]]:
        """Return the images, as indices, that are next to one another on both sides of a cut."""
        pairs = zip(self.order, self.order[1:], strict=False)
        return [(a, b) for a, b in pairs if self.parts[a] != self.parts[b]]


def cut_by_time(images: Sequence[AnnotatedImage], shares: Sequence[float]) -> TimeCut:
    """Order the images by time, and cut them into one block per share.

    Raises UserError when there are fewer images than shares.
    """
    if len(images) < len(shares):
        raise UserError(f"{len(images)} photos are too few for {len(shares)} parts; use more photos")
    order, source = time_order(images)
    column = {label: i for i, label in enumerate(sorted({label for image in images for label in image.labels}))}
    faces = np.zeros((len(images), len(column)), np.intp)
    for row, index in enumerate(order):
        for label in images[index].labels:
            faces[row, column[label]] += 1
    parts = [0] * len(images)
    for index, part in zip(order, cut_blocks(faces, shares), strict=True):
        parts[index] = part
    return TimeCut(tuple(order), source, tuple(parts))


def time_order(images: Sequence[AnnotatedImage]) -> tuple[list[int], str]:
    """Return the indices of one or more images in order of time, and what gave the order, for a message."""
    names = [natural_key(image.image_id) for image in images]
    times = [exif_time(images[0].path)]
    if all(times):  # most datasets have none, and one photo shows it
        times += [exif_time(image.path) for image in images[1:]]
    if all(times):
        return sorted(range(len(images)), key=lambda i: (times[i], names[i])), "EXIF time"
    return sorted(range(len(images)), key=names.__getitem__), "name"


def natural_key(name: str) -> tuple[tuple[str, int, str], ...]:
    """Return a sort key in which numbers count by value: a9 comes before a10, and 09 before 9."""
    texts, numbers = DIGITS.split(name)[::2], DIGITS.split(name)[1::2]
    return tuple(
        (text, int(number) if number else -1, number) for text, number in zip(texts, [*numbers, ""], strict=True)
    )


def exif_time(photo: Path) -> str:
    """Return when a photo was taken, as text that sorts by time, or an empty text if its EXIF does not say it."""
    try:
        with open_image_file(photo) as file, open_undecoded(file, photo) as image:
            exif = image.getexif().get_ifd(ExifTags.IFD.Exif)
    except MediaError:
        return ""
    taken = str(exif.get(ExifTags.Base.DateTimeOriginal, ""))
    if not re.fullmatch(r"[12][0-9]{3}:[0-9]{2}:[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}", taken):
        return ""
    fraction = str(exif.get(ExifTags.Base.SubsecTimeOriginal, ""))
    return f"{taken}.{fraction}" if fraction.isdecimal() else taken


def cut_blocks(faces: NDArray[np.intp], shares: Sequence[float]) -> list[int]:
    """Cut a sequence of photos into contiguous blocks.

    Args:
        faces: (N, C), the faces of each class per photo, in order of time; N >= len(shares).
        shares: each block's fraction of the photos; their sum is 1.

    Returns:
        The block of each photo: 0 and up, never falling.
    """
    count, parts = len(faces), len(shares)
    totals = np.concatenate([np.zeros((1, faces.shape[1]), np.intp), np.cumsum(faces, axis=0)])
    places = np.round(np.cumsum([0, *shares]) * count).astype(int)
    for number in range(1, parts):
        places[number] = max(places[number], places[number - 1] + 1)
    for number in range(1, parts):  # each part keeps a photo
        places[number] = min(places[number], count - parts + number)
    reach = min(max(int(count * min(shares)), MIN_REACH), MAX_REACH)
    options = [np.arange(max(place - reach, 1), min(place + reach, count - 1) + 1) for place in places]
    options[0], options[-1] = places[:1], places[-1:]
    # The cheapest way to each place of a cut, cut by cut (dynamic programming).
    costs, ways = np.zeros(1), []
    for number in range(1, parts + 1):
        starts, ends = options[number - 1], options[number]
        step = costs[:, None] + _block_costs(totals, starts, ends)
        if number < parts:
            step = step + np.abs(ends - places[number]) / (count * parts)
        ways.append(np.argmin(step, axis=0))
        costs = np.min(step, axis=0)
    cut, cuts = 0, [count]
    for number in range(parts, 1, -1):
        cut = int(ways[number - 1][cut])
        cuts.append(int(options[number - 1][cut]))
    sizes = np.diff([0, *reversed(cuts)])
    return [int(part) for part in np.repeat(np.arange(parts), sizes)]


def _block_costs(totals: NDArray[np.intp], starts: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the cost (S, E) of the block from each start to each end: infinite if empty, high if classes lack."""
    cost = np.where(starts[:, None] < ends[None, :], 0.0, np.inf)
    faces = np.zeros(cost.shape, np.intp)
    for column in np.flatnonzero(totals[-1]):
        held = totals[ends, column][None, :] - totals[starts, column][:, None]
        cost[held <= 0] += NO_CLASS
        faces += held
    cost[faces <= 0] += NO_FACE
    return cost
