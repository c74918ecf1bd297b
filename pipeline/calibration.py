"""Makes the fine-tuned cascade's scores probabilities, on validation photos."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from stage1_faces.annotations import AnnotatedImage
from stage1_faces.boxes import Boxes, iou
from stage1_faces.detector import CascadeConfig, log_odds
from stage1_faces.faces import Detector
from stage1_faces.images import read_image

MATCH_IOU = 0.5
FLOOR = 0.01  # scores below this are of no use to anyone, and there are very many
FEWEST = 10  # of each kind


def calibrated(detector: Detector, search: CascadeConfig, images: Iterable[AnnotatedImage]) -> CascadeConfig:
    """The settings with slope and intercept fitted on what `detector` finds in `images` (Platt 1999).

    `detector` works by `search`, whose own slope and intercept are taken into account. Give it validation images only.
    With fewer than 10 right or 10 wrong detections to tell apart, a warning is printed and the settings stay.
    Raises PipelineError when wrong detections score higher than right ones.
    """
    from sklearn.linear_model import LogisticRegression

    scores, right = [np.zeros(0, np.float32)], [np.zeros(0, bool)]
    for image in images:
        found = detector.detect(read_image(image.path), min_score=FLOOR)
        scores.append(found.scores)
        right.append(hits(found.boxes, image.boxes))
    odds, hit = log_odds(np.concatenate(scores)), np.concatenate(right)
    if min(hit.sum(), (~hit).sum()) < FEWEST:
        few = f"only {hit.sum()} right and {(~hit).sum()} wrong detections on the validation photos"
        print(f"warning: {few}, too few to calibrate scores on; they stay as they are", file=sys.stderr)
        return search
    fit = LogisticRegression(C=np.inf).fit(odds[:, None], hit)
    slope, intercept = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    if slope <= 0:
        raise PipelineError("wrong detections score higher than right ones; train the cascade longer")
    return replace(
        search, slope=round(search.slope * slope, 4), intercept=round(search.intercept * slope + intercept, 4)
    )


def hits(boxes: Boxes, truths: Boxes, threshold: float = MATCH_IOU) -> NDArray[np.bool_]:
    """(N,) whether each box, best first, meets a truth that no better one has met."""
    right = np.zeros(len(boxes), bool)
    if not len(boxes) or not len(truths):
        return right
    overlaps = iou(boxes, truths)
    for i in range(len(boxes)):
        best = int(overlaps[i].argmax())
        if overlaps[i, best] >= threshold:
            right[i] = True
            overlaps[:, best] = 0
    return right
