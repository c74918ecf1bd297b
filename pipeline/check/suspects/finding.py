"""Lists the annotated faces that the models contradict."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from common.annotations import AnnotatedImage, Annotations
from pipeline.check.suspects.predictions import Predictions
from pipeline.check.suspects.rule import box_overlaps, class_thresholds, doubted_classes


@dataclass(frozen=True)
class Suspect:
    """An annotated face whose class or box is doubtful."""

    image: AnnotatedImage
    face: int  # index of the box
    action: str  # "class": the class is not learned; "face": the box is neither face nor background
    predicted: str  # the models' class
    predicted_prob: float
    label_prob: float
    agreeing: int  # models whose most probable class is the predicted one
    detector_iou: float | None  # with the detector's best box; None where it was not asked for
    reason: str

    @property
    def label(self) -> str:
        """Return the class as annotated."""
        return self.image.labels[self.face]


@dataclass(frozen=True)
class SuspectReport:
    """All suspects of a dataset, in the order of the CSV file: by action, label and prediction, the surest first."""

    suspects: tuple[Suspect, ...]
    thresholds: Mapping[str, float]  # of each class
    models: int

    def by_pair(self) -> dict[tuple[str, str, str], list[tuple[int, Suspect]]]:
        """Return {(action, label, predicted): [(number from 1, suspect), ...]}."""
        found: dict[tuple[str, str, str], list[tuple[int, Suspect]]] = {}
        for number, each in enumerate(self.suspects, start=1):
            found.setdefault((each.action, each.label, each.predicted), []).append((number, each))
        return found


def list_suspects(annotations: Annotations, predictions: Predictions, doubt: Collection[str]) -> SuspectReport:
    """Return the faces whose label the models' mean contradicts, and those whose box is a part of a face.

    Args:
        annotations: the dataset.
        predictions: what the models say of its faces.
        doubt: labelled classes whose faces may be suspects; the thresholds are of all faces.
    """
    names = annotations.class_names
    faces = [(k, i) for k, image in enumerate(annotations.images) for i in range(len(image.boxes))]
    if not faces:
        return SuspectReport((), {}, len(predictions.probs))
    labels = np.array([names.index(annotations.images[k].labels[i]) for k, i in faces], np.intp)
    probs = predictions.probs.mean(axis=0)
    votes = predictions.probs.argmax(axis=2)
    thresholds = class_thresholds(probs, labels)
    doubted = doubted_classes(probs, labels, thresholds)
    overlaps, parts = _overlaps(annotations, predictions)
    found = []
    for n, (k, i) in enumerate(faces):
        if names[labels[n]] not in doubt or (doubted[n] < 0 and not parts[n]):
            continue
        best = int(doubted[n] if doubted[n] >= 0 else probs[n].argmax())
        own = int(labels[n])
        reason = (
            f"detector's box contains it with IoU {overlaps[n]:.2f}"
            if parts[n]
            else f"{probs[n, best]:.2f} is over {names[best]}'s {thresholds[best]:.2f}, "
            f"{probs[n, own]:.2f} under {names[own]}'s {thresholds[own]:.2f}"
        )
        found.append(
            Suspect(
                annotations.images[k],
                i,
                "face" if parts[n] else "class",
                names[best],
                float(probs[n, best]),
                float(probs[n, own]),
                int((votes[:, n] == best).sum()),
                None if predictions.detected is None else float(overlaps[n]),
                reason,
            )
        )
    found.sort(key=lambda s: (s.action, s.label, s.predicted, -round(s.predicted_prob, 4), s.image.image_id, s.face))
    return SuspectReport(tuple(found), dict(zip(names, thresholds.tolist(), strict=True)), len(predictions.probs))


def _overlaps(annotations: Annotations, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return what `box_overlaps` does for all faces; no box is a part where the detector was not asked."""
    if predictions.detected is None:
        count = annotations.face_count
        return np.zeros(count), np.zeros(count, bool)
    found = [
        box_overlaps(image.boxes, detected)
        for image, detected in zip(annotations.images, predictions.detected, strict=True)
    ]
    return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])
