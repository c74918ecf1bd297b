"""What the runs say together: each compared with the baseline, sorted by the question it answers.

Everything comes from what the runs recorded; a question without an alternative run says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stage2_classifier.runs import Run

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
    "augment": "overfitting",
    "mixup": "overfitting",
    "dropout": "overfitting",
    "weight_decay": "overfitting",
    "ema_decay": "overfitting",
    "batch_size": "hyperparameters",
    "epochs": "hyperparameters",
    "scheduler": "hyperparameters",
    "lr": "hyperparameters",
    "input_size": "hyperparameters",
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
        ("loss", "label_smoothing", "class_weights", "sampler_power"),
        "No run with another loss or sampling was given.",
    ),
    Topic(
        "overfitting",
        "What was done against overfitting?",
        ("augment", "dropout", "weight_decay", "label_smoothing", "mixup", "ema_decay", "patience"),
        "No run without one of these measures was given, so what each brings is not measured.",
    ),
    Topic(
        "hyperparameters",
        "Which hyperparameters, and why?",
        ("batch_size", "epochs", "lr", "scheduler", "warmup_epochs", "input_size"),
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
class Measured:
    """A run with its scores: on the split, on training crops without augmentation (None: there are none).

    f1, low, high: macro-F1 on the split and its 95% interval.
    """

    run: Run
    accuracy: float
    f1: float
    low: float
    high: float
    train_f1: float | None

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

    measured: Measured
    changes: tuple[str, ...]
    delta: float


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


def changed_fields(run: Run, baseline: Run) -> list[str]:
    """The config fields in which a run differs, the one that decides its topic first. Name and why do not count."""
    return [field for field in TOPIC_OF_FIELD if run.config[field] != baseline.config[field]]


def find_baseline(runs: Sequence[Run]) -> Run:
    """The run called "baseline"; else the one that differs least from all others, the first of equals."""
    for run in runs:
        if run.name == "baseline":
            return run
    return min(runs, key=lambda run: sum(len(changed_fields(other, run)) for other in runs))


def show(value: Any) -> str:
    """A config value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else "(none)"


def answers(measured: Sequence[Measured], baseline: Measured) -> list[Answer]:
    """One answer for each topic, in TOPICS' order."""
    groups: dict[str, dict[str, list[Row]]] = {topic.key: {} for topic in TOPICS}
    for one in measured:
        changed = changed_fields(one.run, baseline.run)
        if one is baseline or not changed:
            continue
        changes = tuple(
            f"{field} {show(baseline.run.config[field])} → {show(one.run.config[field])}" for field in changed
        )
        row = Row(one, changes, one.val_f1 - baseline.val_f1)
        groups[TOPIC_OF_FIELD[changed[0]]].setdefault(changed[0], []).append(row)
    return [_answer(topic, groups[topic.key], baseline) for topic in TOPICS]


def _answer(topic: Topic, groups: dict[str, list[Row]], baseline: Measured) -> Answer:
    reference = Row(baseline, (), 0.0)
    comparisons = tuple(
        Comparison(field, tuple(sorted([reference, *rows], key=lambda row: -row.delta)))
        for field, rows in groups.items()
    )
    others = [row for rows in groups.values() for row in rows]
    settings = tuple((name, show(baseline.run.config[name])) for name in topic.settings)
    text = _summary(others, baseline) if others else [topic.missing]
    if topic.key == "overfitting":
        text += _gaps(others, baseline)
    if topic.key == "architecture" and others:
        text.append(_next_networks(others))
    if topic.key == "chance" and others:
        text = [_spread(others, baseline)]
    return Answer(topic, settings, tuple(text), comparisons)


def _summary(others: list[Row], baseline: Measured) -> list[str]:
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


def _gaps(others: list[Row], baseline: Measured) -> list[str]:
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


def _spread(others: list[Row], baseline: Measured) -> str:
    values = [baseline.val_f1, *(row.measured.val_f1 for row in others)]
    return (
        f"{len(values)} runs of the same settings reach validation macro-F1 from {min(values):.3f} to "
        f"{max(values):.3f}: smaller differences between other runs may be chance."
    )
