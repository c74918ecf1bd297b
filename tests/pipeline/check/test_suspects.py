"""Doubtful labels: the rule on made probabilities, and the whole command with made models."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.annotations import ReadingArgs, read_dataset
from common.annotations.types import fingerprint
from common.boxes import Boxes
from common.sources.doubtful import read_doubtful, without_doubtful
from pipeline.check.command import main
from pipeline.check.suspects import predictions as predictions_module
from pipeline.check.suspects.rule import box_overlaps, class_thresholds, doubted_classes
from pipeline.inference.predictor import ClassifierOutput
from tests.helpers.planted_data import FACE, write_part

CLASSES = ("without_mask", "with_mask", "mask_weared_incorrect")  # not in the dataset's order


class MadeModel:
    """Says with_mask with 0.9 of faces on the left, else without_mask, and has one box around the left ones."""

    provenance: object = {}

    def __init__(self) -> None:
        fusion = SimpleNamespace(class_probs=lambda probs: probs)
        meta = SimpleNamespace(class_names=CLASSES, fusion=fusion, provenance=self.provenance)
        self.bundle = SimpleNamespace(meta=meta)

    def run_classifier(self, images: Sequence[np.ndarray], boxes: Sequence[Boxes]) -> list[ClassifierOutput]:
        masked, bare = (0.06, 0.9, 0.04), (0.9, 0.06, 0.04)
        made = [[bare if box[0] > 140 else masked for box in each] for each in boxes]
        return [ClassifierOutput(np.array(rows, np.float32).reshape(-1, 3), None, None) for rows in made]

    def detect(self, image: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(boxes=np.array([[30, 30, 130, 140]], np.float32))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return photos of faces with a mask on the left and without on the right; p4 is on the left, labelled without."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pipeline.check"])
    monkeypatch.setattr(predictions_module.Predictor, "load", lambda path: MadeModel())
    labels = ["with_mask"] * 4 + ["without_mask"]
    faces = {f"p{i}.png": (i, [(label, FACE)]) for i, label in enumerate(labels)}
    faces |= {f"p{i}.png": (i, [("without_mask", (150, 60, 40, 50))]) for i in (5, 6)}
    return write_part(tmp_path / "data", faces)


def check(data: Path, *options: str) -> int:
    return main(["--data", str(data), "--no-page", "--skip-duplicates", *options])


def rows() -> list[dict[str, str]]:
    with Path("suspects/suspects.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_thresholds_are_the_mean_self_confidence() -> None:
    probs = np.array([[0.8, 0.2, 0.0], [0.6, 0.4, 0.0], [0.1, 0.9, 0.0]], np.float32)
    # No face has the third label: it gets the mean of the others.
    assert class_thresholds(probs, np.array([0, 0, 1])) == pytest.approx([0.7, 0.9, 0.8])


@pytest.mark.parametrize(
    ("probs", "label", "expected"),
    [
        ([0.1, 0.9, 0.0], 0, 1),  # over the other's threshold
        ([0.3, 0.7, 0.0], 0, -1),  # the other is not sure enough
        ([0.1, 0.9, 0.0], 1, -1),  # agrees
        ([0.6, 0.0, 0.4], 0, -1),  # over a low threshold, but less probable than the label
        ([0.4, 0.0, 0.6], 0, 2),
    ],
)
def test_a_label_is_doubted_by_a_confident_other_class(probs: list[float], label: int, expected: int) -> None:
    found = doubted_classes(np.array([probs], np.float32), np.array([label]), np.array([0.7, 0.8, 0.3]))
    assert found.tolist() == [expected]


def test_a_box_inside_a_face_is_a_part_and_one_over_it_is_not() -> None:
    boxes = np.array([[30, 50, 70, 80], [0, 0, 100, 90], [300, 300, 320, 320]], np.float32)
    overlaps, parts = box_overlaps(boxes, np.array([[0, 0, 100, 100]], np.float32))
    assert overlaps == pytest.approx([0.12, 0.9, 0])
    assert parts.tolist() == [True, False, False]  # a face that is not found is not doubted


def test_the_wrong_label_is_listed_and_can_be_left_out(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(data, "--suspects", "--bundle", "a", "b") == 0
    (row,) = rows()
    assert (row["image_id"], row["label"], row["action"], row["predicted"]) == (
        "p4",
        *("without_mask", "class"),
        "with_mask",
    )
    assert (row["predicted_prob"], row["label_prob"], row["agreeing"]) == ("0.9000", "0.0600", "2")
    assert len(list(Path("suspects").glob("sheet-*.png"))) == 1
    assert "Doubtful labels: 1 face" in capsys.readouterr().out
    image = read_dataset(data, ReadingArgs()).images[4]
    file = Path("suspects/suspects.csv")
    assert without_doubtful(image, read_doubtful(file)["p4"], file).class_known.tolist() == [False]
    before = file.read_bytes()
    own, earlier = Path("suspects/sheet-music.png"), Path("suspects/sheet-09-hat-hat-01.png")
    for sheet in (own, earlier):
        sheet.touch()
    check(data, "--suspects", "--bundle", "a", "b")
    assert file.read_bytes() == before
    assert own.exists() and not earlier.exists()


@pytest.mark.parametrize("side", [1, 1.3, 2])
def test_a_tiny_face_can_be_left_out(data: Path, tmp_path: Path, side: float) -> None:
    tiny = ("without_mask", (70.16, 80.25, side, side))
    photos = {f"p{i}.png": (i, [("with_mask", FACE)]) for i in range(4)}
    photos |= {"t.png": (4, [("with_mask", FACE), tiny]), "u.png": (5, [("without_mask", (150, 60, 40, 50))])}
    write_part(tmp_path / "tiny", photos)
    assert check(tmp_path / "tiny", "--suspects", "--bundle", "a") == 0
    (row,) = rows()
    assert (row["image_id"], row["label"]) == ("t", "without_mask")
    image = next(i for i in read_dataset(tmp_path / "tiny", ReadingArgs()).images if i.image_id == "t")
    file = Path("suspects/suspects.csv")
    assert without_doubtful(image, read_doubtful(file)["t"], file).class_known.tolist() == [True, False]


def folds(folder: Path, tests: Sequence[Sequence[str]]) -> Path:
    """Write what pipeline.crossval leaves: each fold's splits and a bundle."""
    names = [name for part in tests for name in part]
    for k, part in enumerate(tests):
        (folder / f"fold{k}" / "bundle").mkdir(parents=True)
        (folder / f"fold{k}" / "bundle" / "bundle.json").touch()
        rows = [f"{name},{'test' if name in part else 'train'}" for name in names]
        (folder / f"splits.fold{k}.csv").write_text("\n".join(["image_id,split", *rows, ""]))
    return folder


class OppositeModel(MadeModel):
    """Takes each face for the other class."""

    def run_classifier(self, images: Sequence[np.ndarray], boxes: Sequence[Boxes]) -> list[ClassifierOutput]:
        made = super().run_classifier(images, boxes)
        return [ClassifierOutput(output.class_probs[:, [1, 0, 2]], None, None) for output in made]


@pytest.mark.parametrize("other", ["fold0", "fold1"])
def test_each_photo_is_judged_by_the_fold_that_tests_it(
    data: Path, other: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = folds(Path("runs"), (["p0", "p1", "p5"], ["p3", "p4", "p6"]))

    def load(path: Path) -> MadeModel:
        return OppositeModel() if path.parent.name == other else MadeModel()

    monkeypatch.setattr(predictions_module.Predictor, "load", load)
    assert check(data, "--suspects", "--crossval", str(runs)) == 0
    # The opposite model contradicts all right labels of its part, and agrees with the wrong one.
    expected = {"p4", "p0", "p1", "p5"} if other == "fold0" else {"p3", "p6"}
    assert {row["image_id"] for row in rows()} == expected
    assert "warning: photos in no fold's test part of runs, not doubted: 1\n" in capsys.readouterr().err  # p2


def test_folds_that_cannot_be_used(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in (
        (Path("none"), "none: has no splits.fold0.csv"),
        (folds(Path("others"), (["q0"], ["q1"])), "others: no photo of --data is in a fold's test part"),
        (folds(Path("killed"), (["p0"], ["p1"])), "killed/fold1/bundle: not found; run"),
    ):
        (Path("killed/fold1/bundle/bundle.json")).unlink(missing_ok=True)
        assert check(data, "--suspects", "--crossval", str(folder)) == 1
        assert message in capsys.readouterr().err
    Path("killed/fold1.json").touch()  # scored; its folder was removed to save room
    assert check(data, "--suspects", "--crossval", "killed") == 1
    assert "not found; remove killed/fold1.json and run" in capsys.readouterr().err


def test_only_the_given_labels_are_doubted(data: Path) -> None:
    assert check(data, "--suspects", "--bundle", "a", "--suspect-labels", "with_mask") == 0
    assert rows() == []


def test_boxes_of_a_part_of_a_face(data: Path) -> None:
    assert check(data, "--suspects", "--bundle", "a", "--suspect-boxes") == 0
    assert [(row["action"], row["detector_iou"]) for row in rows()] == [("face", "0.18")] * 5


def test_a_bundle_that_learned_from_the_data_is_named(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = fingerprint(read_dataset(data, ReadingArgs()).images)
    monkeypatch.setattr(MadeModel, "provenance", {"stage1": {"data": own}})
    check(data, "--suspects", "--bundle", "a")
    assert "warning: a: learned from this dataset" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suspects"], "needs --bundle"),
        (["--suspects", "--bundle", "a", "--crossval", "runs"], "give one, --bundle"),
        (["--bundle", "a"], "need --suspects; add it"),
        (["--suspects", "--bundle", "a", "--suspect-labels", "hat"], "--suspect-labels hat: the dataset has no"),
    ],
)
def test_bad_options_are_one_line(
    data: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(data, *options) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not Path("suspects").exists()
