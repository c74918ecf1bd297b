"""Where the detector is weak: its figures on faces by size, light, blur and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, area
from pipeline.evaluate.metrics import SIZES, Sample, Scores
from pipeline.evaluate.tide_errors import attribute

By = Literal["size", "light", "blur", "class"]
# Mean luma of the face box, 0 to 255; a fifth each of the faces of the Kaggle set's test photos lie below and above.
# Fixed, so that sets can be held against one another. The lower bound is inside, the upper one outside.
LIGHT = {"dark": (0.0, 85.0), "medium": (85.0, 150.0), "bright": (150.0, np.inf)}
# Detail (see `look`); about thirds of those faces that are large enough.
BLUR = {"blurred": (0.0, 2800.0), "medium": (2800.0, 4400.0), "sharp": (4400.0, np.inf)}
DETAIL_SIDE = 16  # px; half of the set's faces are hardly larger
TOO_SMALL = "too small to tell"


@dataclass(frozen=True)
class FaceAttributes:
    """How the faces of one photo look. luma: (N,) mean, 0 to 255. detail: (N,), NaN where a face is too small."""

    luma: NDArray[np.float64]
    detail: NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """Some of the faces, and what becomes of them at the run's IoU and score threshold.

    found: faces with a box on them, whatever its label; right: of those, with the right label. recall: found of
    truths; right_share: right of found; None of none. ap50: average precision at IoU 0.5, of a size classes aside, of
    a class with every class scored; None of light and blur, for a false alarm is on no face that could have any.
    """

    by: By
    name: str
    gt_count: int
    found: int
    right: int
    recall: float | None
    right_share: float | None
    ap50: float | None


def face_attributes(pixels: NDArray[np.uint8], boxes: Boxes) -> FaceAttributes:
    """Light and blur of the faces in `boxes` (N, 4) of a photo (H, W, 3 RGB).

    Light is the mean luma (Rec. 601). Detail is the variance of the Laplacian (Pech-Pacheco et al., "Diatom
    autofocusing in brightfield microscopy", ICPR 2000) of the face averaged down to DETAIL_SIDE px a side, so that it
    tells of the photo and not of the face's size; faces with a shorter side would have to be enlarged, which adds
    pixels but no detail.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    luma, detail = np.zeros(len(boxes)), np.full(len(boxes), np.nan)
    for i, (x1, y1, x2, y2) in enumerate(np.round(boxes).astype(int).tolist()):
        # At least one pixel, also of a box that the photo turns out not to hold.
        left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        face = grey[top : max(y2, top + 1), left : max(x2, left + 1)]
        luma[i] = face.mean()
        if min(face.shape) >= DETAIL_SIDE:
            small = cv2.resize(face.astype(np.float64), (DETAIL_SIDE, DETAIL_SIDE), interpolation=cv2.INTER_AREA)
            detail[i] = cv2.Laplacian(small, cv2.CV_64F).var()
    return FaceAttributes(luma, detail)


def slice_faces(
    samples: Sequence[Sample],
    class_names: Sequence[str],
    iou: float,
    scores: Scores,
    looks: Sequence[FaceAttributes] | None = None,
) -> tuple[Slice, ...]:
    """Every slice of the faces in `samples`, which hold one label a face from the score threshold on.

    scores: where `ap50` is taken from, those of every class. looks: one for each sample; without them there is no slice
    by light and blur. Raises ValueError when they do not fit the samples.
    """
    found, right = _outcomes(samples, iou)
    side = np.sqrt(np.concatenate([np.zeros(0), *(area(s.gt_boxes) for s in samples)]))
    label = np.concatenate([np.zeros(0, np.intp), *(s.gt_labels for s in samples)])
    rows: list[tuple[By, str, NDArray[np.bool_], float | None]] = []
    for name, bounds in SIZES.items():
        rows.append(("size", name, _within(side, bounds), scores.faces.by_size[name].ap50))
    if looks is not None:
        luma = np.concatenate([np.zeros(0), *(each.luma for each in looks)])
        detail = np.concatenate([np.zeros(0), *(each.detail for each in looks)])
        if not len(luma) == len(detail) == len(label):
            raise ValueError(f"{len(luma)} looks of {len(label)} faces")
        rows += [("light", name, _within(luma, bounds), None) for name, bounds in LIGHT.items()]
        rows += [("blur", name, _within(detail, bounds), None) for name, bounds in BLUR.items()]
        rows.append(("blur", TOO_SMALL, np.isnan(detail), None))
    for k, name in enumerate(class_names):
        rows.append(("class", name, label == k, scores.classes[k].overall.ap50))
    return tuple(_slice(by, name, found[own], right[own], ap50) for by, name, own, ap50 in rows)


def cuts() -> dict[str, list[float]]:
    """The bounds between the slices by light and by blur, as JSON holds them."""
    return {
        "luma": [low for low, _ in LIGHT.values()][1:],
        "detail": [low for low, _ in BLUR.values()][1:],
        "detail_side_px": [float(DETAIL_SIDE)],
    }


def _outcomes(samples: Sequence[Sample], iou: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of all truths in turn: whether each is found, and whether with the right label."""
    found, right = [np.zeros(0, bool)], [np.zeros(0, bool)]
    for s in samples:
        pairs = np.array(attribute(s, iou).pairs, np.intp).reshape(-1, 2)
        own, named = np.zeros((2, len(s.gt_boxes)), bool)
        own[pairs[:, 0]] = True
        named[pairs[:, 0]] = s.gt_labels[pairs[:, 0]] == s.labels[pairs[:, 1]]
        found.append(own)
        right.append(named)
    return np.concatenate(found), np.concatenate(right)


def _within(values: NDArray[np.floating], bounds: tuple[float, float]) -> NDArray[np.bool_]:
    return (values >= bounds[0]) & (values < bounds[1])


def _slice(by: By, name: str, found: NDArray[np.bool_], right: NDArray[np.bool_], ap50: float | None) -> Slice:
    truths, hits, named = len(found), int(found.sum()), int(right.sum())
    return Slice(by, name, truths, hits, named, hits / truths if truths else None, named / hits if hits else None, ap50)
