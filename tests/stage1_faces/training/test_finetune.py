"""Fine-tuning end to end on drawn photos: its files, and resuming without a change."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.annotations import AnnotatedImage, read_dataset
from common.annotations.types import fingerprint
from stage1_faces.training import finetune, finetune_run, photos
from stage1_faces.training.finetune import main
from stage1_faces.training.finetune_config import FinetuneConfig
from stage1_faces.training.finetune_run import RECALL_COUNTS, recall_at_counts
from stage1_faces.training.run_folder import NETS, FinetuneFolder, load_net
from tests.helpers.drawn_photos import write_dataset
from tests.helpers.training.quick_finetune import RECIPE, run
from tests.stage1_faces.training.finetune_checks import EPOCHS, FINISHED, check_same


def test_a_run_writes_nets_and_log(unbroken: Path) -> None:
    assert sorted(path.name for path in unbroken.iterdir()) == FINISHED
    record = json.loads((unbroken / "config.json").read_text())
    assert record["recipe"] == asdict(RECIPE) and len(record["data"]) == 64
    lines = (unbroken / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    epochs = [(row["net"], row["epoch"], row["epochs"]) for row in rows if "epoch" in row]
    assert epochs == [(name, k + 1, count) for name, count in EPOCHS.items() for k in range(count)]
    for row in rows:
        if "epoch" in row:
            losses = {"face", "box"} | ({"landmarks"} if row["net"] == "onet" else set())
            assert set(row) == {"net", "epoch", "epochs", "seconds"} | losses
            assert all(np.isfinite(row[loss]) for loss in losses)
    # After its epochs, each net's recall on the validation photo.
    reports = [row for row in rows if "recall" in row]
    assert [row["net"] for row in reports] == list(NETS) and rows[-1] is reports[-1]
    for row in reports:
        assert row["val_photos"] == 1
        assert list(row["recall"]) == [str(count) for count in RECALL_COUNTS]
        assert all(0 <= value <= 1 for value in row["recall"].values())


def test_the_nets_have_learned_and_load(unbroken: Path) -> None:
    from stage1_faces.training.nets import build_net

    for name in NETS:
        torch.manual_seed(RECIPE.seed)
        start, net = build_net(name).state_dict(), load_net(unbroken, name).state_dict()
        assert all(torch.isfinite(value).all() for value in net.values())
        assert not torch.equal(start["head.weight"], net["head.weight"])


def test_the_same_again_is_the_same(quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path) -> None:
    check_same(run(data, tmp_path / "again"), unbroken)


def test_another_seed_is_another_run(quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, seed=1)
    out = finetune.finetune(data, data / "splits.csv", tmp_path / "run", recipe, threads=1)
    assert (out / "pnet.safetensors").read_bytes() != (unbroken / "pnet.safetensors").read_bytes()


def test_the_test_split_is_never_read(quick: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    read: list[str] = []
    real = photos.read_image
    quick.setattr(photos, "read_image", lambda path: read.append(Path(path).name) or real(path))
    run(data, tmp_path / "run")
    assert read == ["p0.png", "p1.png", "p2.png"]


def test_without_validation_faces_nothing_is_reported(quick: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", ("train", "test"))
    rows = FinetuneFolder(run(data, tmp_path / "run")).rows()
    assert len(rows) == sum(EPOCHS.values()) and not any("recall" in row for row in rows)


@pytest.mark.slow
def test_the_whole_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Nothing is replaced: real exports, the stock cascade's landmarks, and the nets' graphs for mining.
    flags = [f"--{f.name.replace('_', '-')}={getattr(RECIPE, f.name)}" for f in fields(FinetuneConfig)]
    command = ["--data", str(data), "--splits", str(data / "splits.csv"), "--out", str(tmp_path / "run"), *flags]
    assert main([*command, "--threads", "1"]) == 0
    screen = capsys.readouterr()
    assert "pnet epoch 3/3  face " in screen.err
    lines = screen.out.splitlines()
    assert [line.split(" by ")[0] for line in lines[:3]] == [f"{name}: validation recall" for name in NETS]
    assert lines[3:] == [f"{tmp_path / 'run'}: finished"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FINISHED
    assert [row["net"] for row in FinetuneFolder(tmp_path / "run").rows() if "recall" in row] == list(NETS)
    with np.load(tmp_path / "run" / "landmarks.npz") as arrays:
        assert arrays["points"].shape == (8, 5, 2) and arrays["ends"].tolist() == [4]
    # The same command again has nothing to do.
    assert main([*command, "--threads", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path / 'run'}: finished"]


def test_finished_nets_are_left_as_they_are(quick: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    quick.setattr(finetune_run, "train_epoch", lambda *_, **__: pytest.fail("was trained"))
    quick.setattr(finetune_run, "mine", lambda *_, **__: pytest.fail("was mined"))
    assert run(data, out) == out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.slow
def test_a_missing_net_alone_is_trained_again(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    out = run(data, tmp_path / "run")
    (out / "onet.safetensors").unlink()
    trained: list[str] = []
    real = finetune_run.build_net
    quick.setattr(finetune_run, "build_net", lambda name, width: trained.append(name) or real(name, width))
    run(data, out)
    assert trained == ["onet"]
    check_same(out, unbroken)


def test_other_validation_photos_are_the_same_run(quick: pytest.MonkeyPatch, data: Path, unbroken: Path) -> None:
    splits = unbroken.parent / "splits.csv"
    splits.write_text("image_id,split\np0,train\np1,train\np2,test\np3,val\n")
    assert finetune.finetune(data, splits, unbroken, RECIPE, threads=1) == unbroken


@pytest.mark.slow
def test_overwrite_starts_again(quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finetune.finetune(data, data / "splits.csv", out, replace(RECIPE, seed=5, onet_steps=2), threads=1)
    run(data, out, overwrite=True)
    check_same(out, unbroken)


def test_recall_by_count_by_hand() -> None:
    box = [0.0, 0, 10, 10]
    first = np.float32([box, [100, 0, 110, 10], [0, 20, 10, 40]])
    found_first = np.float32(
        [
            [50, 50, 60, 60],  # no face
            [0, 0, 10, 10],  # the first face
            [0, 0, 10, 9],  # the first face again
            [100, 0, 110, 20],  # the second, IoU exactly 0.5
            [0, 20, 10, 29],  # too little of the third
        ]
    )
    second, found_second = np.float32([box]), np.float32([box])
    gt_boxes = [first, second, np.float32([box]), np.zeros((0, 4), np.float32)]
    found = [found_first, found_second, np.zeros((0, 4), np.float32), np.float32([box])]
    assert recall_at_counts(found, gt_boxes, (1, 2, 3, 4, 50)) == {
        1: pytest.approx(1 / 5), 2: pytest.approx(2 / 5), 3: pytest.approx(2 / 5), 4: pytest.approx(3 / 5),
        50: pytest.approx(3 / 5),
    }  # fmt: skip
    assert list(recall_at_counts(found, gt_boxes)) == list(RECALL_COUNTS)
    assert recall_at_counts([], []) == dict.fromkeys(RECALL_COUNTS, 0)


def test_the_fingerprint_differs_between_training_sets(data: Path) -> None:
    images = read_dataset(data).images
    one = images[0]
    moved = AnnotatedImage(one.path, one.image_id, one.size, one.boxes * np.float32(0.99), one.labels)
    named = AnnotatedImage(one.path, one.image_id, one.size, one.boxes, one.labels[::-1])
    prints = [fingerprint(some) for some in (images[:2], images[:1], [moved], [named])]
    assert len(set(prints)) == 4
    assert fingerprint(images[:2]) == prints[0]
