"""The one-stage baseline through the command line: results, resume after every kind of end, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from common.annotations import read_dataset
from common.run_folder import lock_folder
from pipeline.baseline import fit as baseline_fit
from pipeline.baseline.command import main
from pipeline.baseline.fit import best_row
from pipeline.baseline.run_folder import BaselineFolder, load_best
from pipeline.evaluate.coco_results import read_results
from pipeline.evaluate.metrics import score_samples

SIDES = ("train", "train", "train", "train", "val", "test", "test")
CLASSES = ("bare", "covered")  # other names than ours: they come from the data
SIZE = (96, 72)
FINISHED = ["baseline.json", "baseline.md", "best.safetensors", "config.json", "log.jsonl", "predictions.coco.json"]


class Killed(BaseException):
    """What ends a run in these tests: no `except Exception` may swallow it."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def boxes_of(k: int) -> list[tuple[int, int, int, int]]:
    """Return the faces of the k-th photo, xyxy: one of each class, and none in the last photo."""
    return [] if k == len(SIDES) - 1 else [(8 + 2 * k, 10, 28 + 2 * k, 34), (56, 20 + 2 * k, 74, 42 + 2 * k)]


def write_photos(root: Path, sides: tuple[str, ...] = SIDES) -> Path:
    """Write a COCO set of bright patches on noise, the first of them red, and splits.csv next to the photos."""
    root.mkdir()
    rng = np.random.default_rng(0)
    images, rows = [], []
    for k in range(len(SIDES)):
        pixels = rng.integers(0, 90, (SIZE[1], SIZE[0], 3), np.uint8)
        for category, (x1, y1, x2, y2) in enumerate(boxes_of(k), start=1):
            pixels[y1:y2, x1:x2] = (230, 60, 60) if category == 1 else (200, 200, 230)
            bbox = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"id": len(rows) + 1, "image_id": k, "category_id": category, "bbox": bbox})
        Image.fromarray(pixels).save(root / f"p{k}.png")
        images.append({"id": k, "file_name": f"p{k}.png"})
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]
    coco = {"images": images, "categories": categories, "annotations": rows}
    (root / "_annotations.coco.json").write_text(json.dumps(coco))
    lines = [f"p{k},{side}\n" for k, side in enumerate(sides)]
    (root / "splits.csv").write_text("image_id,split\n" + "".join(lines))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos")


def call(data: Path, out: Path, *options: str) -> int:
    argv = ["--data", str(data), "--splits", str(data / "splits.csv"), "--out", str(out), "--device", "cpu"]
    argv += ["--size", "64", "--epochs", "2", "--batch-size", "2", "--threads", "1", "--bootstrap", "0", *options]
    return main(argv)


@pytest.fixture
def last_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the last epoch's weights, so that two runs differ if their last epochs do."""
    monkeypatch.setattr(baseline_fit, "best_row", lambda history: history[-1])


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose last epoch is the best. Tests only read it."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baseline_fit, "best_row", lambda history: history[-1])
        assert call(data, out) == 0
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    """Return the log without the times."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in BaselineFolder(out).rows()]


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_results_are_not_written_among_the_data(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(data, data / "baseline") == 1
    error = one_line(capsys)
    assert error.startswith(f"error: {data / 'baseline'}: ") and "another --out" in error
    assert not (data / "baseline").exists()


@pytest.mark.slow
def test_the_report_has_accuracy_size_and_time(data: Path, unbroken: Path) -> None:
    assert sorted(path.name for path in unbroken.iterdir()) == FINISHED
    assert [row["epoch"] for row in rows(unbroken)] == [1, 2]
    assert set(rows(unbroken)[0]["val_ap50"]) == set(CLASSES)
    record = read(unbroken / "baseline.json")
    tensors = load_file(unbroken / "best.safetensors")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert record["parameters"] == sum(t.numel() for n, t in tensors.items() if not n.endswith(statistics))
    assert record["megabytes"] == pytest.approx(4e-6 * sum(t.numel() for t in tensors.values()), rel=0.05)
    assert 0 < record["seconds_a_photo"] < 5
    assert record["threads"] == 1
    assert record["photos"] == 2
    text = (unbroken / "baseline.md").read_text()
    for name in ("mAP50", "mAP50-95", "AP50 bare", "AP50 covered", "parameters", "median seconds a photo on the CPU"):
        assert f"\n| {name} | " in text
    assert f"| parameters | {record['parameters']:,} |" in text
    assert read(unbroken / "config.json")["class_names"] == list(CLASSES)


def test_detections_are_scored_as_those_of_any_detector_are(
    data: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(model: nn.Module, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # The red face is found with its class. The other face is found as red, with a higher score.
        photo = next(k for k in range(len(SIDES)) if np.array_equal(pixels, stored[k]))
        boxes = np.array(boxes_of(photo), np.float32).reshape(-1, 4)
        return boxes, np.array([0.6, 0.9])[: len(boxes)], np.zeros(len(boxes), np.intp)

    stored = [np.asarray(Image.open(data / f"p{k}.png")) for k in range(len(SIDES))]
    monkeypatch.setattr(baseline_fit, "detect", fake)
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    assert call(data, out) == 0
    scores = read(out / "baseline.json")["detector"]["each_class"]
    assert [c["overall"]["ap50"] for c in scores["classes"]] == pytest.approx([0.5, 0])
    assert scores["faces"]["overall"]["ap50"] == 1
    assert "| mAP50 | 0.250 |" in (out / "baseline.md").read_text()
    images = read_dataset(data).images
    results = read_results(out / "predictions.coco.json", images, CLASSES)
    again = score_samples([results.sample(i, CLASSES) for i in images if i.image_id in ("p5", "p6")], CLASSES)
    assert again.mean.overall.ap50 == pytest.approx(0.25)
    assert again.faces.overall.ap50 == 1


BREAKS: dict[str, tuple[Any, str, int]] = {  # where, what, and in which of its calls the run is killed
    "within the first epoch": (baseline_fit, "find_faces", 1),
    "before the second state is written": (BaselineFolder, "write_epoch", 2),
    "between state and log": (BaselineFolder, "write_rows", 2),
    "before tidying": (BaselineFolder, "tidy", 1),
}


@pytest.mark.slow
@pytest.mark.usefixtures("last_is_best")
@pytest.mark.parametrize("place", BREAKS)
def test_a_killed_run_goes_on_and_ends_in_the_same_weights(
    data: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    owner, name, which = BREAKS[place]
    real, calls = getattr(owner, name), 0

    def breaking(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == which:
            raise Killed
        return real(*args)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, breaking)
        with pytest.raises(Killed):
            call(data, out)
    torch.manual_seed(99)  # nothing may hang on what was drawn elsewhere
    assert call(data, out) == 0
    assert sorted(path.name for path in out.iterdir()) == FINISHED
    assert rows(out) == rows(unbroken)
    assert (out / "best.safetensors").read_bytes() == (unbroken / "best.safetensors").read_bytes()


def test_a_finished_run_is_only_scored_on_another_split_too(
    data: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(baseline_fit, "train_epoch", fail)
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    assert call(data, out, "--split", "val") == 0
    assert read(out / "baseline.json")["photos"] == 1
    assert "split val was used in training, which flatters" in (out / "baseline.md").read_text()


@pytest.mark.slow
def test_the_best_epoch_on_validation_photos_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.2, 0.7, 0.7])  # among equals the earlier
    monkeypatch.setattr(baseline_fit, "val_scores", lambda samples, names: {"val_map50": next(values)})
    out = tmp_path / "run"
    assert call(data, out, "--epochs", "3", "--no-ema") == 0
    best = load_best(out / "best.safetensors")[1]
    assert (best.epoch, best.map50, best.class_names) == (2, 0.7, CLASSES)
    assert best_row([{"val_map50": 0.1}, {"val_map50": 0.1}])["val_map50"] == 0.1
    assert "epoch 2 of 3, with the best mAP50 on validation photos: 0.700" in (out / "baseline.md").read_text()


def copied(unbroken: Path, out: Path) -> None:
    shutil.copytree(unbroken, out)


def other_files(unbroken: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("mine")


def cascade(unbroken: Path, out: Path) -> None:
    out.mkdir()
    (out / "config.json").write_text('{"format": 1, "recipe": {}}')


def damaged(unbroken: Path, out: Path) -> None:
    out.mkdir()
    (out / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("before", "flags", "told"),
    [
        (copied, ["--lr", "0.5"], "holds a baseline with another lr (0.001, now 0.5)"),
        (copied, ["--model", "fcos_resnet50_fpn"], "holds a baseline with another model"),
        (other_files, [], "holds other files and no baseline"),
        (other_files, ["--overwrite"], "holds other files and no baseline"),
        (cascade, ["--overwrite"], "holds a run of another kind"),
        (damaged, [], "config.json: damaged"),
    ],
)
def test_another_run_is_not_touched(
    data: Path,
    unbroken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: Callable[[Path, Path], None],
    flags: list[str],
    told: str,
) -> None:
    out = tmp_path / "run"
    before(unbroken, out)
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    assert call(data, out, *flags) == 1
    assert told in one_line(capsys)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept


def test_overwrite_starts_anew(data: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    copied(unbroken, out)
    assert call(data, out, "--overwrite", "--epochs", "1", "--lr", "0.5") == 0
    assert [row["epochs"] for row in rows(out)] == [1]


def test_two_processes_do_not_train_in_one_folder(
    data: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "run"
    copied(unbroken, out)
    with lock_folder(out):
        assert call(data, out) == 1
        assert "works here; wait for it or end it" in one_line(capsys)
        assert call(data, out, "--overwrite") == 1
    assert (out / "best.safetensors").is_file()


@pytest.mark.slow
def test_a_start_that_failed_leaves_the_folder_free(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise URLError("no way")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    out = tmp_path / "run"
    assert call(data, out, "--pretrained") == 1
    error = one_line(capsys)
    assert "--pretrained: no weights for ssdlite320_mobilenet_v3_large" in error
    assert "give --weights FILE" in error
    assert call(data, out, "--epochs", "1") == 0


@pytest.mark.parametrize(
    ("sides", "told"),
    [
        (("train",) * 4 + ("val",) * 3, "no images in split 'test'"),
        (("train",) * 5 + ("test",) * 2, "splits.csv: split 'val' has no photo"),
        (("val",) * 5 + ("test",) * 2, "splits.csv: split 'train' has no photo"),
        (("train",) + ("val",) * 4 + ("test",) * 2, "only one training photo"),
        (("train",) * 4 + ("test",) * 2 + ("val",), "split 'val' has no face in its 1 photo"),
    ],
)
def test_a_split_without_faces_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sides: tuple[str, ...], told: str
) -> None:
    data = write_photos(tmp_path / "photos", sides)
    assert call(data, tmp_path / "run") == 1
    assert told in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_broken_photo_is_left_out_of_training_but_not_of_the_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_photos(tmp_path / "photos")

    def cut(name: str) -> None:
        (data / name).write_bytes((data / name).read_bytes()[:2000])

    cut("p1.png")
    assert call(data, tmp_path / "run", "--epochs", "1") == 0
    assert "p1.png: is truncated or broken" in capsys.readouterr().err
    cut("p5.png")
    assert call(data, tmp_path / "other") == 1
    assert "p5.png: is truncated or broken" in one_line(capsys)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--model", "retinanet"], "did you mean retinanet_resnet50_fpn"),
        (["--model", "maskrcnn_resnet50_fpn"], "'maskrcnn_resnet50_fpn' is not a box detector of torchvision"),
        (["--split", "all"], "--split is 'all', must be one of train, val, test"),
        (["--size", "16"], "--size is 16, must be 32 or more"),
        (["--batch-size", "1"], "--batch-size is 1, must be 2 or more"),
        (["--epochs", "0"], "--epochs is 0"),
        (["--lr", "nan"], "--lr is nan, must be above 0"),
        (["--weight-decay", "-1"], "--weight-decay is -1.0"),
        (["--threads", "-1"], "--threads is -1"),
        (["--device", "abacus"], "--device abacus: cannot be used"),
        (["--device", "meta"], "--device meta: cannot be used (neither cpu nor cuda)"),
        (["--weights", "none.pth"], "none.pth: not found"),
        (["--weights", "none.pth", "--pretrained"], "exclude each other"),
        (["--bootstrap", "-1"], "--bootstrap is -1"),
        (["--splits", "none.csv"], "none.csv: not found"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    assert call(data, tmp_path / "run", *flags) == 1
    assert told in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_reported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)
    assert call(data, tmp_path / "run") == 1
    assert "pip install '.[train]'" in one_line(capsys)
