"""The files, the text and the errors of a report."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stage2_classifier.config import TrainConfig
from stage2_classifier.cropping import to_input
from stage2_classifier.data.crop_manifest import CropSet
from stage2_classifier.models import build_model
from stage2_classifier.reports import preview
from stage2_classifier.reports.evaluation import evaluate, macro_f1_interval
from stage2_classifier.reports.report import main, score_run
from stage2_classifier.reports.runs import LATER_FIELDS, read_run
from stage2_classifier.training.checkpoint import load_model
from stage2_classifier.training.fit import fit
from stage2_classifier.training.setup import build_sampler, training_crops
from tests.helpers.training.scored_runs import CLASSES, HALF, make_crops, make_run


@pytest.fixture
def crops(tmp_path: Path) -> CropSet:
    labels = [(split, CLASSES[i % 3]) for split in ("train", "val", "test") for i in range(6)]
    return make_crops(tmp_path / "crops", labels)


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
        "Lower: -0.110 is more than the spread between seeds (0.020). |",
    ]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    order = page[page.index('id="order"') : page.index('id="architecture"')]
    assert [order.index(name) for name in (">baseline<", ">late<", ">old<")] == sorted(
        order.index(name) for name in (">baseline<", ">late<", ">old<")
    )
    assert "Lower: -0.110 is more than the spread between seeds (0.020)." in order and "2026-02-03 03:10" in order


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
    assert "1 scored higher, most of all odd\\|&lt;b> (+0.030: optimizer adamw → sgd, lr 0.002 → 0.1)" in text
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
