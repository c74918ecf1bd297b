"""What every annotation reader returns: annotated images, the class list, and what was wrong with the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.boxes import Boxes, as_boxes
from common.display import shown

# The three classes of the Kaggle "Face Mask Detection" set, in the set's own spelling; a fixed order.
MASK_CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its labelled faces.

    path: of the image file. image_id: unique in its dataset, the key in splits.csv and crops.csv.
    size: (width, height) in pixels. boxes: float32 (N, 4), xyxy pixels, 0-based, right and bottom edge exclusive,
    inside the image. labels: N class names. split: "train", "val" or "test" where the dataset's own folders say so.

    Raises ValueError when shapes, counts or values do not fit.
    """

    path: Path
    image_id: str
    size: tuple[int, int]
    boxes: Boxes
    labels: tuple[str, ...]
    split: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", as_boxes(self.boxes))
        self.boxes.setflags(write=False)
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


@dataclass(frozen=True)
class Problem:
    """Something in a dataset that was refused: the file, and what is wrong with it in one line."""

    file: Path
    what: str

    def __str__(self) -> str:
        return f"{shown(self.file)}: {' '.join(self.what.split())}"


@dataclass(frozen=True)
class Annotations:
    """A dataset as read: its images sorted by image_id, its classes, and an account of what was mended or refused.

    clipped: how many boxes stuck out of their image and were cut to it.
    """

    images: tuple[AnnotatedImage, ...]
    class_names: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    clipped: int = 0


def ordered_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """The classes among `labels` in a fixed order: the three mask classes first, any others by name.

    When nothing but mask classes (or nothing at all) is present, all three are returned, so that a subset of the
    data without the rare class still fits a three-class model.
    """
    present = set(labels)
    others = tuple(sorted(present - set(MASK_CLASSES)))
    if not others:
        return MASK_CLASSES
    return tuple(name for name in MASK_CLASSES if name in present) + others
