"""Scores of a classifier, the comparison of runs, and the report's files and errors."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from stage2_classifier.augment.transforms import eval_transform
from stage2_classifier.config import RENAMED_FIELDS, TrainConfig
from stage2_classifier.cropping import to_input
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import CropRecord, CropSet, write_crop_set
from stage2_classifier.models import build_model
from stage2_classifier.reports import preview
from stage2_classifier.reports.evaluation import CropEvaluation, evaluate, macro_f1_interval, scores
from stage2_classifier.reports.figures import save_mistakes, worst_mistakes
from stage2_classifier.reports.report import main, score_run
from stage2_classifier.reports.run_comparison import ScoredRun, answer_topics, find_baseline
from stage2_classifier.reports.runs import LATER_FIELDS, TrainedRun, read_run
from stage2_classifier.reports.timeline import build_timeline, measure_noise
from stage2_classifier.reports.topics import TOPIC_OF_FIELD, TOPICS
from stage2_classifier.training.checkpoint import ModelMeta, load_model, save_model
from stage2_classifier.training.fit import fit
from stage2_classifier.training.setup import build_sampler, training_crops

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
HALF = (0.5, 0.5, 0.5)


def make_crops(root: Path, labels: Sequence[tuple[str, str]], photos: Sequence[str] = ()) -> CropSet:
    """Write crops of 32 px noise; labels are (split, class), photos the crops' photos (default: one per crop)."""
    rng = np.random.default_rng(0)
    records = []
    root.mkdir(parents=True, exist_ok=True)
    for i, (split, label) in enumerate(labels):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / f"{i}.png")
        photo = photos[i] if photos else f"photo{i}"
        records.append(CropRecord(f"{i}.png", label, split, photo, (0, 0, 32, 32)))
    crops = CropSet(root, tuple(records), CLASSES, 0.2)
    write_crop_set(crops)
    return crops


def make_run(
    folder: Path,
    val_f1: float = 0.8,
    seed: int = 0,
    margin: float = 0.2,
    classes: tuple[str, ...] = CLASSES,
    finished: str | None = None,
    **changes: Any,
) -> Path:
    """Write a finished run of an untrained network, with the files of a training."""
    config = replace(TrainConfig(model="small_cnn_half", input_size=32, margin=margin), **changes)
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = build_model(config.model, len(classes))
    meta = ModelMeta(config.model, classes, config.input_size, HALF, HALF, margin, 0.0, config.name, 2)
    save_model(folder / "best.safetensors", model.state_dict(), meta)
    record = {**asdict(config), "class_names": list(classes), "cut_margin": margin}
    (folder / "config.json").write_text(json.dumps(record))
    rows = [
        {"epoch": e, "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.6, "val_macro_f1": f1}
        for e, f1 in enumerate([0.1, val_f1, 0.2], start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"best_epoch": 2, "epochs_run": 3, "stopped_early": True, "seconds": 90.0, "parameters": 123456}
    if finished is not None:
        summary["finished"] = finished
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def crops(tmp_path: Path) -> CropSet:
    labels = [(split, CLASSES[i % 3]) for split in ("train", "val", "test") for i in range(6)]
    return make_crops(tmp_path / "crops", labels)


def evaluation_of(
    tmp_path: Path, targets: list[int], predicted: list[int], photos: Sequence[str] = ()
) -> CropEvaluation:
    crop_set = make_crops(tmp_path / "set", [("test", CLASSES[t]) for t in targets], photos)
    probs = np.full((len(predicted), 3), 0.1, np.float32)
    probs[np.arange(len(predicted)), predicted] = 0.8
    dataset = CropDataset(crop_set, "test", eval_transform(32, HALF, HALF))
    return CropEvaluation("test", dataset, probs, dataset.labels)


def test_scores_by_hand(tmp_path: Path) -> None:
    # True 0 x4: three right, one called 1. True 1 x2: one right, one called 0. Class 2 does not occur.
    evaluation = evaluation_of(tmp_path, [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0])
    assert evaluation.confusion.tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]
    found = scores(evaluation)
    first, second, third = (found["classes"][name] for name in CLASSES)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert (first["precision"], first["recall"], first["f1"]) == pytest.approx((0.75, 0.75, 0.75))
    assert (second["precision"], second["recall"], second["f1"]) == pytest.approx((0.5, 0.5, 0.5))
    assert found["macro_f1"] == pytest.approx(0.625)  # over the two classes that occur
    assert third["support"] == 0 and third["average_precision"] is None


def test_interval_draws_whole_photos(tmp_path: Path) -> None:
    targets, predicted = [0, 1] * 20, [0, 1] * 10 + [1, 0] * 10
    alone = scores(evaluation_of(tmp_path / "a", targets, predicted))["macro_f1_interval_95"]
    photos = ["right"] * 20 + ["wrong"] * 20
    together = scores(evaluation_of(tmp_path / "b", targets, predicted, photos))["macro_f1_interval_95"]
    assert 0.3 < alone[0] < 0.5 < alone[1] < 0.7
    assert together == pytest.approx([0.0, 1.0])  # two photos: both draws may be the same one


def test_interval_of_a_perfect_model_is_a_point(tmp_path: Path) -> None:
    assert scores(evaluation_of(tmp_path, [0, 1, 2], [0, 1, 2]))["macro_f1_interval_95"] == [1.0, 1.0]


def test_worst_mistakes_are_the_most_confident(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, [0, 0, 0, 1], [0, 1, 1, 0])
    evaluation.probs[2, 1], evaluation.probs[1, 1] = 0.95, 0.7
    assert worst_mistakes(evaluation, 5) == [2, 3, 1]
    assert worst_mistakes(evaluation, 1) == [2]


def test_without_mistakes_an_old_picture_is_removed(tmp_path: Path) -> None:
    picture = tmp_path / "mistakes.png"
    picture.write_bytes(b"of an earlier report")
    assert save_mistakes(evaluation_of(tmp_path, [0, 1], [0, 1]), picture) == 0
    assert not picture.exists()


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


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
    assert "1 did better, most of all sgd (+0.020" in " ".join(found["optimizer"].text)
    assert "None does better; the closest is b32 (-0.020)" in " ".join(found["hyperparameters"].text)
    overfitting = " ".join(found["overfitting"].text)
    assert "a gap of 0.100" in overfitting and "augment opencv → none: a gap of 0.250" in overfitting
    assert "from 0.800 to 0.810" in found["noise"].text[0]
    assert "resnet18 0.700 with 2.00 M parameters" in found["architecture"].text[-1]


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


def test_a_verdict_compares_the_difference_with_the_spread_between_seeds() -> None:
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
    verdicts = {entry.row.scored.run.name: entry.verdict for entry in found.entries}
    assert "the spread of validation macro-F1" in found.text[0]
    assert "0.040" in found.text[0] and "net, net_again, the widest of 2 such spreads" in found.text[0]
    assert verdicts["baseline"] == "The reference that all others are compared with."
    assert verdicts["again"] == "The same settings again: this difference (+0.020) is chance itself."
    assert verdicts["as_far"] == "Within chance: +0.040 is no more than the spread between seeds (0.040)."
    assert verdicts["further"] == "Better: +0.041 is more than the spread between seeds (0.040)."
    assert verdicts["near"].startswith("Within chance: -0.030 ")
    assert verdicts["bad"] == "Worse: -0.100 is more than the spread between seeds (0.040)."


def test_without_repeated_runs_the_noise_is_half_the_bootstrap_interval() -> None:
    base = replace(scored_run(0.80, "baseline"), low=0.6, high=0.9, val_interval=(0.77, 0.83))
    other = scored_run(0.84, "sgd", optimizer="sgd", seed=1)  # another seed, but not the seed alone
    copy = scored_run(0.99, "copy", workers=2)  # the same seed
    chance = measure_noise([base, other, copy], base)
    assert chance.size == pytest.approx(0.03)
    assert "half the width of baseline's 95% bootstrap interval of macro-F1 on validation crops" in chance.text
    verdict = build_timeline([base, other], base).entries[1].verdict
    assert verdict == "Better: +0.040 is more than half of baseline's bootstrap interval (0.030)."
    # Crops without a validation split leave the interval of the split that is scored.
    base = replace(base, val_interval=None)
    assert measure_noise([base, other], base).size == pytest.approx(0.15)
    assert "on the crops scored here" in measure_noise([base, other], base).text
    assert build_timeline([base, other], base).entries[1].verdict.startswith("Within chance: +0.040 ")


def test_a_file_of_weights_is_named_without_its_folder() -> None:
    base = scored_run(0.8, "baseline")
    found = build_timeline([base, scored_run(0.8, "tuned", weights="/home/someone/kept/net.safetensors")], base)
    assert found.entries[1].row.changes == ("weights (none) → net.safetensors",)


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_noise_interval_is_on_validation_crops(crops: CropSet, tmp_path: Path, split: str) -> None:
    run = read_run(make_run(tmp_path / "baseline"))
    scored, _ = score_run(run, crops, split, tmp_path / "out", faces=False)
    model, meta = load_model(run.weights)
    assert scored.val_interval == macro_f1_interval(evaluate(model, meta, crops, "val"))
    lone = replace(crops, records=crops.split("test"))
    assert score_run(run, lone, "test", tmp_path / "out", faces=False)[0].val_interval is None


def test_the_report_has_the_order(crops: CropSet, tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "old", val_f1=0.7, name="old", dropout=0.5, description="Dropout | half?"),
        make_run(tmp_path / "late", val_f1=0.83, seed=1, name="late", finished="2026-02-03T05:10:00+02:00"),
        make_run(tmp_path / "baseline", val_f1=0.81, finished="2026-02-03T03:08:59+00:00"),
    ]
    record = json.loads((runs[1] / "config.json").read_text())
    (runs[1] / "config.json").write_text(json.dumps({**record, "seed": 1}))
    flags = ["--crops", str(crops.root), "--out", str(tmp_path / "out"), "--no-faces"]
    assert main([*map(str, runs), *flags]) == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    section = text[text.index("## In which order") : text.index("## Which architecture")]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    question = TrainConfig.description
    assert lines == [
        f"| 1 | 2026-02-03 03:08 | baseline | {question} | — | 0.810 | — | "
        "The reference that all others are compared with. |",
        f"| 2 | 2026-02-03 03:10 | late | {question} | seed 0 → 1 | 0.830 | +0.020 | "
        "The same settings again: this difference (+0.020) is chance itself. |",
        "| 3 | — | old | Dropout \\| half? | dropout 0.2 → 0.5 | 0.700 | -0.110 | "
        "Worse: -0.110 is more than the spread between seeds (0.020). |",
    ]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    order = page[page.index('id="order"') : page.index('id="architecture"')]
    assert [order.index(name) for name in (">baseline<", ">late<", ">old<")] == sorted(
        order.index(name) for name in (">baseline<", ">late<", ">old<")
    )
    assert "Worse: -0.110 is more than the spread between seeds (0.020)." in order and "2026-02-03 03:10" in order


def test_report_writes_everything(crops: CropSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "runs" / "baseline", val_f1=0.81)
    second = make_run(
        tmp_path / "runs" / "odd|<b>",
        val_f1=0.84,
        seed=1,
        name="odd",
        optimizer="sgd",
        lr=0.1,
        description="A | <i>why</i>?",
    )
    Image.new("RGB", (20, 10)).save(first / "curves.png")
    out = tmp_path / "out"
    assert main([str(first), str(second), "--crops", str(crops.root), "--out", str(out)]) == 0
    assert "baseline: test accuracy" in capsys.readouterr().out

    with (out / "baseline" / "predictions.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["path"] for row in rows] == [r.path for r in crops.split("test")]
    # The probabilities are the network's on the input of the inference path.
    torch.manual_seed(0)
    model = build_model("small_cnn_half", 3).eval()
    pixels = np.stack([np.array(Image.open(crops.root / row["path"])) for row in rows])
    with torch.no_grad():
        expected = model(torch.from_numpy(to_input(pixels, HALF, HALF))).softmax(1).numpy()
    found = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    assert found == pytest.approx(expected, abs=1e-5)
    details = json.loads((out / "baseline" / "classification_report.json").read_text())
    right = sum(row["predicted"] == row["label"] for row in rows)
    assert details["accuracy"] == pytest.approx(right / 6) and details["crops"] == 6
    assert details["train_macro_f1"] is not None

    for name in ("confusion_matrix.png", "pr_curves.png", "mistakes.png", "curves.png", "augmentation.png"):
        with Image.open(out / "baseline" / name) as picture:
            picture.verify()

    page = (out / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(sources) == 9 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)
    assert "<i>why" not in page and "&lt;i&gt;why" in page

    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| odd\\|&lt;b> | small_cnn_half | 123,456 | 1.5 | 2 of 3 | 0.840 |" in text
    assert "1 did better, most of all odd\\|&lt;b> (+0.030: optimizer adamw → sgd, lr 0.002 → 0.1)" in text
    assert "No run with another network was given." in text
    assert "(odd%7C%3Cb%3E/confusion_matrix.png)" in text and "(odd%7C%3Cb%3E/augmentation.png)" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1  # no row is broken


def test_without_faces_no_picture_shows_crops(crops: CropSet, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "baseline", val_f1=0.81)
    flags = ["--crops", str(crops.root), "--out", str(tmp_path / "out")]
    assert main([str(run), *flags]) == 0
    pictures = ("mistakes.png", "augmentation.png")
    assert all((tmp_path / "out" / "baseline" / name).is_file() for name in pictures)
    assert main([str(run), *flags, "--no-faces"]) == 0
    assert not any((tmp_path / "out" / "baseline" / name).exists() for name in pictures)  # older ones are removed
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert not any(name in text for name in pictures)


def test_the_training_views_are_those_of_the_run(
    wide_crops: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Any, ...]] = []
    monkeypatch.setattr(preview, "contact_sheet", lambda *sheet: shown.append(sheet) or Image.new("RGB", (1, 1)))
    changes = {"hard_negatives": 0.25, "jitter": 1.0, "augment": "none", "epochs": 4}
    run = make_run(tmp_path / "objectness", margin=0.1, **changes)
    assert main([str(run), "--crops", str(wide_crops.root), "--split", "val", "--out", str(tmp_path / "out")]) == 0
    [(rows, _, labels, _)] = shown
    assert labels == [name for name in (*CLASSES, "not_a_face") for _ in range(2)]
    config = TrainConfig(model="small_cnn_half", input_size=32, margin=0.1, **changes)  # type: ignore[arg-type]
    dataset = training_crops(config, wide_crops, (HALF, HALF))
    sampler = build_sampler(config, dataset)
    dataset.set_epoch(0)
    first = {(255 * (dataset[key][0].numpy() / 2 + 0.5)).round().astype(np.uint8).tobytes() for key in sampler}
    cells = [cell for row in rows for cell in row[1:] if cell.caption == "epoch 1"]
    assert cells and {cell.image.transpose(2, 0, 1).tobytes() for cell in cells} <= first


def test_crops_without_hard_negatives_leave_the_picture_out(
    crops: CropSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = make_run(tmp_path / "objectness", hard_negatives=0.25), tmp_path / "out"
    (out / "objectness").mkdir(parents=True)
    (out / "objectness" / "augmentation.png").write_bytes(b"of an earlier report")
    assert main([str(run), "--crops", str(crops.root), "--out", str(out)]) == 0
    warning = capsys.readouterr().err
    assert (
        warning.startswith("warning: objectness: no picture of its training crops (hard_negatives:")
        and len(warning.splitlines()) == 1
    )
    assert not (out / "objectness" / "augmentation.png").exists()
    assert "augmentation.png" not in (out / "report.md").read_text(encoding="utf-8")


def damage_config(run: Path) -> None:
    (run / "config.json").write_text('{"name": "x"}')


def no_such_config(run: Path) -> None:
    record = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**record, "augment": "imgaug"}))


def wrong_type(run: Path) -> None:
    record = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**record, "margin": "wide"}))


def no_time(run: Path) -> None:
    record = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**record, "finished": "yesterday"}))


def damage_metrics(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')


def no_best_epoch(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"epoch": 1}\n')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "base: no such run"),
        (lambda run: (run / "best.safetensors").unlink(), "best.safetensors: not found"),
        (lambda run: (run / "config.json").unlink(), "config.json: not found"),
        (lambda run: (run / "summary.json").unlink(), "summary.json: not found; finish the run"),
        (lambda run: (run / "summary.json").write_text("{"), "summary.json: not JSON"),
        (lambda run: (run / "best.safetensors").write_bytes(b"x" * 40), "best.safetensors: damaged"),
        (damage_config, "config.json: lacks description, model"),
        (no_such_config, "config.json: not the settings of a training (augment: 'imgaug' is unknown"),
        (wrong_type, "config.json: not the settings of a training ("),
        (no_time, "summary.json: finished 'yesterday' is not an ISO 8601 time"),
        (damage_metrics, "metrics.jsonl, line 2: malformed"),
        (no_best_epoch, "metrics.jsonl: has no epoch 2"),
    ],
)
def test_a_damaged_run_is_one_line(
    crops: CropSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, message: str
) -> None:
    run = make_run(tmp_path / "base")
    damage(run)
    assert main([str(run), "--crops", str(crops.root), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.3}, "margin: 0.3 is more than the 0.2 that"),
        ({"classes": ("with_mask", "without_mask")}, "classes with_mask, without_mask, mask_weared_incorrect differ"),
    ],
)
def test_crops_that_do_not_fit_are_refused(
    crops: CropSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], message: str
) -> None:
    run = make_run(tmp_path / "base", **options)
    assert main([str(run), "--crops", str(crops.root), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_two_runs_of_one_name_are_refused(crops: CropSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(tmp_path / folder / "base")) for folder in ("a", "b")]
    assert main([*runs, "--crops", str(crops.root), "--out", str(tmp_path / "out")]) == 1
    assert "two have the name base" in capsys.readouterr().err


def test_the_best_epoch_is_read(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "base", val_f1=0.77))
    assert (run.name, run.best_epoch, run.best["val_macro_f1"]) == ("base", 2, 0.77)


def test_a_time_without_zone_is_utc(tmp_path: Path) -> None:
    assert read_run(make_run(tmp_path / "a", finished="2026-01-02T12:00:00")).finished == NOON
    assert read_run(make_run(tmp_path / "b", finished="2026-01-02T14:00:00+02:00")).finished == NOON
    assert read_run(make_run(tmp_path / "c")).finished is None


def test_runs_of_earlier_versions_get_the_defaults(crops: CropSet, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "old", val_f1=0.77, augment="none")
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in record.items() if k not in LATER_FIELDS}))
    run = read_run(folder)
    assert run.train_config == TrainConfig(model="small_cnn_half", input_size=32, augment="none")
    assert main([str(folder), "--crops", str(crops.root), "--out", str(tmp_path / "out")]) == 0
    # Recorded values are kept: the "margin" of these runs was that of the crops, which the network saw completely.
    (folder / "config.json").write_text(json.dumps({**record, "margin": 0.15}))
    assert read_run(folder).config["margin"] == 0.15


def test_runs_with_the_field_names_of_earlier_versions_are_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "old", description="Why?", hard_negatives=0.25, box_head=True, checkpoint_epoch="last")
    present = read_run(folder)
    old_names = {new: old for old, new in RENAMED_FIELDS.items()}
    record = json.loads((folder / "config.json").read_text()) | {"augment": "own"}
    (folder / "config.json").write_text(json.dumps({old_names.get(k, k): v for k, v in record.items()}))
    assert "rejects" in (folder / "config.json").read_text()
    assert read_run(folder) == present and present.train_config.augment == "opencv"


def test_only_later_fields_may_be_missing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    record = json.loads((folder / "config.json").read_text())
    for name in (field.name for field in fields(TrainConfig)):
        (folder / "config.json").write_text(json.dumps({k: v for k, v in record.items() if k != name}))
        if name in LATER_FIELDS:
            read_run(folder)
        else:
            with pytest.raises(UserError, match=rf"config\.json: lacks {name}; train the run again"):
                read_run(folder)


QUICK = TrainConfig(model="small_cnn_half", input_size=32, epochs=1, warmup_epochs=0, batch_size=16)


def test_a_real_run_says_when_it_finished(tiny_crops: CropSet, tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    summary = fit(QUICK, tiny_crops.root, tmp_path, cpu=True)
    run = read_run(tmp_path / "baseline")
    assert run.finished is not None and before <= run.finished <= datetime.now(UTC)
    assert summary["finished"].endswith("+00:00") and run.train_config == QUICK


def test_a_run_without_validation_crops_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = make_crops(tmp_path / "crops", [("train", CLASSES[i % 3]) for i in range(12)])
    fit(replace(QUICK, checkpoint_epoch="last"), crops.root, tmp_path, cpu=True)
    crops = make_crops(tmp_path / "crops", [("test", CLASSES[i % 3]) for i in range(6)])
    capsys.readouterr()
    assert main([str(tmp_path / "baseline"), "--crops", str(crops.root), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "metrics.jsonl: epoch 1 has no validation scores" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
