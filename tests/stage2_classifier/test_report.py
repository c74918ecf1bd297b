"""Scores of a classifier, the comparison of runs, and the report's files and errors."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stage2_classifier.checkpoint import ModelMeta, save_model
from stage2_classifier.config import TrainConfig
from stage2_classifier.crops import CropDataset
from stage2_classifier.cut import to_input
from stage2_classifier.evaluation import Evaluation, scores
from stage2_classifier.models import build_model
from stage2_classifier.records import CropRecord, CropSet, write_crop_set
from stage2_classifier.report import main
from stage2_classifier.report_figures import save_mistakes, worst_mistakes
from stage2_classifier.runs import Run, read_run
from stage2_classifier.story import TOPIC_OF_FIELD, TOPICS, Measured, answers, find_baseline
from stage2_classifier.transforms import eval_transform

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
HALF = (0.5, 0.5, 0.5)


def make_crops(root: Path, labels: Sequence[tuple[str, str]], photos: Sequence[str] = ()) -> CropSet:
    """Crops of 32 px noise; labels are (split, class), photos their images (else one each)."""
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
    **changes: Any,
) -> Path:
    """A finished run of an untrained network, with the files that training leaves."""
    config = replace(TrainConfig(model="small_cnn_half", input_size=32), **changes)
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = build_model(config.model, len(classes))
    meta = ModelMeta(config.model, classes, config.input_size, HALF, HALF, margin, 0.0, config.name, 2)
    save_model(folder / "best.safetensors", model.state_dict(), meta)
    record = {**asdict(config), "class_names": list(classes), "margin": margin}
    (folder / "config.json").write_text(json.dumps(record))
    rows = [
        {"epoch": e, "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.6, "val_macro_f1": f1}
        for e, f1 in enumerate([0.1, val_f1, 0.2], start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"best_epoch": 2, "epochs_run": 3, "stopped_early": True, "seconds": 90.0, "parameters": 123456}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def crops(tmp_path: Path) -> CropSet:
    labels = [(split, CLASSES[i % 3]) for split in ("train", "val", "test") for i in range(6)]
    return make_crops(tmp_path / "crops", labels)


def evaluation_of(tmp_path: Path, truths: list[int], said: list[int], photos: Sequence[str] = ()) -> Evaluation:
    crop_set = make_crops(tmp_path / "set", [("test", CLASSES[t]) for t in truths], photos)
    probs = np.full((len(said), 3), 0.1, np.float32)
    probs[np.arange(len(said)), said] = 0.8
    dataset = CropDataset(crop_set, "test", eval_transform(32, HALF, HALF))
    return Evaluation("test", dataset, probs, dataset.labels)


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
    truths, said = [0, 1] * 20, [0, 1] * 10 + [1, 0] * 10
    alone = scores(evaluation_of(tmp_path / "a", truths, said))["macro_f1_interval_95"]
    photos = ["right"] * 20 + ["wrong"] * 20
    together = scores(evaluation_of(tmp_path / "b", truths, said, photos))["macro_f1_interval_95"]
    assert 0.3 < alone[0] < 0.5 < alone[1] < 0.7
    assert together == pytest.approx([0.0, 1.0])  # two photos: both draws may be the same one


def test_interval_of_a_perfect_model_is_a_point(tmp_path: Path) -> None:
    assert scores(evaluation_of(tmp_path, [0, 1, 2], [0, 1, 2]))["macro_f1_interval_95"] == [1.0, 1.0]


def test_worst_mistakes_are_the_most_confident(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, [0, 0, 0, 1], [0, 1, 1, 0])
    evaluation.probs[2, 1], evaluation.probs[1, 1] = 0.95, 0.7
    assert worst_mistakes(evaluation, 5) == [2, 3, 1]
    assert worst_mistakes(evaluation, 1) == [2]


def test_no_mistakes_leave_no_old_picture(tmp_path: Path) -> None:
    picture = tmp_path / "mistakes.png"
    picture.write_bytes(b"of an earlier report")
    assert save_mistakes(evaluation_of(tmp_path, [0, 1], [0, 1]), picture) == 0
    assert not picture.exists()


def measured(val_f1: float, name: str = "other", gap: float | None = 0.1, **changes: Any) -> Measured:
    config = asdict(replace(TrainConfig(name=name), **changes))
    run = Run(Path(name), config, {"val_macro_f1": val_f1}, 5, 9, True, 60.0, 2_000_000)
    return Measured(run, 0.9, 0.8, 0.7, 0.9, None if gap is None else val_f1 + gap)


def test_every_config_field_has_a_topic() -> None:
    assert set(TOPIC_OF_FIELD) == {field.name for field in fields(TrainConfig)} - {"name", "why"}
    assert set(TOPIC_OF_FIELD.values()) == {topic.key for topic in TOPICS}


def test_without_alternatives_nothing_is_invented() -> None:
    base = measured(0.8, "baseline")
    for answer in answers([base], base):
        assert answer.topic.missing in answer.text
        assert answer.comparisons == ()


def test_runs_go_to_the_question_they_answer() -> None:
    base = measured(0.80, "baseline")
    runs = [
        base,
        measured(0.82, "sgd", optimizer="sgd", lr=0.1),
        measured(0.70, "net", model="resnet18", input_size=112),
        measured(0.79, "plain", gap=0.25, augment="none"),
        measured(0.78, "b32", batch_size=32),
        measured(0.77, "b16", batch_size=16),
        measured(0.75, "long", epochs=60, patience=20),
        measured(0.81, "again", seed=1),
    ]
    found = {answer.topic.key: answer for answer in answers(runs, base)}
    names = {
        key: [(c.field, [row.measured.run.name for row in c.rows]) for c in answer.comparisons]
        for key, answer in found.items()
    }
    assert names == {
        "architecture": [("model", ["baseline", "net"])],
        "optimizer": [("optimizer", ["sgd", "baseline"])],
        "loss": [],
        "overfitting": [("augment", ["baseline", "plain"])],
        "hyperparameters": [("batch_size", ["baseline", "b32", "b16"]), ("epochs", ["baseline", "long"])],
        "chance": [("seed", ["again", "baseline"])],
    }
    sgd = found["optimizer"].comparisons[0].rows[0]
    assert sgd.changes == ("optimizer adamw → sgd", "lr 0.002 → 0.1")
    assert sgd.delta == pytest.approx(0.02)
    assert "1 did better, most of all sgd (+0.020" in " ".join(found["optimizer"].text)
    assert "None does better; the closest is b32 (-0.020)" in " ".join(found["hyperparameters"].text)
    overfitting = " ".join(found["overfitting"].text)
    assert "a gap of 0.100" in overfitting and "augment own → none: a gap of 0.250" in overfitting
    assert "from 0.800 to 0.810" in found["chance"].text[0]
    assert "resnet18 0.700 with 2.00 M parameters" in found["architecture"].text[-1]


def test_gap_without_training_crops_is_said_to_be_missing() -> None:
    base = measured(0.8, "baseline", gap=None)
    overfitting = next(a for a in answers([base], base) if a.topic.key == "overfitting")
    assert any("no training split" in sentence for sentence in overfitting.text)


def test_baseline_is_the_one_so_called_or_the_most_central() -> None:
    sgd, lamb = measured(0.1, "sgd", optimizer="sgd").run, measured(0.1, "lamb", optimizer="lamb", lr=0.01).run
    centre, base = measured(0.1, "centre").run, measured(0.1, "baseline", dropout=0.5, seed=3).run
    assert find_baseline([sgd, lamb, base]) is base
    assert find_baseline([lamb, centre, sgd]) is centre


def test_report_writes_everything(crops: CropSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "runs" / "baseline", val_f1=0.81)
    second = make_run(
        tmp_path / "runs" / "odd|<b>", val_f1=0.84, seed=1, name="odd", optimizer="sgd", lr=0.1, why="A | <i>why</i>?"
    )
    Image.new("RGB", (20, 10)).save(first / "curves.png")
    out = tmp_path / "out"
    assert main([str(first), str(second), "--crops", str(crops.root), "--out", str(out)]) == 0
    assert "baseline: test accuracy" in capsys.readouterr().out

    with (out / "baseline" / "predictions.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["path"] for row in rows] == [r.path for r in crops.split("test")]
    # The probabilities are those of the network on the inference path's input.
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

    for name in ("confusion_matrix.png", "pr_curves.png", "mistakes.png", "curves.png"):
        with Image.open(out / "baseline" / name) as picture:
            picture.verify()

    page = (out / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(sources) == 7 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)
    assert "<i>why" not in page and "&lt;i&gt;why" in page

    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| odd\\|&lt;b> | small_cnn_half | 123,456 | 1.5 | 2 of 3 | 0.840 |" in text
    assert "1 did better, most of all odd\\|&lt;b> (+0.030: optimizer adamw → sgd, lr 0.002 → 0.1)" in text
    assert "No run with another network was given." in text
    assert "(odd%7C%3Cb%3E/confusion_matrix.png)" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1  # no row is broken


def test_without_faces_no_picture_shows_crops(crops: CropSet, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "baseline", val_f1=0.81)
    flags = ["--crops", str(crops.root), "--out", str(tmp_path / "out")]
    assert main([str(run), *flags]) == 0
    assert (tmp_path / "out" / "baseline" / "mistakes.png").is_file()
    assert main([str(run), *flags, "--no-faces"]) == 0
    assert not (tmp_path / "out" / "baseline" / "mistakes.png").exists()  # the older one is gone too
    assert "mistakes.png" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def damage_config(run: Path) -> None:
    (run / "config.json").write_text('{"name": "x"}')


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
        (damage_config, "config.json: lacks why, model"),
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
        ({"margin": 0.3}, "margin 0.2 differs from run base's 0.3"),
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
    assert "two are called base" in capsys.readouterr().err


def test_the_epoch_read_is_the_best_one(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "base", val_f1=0.77))
    assert (run.name, run.best_epoch, run.best["val_macro_f1"]) == ("base", 2, 0.77)
