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
from pipeline.evaluate.scoring.crops import accuracy, crop_confusion, macro_f1
from pipeline.inference.predictor import Predictor

MATCH_IOU = 0.5  # from which a detection is right when the threshold is chosen
# F1 differs by no more between thresholds of 0.25 and 0.55 on 101 validation photos (EXPERIMENTS.md).
F1_TOLERANCE = 0.005


def validation_metrics(predictor: Predictor, val: Sequence[AnnotatedImage]) -> tuple[dict[str, Any], float]:
    """Return a bundle's metrics on validation photos, and the middle of the thresholds with nearly the best F1."""
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
    return metrics, float(np.floor(best_f1_threshold(samples, len(names), MATCH_IOU, F1_TOLERANCE) * 1000) / 1000)


def crop_scores(predictor: Predictor, images: Sequence[AnnotatedImage]) -> tuple[float, float]:
    """Return accuracy and macro-F1 of the classes given to annotated boxes of a known class; 0 without boxes."""
    names = predictor.bundle.meta.class_names
    found = [crop_confusion(predictor, i, read_image(i.path), names) for i in images if i.class_known.any()]
    if not found:
        return 0.0, 0.0
    confusion = np.stack(found).sum(axis=0)
    return accuracy(confusion), macro_f1(confusion)
