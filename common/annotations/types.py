"""The result types of all annotation readers: annotated images, classes, and problems."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.annotations.source import Source
from common.boxes import Boxes, as_boxes
from common.display import display_name

# The three classes of the Kaggle "Face Mask Detection" dataset, in its spelling and a fixed order.
MASK_CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its labelled faces; raises ValueError when shapes, counts or values do not fit."""

    path: Path  # the image file
    image_id: str  # unique in the dataset; the key in splits.csv and crops.csv
    size: tuple[int, int]  # (width, height) in pixels, upright
    boxes: Boxes  # float32 (N, 4), xyxy pixels, 0-based, right and bottom edge exclusive, inside the image
    labels: tuple[str, ...]  # N class names
    split: str | None = None  # "train", "val" or "test" where the dataset's folders give the split
    # False: a face may lack its box, because an annotation was refused. What looks like background may be that face.
    complete: bool = True
    source_incomplete: bool = False  # not complete, but only because the source does not box every face
    source: str = ""  # name of the image's source (`Annotations.sources`); empty in a dataset read alone
    # (N,) False: a face whose class is not learned, only that it is a face; None stands for all True.
    class_known: NDArray[np.bool_] = None  # type: ignore[assignment]
    # (K, 4) as `boxes`: places that are neither face nor background in training, such as faces without a box.
    ignored: Boxes = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", as_boxes(self.boxes))
        object.__setattr__(self, "ignored", as_boxes(() if self.ignored is None else self.ignored))
        known = np.ones(len(self.boxes), bool) if self.class_known is None else np.array(self.class_known, bool)
        object.__setattr__(self, "class_known", known)
        for array in (self.boxes, self.ignored, self.class_known):
            array.setflags(write=False)
        if self.class_known.shape != (len(self.boxes),):
            raise ValueError(f"{self.path}: {len(self.boxes)} boxes but class_known is {self.class_known.shape}")
        if not self.image_id:
            raise ValueError(f"{self.path}: the image id is empty")
        if min(self.size) < 1:
            raise ValueError(f"{self.path}: size {self.size} is not positive")
        if len(self.boxes) != len(self.labels):
            raise ValueError(f"{self.path}: {len(self.boxes)} boxes but {len(self.labels)} labels")
        if (self.boxes[:, 2:] <= self.boxes[:, :2]).any():
            raise ValueError(f"{self.path}: a box is empty or inverted")
        if (self.boxes < 0).any() or (self.boxes[:, 2:] > np.array(self.size)).any():
            raise ValueError(f"{self.path}: a box sticks out of the {self.size[0]}x{self.size[1]} image")


# refused: an annotation or a photo that cannot be used. unmatched: a photo without its annotation, or an annotation
# without its photo. changed: read, but not as written.
ProblemKind = Literal["refused", "unmatched", "changed"]


@dataclass(frozen=True)
class Problem:
    """Something in a dataset that was refused or changed: the file, and one line that says what is wrong."""

    file: Path
    reason: str
    kind: ProblemKind = "refused"
    objects: int = 0  # annotated faces that were lost by it

    def __post_init__(self) -> None:
        # It may quote the file: control characters and halves of characters do not go to a terminal or a page.
        line = " ".join(self.reason.split())
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
        object.__setattr__(self, "reason", shown)

    def __str__(self) -> str:
        return f"{display_name(self.file)}: {self.reason}"


@dataclass(frozen=True)
class Annotations:
    """A dataset as read: each annotated face is in `images`, or counted by the problem that refused it."""

    images: tuple[AnnotatedImage, ...]  # sorted by image_id
    class_names: tuple[str, ...]  # in a fixed order
    problems: tuple[Problem, ...] = ()  # what was refused or changed
    clipped_boxes: int = 0  # the number of boxes that were clipped to their image
    notes: tuple[str, ...] = ()  # facts about the whole dataset that its user should know, one line each
    unlabelled: tuple[str, ...] = ()  # ids of the images without a label file; face-free, if they are complete
    format_name: str = ""  # such as "COCO"
    clipped_in: tuple[str, ...] = ()  # ids of the images with a clipped box
    # {image: its annotation file} of a dataset read alone; images without a label file are not in it.
    annotation_files: Mapping[Path, Path] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()  # the sources of images of several datasets, the main one first
    # {image id: image id in the main source} of photos that two sources show at two sizes; they are one photo.
    twins: Mapping[str, str] = field(default_factory=dict)

    @property
    def face_count(self) -> int:
        """Return the number of faces that were read."""
        return sum(len(image.labels) for image in self.images)

    @property
    def refused_count(self) -> int:
        """Return the number of annotated faces that were refused."""
        return sum(problem.objects for problem in self.problems)

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Return the ids of the images that may show a face without a box."""
        return tuple(image.image_id for image in self.images if not image.complete)

    @property
    def face_free_count(self) -> int:
        """Return the number of images without a label file that are taken as face-free: those that are complete."""
        return len(set(self.unlabelled) - set(self.incomplete))


def ordered_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the classes among `labels` in a fixed order: the mask classes first, then the others by name.

    Without other classes, all three mask classes are returned: data without the rare class then still fits a
    three-class model.
    """
    present = set(labels)
    others = tuple(sorted(present - set(MASK_CLASSES)))
    return tuple(name for name in MASK_CLASSES if name in present or not others) + others


def fingerprint(train: Sequence[AnnotatedImage]) -> str:
    """Return a hash that tells the training photos and the faces in them from others."""
    digest = hashlib.sha256()
    for image in train:
        digest.update(f"{image.image_id} {image.size} {image.labels}".encode())
        digest.update(image.boxes.tobytes())
        if not image.complete:
            digest.update(b"incomplete")
        if not image.class_known.all():
            digest.update(image.class_known.tobytes())
        if len(image.ignored):
            digest.update(image.ignored.tobytes())
    return digest.hexdigest()
