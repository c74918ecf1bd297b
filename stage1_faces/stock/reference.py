"""The stock cascade, facenet-pytorch's MTCNN: a reference for comparisons, and a teacher of landmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, iou
from common.cli import requires_extra
from common.images import Pixels
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector

# Chosen for the stock weights on training and validation photos, between recall and speed (EXPERIMENTS.md).
STOCK_CONFIG = MtcnnConfig(min_face=12, pnet_threshold=0.6, rnet_threshold=0.3)
TEACHER_CONFIG = MtcnnConfig(min_face=12, pnet_threshold=0.5, rnet_threshold=0.5, score_threshold=0.8)
MATCH_IOU = 0.4  # the stock boxes differ from annotators' boxes (mean IoU 0.67 on the Kaggle set)


def stock_detector(threads: int = 1, config: MtcnnConfig = STOCK_CONFIG) -> MtcnnDetector:
    """Return the stock cascade, with unshifted boxes. Raise UserError when PyTorch is not installed."""
    with requires_extra("train"):
        from stage1_faces.training.export import STOCK, export_cascade, onnx_function, stock_nets
    nets = {name: onnx_function(graph, threads) for name, graph in export_cascade(stock_nets(), STOCK).items()}
    return MtcnnDetector(**nets, config=config)


def stock_landmarks(stock: MtcnnDetector, image: Pixels, boxes: Boxes) -> NDArray[np.float32]:
    """Return landmarks (N, 5, 2) in pixels of annotated faces (N, 4); nan where `stock` does not find the face.

    They are a teacher's output, not annotations. The teacher (with TEACHER_CONFIG) is confident of most faces over
    20 px, and good there.
    """
    points = np.full((len(boxes), 5, 2), np.nan, np.float32)
    found = stock.detect(image)
    if not len(found) or not len(boxes):
        return points
    overlaps = iou(boxes, found.boxes)
    best = overlaps.argmax(axis=1)
    # A found face teaches the annotated one that it overlaps most, and no other.
    matched = (overlaps.max(axis=1) >= MATCH_IOU) & (overlaps.argmax(axis=0)[best] == np.arange(len(boxes)))
    points[matched] = found.landmarks[best[matched]]
    return points
