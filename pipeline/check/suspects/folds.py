"""Classifies each annotated face with the fold of `pipeline.crossval` that did not learn from its photo."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.annotations import Annotations
from common.errors import UserError
from common.splits import read_splits
from pipeline.check.suspects.predictions import Predictions, load_predictors, predict


def predict_by_folds(annotations: Annotations, folder: Path, with_boxes: bool) -> tuple[Annotations, Predictions]:
    """Return the photos that are in a fold's test part, and what that fold's bundle says of their faces.

    Args:
        annotations: the dataset that was cross-validated; its photos can be decoded.
        folder: the results of `pipeline.crossval`.
        with_boxes: whether the bundles also detect the faces of each photo.

    Raises:
        UserError: a fold is missing or unfinished, or no photo is in a test part.
    """
    parts = []
    for bundle, tested in _folds(folder):
        images = tuple(image for image in annotations.images if image.image_id in tested)
        part = replace(annotations, images=images)
        parts.append((part, predict(part, load_predictors([bundle], part), with_boxes)))
    images = tuple(image for part, _ in parts for image in part.images)
    if not images:
        raise UserError(f"{folder}: no photo of --data is in a fold's test part; give the --data that it was made from")
    if others := len(annotations.images) - len(images):
        print(f"warning: photos in no fold's test part of {folder}, not doubted: {others}", file=sys.stderr)
    probs = np.concatenate([predictions.probs for _, predictions in parts], axis=1)
    detected = [boxes for _, predictions in parts for boxes in predictions.detected or ()]
    return replace(annotations, images=images), Predictions(probs, tuple(detected) if with_boxes else None)


def _folds(folder: Path) -> list[tuple[Path, set[str]]]:
    """Return each fold's bundle and the image_ids of its test part."""
    files = sorted(folder.glob("splits.fold*.csv"))
    if not files:
        raise UserError(f"{folder}: has no splits.fold0.csv; give the --out of `python -m pipeline.crossval`")
    found = []
    for file in files:
        fold = file.stem.removeprefix("splits.")
        bundle = folder / fold / "bundle"
        if not (bundle / "bundle.json").is_file():
            scores = folder / f"{fold}.json"
            fix = f"remove {scores} and run" if scores.is_file() else "run"
            raise UserError(f"{bundle}: not found; {fix} `python -m pipeline.crossval` again, which resumes")
        found.append((bundle, {image_id for image_id, split in read_splits(file).items() if split == "test"}))
    return found
