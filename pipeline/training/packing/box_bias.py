"""Measures how annotators' face boxes differ from the cascade's, to correct the cascade's boxes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from common.annotations import AnnotatedImage
from common.boxes import iou
from common.errors import UserError
from common.images import read_image
from stage1_faces.faces import Detector

# Below this overlap a detection may be of another face. Above it, boxes of different styles still match: 0.67 on
# average between MTCNN and the Kaggle set.
MATCH_IOU = 0.4
MIN_SCORE = 0.5
MIN_FACES = 20


@dataclass(frozen=True)
class BoxBias:
    """Result of `measure_box_bias`, kept in bundle.json as `box_shift`."""

    edges: tuple[float, float, float, float]  # moves of x1, y1, x2, y2 as fractions of the found box's width or height
    faces: int  # number of matched faces
    iou: tuple[float, float]  # their mean IoU with the annotated boxes, before and after the move


def measure_box_bias(detector: Detector, images: Iterable[AnnotatedImage]) -> BoxBias:
    """Return the median move from boxes found in training images, from MIN_SCORE on, to annotated boxes.

    Raises UserError when fewer than MIN_FACES faces match.
    """
    found_boxes, true_boxes = [], []
    for image in images:
        found = detector.detect(read_image(image.path), min_score=MIN_SCORE)
        if not len(found) or not len(image.boxes):
            continue
        overlaps = iou(found.boxes, image.boxes)
        matched = overlaps.max(axis=1) >= MATCH_IOU
        found_boxes.append(found.boxes[matched])
        true_boxes.append(image.boxes[overlaps.argmax(axis=1)[matched]])
    none = [np.zeros((0, 4))]
    boxes, gt_boxes = np.concatenate(found_boxes or none), np.concatenate(true_boxes or none)
    if len(boxes) < MIN_FACES:
        count = f"only {len(boxes)} annotated faces were found"
        raise UserError(f"{count}, too few to measure the box bias; use more photos")
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    edges = np.median((gt_boxes - boxes) / sides, axis=0)
    moved = (boxes + edges * sides).astype(np.float32)
    before, after = (
        float(np.mean([iou(one[None], true[None])[0, 0] for one, true in zip(some, gt_boxes, strict=True)]))
        for some in (boxes, moved)
    )
    left, top, right, bottom = (round(float(edge), 4) for edge in edges)
    return BoxBias((left, top, right, bottom), len(boxes), (before, after))
