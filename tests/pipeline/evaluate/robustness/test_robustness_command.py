"""The command scores every change, and refuses bad options with one line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from common.images import Pixels
from pipeline.evaluate.robustness import command
from pipeline.evaluate.robustness.changes import CHANGES
from tests.helpers.planted_data import write_part

NAMES = ("with_mask", "without_mask", "mask_weared_incorrect")
BOX = (40, 30, 40, 50)  # x, y, width, height


class BrightFinder:
    """Finds the light square while it is light; below a mean of 100 it calls a bare face masked."""

    meta = SimpleNamespace(class_names=NAMES, thresholds={"score": 0.5})
    bundle = SimpleNamespace(meta=meta, describe=lambda: {"name": "fake"})

    def _probabilities(self, image: Pixels) -> np.ndarray:
        x, y, w, h = BOX
        light = image[y : y + h, x : x + w].mean()
        return np.array([[0.1, 0.9, 0.0] if light > 100 else [0.9, 0.1, 0.0]], np.float32)

    def detect(self, image: Pixels, min_score: float | None = None) -> SimpleNamespace:
        assert min_score == 0
        x, y, w, h = BOX
        boxes = np.array([(x, y, x + w, y + h)], np.float32)
        score = 0.9 if image[y : y + h, x : x + w].mean() > 60 else 0.3
        probabilities = self._probabilities(image)
        return SimpleNamespace(boxes=boxes, face_scores=np.array([score], np.float32), class_probs=probabilities)

    def classify(self, image: Pixels, boxes: np.ndarray) -> np.ndarray:
        assert boxes.shape == (1, 4)
        return self._probabilities(image)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three photos of a light bare face, two of them in the validation split."""
    data = write_part(tmp_path / "data", {f"{n}.png": (i, [("without_mask", BOX)]) for i, n in enumerate("abc")})
    for name in "abc":
        pixels = np.full((240, 320, 3), 30, np.uint8)
        x, y, w, h = BOX
        pixels[y : y + h, x : x + w] = 180
        cv2.imwrite(str(data / f"{name}.png"), pixels)
    (tmp_path / "splits.csv").write_text("image_id,split\na,val\nb,val\nc,train\n")
    monkeypatch.setattr(command.Predictor, "load", lambda *_, **__: BrightFinder())
    return ["--data", str(data), "--splits", str(tmp_path / "splits.csv"), "--out", str(tmp_path / "out")]


def test_every_change_has_a_row(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 0
    record = json.loads((tmp_path / "out" / "robustness.json").read_text())
    rows = {row["change"]: row for row in record["changes"]}
    assert list(rows) == list(CHANGES)
    whole = {"mean_ap": 1, "face_ap": 1, "found": 1, "right_label": 1, "false_alarms": 0, "crops_accuracy": 1}
    assert rows["as it is"] == {"change": "as it is", **whole}
    # 0.4 of 180 is 72: found, with the wrong label. The label's score at the right class is 0.09, which mAP counts.
    assert rows["dark (0.4)"] == {"change": "dark (0.4)", **whole, "right_label": 0, "crops_accuracy": 0}
    # 0.25 of 180 is 45: not reported, so there is no label to be right or wrong.
    very_dark = {**whole, "found": 0, "right_label": None, "crops_accuracy": 0}
    assert rows["very dark (0.25)"] == {"change": "very dark (0.25)", **very_dark}
    text = (tmp_path / "out" / "robustness.md").read_text()
    assert "2 photos with 2 faces, split val, IoU 0.5" in text and "threshold on, 0.5" in text
    assert "does not say whether it learned from these photos" in text
    assert "| very dark (0.25) | 1.000 | 1.000 | 0.000 | - | 0.000 | 0.000 |" in text
    assert "robustness.md" in capsys.readouterr().out


def test_merged_classes_and_every_second_photo(arguments: list[str], tmp_path: Path) -> None:
    merge = ("--merge", "mask_weared_incorrect=without_mask", "--photo-stride", "2", "--split", "all")
    assert command.main([*arguments, *merge]) == 0
    record = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert any(note.startswith("2 photos with 2 faces, split all") for note in record["notes"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--photo-stride", "0"], "--photo-stride is 0; use 1 or more"),
        (["--every", "2"], "--every: has a new name; use --photo-stride"),
        (["--threads", "0"], "--threads is 0; use 1 or more"),
        (["--seed", "-1"], "--seed is -1, must be 0 or more"),
        (["--iou", "1"], "--iou is 1.0, must be between 0.1 and 1"),
        (["--merge", "x"], "--merge 'x' is not of the form A=B"),
        (["--split", "tests"], "--split is 'tests', must be one of train, val, test, all"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*arguments, *more]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_photos_without_faces_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_part(tmp_path / "empty", {"d.png": (1, []), "e.png": (2, [("with_mask", BOX)])})
    assert command.main(["--data", str(data), "--split", "all", "--photo-stride", "2", *arguments[4:]]) == 1
    expected = (
        f"error: {data} has no face in its 1 photo; name photos with annotated faces, or a lower --photo-stride\n"
    )
    assert capsys.readouterr().err == expected


def test_a_photo_that_cannot_be_read_is_named_and_left_out(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "data" / "b.png"
    file.write_bytes(file.read_bytes()[:150])
    assert command.main(arguments) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"warning: {tmp_path}/data/b.png: ") and line.count("\n") == 1
    notes = json.loads((tmp_path / "out" / "robustness.json").read_text())["notes"]
    assert "left out of all scores: 1 unreadable photo" in notes
    assert any(note.startswith("1 photo with 1 face, split val") for note in notes)
