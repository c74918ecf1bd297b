"""Metrics of a bundle on validation photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.annotations import AnnotatedImage
from common.cli import progress
from common.images import read_image
from pipeline.evaluate.bootstrap import best_f1_threshold
from pipeline.evaluate.evaluation import detect_samples
from pipeline.evaluate.metrics import score_every_class, score_samples
from pipeline.inference.predictor import Predictor

MATCH_IOU = 0.5  # from which a detection is right when the threshold is chosen


def validation_metrics(predictor: Predictor, val: Sequence[AnnotatedImage]) -> tuple[dict[str, Any], float]:
    """Return a bundle's metrics on validation photos, and the score threshold with the best F1 there."""
    names = predictor.bundle.meta.class_names
    with progress() as bar:
        task = bar.add_task("scoring", total=len(val))
        samples, _ = detect_samples(predictor, val, names, advance=lambda: bar.advance(task))
    accuracy, macro_f1 = crop_scores(predictor, val)
    one = score_samples(samples, names)
    each = score_every_class(samples, names, one)
    metrics = {
        "photos": len(val),
        "mAP50-95": each.mean.overall.ap,
        "mAP50": each.mean.overall.ap50,
        "mAP50, one label": one.mean.overall.ap50,
        "face_AP50": one.faces.overall.ap50,
        "face_recall50": one.faces.overall.recall50,
        "crop_accuracy": accuracy,
        "crop_macro_f1": macro_f1,
    }
    return metrics, float(np.floor(best_f1_threshold(samples, len(names), MATCH_IOU) * 1000) / 1000)


def crop_scores(predictor: Predictor, images: Sequence[AnnotatedImage]) -> tuple[float, float]:
    """Return accuracy and macro-F1 of the predictor's classes for the annotated boxes; 0 without boxes."""
    from sklearn.metrics import f1_score

    names = predictor.bundle.meta.class_names
    true_labels, labels = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
    for image in images:
        if len(image.boxes):
            true_labels.append(np.array([names.index(label) for label in image.labels], np.intp))
            labels.append(predictor.classify(read_image(image.path), image.boxes).argmax(axis=1))
    true, given = np.concatenate(true_labels), np.concatenate(labels)
    if not len(true):
        return 0.0, 0.0
    macro_f1 = f1_score(true, given, labels=sorted(set(true.tolist())), average="macro", zero_division=0)
    return float((true == given).mean()), float(macro_f1)
