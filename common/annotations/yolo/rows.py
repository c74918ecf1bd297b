"""Parse the rows of YOLO labels, and tell from all of them what a row of each length means."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.annotations.collect import parse_number

EDGE_TOLERANCE = 0.05  # of the image's side: how far a valid box or polygon may be outside
POINT_TOLERANCE = 0.25  # of the box's side: how far a key point may be outside its box, as on faces in profile
MAX_EXCEPTIONS = 0.1  # share of rows whose shape may contradict what all the others say
MAX_MISFITS = 0.2  # share of rows that may not fit where nothing else is possible
MAX_ROUNDING = 1e-4  # of the image's side, of sums of four values
MAX_NORMALISED = 1.5  # larger values are pixels or per cent; boxes over the image's edge stay below
MIN_POLYGON = -0.5  # smaller coordinates are no polygon of this image
MAX_TESTED_ROWS = 300  # of each length; the test of a polygon takes some 0.1 ms
MAX_TESTED_POINTS = 150  # the test of a polygon needs their square
# 4 pi area / circumference^2: 1 of a circle. Of 4000 made rows of a box and 3 (4, 5) face landmarks, 0.7% (0.05%, 0)
# are above as polygons; of made polygons with 5 (7, 12) corners around a face, 61% (90%, 99%).
MIN_ROUNDNESS = 0.6
MIN_TRACKED_ROWS = 5  # five triangles do not all end in a whole number
_FLAGS = (-1.0, 0.0, 1.0, 2.0)  # COCO's visibility of a key point, and -1 for a missing one
# When rows are taken for corners.
MAX_OUTSIDE = 0.05  # of the image's side, that a box may leave it
MIN_OUTSIDE_ROWS, MIN_OUTSIDE_SHARE, MIN_ORDERED_SHARE = 3, 0.25, 0.98
_Box = tuple[float, float, float, float]


class AmbiguousRowsError(ValueError):
    """Rows that can mean two things; the message says which, and how the user can tell."""


class LabelRow(NamedTuple):
    """A row of a label file."""

    line: int  # from 1
    class_text: str  # the class as written
    length: int  # values in the row, with the class
    largest: float  # the largest value after the class
    box: _Box  # xyxy, divided by the image's size, of the first four values as cx cy w h
    hull: _Box  # the same of all values as the corners of a polygon

    @property
    def location(self) -> str:
        """Return the row's place in its file."""
        return f"line {self.line}"


class _Shapes:
    """How many of the tested rows of one length can be what, and where the first row is."""

    def __init__(self, first: str) -> None:
        self.first = first
        self.rows = 0
        self.found: Counter[str] = Counter()  # "box", "polygon", "both" or "neither"
        self.whole_ends = 0  # rows whose last value is a whole number
        self.odd_ends = 0  # rows whose last value is no confidence or number of a track

    def mostly(self, kind: str) -> bool:
        """Return whether nearly all tested rows can be of a kind."""
        tested = self.found.total()
        return tested > 0 and tested - self.found[kind] - self.found["both"] <= MAX_MISFITS * tested


class _Corners:
    """How many rows of four values look like two corners (x1 y1 x2 y2), and leave the photo when read as cx cy w h."""

    def __init__(self) -> None:
        self.rows = self.ordered = self.outside = 0
        self.first = ""  # file and line of the first row

    def add(self, values: Sequence[float], place: str) -> None:
        """Count a row."""
        x1, y1, x2, y2 = values
        self.first = self.first or place
        self.rows += 1
        self.ordered += 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
        edges = (x1 - x2 / 2, y1 - y2 / 2, x1 + x2 / 2, y1 + y2 / 2)
        self.outside += min(edges) < -MAX_OUTSIDE or max(edges) > 1 + MAX_OUTSIDE

    def are_likely(self) -> bool:
        """Return whether the rows are corners: real boxes seldom leave the photo, and few are wider than their cx."""
        many = self.outside >= max(MIN_OUTSIDE_ROWS, MIN_OUTSIDE_SHARE * self.rows)
        return many and self.ordered >= MIN_ORDERED_SHARE * self.rows


class RowForms:
    """What the rows of a dataset mean: a box, a box with more values, or a polygon.

    A row is `class cx cy w h`, or a polygon, `class x y x y x y ...`. After the box may be k key points (x y, or
    x y visibility), a confidence, and the number of a track. Rows with an odd number of values, from 7, can be both.
    `kpt_shape` of data.yaml tells; else all rows of the dataset do.
    """

    def __init__(self, kpt_shape: tuple[int, int] | None = None) -> None:
        """Use `kpt_shape` (number of key points, values of each), or None; (0, 0) says that there are none."""
        self._kpt_shape = kpt_shape
        self._shapes: dict[int, _Shapes] = {}  # by the rows' length
        self._plain_rows = 0  # rows that are a box and nothing else
        self._corners = _Corners()  # of these
        self._meanings: dict[int, str] = {}  # "box", "polygon", or why rows of this length are refused
        self.extras: Counter[str] = Counter()  # rows read as a box whose further values were not used, by their kind

    def parse(self, text: str, file: Path) -> list[LabelRow]:
        """Return the rows of a label file, and remember their shapes; empty lines are no rows."""
        rows = []
        for number, line in enumerate(text.splitlines(), start=1):
            words = _split_words(line)
            if not words:
                continue
            class_text, values = _split_class(words)
            rows.append(_make_row(number, class_text, values))
            self._plain_rows += len(values) == 4
            if len(values) == 4:
                self._corners.add(values, f"{file}: line {number}")
            elif len(values) > 4:
                self._test(rows[-1], values, file)
        return rows

    def _test(self, row: LabelRow, values: list[float], file: Path) -> None:
        """Count what a row can be."""
        shapes = self._shapes.setdefault(row.length, _Shapes(f"{file}: {row.location}"))
        shapes.rows += 1
        last = values[-1]
        shapes.whole_ends += last.is_integer()
        shapes.odd_ends += not (0 <= last <= 1 or (last.is_integer() and last >= 0))
        if shapes.rows <= MAX_TESTED_ROWS:
            # Overflow to infinity is not a fault here: the box is refused later.
            with np.errstate(over="ignore", invalid="ignore"):
                shapes.found[_shape_of(np.array(values))] += 1

    def settle(self) -> None:
        """Decide what a row of each length means, after all files were parsed.

        Raises:
            AmbiguousRowsError: the rows of a length can be boxes with key points as well as polygons, or boxes look
                like corners.
        """
        if self._corners.are_likely():
            few = f"{self._corners.outside} of {self._corners.rows} boxes would leave their photos"
            fix = "write `class cx cy w h` (the centre and the size), or export the dataset again"
            raise AmbiguousRowsError(f"{self._corners.first}: the rows look like corners, x1 y1 x2 y2 ({few}); {fix}")
        lengths = [length for length in self._shapes if length % 2 and length >= 7]
        odd = "box" if self._kpt_shape else self._settle_odd(lengths)
        for length, shapes in self._shapes.items():
            self._meanings[length] = self._meaning(length, shapes, odd)
            if self._meanings[length] == "box":
                kind = "key points" if self._kpt_shape and length > 6 else _EXTRA_NAMES.get(length, "key points")
                self.extras[kind] += shapes.rows

    def _meaning(self, length: int, shapes: _Shapes, odd: str) -> str:
        """Return "box", "polygon", or why rows of this length are refused; `odd` is for odd lengths."""
        if self._kpt_shape and self._kpt_shape[0] and length != 6:
            points, values = self._kpt_shape
            whole = 5 + points * values
            refusal = f"has {length} values, but `kpt_shape: [{points}, {values}]` means {whole} (or 5, a box only)"
            return "box" if whole <= length <= whole + 2 else refusal  # also a confidence and the number of a track
        if self._kpt_shape and length % 2:
            return "polygon"
        refusal = f"has {length} values, which is not a box or a polygon"
        fits = shapes.mostly("box")
        if length == 6:
            refusal = "has 6 values, of which the last is no confidence or number of a track"
            fits &= shapes.odd_ends <= MAX_EXCEPTIONS * shapes.rows
        elif length % 2 and odd == "box":
            refusal = f"has {length} values, which is no box with key points, as the dataset's other rows are"
            alike = shapes.found["polygon"] <= MAX_EXCEPTIONS * shapes.found["box"] and shapes.found["box"] > 0
            fits = alike or self._is_tracked(length)
        elif length % 2:
            return odd or f"has {length} values, but the numbers fit neither a box with key points nor a polygon"
        return "box" if fits else refusal

    def _settle_odd(self, lengths: list[int]) -> str:
        """Return what rows of an odd length from 7 mean: "box", "polygon", or "" where they are neither."""
        found: Counter[str] = Counter()
        for length in lengths:
            shapes = self._shapes[length].found
            found += Counter(box=shapes.total()) if self._is_tracked(length) else shapes
        boxes, polygons = found["box"], found["polygon"]
        if polygons and boxes <= MAX_EXCEPTIONS * polygons:
            return "polygon"
        if boxes and polygons <= MAX_EXCEPTIONS * boxes:
            return "box"
        rows = [self._shapes[length].rows for length in lengths]
        varied = len(lengths) > 2 or (len(lengths) == 2 and not boxes)
        if varied and polygons >= boxes and max(rows) < 0.8 * sum(rows):  # key points are equally many in each row
            return "polygon"
        if not (boxes or polygons or found["both"]):
            return ""
        # Datasets of key points have them in each row; those of polygons may have boxes, too.
        whole = 7 in lengths and self._shapes[7].whole_ends == self._shapes[7].rows
        if self._plain_rows and not (boxes or whole):
            return "polygon"
        raise self._ambiguous(max(lengths, key=lambda length: self._shapes[length].rows))

    def _is_tracked(self, length: int) -> bool:
        """Return whether rows of 7 values are predictions: a box, a confidence and the number of a track."""
        shapes = self._shapes[length]
        fits = length == 7 and shapes.whole_ends == shapes.rows and shapes.mostly("box")
        return fits and (6 in self._shapes or shapes.rows >= MIN_TRACKED_ROWS)

    def _ambiguous(self, length: int) -> AmbiguousRowsError:
        """Return the error that rows of a length can be two things."""
        shapes = self._shapes[length]
        points = (length - 5) // 2
        what = f"a box with {points} key points or a polygon"
        if length == 7:
            what = "a box with a confidence and the number of a track, a box with one key point, or a triangle"
        ways = f"add `kpt_shape: [{points}, 2]` to data.yaml if the first four are a box, `kpt_shape: [0, 0]` if all "
        return AmbiguousRowsError(
            f"{shapes.first} has {length} values, as have {shapes.rows} rows in all: {what}; {ways}are corners"
        )

    def box_of(self, row: LabelRow) -> _Box | str:
        """Return the box of a row (xyxy, divided by the image's size), or why it is refused."""
        meaning = "box" if row.length == 5 else self._meanings.get(row.length, "")
        largest = row.largest if meaning == "polygon" else _largest_of_box(row.box)
        if math.isfinite(largest) and largest > MAX_NORMALISED:
            fix = "write `cx cy w h`, divided by the image's width and height"
            return f"has the value {largest:g}, but all must be within 0 and 1: values look like pixels; {fix}"
        if meaning not in ("box", "polygon"):
            return meaning or f"has {row.length} values, which is not a box or a polygon"
        box = row.box if meaning == "box" else row.hull
        if meaning == "polygon" and min(box) < MIN_POLYGON:
            return f"has a corner at {min(box):g}, far outside the image"
        return box


_EXTRA_NAMES = {6: "a confidence or the number of a track", 7: "a confidence and the number of a track"}


def _split_words(line: str) -> list[str]:
    """Return the values of a row; commas between them, and decimal commas, are read, too."""
    words = line.split()
    if "," not in line and ";" not in line:
        return words
    # "0 0,5 0,5 0,2 0,3" has decimal commas; "0,0.5,0.5,0.2,0.3" and "0, 0.5, 0.5, 0.2, 0.3" have none.
    if len(words) >= 5 and all(re.fullmatch(r"[^,;]*|-?\d*,\d+", word) for word in words[1:]):
        return [word.replace(",", ".") for word in words]
    return [word for word in re.split(r"[\s,;]+", line) if word]


def _split_class(words: list[str]) -> tuple[str, list[float]]:
    """Return the class as written, which may have spaces, and the values after it."""
    values = [parse_number(word) for word in words]
    start = 1
    if math.isnan(values[0]) and words[0].lower() != "nan":
        start = next((i for i, value in enumerate(values) if not math.isnan(value)), 1)
    return " ".join(words[:start]), values[start:]


def _make_row(line: int, class_text: str, values: list[float]) -> LabelRow:
    """Return a row with the boxes of both meanings; NaN where values are missing."""
    box = hull = (math.nan,) * 4
    if len(values) >= 4:
        x, y, w, h = values[:4]
        box = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        hull = min(xs), min(ys), max(xs), max(ys)
    if any(map(math.isnan, values)):  # min and max would hide it
        hull = (math.nan,) * 4
    return LabelRow(line, class_text, 1 + len(values), max(values, default=math.nan), box, hull)


def _largest_of_box(box: _Box) -> float:
    """Return the largest of cx, cy, w and h."""
    x1, y1, x2, y2 = box
    return max((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)


def _shape_of(values: np.ndarray) -> str:
    """Return what the values after the class can be: "box", "polygon", "both" or "neither"."""
    even = len(values) % 2 == 0
    if even and _is_surely_polygon(values):
        return "polygon"
    box, polygon = _can_be_box(values), even and _can_be_polygon(values)
    if polygon and _is_round(values):
        return "polygon"
    return "both" if box and polygon else "box" if box else "polygon" if polygon else "neither"


def _is_round(values: np.ndarray) -> bool:
    """Return whether a polygon is compact, as faces are; the same path over a box and its key points is not."""
    points = values.reshape(-1, 2)
    following = np.roll(points, -1, axis=0)
    area, length = abs(_cross(points, following).sum()) / 2, np.hypot(*(following - points).T).sum()
    return len(points) >= 5 and bool(4 * np.pi * area > MIN_ROUNDNESS * length**2)


def _can_be_box(values: np.ndarray) -> bool:
    """Return whether values are cx cy w h in the image, and then key points in it, a confidence, or a track."""
    center, size = values[:2], values[2:4]
    low, high = center - size / 2, center + size / 2
    if not ((size > 0).all() and (low >= -EDGE_TOLERANCE).all() and (high <= 1 + EDGE_TOLERANCE).all()):
        return False
    more = values[4:]
    for ends in range(min(len(more), 2) + 1):
        points, end = more[: len(more) - ends], more[len(more) - ends :]
        track = float(end[-1]).is_integer() and end[-1] >= 0 if ends else False
        if ends and not (track or (ends == 1 and 0 <= end[0] <= 1)):
            continue
        if ends == 2 and not 0 <= end[0] <= 1:
            continue
        if not len(points) or any(_are_key_points(points, low, high, k) for k in (2, 3) if len(points) % k == 0):
            return True
    return False


def _are_key_points(values: np.ndarray, low: np.ndarray, high: np.ndarray, each: int) -> bool:
    """Return whether values are key points (x y, or x y visibility) in the box from `low` to `high`."""
    points = values.reshape(-1, each)
    # Both negative or both 0: not annotated.
    visible = (points[:, :2] >= 0).any(axis=1) & (points[:, :2] != 0).any(axis=1)
    if each == 3:
        if not np.isin(points[:, 2], _FLAGS).all():
            return False
        visible &= points[:, 2] > 0
    margin = POINT_TOLERANCE * (high - low)
    seen = points[visible, :2]
    return bool(np.isfinite(points).all() and ((seen >= low - margin) & (seen <= high + margin)).all())


def _can_be_polygon(values: np.ndarray) -> bool:
    """Return whether values are the corners of a polygon in the image whose sides do not cross."""
    points = values.reshape(-1, 2)
    if not ((points >= -EDGE_TOLERANCE) & (points <= 1 + EDGE_TOLERANCE)).all():
        return False
    if (points == 0).all(axis=1).sum() > 1:  # key points that are not annotated
        return False
    following = np.roll(points, -1, axis=0)
    if abs(_cross(points, following).sum()) == 0:
        return False
    return len(points) > MAX_TESTED_POINTS or not _crosses_itself(points, following)


def _is_surely_polygon(values: np.ndarray) -> bool:
    """Return whether corners form a parallelogram, as rotated boxes do, or end where they began."""
    points = values.reshape(-1, 2)
    if not ((points >= -EDGE_TOLERANCE) & (points <= 1 + EDGE_TOLERANCE)).all():
        return False
    if len(points) > 3 and (points[0] == points[-1]).all():
        return True
    # Also with the corners in the order of reading.
    halves = [points[0] + points[i] - (points.sum(axis=0) - points[0] - points[i]) for i in range(1, len(points))]
    return len(points) == 4 and any(np.abs(half).max() < MAX_ROUNDING for half in halves)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross product of vectors (..., 2)."""
    product: np.ndarray = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product


def _crosses_itself(starts: np.ndarray, ends: np.ndarray) -> bool:
    """Return whether any two sides of a polygon cross; sides that only touch do not."""
    a, b = starts[:, None], ends[:, None]
    c, d = starts[None], ends[None]
    parted = _cross(b - a, c - a) * _cross(b - a, d - a) < -1e-18
    return bool((parted & parted.T).any())
