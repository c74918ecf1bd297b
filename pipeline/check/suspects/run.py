"""Finds the suspects of a dataset with the bundles of the command's arguments."""

from __future__ import annotations

from common.annotations import Annotations
from pipeline.check.suspects.finding import SuspectReport, list_suspects
from pipeline.check.suspects.folds import predict_by_folds
from pipeline.check.suspects.options import SuspectArgs
from pipeline.check.suspects.predictions import load_predictors, predict


def find_suspects(annotations: Annotations, args: SuspectArgs) -> SuspectReport:
    """Return the faces whose annotation the bundles, or the folds of a cross-validation, contradict.

    Args:
        annotations: the dataset; its photos can be decoded.
        args: the bundles or the folds, and whether boxes are compared with the detector's.

    Raises:
        UserError: a bundle or fold cannot be used, or it or the dataset does not know a class.
    """
    if args.crossval is not None:
        annotations, predictions = predict_by_folds(annotations, args.crossval, args.suspect_boxes)
    else:
        predictions = predict(annotations, load_predictors(args.bundle, annotations), args.suspect_boxes)
    return list_suspects(annotations, predictions, args.suspect_labels or annotations.class_names)
