"""Doubtful labels: a CSV of faces whose class, or whose box, is not learned.

The columns are image_id, label, x1, y1, x2, y2 and action; others are ignored. The action is "class" for a face whose
class is not learned, or "face" for a box that is neither face nor background. `python -m pipeline.check --suspects`
writes such a file.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.annotations.types import AnnotatedImage
from common.boxes import iou
from common.errors import UserError

ACTIONS = ("class", "face")
COLUMNS = ("image_id", "label", "x1", "y1", "x2", "y2", "action")
SAME_BOX_IOU = 0.9  # a row is about the face whose box overlaps so much: numbers may be rounded


@dataclass(frozen=True)
class DoubtfulFace:
    """One face whose annotation is not trusted."""

    label: str  # as annotated
    box: tuple[float, float, float, float]  # xyxy, pixels
    action: str  # one of ACTIONS


def read_doubtful(file: Path) -> dict[str, list[DoubtfulFace]]:
    """Return {image_id: doubtful faces}; raise UserError when the file is missing or malformed."""
    found: dict[str, list[DoubtfulFace]] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            if reader.fieldnames is None or set(COLUMNS) - set(reader.fieldnames):
                raise UserError(
                    f"{file}: needs the columns {', '.join(COLUMNS)}; make it with pipeline.check --suspects"
                )
            for row in reader:
                if row["action"] not in ACTIONS:
                    reason = f"action {row['action']!r} is unknown; use {' or '.join(ACTIONS)}"
                    raise UserError(f"{file}, line {reader.line_num}: {reason}")
                try:
                    box = (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"]))
                except (TypeError, ValueError) as error:
                    raise UserError(
                        f"{file}, line {reader.line_num}: a box edge is not a number; correct it"
                    ) from error
                found.setdefault(row["image_id"], []).append(DoubtfulFace(row["label"], box, row["action"]))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the name in sources.yaml") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file}: is not CSV text ({error}); make it with pipeline.check --suspects") from error
    return found


def without_doubtful(image: AnnotatedImage, doubtful: Sequence[DoubtfulFace], file: Path) -> AnnotatedImage:
    """Return an image without what is doubtful: classes not known, and boxes in `ignored` instead of `boxes`.

    Raises UserError, which names `file`, when a row's face is not in the image.
    """
    if not doubtful:
        return image
    known, kept = image.class_known.copy(), np.ones(len(image.boxes), bool)
    for face in doubtful:
        overlaps = iou(np.array([face.box], np.float32), image.boxes)[0] if len(image.boxes) else np.zeros(0)
        same = [i for i in np.argsort(-overlaps) if overlaps[i] >= SAME_BOX_IOU and image.labels[i] == face.label]
        if not same:
            raise UserError(
                f"{file}: {image.image_id} has no {face.label} at {face.box}; the data has changed, make it again"
            )
        (known if face.action == "class" else kept)[same[0]] = False
    labels = tuple(label for label, keep in zip(image.labels, kept, strict=True) if keep)
    ignored = np.concatenate([image.ignored, image.boxes[~kept]])
    return replace(image, boxes=image.boxes[kept], labels=labels, class_known=known[kept], ignored=ignored)


def check_names(file: Path, doubtful: Mapping[str, Sequence[DoubtfulFace]], image_ids: set[str]) -> None:
    """Raise UserError when the file names an image that the dataset does not have."""
    if lost := sorted(set(doubtful) - image_ids):
        raise UserError(f"{file}: the data has no image {lost[0]!r}; the data has changed, make the file again")
