"""Compares each run with the baseline, and answers each topic from the runs' own records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage2_classifier.reports.runs import TrainedRun
from stage2_classifier.reports.topics import TOPIC_OF_FIELD, TOPICS, Topic


@dataclass(frozen=True)
class ScoredRun:
    """A run with the scores on the report's split."""

    run: TrainedRun
    accuracy: float
    f1: float  # macro-F1
    low: float  # lower end of the 95% interval of macro-F1
    high: float  # upper end of that interval
    train_f1: float | None  # macro-F1 on training crops without augmentation; None without training crops
    val_interval: tuple[float, float] | None = None  # 95% interval on validation crops; None without these

    @property
    def val_f1(self) -> float:
        """Return the validation macro-F1 that training recorded."""
        return float(self.run.best["val_macro_f1"])

    @property
    def gap(self) -> float | None:
        """Return training minus validation macro-F1, both without augmentation."""
        return None if self.train_f1 is None else self.train_f1 - self.val_f1


@dataclass(frozen=True)
class RunRow:
    """One run compared with the baseline."""

    scored: ScoredRun
    changes: tuple[str, ...]  # one "field a → b" per changed field; empty for the baseline
    delta: float  # validation macro-F1 minus the baseline's


@dataclass(frozen=True)
class RunComparison:
    """The baseline and the runs whose first changed field is `field`, best validation macro-F1 first."""

    field: str  # or the heading of a topic's one table
    rows: tuple[RunRow, ...]


@dataclass(frozen=True)
class TopicAnswer:
    """The answer to a topic's question."""

    topic: Topic
    settings: tuple[tuple[str, str], ...]  # (field, value) of the baseline
    text: tuple[str, ...]  # sentences
    comparisons: tuple[RunComparison, ...]


def changed_fields(run: TrainedRun, baseline: TrainedRun) -> list[str]:
    """Return the config fields in which a run differs, first the one that decides the topic; no name or description."""
    return [field for field in TOPIC_OF_FIELD if run.config[field] != baseline.config[field]]


def find_baseline(runs: Sequence[TrainedRun]) -> TrainedRun:
    """Return the run called "baseline", or else the run that differs least from all others (the first of equals)."""
    closest = min(runs, key=lambda run: sum(len(changed_fields(other, run)) for other in runs))
    return next((run for run in runs if run.name == "baseline"), closest)


def format_value(field: str, value: Any) -> str:
    """Return a config field's value as text; of a file or a run only the name, because its folder is private."""
    if field == "weights" and value:
        return Path(value).name
    if field == "teacher":
        return ", ".join(Path(run).name for run in value) or "(none)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else "(none)"


def answer_topics(scored_runs: Sequence[ScoredRun], baseline: ScoredRun) -> list[TopicAnswer]:
    """Return one answer for each topic, in the order of TOPICS."""
    groups: dict[str, dict[str, list[RunRow]]] = {topic.key: {} for topic in TOPICS}
    for scored in scored_runs:
        if changed := changed_fields(scored.run, baseline.run):
            topic = next(topic for topic in TOPICS if topic.key == TOPIC_OF_FIELD[changed[0]])
            groups[topic.key].setdefault(topic.one_table or changed[0], []).append(compare_run(scored, baseline))
    return [_answer(topic, groups[topic.key], baseline) for topic in TOPICS]


def compare_run(scored: ScoredRun, baseline: ScoredRun) -> RunRow:
    """Return a run's changes and its difference from the baseline."""
    before, after = baseline.run.config, scored.run.config
    changes = tuple(
        f"{f} {format_value(f, before[f])} → {format_value(f, after[f])}"
        for f in changed_fields(scored.run, baseline.run)
    )
    return RunRow(scored, changes, scored.val_f1 - baseline.val_f1)


def _answer(topic: Topic, groups: dict[str, list[RunRow]], baseline: ScoredRun) -> TopicAnswer:
    """Return the answer of one topic; `groups` has the rows of each changed field."""
    reference = RunRow(baseline, (), 0.0)
    comparisons = tuple(
        RunComparison(field, tuple(sorted([reference, *rows], key=lambda row: -row.delta)))
        for field, rows in groups.items()
    )
    others = [row for rows in groups.values() for row in rows]
    settings = tuple((name, format_value(name, baseline.run.config[name])) for name in topic.settings)
    text = _summary(others, baseline) if others else [topic.missing]
    if topic.key == "overfitting":
        text += _gaps(others, baseline)
    if topic.key == "architecture" and others:
        text.append(_next_networks(others))
    if topic.key == "noise" and others:
        values = [baseline.val_f1, *(row.scored.val_f1 for row in others)]
        span = f"from {min(values):.3f} to {max(values):.3f}: smaller differences between other runs may be chance."
        text = [f"{len(values)} runs of the same settings reach validation macro-F1 {span}"]
    return TopicAnswer(topic, settings, tuple(text), comparisons)


def _summary(others: list[RunRow], baseline: ScoredRun) -> list[str]:
    """Return sentences on how many runs scored higher, and on the best one."""
    best = max(others, key=lambda row: row.delta)
    better = sum(row.delta > 0 for row in others)
    name, run = baseline.run.name, best.scored.run
    count = f"{len(others)} alternatives were" if len(others) > 1 else "1 alternative was"
    start = f"{name} reaches validation macro-F1 {baseline.val_f1:.3f}; {count} tried."
    if not better:
        return [start, f"None scores higher; the closest is {run.name} ({best.delta:+.3f})."]
    most = f"{better} scored higher, most of all {run.name} ({best.delta:+.3f}: {', '.join(best.changes)})."
    return [start, most, 'What chance explains is under "In which order".']


def _gaps(others: list[RunRow], baseline: ScoredRun) -> list[str]:
    """Return sentences on the gaps between training and validation."""
    if baseline.gap is None:
        return ["The crops have no training split, so the gap to training is not measured."]
    text = [
        f"{baseline.run.name}: macro-F1 {baseline.train_f1:.3f} on training crops as they are, "
        f"{baseline.val_f1:.3f} on validation: a gap of {baseline.gap:.3f}."
    ]
    text += [
        f"With {', '.join(row.changes)}: a gap of {row.scored.gap:.3f}."
        for row in sorted(others, key=lambda row: -(row.scored.gap or 0.0))
        if row.scored.gap is not None
    ]
    stop = "by early stopping" if baseline.run.stopped_early else "at its last epoch"
    text.append(
        f"{baseline.run.name} ended {stop} after {baseline.run.epochs_run} epochs; "
        f"the weights of epoch {baseline.run.best_epoch} were kept."
    )
    return text


def _next_networks(others: list[RunRow]) -> str:
    """Return a sentence with the scores and sizes of the other networks."""
    listed = []
    for scored in (row.scored for row in sorted(others, key=lambda row: -row.delta)):
        config, millions = scored.run.config, scored.run.parameters / 1e6
        name = f"{config['model']}{' (pretrained)' if config['pretrained'] else ''}"
        listed.append(f"{name} {scored.val_f1:.3f} with {millions:.2f} M parameters")
    return f"Networks tried next, best first: {', '.join(listed)}."
