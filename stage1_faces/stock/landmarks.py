"""Landmarks for faces that are annotated with boxes only: the stock cascade's, where it finds the face."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, iou
from stage1_faces.faces import Pixels
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector

SEARCH = MtcnnConfig(min_face=12, pnet_threshold=0.5, rnet_threshold=0.5, score_threshold=0.8)
MATCH_IOU = 0.4  # its boxes are drawn otherwise than annotators' (mean IoU 0.67 on the Kaggle set)


def stock_landmarks(stock: MtcnnDetector, image: Pixels, boxes: Boxes) -> NDArray[np.float32]:
    """Landmarks (N, 5, 2) in pixels of the faces (N, 4) of an image; nan where `stock` (with SEARCH) does not find one.

    A teacher's answer, not an annotation: good where the teacher is sure, which it is of most faces over 20 px.
    """
    points = np.full((len(boxes), 5, 2), np.nan, np.float32)
    found = stock.detect(image)
    if not len(found) or not len(boxes):
        return points
    overlaps = iou(boxes, found.boxes)
    best = overlaps.argmax(axis=1)
    # A found face teaches the annotated one that it overlaps most, and no other.
    own = (overlaps.max(axis=1) >= MATCH_IOU) & (overlaps.argmax(axis=0)[best] == np.arange(len(boxes)))
    points[own] = found.landmarks[best[own]]
    return points
