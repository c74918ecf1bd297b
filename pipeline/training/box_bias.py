"""Measures how annotators draw face boxes differently from the cascade, so that its boxes can be moved to theirs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from common.annotations import AnnotatedImage
from common.boxes import iou
from common.errors import UserError
from common.images import read_image
from stage1_faces.faces import Detector

# Below this overlap a detection may belong to another face; above it, differing box styles still match (0.67 on
# average between MTCNN and the Kaggle set).
MATCH_IOU = 0.4
SURE = 0.5
FEWEST = 20


@dataclass(frozen=True)
class BoxShift:
    """edges: how far left, top, right and bottom edge move, as fractions of the found box's width or height.

    faces: how many matched faces it was measured on. iou: their mean overlap with the truth before and after the move.
    """

    edges: tuple[float, float, float, float]
    faces: int
    iou: tuple[float, float]


def measure_shift(detector: Detector, images: Iterable[AnnotatedImage]) -> BoxShift:
    """The median move from found boxes to annotated ones, over the faces that `detector` is sure of in `images`.

    Give it training images only. Raises UserError when fewer than FEWEST faces match.
    """
    found_boxes, true_boxes = [], []
    for image in images:
        found = detector.detect(read_image(image.path), min_score=SURE)
        if not len(found) or not len(image.boxes):
            continue
        overlaps = iou(found.boxes, image.boxes)
        matched = overlaps.max(axis=1) >= MATCH_IOU
        found_boxes.append(found.boxes[matched])
        true_boxes.append(image.boxes[overlaps.argmax(axis=1)[matched]])
    boxes, truths = np.concatenate(found_boxes or [np.zeros((0, 4))]), np.concatenate(true_boxes or [np.zeros((0, 4))])
    if len(boxes) < FEWEST:
        raise UserError(f"only {len(boxes)} annotated faces were found, too few to fit the boxes to")
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    edges = np.median((truths - boxes) / sides, axis=0)
    moved = (boxes + edges * sides).astype(np.float32)
    before, after = (
        float(np.mean([iou(one[None], true[None])[0, 0] for one, true in zip(some, truths, strict=True)]))
        for some in (boxes, moved)
    )
    left, top, right, bottom = (round(float(edge), 4) for edge in edges)
    return BoxShift((left, top, right, bottom), len(boxes), (before, after))
