"""Tables of the cross-validation, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pipeline.evaluate.bootstrap import Interval, bootstrap
from pipeline.evaluate.metrics import Sample
from pipeline.evaluate.reliability import Reliability, scores_and_correct
from pipeline.evaluate.report import number
from pipeline.evaluate.risk_coverage import risk_coverage
from pipeline.training.fold_scoring import CASCADES, DetectorScore, FoldMetrics
from pipeline.training.packing.calibration import MATCH_IOU, MIN_DETECTOR_SCORE

MeanAndSpread = tuple[float, float]


def summarize_folds(folds: Sequence[Sequence[DetectorScore]]) -> dict[str, dict[str, MeanAndSpread | None]]:
    """Return {metric: {detector: (mean, standard deviation over the folds)}}; None where no fold has the metric."""
    table: dict[str, dict[str, MeanAndSpread | None]] = {}
    for k, score in enumerate(folds[0]):
        for name in score.figures:
            values = [v for fold in folds if (v := fold[k].figures.get(name)) is not None]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            table.setdefault(name, {})[score.detector] = (statistics.fmean(values), spread) if values else None
    return table


def fold_table(
    table: Mapping[str, Mapping[str, MeanAndSpread | None]], folds: int, columns: Sequence[str] = CASCADES
) -> str:
    """Return the metrics that any of the columns has, with mean and spread over the folds."""
    lines = [f"| {folds}-fold, mean and spread | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in table.items():
        if not any(c in row for c in columns):
            continue
        cells = ["-" if row.get(c) is None else "{:.3f} ± {:.3f}".format(*row[c]) for c in columns]  # type: ignore[misc]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def pooled_table(
    samples: Sequence[Sample], class_names: Sequence[str], intervals: Mapping[str, Interval] | None = None
) -> str:
    """Return the metrics over all folds' test photos together, with bootstrap intervals over photos.

    Each fold's scores are calibrated on its own validation photos, so scores of different folds compare.
    """
    lines = ["| all folds' unseen photos together | value | 95% interval |", "|---|---|---|"]
    for name, interval in (bootstrap(samples, class_names) if intervals is None else intervals).items():
        lines.append(f"| {name} | {interval.value:.3f} | {interval.low:.3f}-{interval.high:.3f} |")
    probabilities, right = scores_and_correct(samples, len(class_names), MATCH_IOU)
    error = number(Reliability.above(MIN_DETECTOR_SCORE, probabilities, right).ece)
    return "\n".join([*lines, f"| expected calibration error | {error} | |"]) + "\n"


def calibration_table(errors: Sequence[FoldMetrics]) -> str:
    """Return the calibration error on validation photos before and after the fit, by fold."""
    lines = ["| calibration error on the photos that it was fitted on, by fold | |", "|---|---|"]
    for when in ("before", "after"):
        numbers = ", ".join(number(error.get(when)) for error in errors)
        lines.append(f"| {when} | {numbers} |")
    return "\n".join(lines) + "\n"


def unsure_table(samples: Sequence[Sample]) -> str:
    """Return the share of unsure faces and of wrong labels by margin, over the reported detections."""
    lines = ["| margin | unsure, of the faces found | wrong labels, of the sure ones |", "|---|---|---|"]
    for point in risk_coverage(samples, MATCH_IOU):
        shares = f"{number(point.unsure_share)} | {number(point.wrong_share)}"
        lines.append(f"| {point.margin:g} | {shares} |")
    return "\n".join(lines) + "\n"
