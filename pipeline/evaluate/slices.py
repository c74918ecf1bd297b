"""Where the detector is weak: its scores on faces by size, light, blur and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, area
from pipeline.evaluate.metrics import Sample, Scores, size_ranges
from pipeline.evaluate.tide_errors import assign_errors

SliceBy = Literal["size", "light", "blur", "class"]
# Mean luma of the face box, 0 to 255. A fifth of the faces in the Kaggle set's test photos is below, a fifth above.
# The bounds are fixed, so that sets can be compared. The lower bound is inside, the upper one outside.
LIGHT = {"dark": (0.0, 85.0), "medium": (85.0, 150.0), "bright": (150.0, np.inf)}
# Detail (see `face_attributes`); about a third each of the faces that are large enough.
BLUR = {"blurred": (0.0, 2800.0), "medium": (2800.0, 4400.0), "sharp": (4400.0, np.inf)}
DETAIL_SIDE = 16  # px; half of the set's faces are hardly larger
BLUR_UNKNOWN = "too small to tell"


@dataclass(frozen=True)
class FaceAttributes:
    """Light and blur of the N faces of one photo."""

    luma: NDArray[np.float64]  # (N,) mean, 0 to 255
    detail: NDArray[np.float64]  # (N,) variance of the Laplacian; NaN where a face is too small


@dataclass(frozen=True)
class Slice:
    """Results on some of the faces, at the IoU and score threshold of the run."""

    by: SliceBy
    name: str
    gt_count: int  # annotated faces
    found: int  # faces with a box on them, whatever its label
    right: int  # found faces with the right label
    recall: float | None  # share of found faces; None without faces
    right_share: float | None  # share of right labels among the found faces; None without found faces
    # Average precision at IoU 0.5: of a size whatever the class, of a class with every class scored. None for light and
    # blur, because a false alarm is on no face that could have either.
    ap50: float | None


def face_attributes(pixels: NDArray[np.uint8], boxes: Boxes) -> FaceAttributes:
    """Measure light and blur of faces.

    Light is the mean luma (Rec. 601). Detail is the variance of the Laplacian (Pech-Pacheco et al., "Diatom
    autofocusing in brightfield microscopy", ICPR 2000). The face is first averaged down to DETAIL_SIDE px per side, so
    that the size of the face does not matter. To enlarge smaller faces would add pixels but no detail.

    Args:
        pixels: the photo (H, W, 3) RGB.
        boxes: (N, 4) xyxy in pixels.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    luma, detail = np.zeros(len(boxes)), np.full(len(boxes), np.nan)
    for i, (x1, y1, x2, y2) in enumerate(np.round(boxes).astype(int).tolist()):
        # At least one pixel, also for a box outside the photo.
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
    attributes: Sequence[FaceAttributes] | None = None,
) -> tuple[Slice, ...]:
    """Return the results on every slice of the faces.

    Args:
        samples: with one label per face, from the score threshold on.
        class_names: in the order of the label indices.
        iou: IoU at which a box is on a face.
        scores: with every class scored; `ap50` comes from there.
        attributes: one per sample (ValueError otherwise); None leaves out the slices by light and blur.
    """
    is_found, is_correct = _found_and_correct(samples, iou)
    side = np.sqrt(np.concatenate([np.zeros(0), *(area(s.gt_boxes) for s in samples)]))
    label = np.concatenate([np.zeros(0, np.intp), *(s.gt_labels for s in samples)])
    rows: list[tuple[SliceBy, str, NDArray[np.bool_], float | None]] = [
        ("size", name, _within(side, bounds), scores.faces.by_size[name].ap50)
        for name, bounds in size_ranges(samples).items()
    ]
    if attributes is not None:
        luma = np.concatenate([np.zeros(0), *(a.luma for a in attributes)])
        detail = np.concatenate([np.zeros(0), *(a.detail for a in attributes)])
        if not len(luma) == len(detail) == len(label):
            raise ValueError(f"attributes of {len(luma)} faces for {len(label)} faces")
        rows += [("light", name, _within(luma, bounds), None) for name, bounds in LIGHT.items()]
        rows += [("blur", name, _within(detail, bounds), None) for name, bounds in BLUR.items()]
        rows.append(("blur", BLUR_UNKNOWN, np.isnan(detail), None))
    rows += [("class", name, label == k, scores.classes[k].overall.ap50) for k, name in enumerate(class_names)]
    slices = []
    for by, name, members, ap50 in rows:
        faces, found, right = (int(mask.sum()) for mask in (members, is_found & members, is_correct & members))
        recall, right_share = found / faces if faces else None, right / found if found else None
        slices.append(Slice(by, name, faces, found, right, recall, right_share, ap50))
    return tuple(slices)


def slice_bounds() -> dict[str, list[float]]:
    """Return the bounds between the slices by light and by blur, as JSON values."""
    return {
        "luma": [low for low, _ in LIGHT.values()][1:],
        "detail": [low for low, _ in BLUR.values()][1:],
        "detail_side_px": [float(DETAIL_SIDE)],
    }


def _found_and_correct(samples: Sequence[Sample], iou: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for all faces in turn whether each is found, and whether its label is right."""
    found, correct = [np.zeros(0, bool)], [np.zeros(0, bool)]
    for s in samples:
        pairs = np.array(assign_errors(s, iou).matched, np.intp).reshape(-1, 2)
        is_found, is_correct = np.zeros((2, len(s.gt_boxes)), bool)
        is_found[pairs[:, 0]] = True
        is_correct[pairs[:, 0]] = s.gt_labels[pairs[:, 0]] == s.labels[pairs[:, 1]]
        found.append(is_found)
        correct.append(is_correct)
    return np.concatenate(found), np.concatenate(correct)


def _within(values: NDArray[np.floating], bounds: tuple[float, float]) -> NDArray[np.bool_]:
    return (values >= bounds[0]) & (values < bounds[1])
