"""CascadeConfig: the settings of the fine-tuned cascade's search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_LEVEL_FACE = 8.0  # px: the smallest face, sqrt(area), that a pyramid level covers; its largest is twice that


@dataclass(frozen=True)
class CascadeConfig:
    """Settings of the cascade's search. Raise ValueError where a value is out of range."""

    min_face: float = 6.0  # smallest face that is searched for, sqrt(area) in pixels
    max_side: float = 800.0  # px: longer side of a photo's largest level; in a larger photo `min_face` grows with it
    pnet_threshold: float = 0.2  # smallest face probability that passes P-Net
    rnet_threshold: float = 0.15  # smallest face probability by P-Net and R-Net together
    # Whether O-Net reads its own boxes and their mirror images again. Without it, a photo takes less time; a strong
    # classifier that scores and moves the boxes does the same work.
    second_look: bool = True
    onet2_threshold: float = 0.05  # smallest face probability by all three nets that O-Net's second pass takes
    score_threshold: float = 0.5  # smallest score of a face
    # Most boxes per photo that pass each step, best first.
    max_pnet: int = 500
    max_rnet: int = 300
    max_onet2: int = 300
    # IoU above which the weaker of two boxes is removed, after each net.
    nms_pnet: float = 0.5
    nms_rnet: float = 0.5
    nms_onet: float = 0.65
    soft_nms_sigma: float = 0.3  # of the soft NMS that ends the search (boxes.soft_nms); 0: no soft NMS
    box_voting_iou: float = 0.6  # IoU from which O-Net's other boxes vote on a face's box
    # Map the weighted face logit to the score's logit (Platt 1999); fitted on validation photos.
    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_face", "max_side", "max_pnet", "max_rnet", "max_onet2"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be 1 or more")
        for name in (
            *("pnet_threshold", "rnet_threshold", "onet2_threshold", "score_threshold"),
            *("nms_pnet", "nms_rnet", "nms_onet", "box_voting_iou"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be in 0..1")
        if not 0 <= self.soft_nms_sigma < np.inf:
            raise ValueError(f"soft_nms_sigma is {self.soft_nms_sigma}, must be 0 or more")
        if not (self.slope > 0 and np.isfinite(self.slope) and np.isfinite(self.intercept)):
            raise ValueError(f"slope {self.slope} and intercept {self.intercept} must be numbers, the slope above 0")

    def min_face_for(self, size: tuple[int, int], min_face: float | None = None) -> float:
        """Return the smallest face that is searched for in a photo.

        Args:
            size: the photo's width and height, pixels.
            min_face: overrides the configured value, as in `FaceDetector.detect`.

        Returns:
            sqrt(area) in pixels.
        """
        return max(self.min_face, MIN_LEVEL_FACE * max(size) / self.max_side) if min_face is None else min_face


def smallest_min_face(size: tuple[int, int], max_pixels: int) -> float:
    """Return the smallest face that a search may be asked for, so that its largest level has at most `max_pixels`.

    Args:
        size: the photo's width and height, pixels.
        max_pixels: pixels of the level.

    Returns:
        sqrt(area) in pixels of the photo.
    """
    return MIN_LEVEL_FACE * (size[0] * size[1] / max_pixels) ** 0.5
