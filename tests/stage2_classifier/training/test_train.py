"""Training end to end on coloured squares: it learns, stops, and resumes to the same numbers after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common import run_folder
from common.errors import UserError
from common.run_folder import lock_folder
from common.training.state_file import save_state
from stage2_classifier.augment.transforms import eval_transform
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import CropSet, write_crop_set
from stage2_classifier.data.loaders import build_loader
from stage2_classifier.training.checkpoint import load_model, load_state
from stage2_classifier.training.command import main
from stage2_classifier.training.engine import predict, score, seed_epoch
from stage2_classifier.training.fit import fit
from stage2_classifier.training.run_folder import best_row, patience_over
from tests.helpers.training.crop_sets import make_crop_set
from tests.helpers.training.quick_training import QUICK, break_after, rows


@pytest.fixture(scope="module")
def unbroken(tiny_crops: CropSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a whole QUICK run."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("unbroken")
    fit(QUICK, tiny_crops.root, runs)
    return runs / "quick"


@pytest.mark.slow
def test_learns_and_records(unbroken: Path, tiny_crops: CropSet) -> None:
    history = rows(unbroken)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    summary = json.loads((unbroken / "summary.json").read_text())
    best = best_row(history)
    assert summary["best_epoch"] == best["epoch"] and summary["best"]["val_f1"] == best["val_f1"]
    assert best["val_macro_f1"] > 0.9 and summary["epochs_run"] == 4 and not summary["stopped_early"]
    record = json.loads((unbroken / "config.json").read_text())
    assert record["lr"] == QUICK.lr and record["margin"] == 0.2 and "torch" in record["packages"]
    assert record["class_counts"]["train"] == {"with_mask": 24, "without_mask": 10, "mask_weared_incorrect": 6}
    assert "test" not in record["class_counts"]
    assert sorted(p.name for p in unbroken.iterdir()) == sorted(
        ["best.safetensors", "config.json", "curves.png", "last.pt", "metrics.jsonl", "summary.json"]
    )


def test_best_weights_score_what_was_recorded(unbroken: Path, tiny_crops: CropSet) -> None:
    model, meta = load_model(unbroken / "best.safetensors")
    val = CropDataset(tiny_crops, "val", eval_transform(meta.input_size, meta.mean, meta.std))
    probs, targets = predict(model, build_loader(val, 7), meta.heads)
    assert probs.shape == (20, 3) and probs.dtype == np.float32 and targets.tolist() == val.labels.tolist()
    assert meta.margin == 0.2 and meta.class_names == tiny_crops.class_names
    scored = score(probs, targets, meta.class_names)
    assert scored["val_macro_f1"] == meta.metrics["val_macro_f1"]
    assert scored["val_loss"] == pytest.approx(meta.metrics["val_loss"], rel=1e-4)


VARIANTS = {
    "adamw_ema_cosine": QUICK,
    "everything": replace(
        QUICK,
        optimizer="sgd",
        augment="opencv",
        scheduler="onecycle",
        warmup_epochs=0,
        mixup=0.4,
        ema_decay=0.0,
        epochs=3,
    ),
    "plateau": replace(QUICK, scheduler="plateau", warmup_epochs=0, epochs=3, sampler_power=0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "step"),
    [
        ("adamw_ema_cosine", "train_one_epoch"),
        ("adamw_ema_cosine", "write_epoch"),
        ("everything", "write_epoch"),
        ("plateau", "train_one_epoch"),
    ],
)
def test_resume_equals_unbroken(
    variant: str, step: str, unbroken: Path, tiny_crops: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole = VARIANTS[variant], unbroken
    if config != QUICK:
        fit(config, tiny_crops.root, tmp_path / "whole")
        whole = tmp_path / "whole" / "quick"
    with monkeypatch.context() as patch:
        break_after(2, patch, step)
        with pytest.raises(KeyboardInterrupt):
            fit(config, tiny_crops.root, tmp_path / "broken")
    folder = tmp_path / "broken" / "quick"
    assert len(rows(folder)) == 2 and not (folder / "summary.json").exists()
    with pytest.raises(UserError) as raised:
        fit(config, tiny_crops.root, tmp_path / "broken")
    message = str(raised.value)
    assert message.startswith(f"{folder}: ") and "--resume" in message and "--overwrite" in message
    (folder / "metrics.jsonl").write_text("as if the kill came before this file\n")
    fit(config, tiny_crops.root, tmp_path / "broken", resume=True)
    assert rows(folder) == rows(whole)
    assert (folder / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()


@pytest.mark.slow
def test_the_state_of_another_run_is_refused(
    unbroken: Path, tiny_crops: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_after(1, monkeypatch, "train_one_epoch")
    with pytest.raises(KeyboardInterrupt):
        fit(QUICK, tiny_crops.root, tmp_path)
    file = tmp_path / "quick" / "last.pt"
    good = load_state(file)
    weights = {**good["model"], "head.bias": good["model"]["head.bias"] * torch.nan}
    other = {name: tensor for name, tensor in good["model"].items() if name != "head.bias"}
    another = f"{file}: is another run's; copy the right one, or use --overwrite"
    for changes, line in (
        ({"model": other}, another),
        ({"ema": None}, another),
        ({"optimizer": {}}, another),
        ({"model": weights}, f"{file}: its weights are not finite numbers (head.bias); train or download it again"),
    ):
        save_state(file, {**good, **changes})
        with pytest.raises(UserError) as raised:
            fit(QUICK, tiny_crops.root, tmp_path, resume=True)
        assert str(raised.value) == line
    save_state(file, good)
    monkeypatch.undo()
    fit(QUICK, tiny_crops.root, tmp_path, resume=True)
    assert rows(tmp_path / "quick") == rows(unbroken)


def test_a_run_without_later_fields_is_the_same_run(unbroken: Path, tiny_crops: CropSet, tmp_path: Path) -> None:
    shutil.copytree(unbroken, tmp_path / "quick")
    record = json.loads((unbroken / "config.json").read_text())
    del record["occluder_prob"]
    (tmp_path / "quick" / "config.json").write_text(json.dumps(record))
    summary = fit(QUICK, tiny_crops.root, tmp_path, resume=True)
    assert summary == json.loads((unbroken / "summary.json").read_text())
    with pytest.raises(UserError, match=r"another occluder_prob \(0.0, now 0.5\)"):
        fit(replace(QUICK, occluder_prob=0.5), tiny_crops.root, tmp_path, resume=True)


def test_resume_before_the_first_epoch_starts_at_the_beginning(
    unbroken: Path, tiny_crops: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_after(0, patch, "train_one_epoch")
        with pytest.raises(KeyboardInterrupt):
            fit(QUICK, tiny_crops.root, tmp_path)
    fit(QUICK, tiny_crops.root, tmp_path, resume=True)
    assert rows(tmp_path / "quick") == rows(unbroken)


@pytest.mark.slow
def test_resume_after_sigkill_equals_unbroken(unbroken: Path, tiny_crops: CropSet, tmp_path: Path) -> None:
    fields = (
        "model",
        "sampler_power",
        "input_size",
        "batch_size",
        "epochs",
        "warmup_epochs",
        "lr",
        "augment",
        "patience",
        "ema_decay",
    )
    flags = [f"--{name.replace('_', '-')}={getattr(QUICK, name)}" for name in fields]
    command = [
        *(sys.executable, "-m", "stage2_classifier.train", "--name=quick", "--threads=1"),
        *(f"--crops={tiny_crops.root}", f"--runs={tmp_path}", *flags),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    state = tmp_path / "quick" / "last.pt"
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "quick" / "summary.json").exists()
    subprocess.run([*command, "--resume"], env=environment, check=True, timeout=120, stdout=subprocess.DEVNULL)
    assert rows(tmp_path / "quick") == rows(unbroken)
    assert (tmp_path / "quick" / "best.safetensors").read_bytes() == (unbroken / "best.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_validate_each_crop_once(unbroken: Path, tiny_crops: CropSet, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "stage2_classifier.train", "--name=two", f"--crops={tiny_crops.root}", f"--runs={tmp_path}"),
        *("--model=small_cnn_half", "--input-size=32", "--batch-size=8", "--epochs=3", "--warmup-epochs=1"),
        *("--lr=5e-3", "--augment=opencv", f"--weights={unbroken / 'best.safetensors'}", "--freeze-epochs=1", "--cpu"),
    ]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=240, capture_output=True)
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["processes"] == 2 and len(rows(tmp_path / "two")) == 3
    # 20 validation crops: gathered twice or not at all, they would not score as the saved weights do alone.
    model, meta = load_model(tmp_path / "two" / "best.safetensors")
    val = CropDataset(tiny_crops, "val", eval_transform(meta.input_size, meta.mean, meta.std))
    scored = score(*predict(model, build_loader(val, 20), meta.heads), meta.class_names)
    assert scored["val_loss"] == pytest.approx(meta.metrics["val_loss"], rel=1e-4)


def test_a_finished_run_is_kept(unbroken: Path, tiny_crops: CropSet) -> None:
    before = (unbroken / "last.pt").stat().st_mtime_ns
    runs = unbroken.parent
    with pytest.raises(UserError) as raised:
        fit(QUICK, tiny_crops.root, runs)
    message = str(raised.value)
    assert message.startswith(f"{unbroken}: ") and "finished" in message and "--resume" in message
    summary = fit(replace(QUICK, description="another text", workers=1), tiny_crops.root, runs, resume=True)
    assert summary == json.loads((unbroken / "summary.json").read_text())
    with pytest.raises(UserError) as raised:
        fit(replace(QUICK, dropout=0.5), tiny_crops.root, runs, resume=True)
    message = str(raised.value)
    assert (
        message.startswith(f"{unbroken}: holds a run with another dropout (0.2, now 0.5)") and "--overwrite" in message
    )
    assert (unbroken / "last.pt").stat().st_mtime_ns == before


def test_files_of_others_are_kept(tiny_crops: CropSet, tmp_path: Path) -> None:
    weights = tmp_path / "quick" / "best.safetensors"
    weights.parent.mkdir()
    weights.write_text("mine")
    with pytest.raises(UserError, match="quick: holds other files and no run; give another --name"):
        fit(QUICK, tiny_crops.root, tmp_path)
    assert weights.read_text() == "mine"


@pytest.mark.skipif(run_folder.fcntl is None, reason="no file locks here")
def test_one_process_trains_in_a_folder(tiny_crops: CropSet, tmp_path: Path) -> None:
    (tmp_path / "quick").mkdir()
    with lock_folder(tmp_path / "quick"), pytest.raises(UserError, match=f"quick: process {os.getpid()} works here"):
        fit(QUICK, tiny_crops.root, tmp_path)
    assert not list((tmp_path / "quick").iterdir())


@pytest.mark.slow
def test_overwrite_starts_again_and_patience_stops_early(tiny_crops: CropSet, tmp_path: Path) -> None:
    config = replace(QUICK, epochs=30, patience=2, min_delta=1.0)  # nothing is better by more than 1
    summary = fit(config, tiny_crops.root, tmp_path)
    assert summary["stopped_early"] and summary["epochs_run"] == 3
    again = fit(replace(config, epochs=2), tiny_crops.root, tmp_path, overwrite=True)
    assert not again["stopped_early"] and len(rows(tmp_path / "quick")) == 2


def test_patience_and_best_row_by_hand() -> None:
    history = [{"val_macro_f1": f1, "val_loss": loss} for f1, loss in ((0.5, 1), (0.8, 3), (0.8, 2), (0.7, 1))]
    assert best_row(history) is history[2]
    assert patience_over(history, 2, 0.0) and not patience_over(history[:3], 2, 0.0)
    assert patience_over(history, 3, 0.4) and not patience_over(history, 0, 0.4)
    assert best_row(history, "last") is history[3]
    unscored: list[dict[str, Any]] = [{"train_loss": 1.0}] * 9
    assert best_row(unscored, "last") is unscored[8] and not patience_over(unscored, 2, 0.0)


def test_score_by_hand() -> None:
    probs = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], np.float32)
    scored = score(probs, np.array([0, 1, 1]), ("a", "b", "c"))
    # a: precision 1/2, recall 1; b: precision 1, recall 1/2; c has no crops and does not count.
    assert scored["val_f1"] == pytest.approx({"a": 2 / 3, "b": 2 / 3})
    assert scored["val_macro_f1"] == pytest.approx(2 / 3) and scored["val_accuracy"] == pytest.approx(2 / 3)
    assert scored["val_loss"] == pytest.approx((np.log(2) + np.log(2) + np.log(4)) / 3)


def test_seed_epoch_depends_on_all_three() -> None:
    draws = {(seed_epoch(*key).random(), torch.rand(()).item()) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}
    assert len({a for a, _ in draws}) == len({b for _, b in draws}) == 4
    assert seed_epoch(3, 4).random() == seed_epoch(3, 4).random()


def test_a_loss_that_explodes_is_one_clear_error(tiny_crops: CropSet, tmp_path: Path) -> None:
    config = replace(QUICK, optimizer="sgd", lr=999.0, grad_clip=0.0, scheduler="constant", warmup_epochs=0)
    with pytest.raises(UserError, match="loss is not finite"):
        fit(replace(config, momentum=0.999), tiny_crops.root, tmp_path)


LAST = replace(QUICK, checkpoint_epoch="last", epochs=2)


def test_the_last_epoch_is_kept_on_request(tiny_crops: CropSet, tmp_path: Path) -> None:
    summary = fit(replace(LAST, lr=1e-7, sampler_power=0.0, warmup_epochs=0), tiny_crops.root, tmp_path)
    history = rows(tmp_path / "quick")
    assert summary["best_epoch"] == 2 and summary["best"]["val_macro_f1"] == history[1]["val_macro_f1"]
    assert load_model(tmp_path / "quick" / "best.safetensors")[1].epoch == 2


@pytest.mark.slow
def test_all_crops_may_be_for_training(
    tiny_crops: CropSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(tiny_crops.root, tmp_path / "crops")
    write_crop_set(replace(tiny_crops, root=root, records=tuple(replace(r, split="train") for r in tiny_crops.records)))
    with pytest.raises(UserError, match="no crops in split 'val'"):
        fit(replace(LAST, checkpoint_epoch="best"), root, tmp_path / "best")
    summary = fit(LAST, root, tmp_path)
    assert (summary["best_epoch"], summary["best"], summary["epochs_run"]) == (2, {}, 2)
    assert all(not key.startswith("val_") for row in rows(tmp_path / "quick") for key in row)
    meta = load_model(tmp_path / "quick" / "best.safetensors")[1]
    assert (meta.epoch, meta.metrics) == (2, {})
    # Resumed, too, and from the command line.
    with monkeypatch.context() as patch:
        break_after(1, patch, "train_one_epoch")
        with pytest.raises(KeyboardInterrupt):
            fit(LAST, root, tmp_path / "broken")
    fit(LAST, root, tmp_path / "broken", resume=True)
    whole, again = (folder / "quick" / "best.safetensors" for folder in (tmp_path, tmp_path / "broken"))
    assert whole.read_bytes() == again.read_bytes()
    flags = ["--checkpoint-epoch=last", "--epochs=1", "--warmup-epochs=0", "--model=small_cnn_half", "--input-size=32"]
    assert main([f"--crops={root}", f"--runs={tmp_path}", "--name=cli", "--augment=none", *flags]) == 0
    assert "cli: finished" in capsys.readouterr().out


def test_a_class_without_training_crops_is_named(
    tiny_crops: CropSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tiny_crops.class_names[2]
    kept = tuple(r for r in tiny_crops.records if (r.split, r.label) != ("train", missing))
    root = shutil.copytree(tiny_crops.root, tmp_path / "crops")
    write_crop_set(replace(tiny_crops, root=root, records=kept))
    fit(replace(QUICK, epochs=1, warmup_epochs=0), root, tmp_path)
    assert f"warning: no training crops of class {missing!r}; it cannot be learned\n" in capsys.readouterr().err


def test_one_class_is_refused_and_a_class_without_validation_crops_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make_crop_set(tmp_path / "one", {"train": (6, 0, 0), "val": (2, 2, 0)})
    with pytest.raises(UserError, match=r"one: the training crops are all of class 'with_mask': .*; use data with"):
        fit(QUICK, one.root, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    two = make_crop_set(tmp_path / "two", {"train": (6, 6, 0), "val": (4, 0, 0)})
    fit(replace(QUICK, epochs=1, warmup_epochs=0), two.root, tmp_path / "runs")
    assert "warning: no validation crops of class without_mask; no score shows it" in capsys.readouterr().err
