"""Check and clip boxes, make image ids and record problems, for all annotation readers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.annotations.photos import header_size
from common.annotations.types import AnnotatedImage, Annotations, Problem, ordered_classes
from common.boxes import as_boxes, clip
from common.errors import MediaError, UserError

Size = tuple[int, int]  # (width, height)

ROUNDING_PX = 0.01  # normalised boxes with six decimals can be this much outside the image
MAX_ASPECT_DIFFERENCE = 0.01  # relative; up to here, an image with another size is a resized copy


@dataclass(frozen=True)
class RawFace:
    """A face as annotated: its location in the file ("object 3"), class, and box (xyxy pixels, 0-based)."""

    location: str
    label: str
    box: Sequence[float]


def parse_number(value: Any) -> float:
    """Return a JSON number or numeric text as float; other values become NaN, which `Collector` refuses."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def parse_size(width: Any, height: Any) -> Size | None:
    """Return an annotated image size, or None where a side is missing or not a size."""
    sides = (parse_number(width), parse_number(height))
    return (int(sides[0]), int(sides[1])) if all(1 <= side < 1e9 for side in sides) else None


class Collector:
    """Collects the images of one dataset; `finish` returns the Annotations."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._images: dict[Path, tuple[Size, np.ndarray, tuple[str, ...], str | None]] = {}
        self._problems: list[Problem] = []
        self._clipped = 0

    def add_problem(self, file: Path, what: str) -> None:
        """Record a problem of a file."""
        self._problems.append(Problem(file, what))

    def photo_sizes(self, photo: Path) -> tuple[Size, Size] | None:
        """Return the (stored, upright) sizes of an image, or None after a problem."""
        try:
            return header_size(photo)
        except MediaError as error:
            self.add_problem(photo, f"{error.reason}; not used")
            return None

    def add(
        self, photo: Path, annotation: Path, faces: list[RawFace], annotated_size: Size | None, split: str | None
    ) -> None:
        """Add an image, of its header's size, and its faces; what is wrong with them is a problem of `annotation`."""
        sizes = self.photo_sizes(photo)
        if sizes is None:
            return
        if photo in self._images:
            self.add_problem(annotation, f"{photo.name} is annotated twice; the first annotation was used")
            return
        stored, size = sizes
        scale = self._fit_size(annotation, faces, annotated_size or size, stored, size)
        if scale is None:
            return
        kept: dict[bytes, tuple[np.ndarray, RawFace]] = {}  # box and first face, by the box's bytes
        for face in faces:
            box = self._check_box(annotation, face, size, scale)
            if box is None:
                continue
            _, first = kept.setdefault(box.tobytes(), (box, face))
            if first is not face:
                other = "" if first.label == face.label else f", annotated as {first.label} there"
                self.add_problem(annotation, f"{face.location} ({face.label}) repeats an earlier box{other}; left out")
        boxes = as_boxes([box for box, _ in kept.values()])
        self._images[photo] = (size, boxes, tuple(face.label for _, face in kept.values()), split)

    def _fit_size(
        self, annotation: Path, faces: list[RawFace], annotated: Size, stored: Size, size: Size
    ) -> tuple[float, float] | None:
        """Return the (x, y) scale of boxes annotated for another size, or None if the image is refused."""
        if annotated == size:
            return (1.0, 1.0)
        differ = f"is for a {annotated[0]}x{annotated[1]} image, but the image is {size[0]}x{size[1]}"
        if annotated == stored:  # the boxes are of the unturned picture
            fix = "rotate the image and annotate it again"
            self.add_problem(annotation, f"{differ} after its EXIF rotation; not used, {fix}")
            return None
        scale = (size[0] / annotated[0], size[1] / annotated[1])
        if abs(scale[0] / scale[1] - 1) <= MAX_ASPECT_DIFFERENCE:  # the image was resized later
            self.add_problem(annotation, f"{differ}; boxes were scaled")
            return scale
        # Annotation tools end boxes up to one pixel past the edge.
        if not any(face.box[2] > size[0] + 1 or face.box[3] > size[1] + 1 for face in faces):
            self.add_problem(annotation, f"{differ}; boxes fit and were not changed")
            return (1.0, 1.0)
        self.add_problem(annotation, f"{differ}, and boxes do not fit; not used")
        return None

    def _check_box(self, annotation: Path, face: RawFace, size: Size, scale: tuple[float, float]) -> np.ndarray | None:
        """Return the face's box (4,) clipped to the image, or None after a problem."""
        box = np.array(face.box, np.float64) * (*scale, *scale)
        with np.errstate(over="ignore"):  # infinity is outside the image, too
            clipped = clip(box[None].astype(np.float32), size)[0]
        values = ", ".join(f"{v:g}" for v in box)
        if not face.label:
            fault = "has no class name"
        elif not np.isfinite(box).all():
            fault = "has a box edge that is missing or not a number"
        elif box[2] <= box[0] or box[3] <= box[1]:
            fault = f"has an empty or inverted box ({values})"
        elif clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            fault = f"has a box outside the {size[0]}x{size[1]} image ({values})"
        else:
            self._clipped += bool(np.abs(clipped - box).max() > ROUNDING_PX)
            return clipped
        self.add_problem(annotation, f"{face.location} {fault}; left out")
        return None

    def finish(self) -> Annotations:
        """Return the dataset; raise UserError, with the first problem, when no image could be used."""
        if not self._images:
            first = f"first problem: {self._problems[0]}" if self._problems else "it lists no image, export it again"
            raise UserError(f"{self._root}: no annotated image could be used; {first}")
        named = zip(image_ids(list(self._images)), self._images.items(), strict=True)
        images = [AnnotatedImage(photo, image_id, *rest) for image_id, (photo, rest) in named]
        images.sort(key=lambda image: image.image_id)
        classes = ordered_classes(label for image in images for label in image.labels)
        return Annotations(tuple(images), classes, tuple(self._problems), self._clipped)


def image_ids(photos: Sequence[Path]) -> list[str]:
    """Return a unique id for each image: its stem.

    If two stems are equal, all ids get the folder below the common parent ("train/a"). If two of those are equal
    (a.jpg and a.png), all ids get the extension, too. Bytes that are not UTF-8 are written as in "caf\\xe9".
    """
    absolute = [photo.absolute() for photo in photos]
    base = os.path.commonpath([photo.parent for photo in absolute]) if photos else ""
    relative = [Path(os.fsencode(p.relative_to(base)).decode("utf-8", "backslashreplace")) for p in absolute]
    for ids in ([p.stem for p in relative], [p.with_suffix("").as_posix() for p in relative]):
        if len(set(ids)) == len(ids):
            return ids
    return [p.as_posix() for p in relative]
