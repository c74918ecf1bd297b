"""pipeline.evaluate on several datasets: each on its own, with its own IoU and classes, never pooled."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.annotations import read_dataset
from common.annotations.types import fingerprint
from pipeline.evaluate.command import main
from pipeline.evaluate.scoring.learned import LEARNED_NOTES
from tests.helpers.planted_data import SIZE, Face, picture, write_part

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
FACE, WIDE = (60, 60, 40, 50), (60, 60, 80, 50)  # x, y, width, height; their IoU is 0.5
NARROW = (60, 60, 16, 50)  # IoU 0.4 with FACE


def found(*rows: tuple[tuple[float, float, float, float], float, int]) -> SimpleNamespace:
    """Return detections from rows of a box (x, y, width, height), a face score, and a certain class."""
    boxes = [(x, y, x + w, y + h) for (x, y, w, h), _, _ in rows]
    return SimpleNamespace(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        face_scores=np.array([score for _, score, _ in rows], np.float32),
        class_probs=np.eye(3, dtype=np.float32)[[k for _, _, k in rows]].reshape(-1, 3),
    )


@dataclass
class PictureBook:
    """A predictor that knows the pictures by their seed, and gives every annotated box the class `given`."""

    answers: dict[int, SimpleNamespace]  # by the seed of the picture
    given: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def bundle(self) -> SimpleNamespace:
        fusion = SimpleNamespace(unsure_margin=0.4)
        meta = SimpleNamespace(class_names=CLASSES, thresholds={"score": 0.5}, fusion=fusion)
        return SimpleNamespace(meta=meta, describe=lambda: {"name": "book", "provenance": self.provenance})

    def detect(self, image: np.ndarray, min_score: float | None = None) -> SimpleNamespace:
        seed = next(s for s in range(30) if (np.asarray(picture(s)) == image).all())
        answer = self.answers.get(seed, found())
        kept = answer.face_scores >= (min_score or 0)
        return SimpleNamespace(**{name: values[kept] for name, values in vars(answer).items()})

    def classify(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        assert image.shape == (SIZE[1], SIZE[0], 3)
        return np.tile(np.eye(3, dtype=np.float32)[self.given], (len(boxes), 1))


BOOK = PictureBook(
    {
        1: found((FACE, 0.9, 0)),  # a hit
        2: found((FACE, 0.8, 1)),  # a hit
        3: found((NARROW, 0.9, 2)),  # a hit at IoU 0.35, with the name of another class
        21: found((FACE, 0.6, 0), (WIDE, 0.3, 0)),  # one false alarm at 0.5, two at 0.3
    }
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three folders: main (2 photos), webcam (2 photos, two classes), empty (4 photos without faces)."""
    with_mask: Face = ("with_mask", FACE)
    write_part(tmp_path / "main", {"a.png": (1, [with_mask]), "b.png": (2, [("without_mask", FACE)])})
    write_part(tmp_path / "webcam", {"c.png": (3, [("without_mask", FACE)]), "d.png": (4, [with_mask])})
    (tmp_path / "empty/deep").mkdir(parents=True)
    for seed, name in ((20, "e.png"), (21, "f.png"), (22, "g.png"), (23, "deep/h.png")):
        picture(seed).save(tmp_path / "empty" / name)
    monkeypatch.setattr("pipeline.evaluate.command.Predictor.load", lambda *_, **__: BOOK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*options: str, code: int = 0) -> dict[str, Any]:
    """Score main and webcam, and return evaluation.json; `code` is the expected exit code."""
    argv = ["--data", "main", "webcam", "--split", "all", "--bootstrap", "20", "--no-pictures", "--out", "out"]
    assert main([*argv, *options]) == code
    record: dict[str, Any] = json.loads(Path("out/evaluation.json").read_text())
    return record


@pytest.mark.usefixtures("root", "undrawn")
def test_datasets_are_scored_each_on_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    record = evaluate()
    first, second = record["sources"]["main"], record["sources"]["webcam"]
    assert list(record["sources"]) == ["main", "webcam"] and record["face_free"] == {}
    assert first["summary"]["mAP"] == {"value": 1, "low": 1, "high": 1}
    # At IoU 0.5 nothing is found in webcam. Main's faces do not change that.
    assert second["summary"]["mAP"]["value"] == second["summary"]["face_AP"]["value"] == 0
    assert first["photos"] == second["photos"] == 2 and first["iou"] == 0.5
    # Every crop gets with_mask: one of two is right; F1 is 2/3 and 0.
    assert second["summary"]["crop_accuracy"]["value"] == 0.5
    assert second["summary"]["crop_macro_f1"]["value"] == pytest.approx(1 / 3)
    slices = {(s["by"], s["name"]): s for s in first["detectors"][0]["slices"]}
    assert slices["class", "with_mask"]["found"] == 1
    shown = capsys.readouterr().out
    assert "By source" in shown and "Headline" not in shown
    text = Path("out/evaluation.md").read_text()
    assert text.count("| webcam | 2 | 2 | 2 | 0.5 | 0.000") == 1
    assert "# main\n" in text and "# webcam\n" in text and text.count("## ours: errors by stage") == 2
    assert Path("out/sources.png").is_file() and Path("out/webcam/pr_curves.png").is_file()


@pytest.mark.usefixtures("root", "undrawn")
def test_iou_and_merge_of_one_dataset() -> None:
    options = ("--match-iou", "webcam=0.35", "--merge", "webcam:mask_weared_incorrect=without_mask")
    record = evaluate(*options)
    second = record["sources"]["webcam"]
    # without_mask: the narrow box hits. with_mask: nothing found.
    assert (second["iou"], second["summary"]["mAP"]["value"]) == (0.35, 0.5)
    assert second["summary"]["face_recall"]["value"] == 0.5
    assert second["summary"]["calibration_error"]["value"] == pytest.approx(0.1)  # one detection, 0.9 and right
    assert second["faces"] == {"with_mask": 1, "without_mask": 1}
    assert record["sources"]["main"]["faces"] == {"with_mask": 1, "without_mask": 1, "mask_weared_incorrect": 0}
    without_merge = evaluate("--match-iou", "webcam=0.35")["sources"]["webcam"]["summary"]
    assert (without_merge["mAP"]["value"], without_merge["face_AP"]["value"]) == (0, pytest.approx(51 / 101))


@pytest.mark.usefixtures("undrawn")
def test_photos_without_faces(root: Path) -> None:
    (root / "empty/broken.jpg").write_bytes(b"no picture")
    (score,) = evaluate("--face-free", "empty", code=1)["face_free"].values()
    assert (score["photos"], score["false_alarms"], score["photos_with_one"], score["threshold"]) == (4, 1, 1, 0.5)
    assert score["per_photo"]["value"] == 0.25 and 0 <= score["per_photo"]["low"] < 0.25 < score["per_photo"]["high"]
    assert score["unreadable"][0].startswith("broken.jpg: ")
    assert "| empty | 4 | 0.5 | 1 | 1 | 0.250 [" in Path("out/evaluation.md").read_text()
    (root / "empty/broken.jpg").unlink()
    (score,) = evaluate("--face-free", "empty", "--score-threshold", "0.3")["face_free"].values()
    assert (score["false_alarms"], score["photos_with_one"], score["per_photo"]["value"]) == (2, 1, 0.5)


@pytest.mark.usefixtures("undrawn")
def test_the_file_of_sources_names_classes_and_does_not_flatter(root: Path) -> None:
    trust = "webcam: {classes: [with_mask], background: false, left_out: doubtful.csv}\nempty: {face_free: true}\n"
    (root / "sources.yaml").write_text(trust)
    (root / "doubtful.csv").write_text("image_id,label,x1,y1,x2,y2,action\nc,without_mask,60,60,100,110,face\n")
    argv = ["--data", "main", "webcam", "empty", "--sources", "sources.yaml", "--split", "all", "--no-pictures"]
    assert main([*argv, "--bootstrap", "0", "--out", "out"]) == 0
    record = json.loads(Path("out/evaluation.json").read_text())
    second = record["sources"]["webcam"]
    assert list(record["face_free"]) == ["empty"]
    assert second["faces"]["without_mask"] == 1 and second["incomplete_photos"] == 0  # scored as annotated
    assert second["summary"]["crop_accuracy"]["value"] == 1  # of the one crop whose label is trusted
    assert any("without_mask are not trusted" in note for note in second["notes"])
    assert any("counts as a false alarm" in note for note in second["notes"])


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("record", ["names", "fingerprint", "other names", "nothing"])
def test_a_bundle_that_learned_from_the_only_dataset_is_warned_of(
    root: Path, record: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance = {
        "names": {"stage1": {"sources": ["main"]}},
        "fingerprint": {"stage1": {"data": fingerprint(read_dataset(root / "main").images)}},
        "other names": {"stage2": {"sources": ["webcam"]}},
        "nothing": {},
    }[record]
    book = PictureBook(BOOK.answers, provenance=provenance)
    monkeypatch.setattr("pipeline.evaluate.command.Predictor.load", lambda *_, **__: book)
    assert main(["--data", "main", "--split", "all", "--bootstrap", "0", "--out", "out"]) == 0
    learned = {"names": "yes", "fingerprint": "yes", "other names": "no", "nothing": "not recorded"}[record]
    assert json.loads(Path("out/evaluation.json").read_text())["learned_from"] == learned
    error = capsys.readouterr().err
    assert error == ("" if learned != "yes" else f"warning: main: {LEARNED_NOTES['yes']}\n")
    assert LEARNED_NOTES[learned] in Path("out/evaluation.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_first_dataset_is_split_and_the_report_says_what_was_learned_from(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "splits.csv").write_text("image_id,split\na,test\nb,train\nwebcam/c,train\n")
    options = ("--split", "test", "--splits", "splits.csv")
    record = evaluate(*options)
    first, second = record["sources"]["main"], record["sources"]["webcam"]
    assert (first["photos"], second["photos"]) == (1, 2)
    assert (first["learned_from"], second["learned_from"]) == ("not recorded", "yes")
    assert any("all photos are scored" in note for note in second["notes"])
    learned = PictureBook(BOOK.answers, provenance={"stage1": {"sources": ["main"]}})
    monkeypatch.setattr("pipeline.evaluate.command.Predictor.load", lambda *_, **__: learned)
    record = evaluate()
    assert [s["learned_from"] for s in record["sources"].values()] == ["yes", "no"]
    assert "Sources learned from" not in Path("out/evaluation.md").read_text()  # names alone
    # As pipeline.train_all makes it of several datasets.
    facts = {"photos": 3, "faces": 5, "class_counts": {"with_mask": 4}, "class_unknown": 1, "background": False}
    stage1 = {"sources": {"webcam": {**facts, "edges": "offset", "share": 0.25}, "empty": {"photos": 9, "faces": 0}}}
    stage2 = {"mean_of": [{}], "sources": {"webcam": {"faces": 4, "false_alarms": 2, "edges": "offset"}}}
    learned = PictureBook(BOOK.answers, provenance={"stage1": stage1, "stage2": stage2})
    monkeypatch.setattr("pipeline.evaluate.command.Predictor.load", lambda *_, **__: learned)
    record = evaluate("--face-free", "empty")
    assert [s["learned_from"] for s in record["sources"].values()] == ["no", "yes"]
    assert record["face_free"]["empty"]["learned_from"] == "yes"
    text = Path("out/evaluation.md").read_text()
    assert "| webcam | 3 | 5 | 4 with_mask, 1 of no known class | offset | no | 0.25 | 4 + 2 |" in text
    assert "| empty | 9 | 0 | - | - | - | - | - |" in text
    argv = ["--data", "main", "--split", "all", "--bootstrap", "0", "--no-pictures", "--out", "one"]
    assert main(argv) == 0
    assert "| webcam | 3 | 5 | 4 with_mask, 1 of no known class |" in Path("one/evaluation.md").read_text()


@pytest.mark.usefixtures("root", "undrawn")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--match-iou", "webcam"), "--match-iou 'webcam' is not of the form NAME=0.35"),
        (("--match-iou", "cam=0.4"), "--match-iou 'cam=0.4': no dataset is named 'cam'; use main, webcam"),
        (("--match-iou", "webcam=2"), "2 must be between 0.1 and 1"),
        (("--merge", "cam:a=b"), "--merge 'cam:a=b': no dataset is named 'cam'"),
        (("--merge", "webcam:with_mask"), "form A=B"),
        (("--face-free", "nowhere"), "nowhere: is not a folder; check --face-free"),
        (("--face-free", "main"), "--face-free: 'main' is the name of another folder"),
        (("--predictions", "x.json"), "--predictions: are scored on one dataset at a time"),
        (("--split", "test"), "give --splits FILE"),
        (("--sources", "none.yaml"), "none.yaml: does not exist"),
        (("--out", "webcam/out"), "webcam/out: is in webcam"),
    ],
)
def test_bad_options_are_one_clear_line(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", "main", "webcam", "--split", "all", "--bootstrap", "0", "--no-pictures", "--out", "out"]
    assert main([*argv, *options]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not Path("out/evaluation.json").exists()


def test_a_folder_without_a_readable_photo_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "void").mkdir()
    argv = ["--data", "main", "--face-free", "void", "--split", "all", "--no-pictures", "--out", "out"]
    assert main([*argv, "--bootstrap", "0"]) == 1
    output = capsys.readouterr()
    assert output.err == "error: void: holds no photo; check the folder\n" and not output.out  # before any scoring
    (root / "void/bad.jpg").write_bytes(b"no photo")
    assert main([*argv, "--bootstrap", "0"]) == 1
    assert "void: holds no photo that can be read" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("root")
def test_the_pictures_are_drawn() -> None:
    evaluate()
    with Image.open("out/sources.png") as image:
        assert image.size[0] > image.size[1]
