"""What is known to show no face: parts of annotated photos, and detections that are false alarms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage
from common.boxes import Boxes, max_iou
from common.images import Pixels
from pipeline.data.hard_negatives import MAX_BACKGROUND_IOU

MIN_CELL = 8  # px, the finest grid
MAX_CELLS = 75  # along a photo's longer side
FACE_MARGIN = 0.5  # of a face's width and height, left out on each side: hair, and what annotators cut off
MIN_PART_SIDE = 96  # px


def counted_detections(image: AnnotatedImage, boxes: Boxes, match_iou: float = MAX_BACKGROUND_IOU) -> NDArray[np.bool_]:
    """Return (M,) whether each detection counts when detections are scored.

    A photo may show a face without a box (`image.complete` is False). There, a detection on no annotated face may be
    that face. Such a detection is neither right nor a false alarm.

    Args:
        image: the photo's annotations.
        boxes: (M, 4) the detections.
        match_iou: IoU at which a detection is on its face. Detections with this IoU, or with MAX_BACKGROUND_IOU, count.
    """
    if image.complete:
        return np.ones(len(boxes), bool)
    return max_iou(boxes, image.boxes) >= min(MAX_BACKGROUND_IOU, match_iou)


def face_free_part(pixels: Pixels, image: AnnotatedImage) -> Pixels | None:
    """Return the largest rectangle of a photo that is clear of every annotated face.

    The part may show a face that the annotators left out. A photo of which an annotation was refused has no such part.

    Args:
        pixels: the photo (H, W, 3).
        image: the photo's annotations.

    Returns:
        The part (h, w, 3), or None when no part has sides of 96 px or more. The edges are on a grid of 8 px, coarser
        for photos over 600 px.
    """
    if not image.complete:
        return None
    grid = max(MIN_CELL, -(-max(image.size) // MAX_CELLS))
    columns, rows = image.size[0] // grid, image.size[1] // grid
    occupied = [[False] * columns for _ in range(rows)]
    for x1, y1, x2, y2 in image.boxes.tolist():
        dx, dy = FACE_MARGIN * (x2 - x1), FACE_MARGIN * (y2 - y1)
        for row in range(max(int((y1 - dy) // grid), 0), min(int((y2 + dy) // grid) + 1, rows)):
            for column in range(max(int((x1 - dx) // grid), 0), min(int((x2 + dx) // grid) + 1, columns)):
                occupied[row][column] = True
    left, top, right, bottom = _largest_free(occupied, -(-MIN_PART_SIDE // grid))
    if right <= left:
        return None
    return pixels[top * grid : bottom * grid, left * grid : right * grid]


def _largest_free(occupied: list[list[bool]], min_side: int) -> tuple[int, int, int, int]:
    """Return the largest free rectangle (left, top, right, bottom) with sides of `min_side` cells or more, or zeros."""
    best, area = (0, 0, 0, 0), 0
    free = [0] * (len(occupied[0]) if occupied else 0)  # free cells from this row upwards, by column
    for row, line in enumerate(occupied):
        free = [0 if busy else above + 1 for busy, above in zip(line, free, strict=True)]
        for left in range(len(free)):
            height = free[left]
            for right in range(left, len(free)):
                height = min(height, free[right])
                if height < min_side:
                    break
                width = right - left + 1
                if width >= min_side and width * height > area:
                    best, area = (left, row + 1 - height, right + 1, row + 1), width * height
    return best
