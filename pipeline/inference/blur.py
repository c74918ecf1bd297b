"""Makes faces unrecognisable in a picture."""

from __future__ import annotations

import cv2
import numpy as np

from common.boxes import Boxes
from common.images import Pixels

LEAST_SCORE = 0.05  # what may be a face is blurred, too: a blurred poster does less harm than a face in the clear
MARGIN = 0.2  # of the box's sides, on each side: hair, ears and chin tell who it is as well
CELLS = 6  # a face with its margins keeps so many blocks across: fewer than anyone could be told by
LEAST_CELL = 4.0  # px: of a tiny face one colour is left


def blur_faces(image: Pixels, boxes: Boxes) -> Pixels:
    """A copy of `image` (H, W, 3 uint8 RGB) with an ellipse over each box (N, 4 xyxy) coarsened beyond recognition.

    A mean over blocks, not a convolution: what a sharpening filter could bring back is not there.
    """
    image = image.copy()
    height, width = image.shape[:2]
    for x1, y1, x2, y2 in np.asarray(boxes, np.float64).tolist():
        across, down = (x2 - x1) * MARGIN, (y2 - y1) * MARGIN
        left, top = max(int(np.floor(x1 - across)), 0), max(int(np.floor(y1 - down)), 0)
        right, bottom = min(int(np.ceil(x2 + across)), width), min(int(np.ceil(y2 + down)), height)
        if left >= right or top >= bottom:
            continue
        part = image[top:bottom, left:right]
        # A cell's size is the whole face's, also where only a part of it is in the picture.
        cell = max(max(x2 - x1, y2 - y1) * (1 + 2 * MARGIN) / CELLS, LEAST_CELL)
        rows, columns = (max(1, int(side / cell)) for side in part.shape[:2])
        coarse = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
        smooth = cv2.resize(coarse, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        mask = np.zeros(part.shape[:2], np.uint8)
        centre = ((x1 + x2) / 2 - left, (y1 + y2) / 2 - top)
        # The ellipse that passes through the corners of the face's box, so that all of it is inside.
        axes = ((x2 - x1) / 2 * np.sqrt(2), (y2 - y1) / 2 * np.sqrt(2))
        cv2.ellipse(mask, (centre, (2 * axes[0] + 1, 2 * axes[1] + 1), 0), 1, -1)
        part[mask > 0] = smooth[mask > 0]
    return image
