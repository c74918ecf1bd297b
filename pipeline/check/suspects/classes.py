"""Checks that the options and bundles of --suspects fit the classes of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import UserError
from pipeline.check.suspects.options import SuspectArgs
from pipeline.inference.predictor import Predictor


def check_classes(args: SuspectArgs, class_names: Sequence[str]) -> None:
    """Raise UserError for a class to doubt that the dataset does not have, and for a bundle that cannot judge it.

    Args:
        args: the command's arguments.
        class_names: the classes of the dataset.
    """
    if lost := sorted(set(args.suspect_labels) - set(class_names)):
        names = ", ".join(class_names)
        raise UserError(f"--suspect-labels {lost[0]}: the dataset has no such class; give some of {names}")
    for folder in args.bundle:
        check_knows(Predictor.load(folder), class_names)


def check_knows(predictor: Predictor, class_names: Sequence[str]) -> None:
    """Raise UserError when a bundle does not know one of the classes."""
    bundle = predictor.bundle
    if lost := sorted(set(class_names) - set(bundle.meta.class_names)):
        fix = "give another bundle, or --rename the class"
        raise UserError(f"{bundle.path}: does not know the class {lost[0]!r}; {fix}")
