"""What the runs say together: each compared with the baseline, in the order of training and by the question it answers.

Everything comes from what the runs recorded; a question without an alternative run says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stage2_classifier.reports.runs import TrainedRun

# Which question a changed config field belongs to. A run goes by its first changed field in this order: another
# optimizer brings its own learning rate, another network its own input size, and neither is about those.
TOPIC_OF_FIELD = {
    "model": "architecture",
    "pretrained": "architecture",
    "weights": "architecture",
    "optimizer": "optimizer",
    "loss": "loss",
    "class_weights": "loss",
    "sampler_power": "loss",
    "label_smoothing": "loss",
    "focal_gamma": "loss",
    "hard_negatives": "judge",
    "box_head": "judge",
    "augment": "overfitting",
    "jitter": "overfitting",
    "mask_transfer_prob": "loss",
    "mixup": "overfitting",
    "dropout": "overfitting",
    "weight_decay": "overfitting",
    "ema_decay": "overfitting",
    "batch_size": "hyperparameters",
    "epochs": "hyperparameters",
    "scheduler": "hyperparameters",
    "lr": "hyperparameters",
    "input_size": "hyperparameters",
    "margin": "hyperparameters",
    "checkpoint_epoch": "hyperparameters",
    "warmup_epochs": "hyperparameters",
    "freeze_epochs": "hyperparameters",
    "backbone_lr_scale": "hyperparameters",
    "momentum": "hyperparameters",
    "grad_clip": "hyperparameters",
    "patience": "overfitting",
    "min_delta": "overfitting",
    "mixed_precision": "hyperparameters",
    "seed": "chance",
    "workers": "chance",
}


@dataclass(frozen=True)
class Topic:
    """A question the report answers: the baseline's settings that it is about, and what to say without a run."""

    key: str
    question: str
    settings: tuple[str, ...]
    missing: str


TOPICS = (
    Topic(
        "architecture",
        "Which architecture first, and which networks next?",
        ("model", "pretrained", "weights", "input_size"),
        "No run with another network was given.",
    ),
    Topic(
        "optimizer",
        "Which optimizer?",
        ("optimizer", "lr", "weight_decay", "scheduler"),
        "No run with another optimizer was given.",
    ),
    Topic(
        "loss",
        "Which loss, and what about rare classes?",
        ("loss", "label_smoothing", "class_weights", "sampler_power", "mask_transfer_prob"),
        "No run with another loss or sampling was given.",
    ),
    Topic(
        "overfitting",
        "What was done against overfitting?",
        ("augment", "jitter", "dropout", "weight_decay", "label_smoothing", "mixup", "ema_decay", "patience"),
        "No run without one of these measures was given, so what each brings is not measured.",
    ),
    Topic(
        "judge",
        "Does it also judge whether stage 1 was right?",
        ("hard_negatives", "box_head"),
        "No run that learns stage 1's false alarms was given.",
    ),
    Topic(
        "hyperparameters",
        "Which hyperparameters, and why?",
        ("batch_size", "epochs", "lr", "scheduler", "warmup_epochs", "input_size", "margin", "checkpoint_epoch"),
        "No run with other hyperparameters was given.",
    ),
    Topic(
        "chance",
        "How much is chance?",
        ("seed",),
        "No run with another seed was given, so differences between runs cannot be told from chance by repetition.",
    ),
)


@dataclass(frozen=True)
class ScoredRun:
    """A run with its scores: on the split, on training crops without augmentation (None: there are none).

    f1, low, high: macro-F1 on the split and its 95% interval. val_interval: that on validation crops, where there are.
    """

    run: TrainedRun
    accuracy: float
    f1: float
    low: float
    high: float
    train_f1: float | None
    val_interval: tuple[float, float] | None = None

    @property
    def val_f1(self) -> float:
        return float(self.run.best["val_macro_f1"])

    @property
    def gap(self) -> float | None:
        """Training minus validation macro-F1, both without augmentation."""
        return None if self.train_f1 is None else self.train_f1 - self.val_f1


@dataclass(frozen=True)
class Row:
    """One run in a comparison. changes: "field a → b" against the baseline, empty for the baseline itself."""

    measured: ScoredRun
    changes: tuple[str, ...]
    delta: float


@dataclass(frozen=True)
class NoiseLevel:
    """What a difference in validation macro-F1 must exceed. name: what it is, in short; text: in a sentence."""

    size: float
    name: str
    text: str


@dataclass(frozen=True)
class TimelineEntry:
    """One run in the order of training. number: from 1. verdict: a sentence on what it gave."""

    number: int
    row: Row
    verdict: str


@dataclass(frozen=True)
class Timeline:
    """All runs in the order in which they finished, and what is to be known of it."""

    steps: tuple[TimelineEntry, ...]
    text: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """The baseline and the runs whose first changed field is `field`, best validation macro-F1 first."""

    field: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Answer:
    """A topic's answer: the baseline's settings, a sentence or more from the runs, and the comparisons."""

    topic: Topic
    settings: tuple[tuple[str, str], ...]
    text: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


def changed_fields(run: TrainedRun, baseline: TrainedRun) -> list[str]:
    """The config fields in which a run differs, the one that decides its topic first. Name and why do not count."""
    return [field for field in TOPIC_OF_FIELD if run.config[field] != baseline.config[field]]


def find_baseline(runs: Sequence[TrainedRun]) -> TrainedRun:
    """The run called "baseline"; else the one that differs least from all others, the first of equals."""
    for run in runs:
        if run.name == "baseline":
            return run
    return min(runs, key=lambda run: sum(len(changed_fields(other, run)) for other in runs))


def show(field: str, value: Any) -> str:
    """A config field's value for people; a file without its folder, which is nobody else's business."""
    if field == "weights" and value:
        return Path(value).name
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else "(none)"


def answers(measured: Sequence[ScoredRun], baseline: ScoredRun) -> list[Answer]:
    """One answer for each topic, in TOPICS' order."""
    groups: dict[str, dict[str, list[Row]]] = {topic.key: {} for topic in TOPICS}
    for one in measured:
        changed = changed_fields(one.run, baseline.run)
        if changed:
            groups[TOPIC_OF_FIELD[changed[0]]].setdefault(changed[0], []).append(_row(one, baseline))
    return [_answer(topic, groups[topic.key], baseline) for topic in TOPICS]


def _row(one: ScoredRun, baseline: ScoredRun) -> Row:
    before, after = baseline.run.config, one.run.config
    changes = tuple(f"{f} {show(f, before[f])} → {show(f, after[f])}" for f in changed_fields(one.run, baseline.run))
    return Row(one, changes, one.val_f1 - baseline.val_f1)


def course(measured: Sequence[ScoredRun], baseline: ScoredRun) -> Timeline:
    """The runs as they came one after the other; those that recorded no time stand last, by name."""
    first = datetime.min.replace(tzinfo=UTC)
    ordered = sorted(measured, key=lambda m: (m.run.finished is None, m.run.finished or first, m.run.name))
    chance = find_chance(measured, baseline)
    rows = [_row(one, baseline) for one in ordered]
    steps = tuple(TimelineEntry(n, row, _verdict(row, baseline, chance)) for n, row in enumerate(rows, start=1))
    text = [chance.text]
    if untimed := [one.run.name for one in ordered if one.run.finished is None]:
        text.append(f"When they finished was not recorded, so they stand last, by name: {', '.join(untimed)}.")
    return Timeline(steps, tuple(text))


def find_chance(measured: Sequence[ScoredRun], baseline: ScoredRun) -> NoiseLevel:
    """The widest spread between runs that differ in their seed alone; without such, half of the baseline's interval."""
    alike: list[list[ScoredRun]] = []
    for one in measured:
        same = next((group for group in alike if _differ_by_seed(one.run, group[0].run)), None)
        if same is None:
            alike.append([one])
        else:
            same.append(one)
    groups = [group for group in alike if len({one.run.config["seed"] for one in group}) > 1]
    if groups:
        sizes = [max(m.val_f1 for m in group) - min(m.val_f1 for m in group) for group in groups]
        size = max(sizes)
        names = ", ".join(one.run.name for one in groups[sizes.index(size)])
        widest = f", the widest of {len(groups)} such spreads" if len(groups) > 1 else ""
        source = f"the spread of validation macro-F1 between runs that differ in their seed alone ({names}{widest})"
        return NoiseLevel(size, "the spread between seeds", f"Chance is taken to be {size:.3f}: {source}.")
    low, high = baseline.val_interval or (baseline.low, baseline.high)
    where = "validation crops" if baseline.val_interval else "the crops scored here"
    text = (
        f"Chance is taken to be {(high - low) / 2:.3f}: half the width of {baseline.run.name}'s 95% bootstrap interval "
        f"of macro-F1 on {where}, as no two runs differ in their seed alone."
    )
    return NoiseLevel((high - low) / 2, f"half of {baseline.run.name}'s bootstrap interval", text)


def _differ_by_seed(run: TrainedRun, other: TrainedRun) -> bool:
    """Whether two runs differ in their seed at most; how many processes read crops changes nothing."""
    return set(changed_fields(run, other)) <= {"seed", "workers"}


def _verdict(row: Row, baseline: ScoredRun, chance: NoiseLevel) -> str:
    if row.measured is baseline:
        return "The reference that all others are compared with."
    if _differ_by_seed(row.measured.run, baseline.run):
        return f"The same settings again: this difference ({row.delta:+.3f}) is chance itself."
    measure = f"{chance.name} ({chance.size:.3f})"
    if abs(row.delta) <= chance.size + 1e-9:  # sums of floats that are equal on paper
        return f"Within chance: {row.delta:+.3f} is no more than {measure}."
    return f"{'Better' if row.delta > 0 else 'Worse'}: {row.delta:+.3f} is more than {measure}."


def _answer(topic: Topic, groups: dict[str, list[Row]], baseline: ScoredRun) -> Answer:
    reference = Row(baseline, (), 0.0)
    comparisons = tuple(
        Comparison(field, tuple(sorted([reference, *rows], key=lambda row: -row.delta)))
        for field, rows in groups.items()
    )
    others = [row for rows in groups.values() for row in rows]
    settings = tuple((name, show(name, baseline.run.config[name])) for name in topic.settings)
    text = _summary(others, baseline) if others else [topic.missing]
    if topic.key == "overfitting":
        text += _gaps(others, baseline)
    if topic.key == "architecture" and others:
        text.append(_next_networks(others))
    if topic.key == "chance" and others:
        text = [_spread(others, baseline)]
    return Answer(topic, settings, tuple(text), comparisons)


def _summary(others: list[Row], baseline: ScoredRun) -> list[str]:
    best = max(others, key=lambda row: row.delta)
    better = sum(row.delta > 0 for row in others)
    name, run = baseline.run.name, best.measured.run
    count = f"{len(others)} alternatives were" if len(others) > 1 else "1 alternative was"
    start = f"{name} reaches validation macro-F1 {baseline.val_f1:.3f}; {count} tried."
    if not better:
        return [start, f"None does better; the closest is {run.name} ({best.delta:+.3f})."]
    return [
        start,
        f"{better} did better, most of all {run.name} ({best.delta:+.3f}: {', '.join(best.changes)}).",
    ]


def _gaps(others: list[Row], baseline: ScoredRun) -> list[str]:
    if baseline.gap is None:
        return ["The crops have no training split, so the gap to training is not measured."]
    text = [
        f"{baseline.run.name}: macro-F1 {baseline.train_f1:.3f} on training crops as they are, "
        f"{baseline.val_f1:.3f} on validation: a gap of {baseline.gap:.3f}."
    ]
    text += [
        f"With {', '.join(row.changes)}: a gap of {row.measured.gap:.3f}."
        for row in sorted(others, key=lambda row: -(row.measured.gap or 0.0))
        if row.measured.gap is not None
    ]
    stop = "by early stopping" if baseline.run.stopped_early else "at its last epoch"
    text.append(
        f"{baseline.run.name} ended {stop} after {baseline.run.epochs_run} epochs; "
        f"the weights of epoch {baseline.run.best_epoch} were kept."
    )
    return text


def _next_networks(others: list[Row]) -> str:
    ordered = sorted(others, key=lambda row: -row.delta)
    listed = ", ".join(
        f"{row.measured.run.config['model']}{' (pretrained)' if row.measured.run.config['pretrained'] else ''} "
        f"{row.measured.val_f1:.3f} with {row.measured.run.parameters / 1e6:.2f} M parameters"
        for row in ordered
    )
    return f"Networks tried next, best first: {listed}."


def _spread(others: list[Row], baseline: ScoredRun) -> str:
    values = [baseline.val_f1, *(row.measured.val_f1 for row in others)]
    return (
        f"{len(values)} runs of the same settings reach validation macro-F1 from {min(values):.3f} to "
        f"{max(values):.3f}: smaller differences between other runs may be chance."
    )
