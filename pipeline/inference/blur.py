"""Makes faces unrecognisable in a picture."""

from __future__ import annotations

import cv2
import numpy as np

from common.boxes import Boxes
from common.images import Pixels

MIN_BLUR_SCORE = 0.05  # a possible face is blurred, too: a blurred poster does less harm than a visible face
MARGIN = 0.2  # of the box's width and height, on each side: hair, ears and chin identify a person as well
BLOCKS = 6  # blocks across a face with its margins: too few to recognise anyone
MIN_BLOCK = 4.0  # px: a tiny face becomes one colour


def blur_faces(image: Pixels, boxes: Boxes) -> Pixels:
    """Return a copy of an image in which an ellipse over each face is averaged over coarse blocks.

    A mean over blocks cannot be undone. A sharpening filter could undo a part of a convolution.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: faces (N, 4), xyxy in pixels; a part outside the image is ignored.
    """
    image = image.copy()
    height, width = image.shape[:2]
    for x1, y1, x2, y2 in np.asarray(boxes, np.float64).tolist():
        margin_x, margin_y = (x2 - x1) * MARGIN, (y2 - y1) * MARGIN
        left, top = max(int(np.floor(x1 - margin_x)), 0), max(int(np.floor(y1 - margin_y)), 0)
        right, bottom = min(int(np.ceil(x2 + margin_x)), width), min(int(np.ceil(y2 + margin_y)), height)
        if left >= right or top >= bottom:
            continue
        part = image[top:bottom, left:right]
        # The block size follows from the whole face, also where the image holds only a part of the face.
        block = max(max(x2 - x1, y2 - y1) * (1 + 2 * MARGIN) / BLOCKS, MIN_BLOCK)
        rows, columns = (max(1, int(side / block)) for side in part.shape[:2])
        coarse = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
        smooth = cv2.resize(coarse, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        mask = np.zeros(part.shape[:2], np.uint8)
        centre = ((x1 + x2) / 2 - left, (y1 + y2) / 2 - top)
        # The ellipse passes through the corners of the box, so the whole box is inside.
        axes = ((x2 - x1) / 2 * np.sqrt(2), (y2 - y1) / 2 * np.sqrt(2))
        cv2.ellipse(mask, (centre, (2 * axes[0] + 1, 2 * axes[1] + 1), 0), 1, -1)
        part[mask > 0] = smooth[mask > 0]
    return image
