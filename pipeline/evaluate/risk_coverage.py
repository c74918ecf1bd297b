"""What calling faces unsure costs and brings: the share of faces so called, and the wrong labels among the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics import Sample
from pipeline.evaluate.tide_errors import attribute

MARGINS = tuple(k / 10 for k in range(10))


@dataclass(frozen=True)
class RiskCoveragePoint:
    """Found faces when those whose two best classes are closer than `margin` are called unsure.

    found: faces found, unsure: those called so, wrong: wrong labels among the sure ones. unsure_share: of the found
    ones, wrong_share: of the sure ones; None of none. own: whether the margin is the bundle's own.
    """

    margin: float
    found: int
    unsure: int
    wrong: int
    unsure_share: float | None
    wrong_share: float | None
    own: bool


def risk_coverage(samples: Sequence[Sample], iou: float, own: float | None = None) -> tuple[RiskCoveragePoint, ...]:
    """The trade at each of MARGINS and at the bundle's `own`; nothing when a sample has no class scores.

    Give it samples with one label a face, of the score threshold in question. A face is found when a box lies on it at
    `iou`, whatever its label.
    """
    if any(s.class_scores is None for s in samples):
        return ()
    gaps, wrong = [np.zeros(0)], [np.zeros(0, bool)]
    for s in samples:
        pairs = np.array(attribute(s, iou).pairs, np.intp).reshape(-1, 2)
        gaps.append(label_margins(s)[pairs[:, 1]])
        wrong.append(s.labels[pairs[:, 1]] != s.gt_labels[pairs[:, 0]])
    gap, mistaken = np.concatenate(gaps), np.concatenate(wrong)
    margins = sorted({*MARGINS, *(() if own is None else (own,))})
    return tuple(_trade(margin, gap < margin, mistaken, margin == own) for margin in margins)


def label_margins(sample: Sample) -> NDArray[np.float64]:
    """(M,) by how much each detection's best class probability exceeds the next; 1 where there is but one class.

    The sample must have class scores. Whether a face is unsure (pipeline.inference.predictor) compares just this with a margin.
    """
    assert sample.class_scores is not None
    if sample.class_scores.shape[1] < 2:
        return np.ones(len(sample.boxes))
    best = np.sort(sample.class_scores, axis=1)
    # A row sums to the face's probability: what is left without it are the classes'.
    face = best.sum(axis=1)
    return np.divide(best[:, -1] - best[:, -2], face, out=np.zeros(len(face)), where=face > 0)


def _trade(margin: float, unsure: NDArray[np.bool_], wrong: NDArray[np.bool_], own: bool) -> RiskCoveragePoint:
    found, asked = len(unsure), int(unsure.sum())
    mistakes, sure = int((wrong & ~unsure).sum()), len(unsure) - int(unsure.sum())
    return RiskCoveragePoint(
        margin, found, asked, mistakes, asked / found if found else None, mistakes / sure if sure else None, own
    )
