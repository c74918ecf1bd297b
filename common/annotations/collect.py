"""Check and clip boxes, make image ids and record problems, for all annotation readers."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from common.annotations.class_names import check_renames, class_hints, clean_name, parse_renames
from common.annotations.photos import HeaderSize, header_size
from common.annotations.types import AnnotatedImage, Annotations, Problem, ProblemKind, ordered_classes
from common.boxes import as_boxes, clip
from common.errors import MediaError, UserError

Size = tuple[int, int]  # (width, height)

ROUNDING_PX = 0.01  # normalised boxes with six decimals can be this much outside the image
MAX_ASPECT_DIFFERENCE = 0.01  # relative; up to here, an image with another size is a resized copy
MAX_NORMALISED = 1.5  # normalised boxes end at 1, or a little later
MIN_SIDE_PX = 16  # of images in which a box of 1.5 pixels is not a face


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


def looks_normalised(box: Sequence[float], size: Size | None = None) -> bool:
    """Return whether a box ends within the first pixel, as normalised boxes do.

    Args:
        box: xyxy.
        size: (width, height) of the image, or None when it is not known.
    """
    return max(map(abs, box)) <= MAX_NORMALISED and min(size or (MIN_SIDE_PX,)) >= MIN_SIDE_PX


def parse_size(width: Any, height: Any) -> Size | None:
    """Return an annotated image size, or None where a side is missing or not a size."""
    sides = (parse_number(width), parse_number(height))
    return (int(sides[0]), int(sides[1])) if all(1 <= side < 1e9 for side in sides) else None


def _same_shape(a: Size, b: Size) -> bool:
    """Return whether two sizes have the same ratio of width to height: one may be a resized copy of the other."""
    return abs(a[0] * b[1] / (a[1] * b[0]) - 1) <= MAX_ASPECT_DIFFERENCE


def _is_turn_unsure(annotated: Size | None, header: HeaderSize) -> bool:
    """Return whether the sizes leave open if the boxes are of the picture before or after its EXIF turn."""
    if header.orientation not in range(2, 9):
        return False
    if annotated is None or header.stored == header.upright:  # also turned by 180 degrees, or mirrored
        return True
    fits = _same_shape(header.upright, annotated) and not _same_shape(header.stored, annotated)
    return annotated != header.upright and not fits


@dataclass(frozen=True)
class _CollectedPhoto:
    """An image as collected; its class names are as written."""

    size: Size
    boxes: np.ndarray
    labels: tuple[str, ...]
    split: str | None
    complete: bool
    annotation: Path  # the file that names the faces


class DatasetError(UserError):
    """A dataset that cannot be used, with the problems found in it."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class Collector:
    """Collects the images of one dataset; `finish` returns the Annotations.

    Each annotated face of the files is given to `add`, or counted by `add_problem(objects=...)`.
    """

    def __init__(self, root: Path, renames: Sequence[str] = ()) -> None:
        """Collect the dataset at `root`; `renames` are texts such as "Mask=with_mask"."""
        self._root = root
        self._renames = parse_renames(renames)
        self._images: dict[Path, _CollectedPhoto] = {}
        self._problems: list[Problem] = []
        self._notes: list[str] = []
        self._clipped_in: set[Path] = set()
        self._unlabelled: set[Path] = set()
        self._clipped = 0
        self._unsure_turns = 0  # photos turned by EXIF; the sizes do not tell whether the boxes are of the turned one

    def add_problem(self, file: Path, what: str, kind: ProblemKind = "refused", objects: int = 0) -> None:
        """Record a problem of a file, by which `objects` annotated faces were lost."""
        self._problems.append(Problem(file, what, kind, objects))

    def add_note(self, note: str) -> None:
        """Record a fact about the whole dataset, as one line."""
        self._notes.append(note)

    def photo_sizes(self, photo: Path, objects: int = 0) -> tuple[Size, Size] | None:
        """Return the (stored, upright) sizes of an image, or None after a problem, by which `objects` were lost."""
        header = self._read_header(photo, objects)
        return None if header is None else (header.stored, header.upright)

    def _read_header(self, photo: Path, objects: int) -> HeaderSize | None:
        """Return the sizes and the orientation of an image, or None after a problem."""
        try:
            return header_size(photo)
        except MediaError as error:
            self.add_problem(photo, f"{error.reason}; not used", objects=objects)
            return None

    def add_unlabelled(self, photo: Path, split: str | None, complete: bool = True) -> None:
        """Add an image that has no label file: face-free by the format's convention."""
        self.add(photo, photo, [], None, split, complete)
        if photo in self._images:
            self._unlabelled.add(photo)

    def add(
        self,
        photo: Path,
        annotation: Path,
        faces: Sequence[RawFace],
        annotated_size: Size | None,
        split: str | None,
        complete: bool = True,
    ) -> None:
        """Add an image, of its header's size, and its faces; what is wrong with them is a problem of `annotation`.

        Args:
            photo: the image file.
            annotation: the file that names the faces.
            faces: the faces as annotated.
            annotated_size: (width, height) as annotated, or None.
            split: "train", "val" or "test" where the dataset says so.
            complete: False when the reader has refused a face of the image.
        """
        header = self._read_header(photo, len(faces))
        if header is None:
            return
        if photo in self._images:
            what = f"{photo.name} is annotated twice; the first annotation was used, remove the other"
            self.add_problem(annotation, what, objects=len(faces))
            if faces or not complete:
                self._images[photo] = replace(self._images[photo], complete=False)
            return
        size = header.upright
        scale = self._fit_size(photo, annotation, faces, annotated_size or size, header)
        if scale is None:
            return
        if faces and _is_turn_unsure(annotated_size, header):
            self._unsure_turns += 1
        kept: dict[bytes, tuple[np.ndarray, RawFace]] = {}  # box and first face, by the box's bytes
        clipped_before = self._clipped
        for face in faces:
            box = self._check_box(annotation, face, size, scale)
            if box is None:
                complete = False
                continue
            _, first = kept.setdefault(box.tobytes(), (box, face))
            if first is not face:
                other = "" if first.label == face.label else f", annotated as {first.label} there"
                what = f"{face.location} ({face.label}) repeats an earlier box{other}; left out"
                self.add_problem(annotation, what, objects=1)
        if self._clipped > clipped_before:
            self._clipped_in.add(photo)
        boxes = as_boxes([box for box, _ in kept.values()])
        labels = tuple(clean_name(face.label) for _, face in kept.values())
        self._images[photo] = _CollectedPhoto(size, boxes, labels, split, complete, annotation)

    def _fit_size(
        self, photo: Path, annotation: Path, faces: Sequence[RawFace], annotated: Size, header: HeaderSize
    ) -> tuple[float, float] | None:
        """Return the (x, y) scale of boxes annotated for another size, or None if the image is refused."""
        stored, size = header.stored, header.upright
        if annotated == size:
            return (1.0, 1.0)
        differ = f"is for a {annotated[0]}x{annotated[1]} image, but the image is {size[0]}x{size[1]}"
        if annotation.stem not in (photo.stem, photo.name):  # as of a file of many images
            differ = f"image {photo.name!r}: its annotation {differ}"
        if annotated == stored or (_same_shape(stored, annotated) and not _same_shape(size, annotated)):
            # The boxes are of the unturned picture.
            fix = "rotate the image and annotate it again"
            what = f"{differ} after its EXIF rotation; not used, {fix}"
            self.add_problem(annotation, what, objects=len(faces))
            return None
        scale = (size[0] / annotated[0], size[1] / annotated[1])
        if _same_shape(size, annotated):  # the image was resized later
            self.add_problem(annotation, f"{differ}; boxes were scaled", "changed")
            return scale
        # Annotation tools end boxes up to one pixel past the edge.
        if not any(face.box[2] > size[0] + 1 or face.box[3] > size[1] + 1 for face in faces):
            self.add_problem(annotation, f"{differ}; boxes fit and were not changed", "changed")
            return (1.0, 1.0)
        self.add_problem(annotation, f"{differ}, and boxes do not fit; not used", objects=len(faces))
        return None

    def _check_box(self, annotation: Path, face: RawFace, size: Size, scale: tuple[float, float]) -> np.ndarray | None:
        """Return the face's box (4,) clipped to the image, or None after a problem."""
        box = np.array(face.box, np.float64) * (*scale, *scale)
        with np.errstate(over="ignore"):  # infinity is outside the image, too
            clipped = clip(box[None].astype(np.float32), size)[0]
        values = ", ".join(f"{v:g}" for v in box)
        if not clean_name(face.label):
            fault = "has no class name"
        elif not np.isfinite(box).all():
            fault = "has a box edge that is missing or not a number"
        elif box[2] <= box[0] or box[3] <= box[1]:
            fault = f"has an empty or inverted box ({values})"
        elif clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            fault = f"has a box outside the {size[0]}x{size[1]} image ({values})"
        elif looks_normalised(face.box, size):
            fault = f"has a box within the first pixel, as normalised boxes are ({values}); export it again in pixels"
        else:
            self._clipped += bool(np.abs(clipped - box).max() > ROUNDING_PX)
            return clipped
        self.add_problem(annotation, f"{face.location} {fault}; left out", objects=1)
        return None

    def error(self, message: str) -> DatasetError:
        """Return the error of a dataset that is refused as a whole, with the problems found so far."""
        return DatasetError(message, self._problems)

    def finish(self, format_name: str = "") -> Annotations:
        """Return the dataset; raise DatasetError when no image could be used, or no image has a face."""
        if not self._images:
            raise self._unusable("no annotated image could be used", "it lists no image, export it again")
        found = {label for image in self._images.values() for label in image.labels}
        if not found:
            raise self._unusable("no image has a face", "its annotations are empty, export it again")
        try:
            check_renames(self._renames, found)
        except UserError as error:
            raise self.error(str(error)) from None
        named = zip(image_ids(list(self._images)), self._images.items(), strict=True)
        images = [
            AnnotatedImage(
                *(photo, image_id, image.size, image.boxes),
                *(tuple(self._renames.get(label, label) for label in image.labels), image.split, image.complete),
            )
            for image_id, (photo, image) in named
        ]
        images.sort(key=lambda image: image.image_id)
        classes = ordered_classes(label for image in images for label in image.labels)
        return Annotations(
            tuple(images),
            classes,
            tuple(self._problems),
            self._clipped,
            notes=(*self._notes, *self._turn_notes(), *class_hints(self._renames.get(label, label) for label in found)),
            unlabelled=tuple(image.image_id for image in images if image.path in self._unlabelled),
            format_name=format_name,
            clipped_in=tuple(image.image_id for image in images if image.path in self._clipped_in),
            annotation_files={p: image.annotation for p, image in self._images.items() if p not in self._unlabelled},
        )

    def _turn_notes(self) -> list[str]:
        """Return the note on photos whose boxes may be of the picture before its EXIF turn, if there are any."""
        if not self._unsure_turns:
            return []
        what = f"{self._unsure_turns} photos are turned by EXIF, and sizes do not tell whether their boxes are, too"
        return [f"{what}: taken as of the upright picture; check them with `python -m pipeline.check`"]

    def _unusable(self, what: str, otherwise: str) -> DatasetError:
        """Return the error of a dataset without an image or face."""
        return self.unusable(f"{self._root}: {what}", otherwise)

    def unusable(self, message: str, otherwise: str) -> DatasetError:
        """Return the error of a dataset: with the number of problems and the first one, or else what to do.

        Args:
            message: what is wrong, with the file's name.
            otherwise: what to do about it where no problem was found.
        """
        if not self._problems:
            return DatasetError(f"{message}; {otherwise}")
        refused = next((p for p in self._problems if p.kind == "refused"), self._problems[0])
        count = f"{len(self._problems)} problems, the first" if len(self._problems) > 1 else "first problem"
        return DatasetError(f"{message}; {count}: {refused}", self._problems)


def relative_name(photo: Path, base: Path | str | None) -> Path:
    """Return a photo's name below `base`, as text: NFC, and bytes that are not UTF-8 as in "caf\\xe9".

    Where `base` is None, the name is the absolute path, without the colon of a drive.
    """
    return Path(unicodedata.normalize("NFC", _named(photo, base)))


def _named(photo: PurePath, base: Path | str | None) -> str:
    if base is None:  # without the colon of "C:", because a crop's file is named after the id
        text, drive = os.fspath(photo), photo.drive
        return _unicode(drive.replace(":", "") + text[len(drive) :])
    return _unicode(os.fspath(photo.relative_to(base)))


def _unicode(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def image_ids(photos: Sequence[Path]) -> list[str]:
    """Return a unique id for each image: its stem.

    If two stems are equal, all ids get the folder below the common parent ("train/a"). Photos on two drives have no
    common parent; their ids are absolute paths. If two of those are equal (a.jpg and a.png), all ids get the
    extension, too. Bytes that are not UTF-8 are written as in "caf\\xe9". Ids are in Unicode's NFC, because macOS
    changes the form of names.
    """
    absolute = [photo.absolute() for photo in photos]
    base: str | None = None
    with suppress(ValueError):  # of photos on two drives of Windows
        base = os.path.commonpath([photo.parent for photo in absolute]) if photos else ""
    as_named = [_named(photo, base) for photo in absolute]
    relative = [relative_name(photo, base) for photo in absolute]
    for ids in ([p.stem for p in relative], [p.with_suffix("").as_posix() for p in relative]):
        if len(set(ids)) == len(ids):
            return ids
    ids = [p.as_posix() for p in relative]
    return ids if len(set(ids)) == len(ids) else as_named
