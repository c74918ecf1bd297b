"""Fine-tuning end to end on drawn photos: its files, resuming after every kind of end, and errors in one line."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from common.annotations import AnnotatedImage, read_dataset
from common.errors import UserError
from stage1_faces.training import finetune, finetune_run, photos
from stage1_faces.training.finetune import main
from stage1_faces.training.finetune_config import FinetuneConfig
from stage1_faces.training.finetune_run import RECALL_COUNTS, recall_at_counts
from stage1_faces.training.photos import MAX_PHOTO_SIDE, load_photo
from stage1_faces.training.run_folder import NETS, RunFolder, fingerprint, load_net
from tests.helpers import quick_finetune
from tests.helpers.drawn_photos import write_dataset
from tests.helpers.quick_finetune import RECIPE, make_quick, run

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = {"pnet": 3, "rnet": 2, "onet": 2}
FINISHED = ["config.json", "landmarks.npz", "log.jsonl", "onet.safetensors", "pnet.safetensors", "rnet.safetensors"]


class Killed(BaseException):
    """Ends a run in these tests: no `except Exception` may catch it."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    make_quick(monkeypatch.setattr)
    return monkeypatch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), ("train", "train", "val", "test"))


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Read it only."""
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch.setattr)
        return run(data, tmp_path_factory.mktemp("runs") / "unbroken")


def result(out: Path) -> dict[str, Any]:
    """Return everything that a run writes, except its times."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(out).rows()]
    weights = {name: (out / f"{name}.safetensors").read_bytes() for name in NETS}
    return {"files": sorted(path.name for path in out.iterdir()), "rows": rows, **weights}


def check_same(out: Path, unbroken: Path) -> None:
    ours, theirs = result(out), result(unbroken)
    for part, value in theirs.items():
        assert ours[part] == value, part


def until_done(data: Path, out: Path, most: int = 60) -> int:
    """Start the run again after each kill; return the number of kills."""
    for kills in range(most):
        try:
            run(data, out)
            return kills
        except Killed:
            pass
    raise AssertionError(f"not finished after {most} kills")


# What a run writes


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
    rows = RunFolder(run(data, tmp_path / "run")).rows()
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
    assert [row["net"] for row in RunFolder(tmp_path / "run").rows() if "recall" in row] == list(NETS)
    with np.load(tmp_path / "run" / "landmarks.npz") as arrays:
        assert arrays["points"].shape == (8, 5, 2) and arrays["ends"].tolist() == [4]
    # The same command again has nothing to do.
    assert main([*command, "--threads", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path / 'run'}: finished"]


# Resuming


def test_finished_nets_are_left_as_they_are(quick: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    quick.setattr(finetune_run, "train_epoch", lambda *_: pytest.fail("was trained"))
    quick.setattr(finetune_run, "mine", lambda *_: pytest.fail("was mined"))
    assert run(data, out) == out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_missing_net_alone_is_trained_again(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    out = run(data, tmp_path / "run")
    (out / "onet.safetensors").unlink()
    trained: list[str] = []
    real = finetune_run.build_net
    quick.setattr(finetune_run, "build_net", lambda name: trained.append(name) or real(name))
    run(data, out)
    assert trained == ["onet"]
    check_same(out, unbroken)


def test_killed_after_every_epoch(quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path) -> None:
    real: Callable[..., dict[str, float]] = finetune_run.train_epoch
    done = 0

    def one_epoch(*arguments: Any) -> dict[str, float]:
        nonlocal done
        if done:
            done = 0
            raise Killed
        done = 1
        return real(*arguments)

    quick.setattr(finetune_run, "train_epoch", one_epoch)
    assert until_done(data, tmp_path / "run") == sum(EPOCHS.values()) - 1
    check_same(tmp_path / "run", unbroken)


def test_the_state_of_another_net_is_refused(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    real: Callable[..., dict[str, float]] = finetune_run.train_epoch
    done = 0

    def one_epoch(*arguments: Any) -> dict[str, float]:
        nonlocal done
        done += 1
        if done > 1:
            raise Killed
        return real(*arguments)

    with quick.context() as patch:
        patch.setattr(finetune_run, "train_epoch", one_epoch)
        with pytest.raises(Killed):
            run(data, tmp_path / "run")
    state = tmp_path / "run/pnet.state"
    state.rename(tmp_path / "run/rnet.state")
    (tmp_path / "run/pnet.safetensors").write_bytes((unbroken / "pnet.safetensors").read_bytes())
    with pytest.raises(UserError) as raised:
        run(data, tmp_path / "run")
    assert str(raised.value).startswith(f"{tmp_path}/run/rnet.state: ") and "another net" in str(raised.value)


def test_killed_within_epochs(quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path) -> None:
    # Once in each net's second epoch, after a step; and when its windows are first mined.
    real: Callable[..., dict[str, float]] = finetune_run.train_epoch
    broken_off: set[str] = set()

    def broken(
        net: Any, ema: Any, optimizer: Any, batches: Any, schedule: Any, epoch: int, seed: int, advance: Any
    ) -> Any:
        def killing() -> None:
            if epoch == 1 and type(net).__name__ not in broken_off:
                broken_off.add(type(net).__name__)
                raise Killed
            advance()

        return real(net, ema, optimizer, batches, schedule, epoch, seed, killing)

    mine = finetune_run.mine
    mined: list[str] = []
    without: list[int] = []

    def mining(detector: Any, photos: Any, after: str, *arguments: Any) -> Any:
        mined.append(after)
        if mined.count(after) == 1:
            raise Killed
        found = mine(detector, photos, after, *arguments)
        without.append(int((found.overlap < 0.25).sum()))
        return found

    quick.setattr(finetune_run, "train_epoch", broken)
    quick.setattr(finetune_run, "mine", mining)
    assert until_done(data, tmp_path / "run") == len(NETS) + 2
    # Windows are written: they are not mined again after the kill in training.
    assert mined == ["pnet", "pnet", "rnet", "rnet"]
    assert min(without) > 20, "too few windows without a face for these tests to mean much"
    check_same(tmp_path / "run", unbroken)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_the_third_write_of_each_start(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path, after: bool
) -> None:
    # Right before a file is written, or right after. An epoch writes two files, so each start gets further.
    write = RunFolder.write
    written: list[str] = []
    kills: list[str] = []

    def counted(folder: RunFolder, name: str, data: bytes) -> None:
        written.append(name)
        last = len(written) == 3
        if last and not after:
            raise Killed
        write(folder, name, data)
        if last and after:
            raise Killed

    def started(*arguments: Any, real: Callable[..., None] = RunFolder.start) -> None:
        kills.extend(written[-1:])
        written.clear()
        real(*arguments)

    quick.setattr(RunFolder, "write", counted)
    quick.setattr(RunFolder, "start", started)
    assert until_done(data, tmp_path / "run") == len(kills) > 6
    assert len(set(kills)) > 3
    check_same(tmp_path / "run", unbroken)


@pytest.mark.parametrize("name", NETS)
def test_killed_while_reporting(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path, name: str
) -> None:
    # The last net is finished then, but the run is not: the recall is missing.
    real = finetune_run.recall_at_counts
    calls: list[int] = []

    def killing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == NETS.index(name) + 1:
            raise Killed
        return real(*arguments)

    quick.setattr(finetune_run, "recall_at_counts", killing)
    assert until_done(data, tmp_path / "run") == 1
    check_same(tmp_path / "run", unbroken)


@pytest.mark.slow
def test_killed_for_good_at_random_moments(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    # A real process and SIGKILL, twice; the run resumes to the same weights.
    out = tmp_path / "run"
    script = [sys.executable, quick_finetune.__file__, str(data), str(out)]
    seed = time.time_ns()
    moments = random.Random(seed)
    for _ in range(2):
        before = (out / "log.jsonl").stat().st_mtime_ns if (out / "log.jsonl").exists() else 0
        with subprocess.Popen(
            script, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
        ) as process:
            while process.poll() is None:
                time.sleep(0.01)
                if (out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_mtime_ns != before:
                    time.sleep(moments.uniform(0, 0.7))
                    process.kill()
        assert process.returncode in (0, -9), process.returncode
    run(data, out)
    try:
        check_same(out, unbroken)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}") from error


def test_a_full_disk_leaves_nothing_half_written(quick: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "run" / "pnet.state"))

    quick.setattr(RunFolder, "save_state", full)
    with pytest.raises(OSError, match="No space left"):
        run(data, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "log.jsonl"]


@pytest.mark.parametrize("name", ["rnet.windows.npz", "landmarks.npz", "onet.state", "log.jsonl"])
def test_damaged_files_of_a_run_are_named(quick: pytest.MonkeyPatch, data: Path, tmp_path: Path, name: str) -> None:
    real: Callable[..., dict[str, float]] = finetune_run.train_epoch
    last = "rnet" if name == "rnet.windows.npz" else "onet"
    kinds = {"rnet": "RefineNet", "onet": "OutputNet"}

    def killing(net: Any, *arguments: Any) -> dict[str, float]:
        if type(net).__name__ == kinds[last] and arguments[4] == 1:
            raise Killed
        return real(net, *arguments)

    out = tmp_path / "run"
    with quick.context() as patch:
        patch.setattr(finetune_run, "train_epoch", killing)
        with pytest.raises(Killed):
            run(data, out)
    whole = (out / name).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2 + 3]):
        (out / name).write_bytes(damaged)
        if name == "log.jsonl" and not damaged:
            continue  # an empty log is one without lines
        with pytest.raises(UserError, match="damaged") as error:
            run(data, out)
        assert str(error.value).startswith(str(out / name)) and "\n" not in str(error.value)
    (out / name).unlink()
    run(data, out)  # as the message says: the run makes the removed file again


# Errors


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line that the command ends in, with exit code 1."""
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    assert captured.out == ""
    return captured.err


def test_a_run_is_not_written_among_the_photos(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "runs" / "cascade"
    line = failed(capsys, "--data", data, "--splits", data / "splits.csv", "--out", out)
    assert line.startswith(f"error: {out}: ") and "would be read as data" in line and "--out" in line
    assert not (data / "runs").exists()


def test_missing_data_and_splits(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    line = failed(capsys, "--data", tmp_path / "nowhere", "--splits", data / "splits.csv", "--out", out)
    assert str(tmp_path / "nowhere") in line
    line = failed(capsys, "--data", data, "--splits", tmp_path / "none.csv", "--out", out)
    assert f"{tmp_path / 'none.csv'}: not found; make it with" in line
    (tmp_path / "empty").mkdir()
    line = failed(capsys, "--data", tmp_path / "empty", "--splits", data / "splits.csv", "--out", out)
    assert str(tmp_path / "empty") in line
    assert not out.exists()


def test_no_face_to_learn_from(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "splits.csv").write_text("image_id,split\np0,val\np1,val\np2,val\np3,test\n")
    line = failed(capsys, "--data", data, "--splits", tmp_path / "splits.csv", "--out", tmp_path / "run")
    assert "no training photo" in line and "make the split again" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(
            (f"--{f.name.replace('_', '-')}", "0")
            for f in fields(FinetuneConfig)
            if f.name not in ("seed", "weight_decay")
        ),
        ("--pnet-steps", "-5"),
        ("--passes", "-1"),
        ("--onet-rate", "nan"),
        ("--pnet-rate", "inf"),
        ("--weight-decay", "-0.1"),
        ("--weight-decay", "nan"),
        ("--seed", "-1"),
        ("--rnet-batch", "1"),
        ("--onet-batch", "1"),
    ],
)
def test_bad_recipes(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flag: str,
    value: str,
) -> None:
    monkeypatch.setattr(finetune, "finetune", lambda *_: pytest.fail("was accepted"))
    where = ["--data", data, "--splits", data / "splits.csv", "--out", tmp_path / "run"]
    assert flag in failed(capsys, *where, f"{flag}={value}")
    assert not (tmp_path / "run").exists()


def test_another_recipe_in_the_same_folder(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = result(unbroken)
    line = failed(capsys, "--data", data, "--splits", data / "splits.csv", "--out", unbroken, "--seed", "3")
    assert f"{unbroken}: holds a run with another recipe" in line and "--overwrite" in line
    # Another split is other data.
    (tmp_path / "splits.csv").write_text("image_id,split\np0,train\np1,val\np2,val\np3,test\n")
    with pytest.raises(UserError, match="another data"):
        finetune.finetune(data, tmp_path / "splits.csv", unbroken, RECIPE)
    assert result(unbroken) == before


def test_other_validation_photos_are_the_same_run(quick: pytest.MonkeyPatch, data: Path, unbroken: Path) -> None:
    splits = unbroken.parent / "splits.csv"
    splits.write_text("image_id,split\np0,train\np1,train\np2,test\np3,val\n")
    assert finetune.finetune(data, splits, unbroken, RECIPE, threads=1) == unbroken


def test_overwrite_starts_again(quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finetune.finetune(data, data / "splits.csv", out, replace(RECIPE, seed=5, onet_steps=2), threads=1)
    run(data, out, overwrite=True)
    check_same(out, unbroken)


def test_a_folder_of_something_else(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    line = failed(capsys, "--data", data, "--splits", data / "splits.csv", "--out", tmp_path)
    assert "is not empty and holds no fine-tuning" in line
    line = failed(capsys, "--data", data, "--splits", data / "splits.csv", "--out", tmp_path / "notes.txt")
    assert "notes.txt" in line


def test_interrupted_by_hand(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "finetune", interrupted)
    assert main(["--data", str(data), "--out", "run"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on\n"


# Parts


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


def test_large_photos_are_shrunk_with_their_boxes(tmp_path: Path) -> None:
    size = (2 * MAX_PHOTO_SIDE, 100)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[20:60, 1000:1100] = 255
    cv2.imwrite(str(tmp_path / "large.png"), picture)
    boxes = np.float32([[1000, 20, 1100, 60]])
    photo = load_photo(AnnotatedImage(tmp_path / "large.png", "large", size, boxes, ("face",)))
    assert photo.maps.size == (MAX_PHOTO_SIDE, 50)
    assert photo.boxes.tolist() == [[500, 10, 550, 30]]
    assert (photo.maps.image[10:30, 500:550] == 255).all() and photo.maps.image.sum() == 20 * 50 * 3 * 255
    assert np.isnan(photo.landmarks).all() and photo.landmarks.shape == (1, 5, 2)


def test_small_photos_stay_as_they_are(data: Path) -> None:
    image = next(i for i in read_dataset(data).images if i.image_id == "p0")
    photo = load_photo(image)
    assert photo.maps.size == (160, 120) and photo.boxes.tolist() == image.boxes.tolist()
    assert photo.labels == ("with_mask", "without_mask") * 2


def test_the_fingerprint_differs_between_training_sets(data: Path) -> None:
    images = read_dataset(data).images
    one = images[0]
    moved = AnnotatedImage(one.path, one.image_id, one.size, one.boxes * np.float32(0.99), one.labels)
    named = AnnotatedImage(one.path, one.image_id, one.size, one.boxes, one.labels[::-1])
    prints = [fingerprint(some) for some in (images[:2], images[:1], [moved], [named])]
    assert len(set(prints)) == 4
    assert fingerprint(images[:2]) == prints[0]


@pytest.mark.usefixtures("quick")
def test_a_photo_that_cannot_be_read_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", ("train", "train", "val"))
    pixels = (data / "p1.png").read_bytes()
    (data / "p1.png").write_bytes(pixels[: len(pixels) // 2])
    run(data, tmp_path / "run")
    assert (tmp_path / "run" / "onet.safetensors").is_file()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "p1.png: is truncated or broken" in warnings[0]
    assert warnings[0].endswith("left out")


@pytest.mark.usefixtures("quick")
def test_a_photo_that_is_readable_again_makes_another_run(tmp_path: Path) -> None:
    # Mined windows count the photos: one more would shift them all.
    data = write_dataset(tmp_path / "data", ("train", "train", "val"))
    pixels = (data / "p1.png").read_bytes()
    (data / "p1.png").write_bytes(pixels[: len(pixels) // 2])
    run(data, tmp_path / "run")
    (data / "p1.png").write_bytes(pixels)
    with pytest.raises(UserError, match="holds a run with another data"):
        run(data, tmp_path / "run")


@pytest.mark.usefixtures("quick")
def test_one_process_per_folder(data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run")
    with RunFolder(out).held(), pytest.raises(UserError, match="another process trains here"):
        run(data, out)
    run(data, out)
