"""What the three readers share: boxes are checked, clipped and counted, image ids made, problems kept."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.annotations.photos import header_size
from common.annotations.types import AnnotatedImage, Annotations, Problem, ordered_classes
from common.boxes import as_boxes, clip
from common.errors import MediaError, UserError

Size = tuple[int, int]

ROUNDING = 0.01  # pixels; normalised boxes written with six decimals stick out this little without being wrong
SAME_SHAPE = 0.01  # relative difference of two aspect ratios that still counts as a resized copy


@dataclass(frozen=True)
class RawFace:
    """A face as annotated: its place in the file ("object 3"), its class, its box (xyxy pixels, 0-based)."""

    where: str
    label: str
    box: Sequence[float]


def number(value: Any) -> float:
    """A JSON number or numeric text as float; anything else becomes NaN, which is refused with its box."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


class Collector:
    """Gathers the images of one dataset; `finish` makes the Annotations."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._images: dict[Path, tuple[Size, np.ndarray, tuple[str, ...], str | None]] = {}
        self._problems: list[Problem] = []
        self._clipped = 0

    def refuse(self, file: Path, what: str) -> None:
        """Keeps a problem for the report."""
        self._problems.append(Problem(file, what))

    def size_of(self, photo: Path) -> tuple[Size, Size] | None:
        """The (stored, upright) sizes of an image, or None after a problem was kept."""
        try:
            return header_size(photo)
        except MediaError as error:
            self.refuse(photo, f"{error.what}; not used")
            return None

    def add(
        self,
        photo: Path,
        annotation: Path,
        faces: Iterable[RawFace],
        annotated_size: Size | None = None,
        split: str | None = None,
    ) -> None:
        """Adds an image with its faces; what is wrong with either is kept as a problem.

        The image's own header gives the size. Where the annotation gives another one (reported each time):
        of the same shape, the picture was resized after it was annotated, and the boxes are scaled with it;
        the stored size of a photo that EXIF turns, the boxes belong to the unturned picture, and the image is
        refused; else the boxes are taken as they are if all fit the image, and the image is refused if not.
        """
        sizes = self.size_of(photo)
        if sizes is None:
            return
        if photo in self._images:
            self.refuse(annotation, f"{photo.name} is annotated twice; the first annotation was used")
            return
        stored, size = sizes
        faces = list(faces)
        scale = (1.0, 1.0)
        if annotated_size is not None and annotated_size != size:
            mended = self._mend_size(annotation, faces, annotated_size, stored, size)
            if mended is None:
                return
            scale = mended
        boxes: list[np.ndarray] = []
        labels: list[str] = []
        seen: dict[bytes, str] = {}  # box -> label of the first face there
        for face in faces:
            box = self._checked(annotation, face, size, scale)
            if box is None:
                continue
            first = seen.get(box.tobytes())
            if first is not None:
                other = "" if first == face.label else f", there called {first}"
                self.refuse(annotation, f"{face.where} ({face.label}) repeats an earlier box{other}; left out")
                continue
            seen[box.tobytes()] = face.label
            boxes.append(box)
            labels.append(face.label)
        self._images[photo] = (size, as_boxes(boxes), tuple(labels), split)

    def _mend_size(
        self, annotation: Path, faces: list[RawFace], annotated: Size, stored: Size, size: Size
    ) -> tuple[float, float] | None:
        differ = f"is for a {annotated[0]}x{annotated[1]} image, but the image is {size[0]}x{size[1]}"
        if annotated == stored:
            self.refuse(
                annotation,
                f"{differ} once its EXIF rotation is applied; not used, rotate it and annotate anew",
            )
            return None
        scale = (size[0] / annotated[0], size[1] / annotated[1])
        if abs(scale[0] / scale[1] - 1) <= SAME_SHAPE:
            self.refuse(annotation, f"{differ}; boxes scaled with it")
            return scale
        # One pixel of grace: annotation tools end boxes one past the edge.
        if not any(face.box[2] > size[0] + 1 or face.box[3] > size[1] + 1 for face in faces):
            self.refuse(annotation, f"{differ}; boxes fit and were taken as they are")
            return (1.0, 1.0)
        self.refuse(annotation, f"{differ}, and boxes do not fit; not used")
        return None

    def _checked(self, annotation: Path, face: RawFace, size: Size, scale: tuple[float, float]) -> np.ndarray | None:
        """The face's box (4,) clipped to the image, or None after a problem was kept."""
        fault = None
        box = np.array(face.box, np.float64) * (*scale, *scale)
        shown = ", ".join(f"{v:g}" for v in box)
        if not face.label:
            fault = "has no class name"
        elif not np.isfinite(box).all():
            fault = "has a box edge that is missing or not a number"
        elif box[2] <= box[0] or box[3] <= box[1]:
            fault = f"has an empty or inverted box ({shown})"
        if fault is None:
            with np.errstate(over="ignore"):  # infinite is beyond the edge, too
                inside = clip(box[None].astype(np.float32), size)[0]
            if inside[2] > inside[0] and inside[3] > inside[1]:
                self._clipped += bool(np.abs(inside - box).max() > ROUNDING)
                return inside
            fault = f"has a box outside the {size[0]}x{size[1]} image ({shown})"
        self.refuse(annotation, f"{face.where} {fault}; left out")
        return None

    def finish(self) -> Annotations:
        """The dataset. Raises UserError when not one image could be used, naming the first problem."""
        if not self._images:
            first = f"first problem: {self._problems[0]}" if self._problems else "it names none, export it anew"
            raise UserError(f"{self._root}: no annotated image could be used; {first}")
        images = [
            AnnotatedImage(path, image_id, size, boxes, labels, split)
            for (path, (size, boxes, labels, split)), image_id in zip(
                self._images.items(), image_ids(list(self._images)), strict=True
            )
        ]
        images.sort(key=lambda image: image.image_id)
        classes = ordered_classes(label for image in images for label in image.labels)
        return Annotations(tuple(images), classes, tuple(self._problems), self._clipped)


def image_ids(photos: Sequence[Path]) -> list[str]:
    """A unique id for each image: its stem; where two share one, every id gets its folder ("train/a"), and if
    two of them share that too (a.jpg beside a.png), its extension as well. Folders count from the common
    parent. Bytes of a name that are not UTF-8 are written out ("caf\\xe9"): ids stand in text files.
    """
    base = os.path.commonpath([photo.absolute().parent for photo in photos]) if photos else ""
    relative = [Path(_text(photo.absolute().relative_to(base))) for photo in photos]
    for ids in ([p.stem for p in relative], [p.with_suffix("").as_posix() for p in relative]):
        if max(Counter(ids).values(), default=0) <= 1:
            return ids
    return [p.as_posix() for p in relative]


def _text(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
