"""Photos of which an annotation was refused: detections on no annotated face count in no score."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.annotations import AnnotatedImage, load_dataset
from pipeline.evaluate.command import main
from pipeline.evaluate.evaluation import detect_samples
from pipeline.evaluate.face_free import counted_detections, face_free_part
from pipeline.evaluate.metrics import make_sample
from tests.helpers.fake_predictor import fake_detections
from tests.helpers.incomplete_data import LEFT, RIGHT, SIZE, write_half_refused, write_incomplete

NEAR = (10.0, 20.0, 42.0, 130.0)  # IoU 40 / 110 = 0.36 with the left face
LOOSE = (10.0, 20.0, 42.0, 180.0)  # IoU 40 / 160 = 0.25


def image(complete: bool, *boxes: tuple[float, ...]) -> AnnotatedImage:
    array = np.float32(boxes).reshape(-1, 4)
    return AnnotatedImage(Path("a.png"), "a", (400, 300), array, ("b",) * len(array), complete=complete)


def test_which_detections_count() -> None:
    found = np.float32([LEFT, NEAR, LOOSE, RIGHT])
    assert counted_detections(image(True, LEFT), found).all()
    assert counted_detections(image(False, LEFT), found).tolist() == [True, True, False, False]
    assert counted_detections(image(False), found).tolist() == [False] * 4
    # Boxes drawn by other rules match at a lower IoU: a match is never dropped.
    assert counted_detections(image(False, LEFT), found, 0.2).tolist() == [True, True, True, False]
    assert counted_detections(image(False, LEFT), found[:0]).shape == (0,)


def test_a_sample_holds_what_counts() -> None:
    found = (np.float32([RIGHT, LEFT]), np.array([0.9, 0.8]), np.array([0, 1]), np.array([[0.9, 0], [0, 0.8]]))
    whole = make_sample(image(True, LEFT), ("a", "b"), *found)
    assert (whole.scores.tolist(), whole.gt_labels.tolist()) == ([0.9, 0.8], [1])
    part = make_sample(image(False, LEFT), ("a", "b"), *found)
    assert part.boxes.tolist() == [list(LEFT)] and part.labels.tolist() == [1]
    assert part.class_scores is not None and part.class_scores.tolist() == [[0, 0.8]]
    assert make_sample(image(False, LEFT), None, *found[:3]).gt_labels.tolist() == [0]


def test_an_incomplete_photo_has_no_face_free_part() -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    assert face_free_part(pixels, image(True, LEFT)) is not None
    assert face_free_part(pixels, image(False, LEFT)) is None


class BothFaces:
    """Finds both faces of each photo, the right one with the better score."""

    bundle = SimpleNamespace(
        meta=SimpleNamespace(
            class_names=("with_mask", "without_mask"),
            thresholds={"score": 0.5},
            fusion=SimpleNamespace(unsure_margin=0.1),
        ),
        describe=lambda: {"name": "fake"},
    )

    def detect(self, image: np.ndarray, min_score: float | None = None) -> Any:
        assert image.shape == (SIZE[1], SIZE[0], 3)
        return fake_detections([LEFT, RIGHT], [[1, 0], [0, 1]], [0.8, 0.9])


def evaluated(root: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    """Score BothFaces on all photos, and return evaluation.json."""
    monkeypatch.setattr("pipeline.inference.predictor.Predictor.load", lambda *_, **__: BothFaces())
    out = root.parent / "out"
    argv = ["--data", str(root), "--split", "all", "--bootstrap", "3", "--no-pictures", "--out", str(out), *options]
    assert main(argv) == 0
    record: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return record


@pytest.mark.usefixtures("undrawn")
def test_no_metric_counts_a_false_alarm_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = evaluated(write_half_refused(tmp_path / "data"), monkeypatch)
    (ours,) = record["detectors"]
    assert (record["photos"], record["incomplete_photos"]) == (4, 2)
    assert record["faces"] == {"with_mask": 4, "without_mask": 2}
    assert ours["confusion"]["rows_true_columns_predicted"] == [[4, 0, 0], [0, 2, 0], [0, 0, 0]]
    assert (ours["errors"]["detections"], ours["errors"]["correct"]) == (6, 6)
    assert set(ours["errors"]["kinds"].values()) == {0}
    for view in ("scores", "each_class"):
        assert ours[view]["mean"]["overall"]["ap"] == ours[view]["faces"]["overall"]["ap"] == pytest.approx(1)
    assert ours["intervals"]["mAP50"]["low"] == pytest.approx(1)
    assert ours["reliability"]["found"]["count"] == 6
    assert all(b["right"] == 1 for b in ours["reliability"]["found"]["bins"])
    assert ours["unsure"][0]["found"] == 6
    notes = " ".join(record["notes"])
    assert "2 scored photos may show a face without a box" in notes
    assert "2 of 8 annotated faces refused" in notes
    assert "p1.xml" in capsys.readouterr().err
    written = json.loads((tmp_path / "out" / "predictions.coco.json").read_text())
    assert len(written["annotations"]) == 6

    # Another detector's results are scored in the same way.
    rows = [{"image_id": f"p{i}", "category_id": k, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.8 + 0.1 * k}
            for i in range(4) for k, (x1, y1, x2, y2) in enumerate((LEFT, RIGHT))]  # fmt: skip
    theirs = tmp_path / "theirs.json"
    categories = [{"id": 0, "name": "with_mask"}, {"id": 1, "name": "without_mask"}]
    theirs.write_text(json.dumps({"categories": categories, "annotations": rows}))
    ours, other = evaluated(tmp_path / "data", monkeypatch, "--predictions", str(theirs))["detectors"]
    assert other["errors"] == ours["errors"] and other["scores"] == ours["scores"]


@pytest.mark.usefixtures("undrawn")
def test_the_same_photos_without_refused_faces_count_the_false_alarms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = {f"p{i}": (("with_mask", LEFT), ("without_mask", RIGHT))[: 2 - i % 2] for i in range(4)}
    record = evaluated(write_incomplete(tmp_path / "data", faces, {}, {}), monkeypatch)
    assert record["incomplete_photos"] == 0
    assert record["detectors"][0]["errors"]["kinds"]["false_alarm"] == 2
    assert not any("without a box" in note for note in record["notes"])


def test_the_predictors_samples_are_filtered(tmp_path: Path) -> None:
    images = load_dataset(write_half_refused(tmp_path / "data"), log=lambda _: None).images
    samples, _ = detect_samples(BothFaces(), images, ("with_mask", "without_mask"))  # type: ignore[arg-type]
    assert [len(s.boxes) for s in samples] == [2, 1, 2, 1]


def test_other_spellings_are_offered_as_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.inference.predictor.Predictor.load", lambda *_, **__: BothFaces())
    root = write_incomplete(tmp_path / "data", {"a": (("mask", LEFT), ("no-mask", RIGHT))}, {}, {})
    argv = ["--data", str(root), "--split", "all", "--bootstrap", "0", "--out", str(tmp_path / "out")]
    assert main(argv) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a.png: class 'mask' is not one of with_mask, without_mask" in error
    assert error.endswith("with --rename mask=with_mask no-mask=without_mask")
    renames = error.split("with --rename ")[1].split()
    monkeypatch.setattr("pipeline.evaluate.pictures.save_figure", lambda *_: None)
    assert main([*argv, "--no-pictures", "--rename", *renames]) == 0


def test_a_split_without_faces_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_incomplete(tmp_path / "data", {"a": (("mask", LEFT),), "b": ()}, {}, {"a": "train", "b": "test"})
    argv = ["--data", str(root), "--splits", str(root / "splits.csv"), "--out", str(tmp_path / "out")]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert f"error: {root / 'splits.csv'}: split 'test' has no face in its 1 photo; choose another --split" in error
    (root / "annotations" / "a.xml").unlink()
    (root / "images" / "a.png").unlink()
    assert main(argv) == 1
    assert "no image has a face" in capsys.readouterr().err
