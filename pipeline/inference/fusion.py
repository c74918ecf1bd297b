"""How stage 2's verdicts join stage 1's: the face score, the class probabilities, the box, and when to be unsure."""

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
    """Settings of stage 2 as the last judge, fitted on validation photos (pipeline.training.calibration).

    stage1, stage2, intercept: the face score's log odds are stage1 * those of stage 1 + stage2 * those of stage 2 +
    intercept (Platt 1999, of two scores). temperature: divides the class logits (Guo et al. 2017). box_share: how far
    the box moves to where stage 2 sees the face. floor: stage 1's score from which on stage 2 is asked at all. most:
    the highest log odds that stage 2 may give, so that who cannot reach a wanted score is not asked. unsure: margin
    between the two best class probabilities below which a face is called unsure. mirrored: whether crops of no
    certain class are judged twice, as they are and mirrored.

    Raises UserError when a value is out of range.
    """

    detector_weight: float = 1.0
    classifier_weight: float = 0.0
    intercept: float = 0.0
    temperature: float = 1.0
    box_blend: float = 0.0
    min_detector_score: float = 0.0
    max_face_logit: float = 50.0
    unsure_margin: float = 0.0
    flip_tta: bool = False

    def __post_init__(self) -> None:
        if not all(np.isfinite(getattr(self, f.name)) for f in fields(self)):
            raise UserError(f"{self}: a value is not a finite number")
        if not (self.detector_weight > 0 and self.classifier_weight >= 0 and self.temperature > 0):
            raise UserError(f"{self}: stage1 and temperature must be above 0, stage2 0 or more")
        if not all(0 <= value <= 1 for value in (self.box_blend, self.min_detector_score, self.unsure_margin)):
            raise UserError(f"{self}: box_share, floor and unsure must lie in 0..1")

    @property
    def is_identity(self) -> bool:
        """Whether the face score is stage 1's alone."""
        return self.detector_weight == 1 and self.classifier_weight == 0 and self.intercept == 0

    def face_scores(self, scores: NDArray[np.float32], face_logits: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """(N,) face probability from stage 1's scores (N,) and stage 2's log odds (N,), where it gives any."""
        if self.is_identity:
            return scores
        odds = self.detector_weight * log_odds(scores).astype(np.float64) + self.intercept
        if face_logits is not None:
            odds = odds + self.classifier_weight * np.minimum(face_logits, self.max_face_logit)
        return np.asarray(1 / (1 + np.exp(-odds)), np.float32)

    def min_detector_score_for(self, score: float) -> float:
        """Stage 1's score below which no verdict of stage 2 makes the face score reach `score`."""
        if self.is_identity:
            return score
        if score <= 0:
            return self.min_detector_score
        wanted = (
            np.log(score)
            - np.log1p(-min(score, 1 - PROB_EPS))
            - self.intercept
            - self.classifier_weight * self.max_face_logit
        )
        # A hair lower, lest rounding decides.
        return max(self.min_detector_score, float(1 / (1 + np.exp(-wanted / self.detector_weight))) * 0.999)

    def class_probs(self, probs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C) class probabilities at the temperature; each row sums to 1."""
        if self.temperature == 1 or not len(probs):
            return probs
        # The logits are known up to a constant per row, which softmax does not see.
        logits = np.log(np.maximum(probs.astype(np.float64), 1e-12)) / self.temperature
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)

    def boxes(
        self, boxes: Boxes, box_deltas: NDArray[np.float32] | None, margin: float, size: tuple[int, int]
    ) -> Boxes:
        """(N, 4): boxes moved to where stage 2's box numbers (N, 4) say, inside an image of `size` (width, height)."""
        if box_deltas is None or self.box_blend == 0 or not len(boxes):
            return boxes
        moved = clip(apply_box_deltas(boxes, box_deltas, margin), size)
        return np.asarray((1 - self.box_blend) * boxes + self.box_blend * moved, np.float32)
