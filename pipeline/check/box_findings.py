"""Boxes that may be mistakes: two on one face, very small, very large, very long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from common.annotations import AnnotatedImage
from common.boxes import Boxes, area, iou

MIN_SIDE = 8  # px of the shorter side; smaller faces show hardly anything
MAX_SHARE = 0.9  # of the photo's area
MAX_ASPECT = 3  # longer side to shorter side
SAME_FACE_IOU = 0.5  # two boxes from this IoU on are probably of one face
_ROWS = 256  # boxes compared with all others at a time: a photo can have thousands

# The kinds of finding, in the order of the report, and what each means.
BOX_FINDINGS = {
    "two_classes": f"Two boxes of different classes on one face (IoU {SAME_FACE_IOU:g} or more)",
    "twice": f"Two boxes of one class on one face (IoU {SAME_FACE_IOU:g} or more)",
    "huge": f"Boxes over {MAX_SHARE:.0%} of their photo",
    "long": f"Boxes whose longer side is over {MAX_ASPECT} times the shorter",
    "tiny": f"Boxes with a side under {MIN_SIDE} px",
}


@dataclass(frozen=True)
class BoxFinding:
    """A box that may be a mistake."""

    kind: str  # of BOX_FINDINGS
    image: AnnotatedImage
    face: int  # index of the box
    detail: str  # such as "6.0 x 7.5 px"


def find_boxes(images: Iterable[AnnotatedImage]) -> list[BoxFinding]:
    """Return the findings of all images, sorted by kind; those of one kind are in the images' order."""
    found = [finding for image in images if len(image.boxes) for finding in _find(image)]
    order = list(BOX_FINDINGS)
    return sorted(found, key=lambda finding: order.index(finding.kind))


def _find(image: AnnotatedImage) -> Iterator[BoxFinding]:
    """Yield the findings of an image with faces."""
    sides = image.boxes[:, 2:] - image.boxes[:, :2]
    shorter, longer = sides.min(axis=1), sides.max(axis=1)
    share = area(image.boxes) / (image.size[0] * image.size[1])
    for i in np.flatnonzero(shorter < MIN_SIDE).tolist():
        yield BoxFinding("tiny", image, i, _size_text(sides[i]))
    for i in np.flatnonzero(share > MAX_SHARE).tolist():
        yield BoxFinding("huge", image, i, f"{share[i]:.0%} of the photo")
    for i in np.flatnonzero(longer > MAX_ASPECT * shorter).tolist():
        yield BoxFinding("long", image, i, _size_text(sides[i]))
    for i, j, overlap in _overlapping(image.boxes):
        a, b = image.labels[i], image.labels[j]
        yield BoxFinding("twice" if a == b else "two_classes", image, i, f"{a} and {b}, IoU {overlap:.2f}")


def _size_text(sides: np.ndarray) -> str:
    return f"{sides[0]:.1f} x {sides[1]:.1f} px"


def _overlapping(boxes: Boxes) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, IoU), i < j, of boxes that are probably of one face."""
    for start in range(0, len(boxes), _ROWS):
        found = iou(boxes[start : start + _ROWS], boxes)
        for row, j in np.argwhere(found >= SAME_FACE_IOU).tolist():
            if start + row < j:
                yield start + row, j, float(found[row, j])
