"""The comparison of runs with the baseline: topics, noise level and timeline."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stage2_classifier.config import EXPERIMENTS, TrainConfig
from stage2_classifier.reports.run_comparison import ScoredRun, answer_topics, find_baseline
from stage2_classifier.reports.runs import TrainedRun
from stage2_classifier.reports.timeline import build_timeline, measure_noise
from stage2_classifier.reports.topics import TOPIC_OF_FIELD, TOPICS
from tests.helpers.training.scored_runs import NOON


def scored_run(
    val_f1: float, name: str = "other", gap: float | None = 0.1, hour: float | None = None, **changes: Any
) -> ScoredRun:
    """Return a run that finished `hour` hours after NOON; None: not recorded."""
    config = asdict(replace(TrainConfig(name=name), **changes))
    finished = None if hour is None else NOON + timedelta(hours=hour)
    run = TrainedRun(Path(name), config, {"val_macro_f1": val_f1}, 5, 9, True, 60.0, 2_000_000, finished)
    return ScoredRun(run, 0.9, 0.8, 0.7, 0.9, None if gap is None else val_f1 + gap)


def test_every_config_field_has_a_topic() -> None:
    assert set(TOPIC_OF_FIELD) == {field.name for field in fields(TrainConfig)} - {"name", "description"}
    assert set(TOPIC_OF_FIELD.values()) == {topic.key for topic in TOPICS}


def test_topics_without_runs_say_so() -> None:
    base = scored_run(0.8, "baseline")
    for answer in answer_topics([base], base):
        assert answer.topic.missing in answer.text
        assert answer.comparisons == ()


def test_runs_go_to_their_topic() -> None:
    base = scored_run(0.80, "baseline")
    runs = [
        base,
        scored_run(0.82, "sgd", optimizer="sgd", lr=0.1),
        scored_run(0.70, "net", model="resnet18", input_size=112),
        scored_run(0.79, "plain", gap=0.25, augment="none"),
        scored_run(0.78, "b32", batch_size=32),
        scored_run(0.77, "b16", batch_size=16),
        scored_run(0.75, "long", epochs=60, patience=20),
        scored_run(0.81, "again", seed=1),
    ]
    found = {answer.topic.key: answer for answer in answer_topics(runs, base)}
    names = {
        key: [(c.field, [row.scored.run.name for row in c.rows]) for c in answer.comparisons]
        for key, answer in found.items()
    }
    assert names == {
        "architecture": [("model", ["baseline", "net"])],
        "transfer": [],
        "optimizer": [("optimizer", ["sgd", "baseline"])],
        "loss": [],
        "overfitting": [("augment", ["baseline", "plain"])],
        "objectness": [],
        "hyperparameters": [("batch_size", ["baseline", "b32", "b16"]), ("epochs", ["baseline", "long"])],
        "noise": [("seed", ["again", "baseline"])],
    }
    sgd = found["optimizer"].comparisons[0].rows[0]
    assert sgd.changes == ("optimizer adamw → sgd", "lr 0.002 → 0.1")
    assert sgd.delta == pytest.approx(0.02)
    assert "1 scored higher, most of all sgd (+0.020" in " ".join(found["optimizer"].text)
    assert "None scores higher; the closest is b32 (-0.020)" in " ".join(found["hyperparameters"].text)
    overfitting = " ".join(found["overfitting"].text)
    assert "a gap of 0.100" in overfitting and "augment opencv → none: a gap of 0.250" in overfitting
    assert "from 0.800 to 0.810" in found["noise"].text[0]
    assert "resnet18 0.700 with 2.00 M parameters" in found["architecture"].text[-1]


def test_transfer_learning_is_one_table() -> None:
    names = ("transfer_scratch", "transfer_finetune", "transfer_frozen_first", "transfer_head_only", "arch_face_trunk")
    runs = []
    for k, name in enumerate(names):
        settings = {key: value for key, value in asdict(EXPERIMENTS[name]).items() if key != "name"}
        runs.append(scored_run(0.8 + k / 100, name, **settings))
    base = runs[1]
    assert find_baseline([scored.run for scored in runs]) is base.run
    found = {answer.topic.key: answer.comparisons for answer in answer_topics(runs, base)}
    (table,) = found["transfer"]
    assert [row.scored.run.name for row in table.rows] == [names[3], names[2], names[1], names[0]]
    assert table.rows[0].changes == ("freeze_epochs 0 → 30",)
    assert [row.scored.run.name for row in found["architecture"][0].rows] == [names[4], names[1]]


def test_a_gap_without_training_crops_is_reported_as_missing() -> None:
    base = scored_run(0.8, "baseline", gap=None)
    overfitting = next(a for a in answer_topics([base], base) if a.topic.key == "overfitting")
    assert any("no training split" in sentence for sentence in overfitting.text)


def test_baseline_is_the_run_of_that_name_or_the_most_central() -> None:
    sgd, lamb = scored_run(0.1, "sgd", optimizer="sgd").run, scored_run(0.1, "lamb", optimizer="lamb", lr=0.01).run
    centre, base = scored_run(0.1, "centre").run, scored_run(0.1, "baseline", dropout=0.5, seed=3).run
    assert find_baseline([sgd, lamb, base]) is base
    assert find_baseline([lamb, centre, sgd]) is centre


def test_runs_are_in_the_order_in_which_they_finished() -> None:
    base = scored_run(0.80, "baseline", hour=2)
    runs = [
        scored_run(0.90, "z_old", augment="none"),
        scored_run(0.84, "sgd", hour=5, optimizer="sgd", lr=0.1),
        base,
        scored_run(0.70, "a_old", batch_size=32),
        scored_run(0.79, "first", hour=1, dropout=0.5),
    ]
    found = build_timeline(runs, base)
    assert [(entry.number, entry.row.scored.run.name) for entry in found.entries] == [
        (1, "first"),
        (2, "baseline"),
        (3, "sgd"),
        (4, "a_old"),
        (5, "z_old"),
    ]
    assert found.entries[2].row.changes == ("optimizer adamw → sgd", "lr 0.002 → 0.1")
    assert found.text[-1] == "The time of the last runs was not recorded, so they are by name: a_old, z_old."
    assert len(build_timeline([base, runs[1]], base).text) == 1  # all recorded


def test_a_conclusion_compares_the_difference_with_the_spread_between_seeds() -> None:
    base = scored_run(0.75, "baseline")
    runs = [
        base,
        scored_run(0.77, "again", seed=1, workers=2),
        scored_run(0.78, "net", model="resnet18"),
        scored_run(0.82, "net_again", model="resnet18", seed=5),
        scored_run(0.79, "as_far", dropout=0.5),  # as floats 0.79 - 0.75 is a little more than 0.82 - 0.78
        scored_run(0.791, "further", dropout=0.4),
        scored_run(0.72, "near", dropout=0.3),
        scored_run(0.65, "bad", mixup=0.2),
    ]
    assert measure_noise(runs, base).size == pytest.approx(0.04)
    found = build_timeline(runs, base)
    conclusions = {entry.row.scored.run.name: entry.conclusion for entry in found.entries}
    assert "the spread of validation macro-F1" in found.text[0]
    assert "0.040" in found.text[0] and "net, net_again, the widest of 2 such spreads" in found.text[0]
    assert conclusions["baseline"] == "The reference that all others are compared with."
    assert conclusions["again"] == "The same settings again: this difference (+0.020) is chance itself."
    assert conclusions["as_far"] == "Within chance: +0.040 is no more than the spread between seeds (0.040)."
    assert conclusions["further"] == "Higher: +0.041 is more than the spread between seeds (0.040)."
    assert conclusions["near"].startswith("Within chance: -0.030 ")
    assert conclusions["bad"] == "Lower: -0.100 is more than the spread between seeds (0.040)."


def test_without_repeated_runs_the_noise_is_half_the_bootstrap_interval() -> None:
    base = replace(scored_run(0.80, "baseline"), low=0.6, high=0.9, val_interval=(0.77, 0.83))
    other = scored_run(0.84, "sgd", optimizer="sgd", seed=1)  # another seed, but not the seed alone
    copy = scored_run(0.99, "copy", workers=2)  # the same seed
    chance = measure_noise([base, other, copy], base)
    assert chance.size == pytest.approx(0.03)
    assert "half the width of baseline's 95% bootstrap interval of macro-F1 on validation crops" in chance.text
    conclusion = build_timeline([base, other], base).entries[1].conclusion
    assert conclusion == "Higher: +0.040 is more than half of baseline's bootstrap interval (0.030)."
    # Crops without a validation split leave the interval of the split that is scored.
    base = replace(base, val_interval=None)
    assert measure_noise([base, other], base).size == pytest.approx(0.15)
    assert "on the crops scored here" in measure_noise([base, other], base).text
    assert build_timeline([base, other], base).entries[1].conclusion.startswith("Within chance: +0.040 ")


def test_a_file_of_weights_is_named_without_its_folder() -> None:
    base = scored_run(0.8, "baseline")
    found = build_timeline([base, scored_run(0.8, "tuned", weights="/home/someone/kept/net.safetensors")], base)
    assert found.entries[1].row.changes == ("weights (none) → net.safetensors",)
