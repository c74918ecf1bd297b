"""Parts of annotated photos that show no face: where every detection is a false alarm."""

from __future__ import annotations

from common.annotations import AnnotatedImage
from stage1_faces.faces import Pixels

FINEST, CELLS = 8, 75  # px, and cells along the longer side at most
MARGIN = 0.5  # of a face's own sides that stay out on each side of it: hair, and what annotators cut off
SMALLEST = 96  # px a side


def face_free_part(pixels: Pixels, image: AnnotatedImage) -> Pixels | None:
    """The largest rectangle of a photo that comes near no annotated face, or None when its sides are under 96 px.

    Edges lie on a grid of 8 px, coarser for photos over 600 px. A face that the annotators left out may be in it.
    """
    grid = max(FINEST, -(-max(image.size) // CELLS))
    columns, rows = image.size[0] // grid, image.size[1] // grid
    taken = [[False] * columns for _ in range(rows)]
    for x1, y1, x2, y2 in image.boxes.tolist():
        wide, high = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
        for row in range(max(int((y1 - high) // grid), 0), min(int((y2 + high) // grid) + 1, rows)):
            for column in range(max(int((x1 - wide) // grid), 0), min(int((x2 + wide) // grid) + 1, columns)):
                taken[row][column] = True
    left, top, right, bottom = _largest_free(taken, -(-SMALLEST // grid))
    if right <= left:
        return None
    return pixels[top * grid : bottom * grid, left * grid : right * grid]


def _largest_free(taken: list[list[bool]], shortest: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the largest rectangle of free cells with sides of `shortest` or more; else zeros."""
    best, area = (0, 0, 0, 0), 0
    free = [0] * (len(taken[0]) if taken else 0)  # free cells from this row upwards, by column
    for row, line in enumerate(taken):
        free = [0 if busy else above + 1 for busy, above in zip(line, free, strict=True)]
        for left in range(len(free)):
            height = free[left]
            for right in range(left, len(free)):
                height = min(height, free[right])
                if height < shortest:
                    break
                width = right - left + 1
                if width >= shortest and width * height > area:
                    best, area = (left, row + 1 - height, right + 1, row + 1), width * height
    return best
