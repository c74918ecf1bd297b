"""Finds the suspects of a dataset with the bundles of the command's arguments."""

from __future__ import annotations

from common.annotations import Annotations
from pipeline.check.suspects.finding import SuspectReport, list_suspects
from pipeline.check.suspects.options import SuspectArgs
from pipeline.check.suspects.predictions import load_predictors, predict


def find_suspects(annotations: Annotations, args: SuspectArgs) -> SuspectReport:
    """Return the faces whose annotation the bundles contradict.

    Args:
        annotations: the dataset; its photos can be decoded.
        args: the bundles, and whether boxes are compared with the detector's.

    Raises:
        UserError: a bundle cannot be used, or does not know a class of the dataset.
    """
    predictors = load_predictors(args.bundle, annotations)
    return list_suspects(annotations, predict(annotations, predictors, args.suspect_boxes))
