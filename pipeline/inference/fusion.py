"""Joins the classifier's outputs with the detector's: face score, class probabilities, box, and when to be unsure."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, clip
from common.errors import UserError
from stage1_faces.face_logits import PROB_EPS, log_odds
from stage2_classifier.cropping import apply_box_deltas


@dataclass(frozen=True)
class ScoreFusion:
    """Settings that join both stages, fitted on validation photos (pipeline.training.packing.calibration).

    A face's log odds are detector_weight * detector's + classifier_weight * classifier's + intercept (Platt 1999).

    Raises:
        UserError: a value is out of range.
    """

    detector_weight: float = 1.0  # weight of the detector's log odds; above 0
    classifier_weight: float = 0.0  # weight of the classifier's log odds; 0 or more
    intercept: float = 0.0  # added to the weighted log odds
    temperature: float = 1.0  # divides the class logits (Guo et al. 2017); above 0
    box_blend: float = 0.0  # how far a box moves towards the classifier's box: 0 not at all, 1 all the way
    # How often the classifier sees a face: 2 cuts a face that reaches the wanted score, and is not settled, again, at
    # its moved box.
    box_passes: int = 1
    min_detector_score: float = 0.0  # smallest detector score, 0 to 1, for which the classifier runs
    # Upper bound of the classifier's log odds; a face that cannot reach a score with it is not classified.
    max_face_logit: float = 50.0
    unsure_margin: float = 0.0  # 0 to 1: a face is unsure when its two best class probabilities differ by less
    flip_tta: bool = False  # whether an uncertain crop is also classified mirrored, and the outputs averaged

    def __post_init__(self) -> None:
        if not all(np.isfinite(getattr(self, f.name)) for f in fields(self)):
            raise UserError(f"{self}: a value is not a finite number")
        if not (self.detector_weight > 0 and self.classifier_weight >= 0 and self.temperature > 0):
            raise UserError(f"{self}: detector_weight and temperature must be above 0, classifier_weight 0 or more")
        if not all(0 <= value <= 1 for value in (self.box_blend, self.min_detector_score, self.unsure_margin)):
            raise UserError(f"{self}: box_blend, min_detector_score and unsure_margin must be in 0..1")

        if self.box_passes not in (1, 2):
            raise UserError(f"box_passes is {self.box_passes}, must be 1 or 2")

    @property
    def is_identity(self) -> bool:
        """Whether the face score is the detector's, unchanged."""
        return self.detector_weight == 1 and self.classifier_weight == 0 and self.intercept == 0

    def face_scores(self, scores: NDArray[np.float32], face_logits: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Return each face's probability, float32 (N,).

        Args:
            scores: the detector's probabilities (N,).
            face_logits: the classifier's log odds (N,); None when its graph has no such output.
        """
        if self.is_identity:
            return scores
        odds = self.detector_weight * log_odds(scores).astype(np.float64) + self.intercept
        if face_logits is not None:
            odds = odds + self.classifier_weight * np.minimum(face_logits, self.max_face_logit)
        return np.asarray(1 / (1 + np.exp(-odds)), np.float32)

    def min_detector_score_for(self, score: float) -> float:
        """Return the detector score below which no output of the classifier lifts the face score to `score`."""
        if self.is_identity:
            return score
        if score <= 0:
            return self.min_detector_score
        odds = np.log(score) - np.log1p(-min(score, 1 - PROB_EPS))
        min_odds = odds - self.intercept - self.classifier_weight * self.max_face_logit
        # Slightly lower, so that rounding loses no face.
        return max(self.min_detector_score, float(1 / (1 + np.exp(-min_odds / self.detector_weight))) * 0.999)

    def class_probs(self, probs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return class probabilities (N, C) at the temperature; each row sums to 1."""
        if self.temperature == 1 or not len(probs):
            return probs
        # The logits are known up to a constant per row, which does not change a softmax.
        logits = np.log(np.maximum(probs.astype(np.float64), 1e-12)) / self.temperature
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)

    def refine_boxes(
        self, boxes: Boxes, box_deltas: NDArray[np.float32] | None, margin: float, size: tuple[int, int]
    ) -> Boxes:
        """Return boxes (N, 4) moved towards the classifier's, in pixels.

        Args:
            boxes: the detector's boxes (N, 4).
            box_deltas: the classifier's box deltas (N, 4); None when its graph has no such output.
            margin: context of the crops, as in BundleMeta.
            size: the image's width and height, in pixels; moved boxes are clipped to it.
        """
        if box_deltas is None or self.box_blend == 0 or not len(boxes):
            return boxes
        moved = clip(apply_box_deltas(boxes, box_deltas, margin), size)
        return np.asarray((1 - self.box_blend) * boxes + self.box_blend * moved, np.float32)
