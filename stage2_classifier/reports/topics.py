"""The questions that a report answers, and the config fields of each question."""

from __future__ import annotations

from dataclasses import dataclass

# The topic of each config field. The first changed field in this order decides a run's topic. So another optimizer
# may have another learning rate, and another network another input size.
TOPIC_OF_FIELD = {
    field: topic
    for topic, fields in (
        ("architecture", "model"),
        ("transfer", "pretrained weights freeze_epochs backbone_lr_scale"),
        ("optimizer", "optimizer"),
        ("loss", "loss class_weights sampler_power label_smoothing focal_gamma"),
        ("objectness", "hard_negatives box_head box_loss"),
        ("loss", "teacher distill_share distill_temperature"),
        ("overfitting", "augment jitter"),
        ("loss", "mask_transfer_prob mask_hanging_share"),
        ("overfitting", "occluder_prob mask_recolor_prob light_prob"),
        ("overfitting", "mixup dropout weight_decay ema_decay"),
        ("hyperparameters", "batch_size epochs epoch_draws scheduler lr input_size margin checkpoint_epoch"),
        ("hyperparameters", "warmup_epochs momentum grad_clip"),
        ("overfitting", "patience min_delta"),
        ("hyperparameters", "mixed_precision"),
        ("noise", "seed workers"),
    )
    for field in fields.split()
}


@dataclass(frozen=True)
class Topic:
    """A question that the report answers."""

    key: str
    question: str
    settings: tuple[str, ...]  # config fields of the baseline that are shown
    missing: str  # the answer when no run is about this question
    one_table: str = ""  # heading of one table for all runs; empty: a table for each first changed field


TOPICS = (
    Topic(
        "architecture",
        "Which architecture first, and which networks next?",
        ("model", "pretrained", "weights", "input_size"),
        "No run with another network was given.",
    ),
    Topic(
        "transfer",
        "Do trained weights help, and which layers are trained first?",
        ("pretrained", "weights", "freeze_epochs", "backbone_lr_scale", "epochs"),
        "No run of the same network with other first weights or frozen layers was given.",
        one_table="first weights and frozen layers",
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
        "objectness",
        "Does it also tell stage 1's false alarms from faces?",
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
        "noise",
        "How much is chance?",
        ("seed",),
        "No run with another seed was given, so differences between runs cannot be told from chance by repetition.",
    ),
)
