"""What calling faces unsure brings and costs: the share of unsure faces, and of wrong labels among the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics import Sample
from pipeline.evaluate.tide_errors import assign_errors

MARGINS = tuple(k / 10 for k in range(10))


@dataclass(frozen=True)
class RiskCoveragePoint:
    """Found faces when a face is unsure whose two best class probabilities are closer than `margin`.

    Of the found faces, `unsure_share` is unsure. Of the sure faces, `wrong_share` has a wrong label. A share of zero
    faces is None.
    """

    margin: float
    found: int
    unsure: int
    wrong: int  # wrong labels among the sure faces
    unsure_share: float | None
    wrong_share: float | None
    own: bool  # whether the margin is the bundle's


def risk_coverage(
    samples: Sequence[Sample], iou: float, bundle_margin: float | None = None
) -> tuple[RiskCoveragePoint, ...]:
    """Return one point for each of MARGINS and for the bundle's margin; empty when a sample has no class scores.

    Args:
        samples: with one label per face, from the score threshold on.
        iou: a face is found when a box overlaps it by this IoU or more, whatever the label.
        bundle_margin: the bundle's margin, if it has one.
    """
    if any(s.class_scores is None for s in samples):
        return ()
    margins, wrong = [np.zeros(0)], [np.zeros(0, bool)]
    for s in samples:
        pairs = np.array(assign_errors(s, iou).matched, np.intp).reshape(-1, 2)
        margins.append(label_margins(s)[pairs[:, 1]])
        wrong.append(s.labels[pairs[:, 1]] != s.gt_labels[pairs[:, 0]])
    face_margin, is_wrong = np.concatenate(margins), np.concatenate(wrong)
    thresholds = sorted({*MARGINS, *(() if bundle_margin is None else (bundle_margin,))})
    return tuple(_point(margin, face_margin < margin, is_wrong, margin == bundle_margin) for margin in thresholds)


def label_margins(sample: Sample) -> NDArray[np.float64]:
    """Return by how much each detection's best class probability exceeds the next (M,); 1 with only one class.

    The sample must have class scores. pipeline.inference compares the same number with the margin.
    """
    assert sample.class_scores is not None
    if sample.class_scores.shape[1] < 2:
        return np.ones(len(sample.boxes))
    ascending = np.sort(sample.class_scores, axis=1)
    # A row sums to the face's probability. Divided by that sum, the row holds the class probabilities.
    face_prob = ascending.sum(axis=1)
    return np.divide(ascending[:, -1] - ascending[:, -2], face_prob, out=np.zeros(len(face_prob)), where=face_prob > 0)


def _point(
    margin: float, is_unsure: NDArray[np.bool_], is_wrong: NDArray[np.bool_], is_bundle_margin: bool
) -> RiskCoveragePoint:
    found, unsure = len(is_unsure), int(is_unsure.sum())
    wrong, sure = int((is_wrong & ~is_unsure).sum()), found - unsure
    unsure_share, wrong_share = unsure / found if found else None, wrong / sure if sure else None
    return RiskCoveragePoint(margin, found, unsure, wrong, unsure_share, wrong_share, is_bundle_margin)
