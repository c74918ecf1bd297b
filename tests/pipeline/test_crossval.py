"""Cross-validation: figures of a detector by hand, folds kept and resumed, failures told in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import crossval
from pipeline.crossval import Score, face_figures, face_samples, false_alarms, main, markdown, summary
from stage1_faces.annotations import AnnotatedImage, read_dataset
from stage1_faces.faces import Faces
from stage1_faces.nets import build_net

FACE = (20, 20, 50, 60)


@pytest.fixture
def data(tmp_path):
    """Nine photos of noise, with a face each, as COCO."""
    root = tmp_path / "data"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(9):
        Image.fromarray(rng.integers(0, 255, (120, 240, 3), np.uint8)).save(root / f"p{i}.png")
    rows = [{"id": i, "image_id": i, "category_id": 1, "bbox": [20, 20, 30, 40]} for i in range(9)]
    images = [{"id": i, "file_name": f"p{i}.png"} for i in range(9)]
    coco = {"images": images, "categories": [{"id": 1, "name": "with_mask"}], "annotations": rows}
    (root / "_annotations.coco.json").write_text(json.dumps(coco))
    return root


class Fake:
    """Finds the face at 0.9 and something in the upper right corner at 0.4; elsewhere than there nothing."""

    def detect(self, image, *, min_face=None, min_score=None):
        width = image.shape[1]
        boxes = np.float32([FACE, (width - 30, 0, width, 30)])
        scores = np.float32([0.9, 0.4])
        keep = scores >= (min_score or 0)
        return Faces(boxes[keep], scores[keep], np.zeros((keep.sum(), 5, 2), np.float32))


def test_figures_of_a_detector(data):
    images = read_dataset(data).images
    figures = face_figures(face_samples(Fake(), images, 0.0))
    assert figures["face AP50"] == figures["face AP75"] == figures["face recall at IoU 0.5"] == 1
    assert figures["faces 24-48 px found"] == 1
    assert figures["faces <12 px found"] is None
    assert len(face_samples(Fake(), images[:1], 0.5)[0].boxes) == 1


def test_false_alarms_are_counted_in_face_free_parts_from_the_threshold_on(data):
    images = read_dataset(data).images
    assert false_alarms(Fake(), images, 0.3) == 2  # both are false there
    assert false_alarms(Fake(), images, 0.5) == 1
    everywhere = [AnnotatedImage(i.path, i.image_id, i.size, np.float32([[0, 0, 240, 120]]), ("a",)) for i in images]
    assert false_alarms(Fake(), everywhere, 0.3) is None


def test_mean_and_spread_over_folds():
    folds = [
        [Score("stock", 0.5, {"a": v, "b": None}), Score("fine-tuned", 0.4, {"a": 1.0, "b": v})] for v in (0.2, 0.4)
    ]
    table = summary(folds)
    assert table["a"]["stock"] == pytest.approx((0.3, 0.1414), abs=1e-4)
    assert table["a"]["fine-tuned"] == (1, 0)
    assert table["b"]["stock"] is None
    lines = markdown(table, 2).splitlines()
    assert lines[2:] == ["| a | 0.300 ± 0.141 | 1.000 ± 0.000 |", "| b | - | 0.300 ± 0.141 |"]


def test_a_fold_is_scored_by_both_cascades(data, tmp_path, monkeypatch):
    # Untrained nets find nothing, and so have nothing to calibrate on.
    monkeypatch.setattr(crossval, "stock_detector", Fake)
    monkeypatch.setattr("stage1_faces.run_folder.load_net", lambda run, name: build_net(name).eval())
    monkeypatch.setattr(crossval, "calibrated", lambda detector, search, images: search)
    (tmp_path / "s.csv").write_text("image_id,split\np0,val\np1,test\np2,train\n")
    images = read_dataset(data).images
    scores = crossval.score_fold(tmp_path / "run", tmp_path / "s.csv", images, images[3:5], 0.35)
    assert [s.detector for s in scores] == ["stock", "fine-tuned"]
    assert [s.figures["face AP50"] for s in scores] == [1, 0]
    assert [s.figures["false alarms per face-free part"] for s in scores] == [1, 0]
    assert scores[0].threshold == pytest.approx(0.9)  # of the best F1: the corner's 0.4 is wrong
    assert "face AP at IoU 0.35 elsewhere" in scores[1].figures
    assert "face AP at IoU 0.35 elsewhere" not in scores[0].figures  # the same in every fold: scored once


def test_folds_that_are_scored_are_not_repeated(data, tmp_path, monkeypatch, capsys):
    trained, scored = [], []

    def score_fold(run, splits, images, also, also_iou):
        scored.append(run.name)
        return [Score(name, 0.5, {"face AP50": 0.5}) for name in crossval.DETECTORS]

    monkeypatch.setattr(crossval, "_finetune", lambda args, splits, runs: trained.append(len(runs)))
    monkeypatch.setattr(crossval, "score_fold", score_fold)
    out = tmp_path / "cv"
    monkeypatch.setattr(crossval, "stock_detector", Fake)
    argv = ["--data", str(data), "--out", str(out), "--folds", "3", "--also", str(data)]
    assert main(argv) == 0
    # Each photo: the face at 0.9 is right, the corner at 0.4 wrong.
    assert "| face AP at IoU 0.35 elsewhere | 1.000 ± 0.000 | - |" in (out / "crossval.md").read_text()
    (out / "fold1.json").unlink()
    assert main(argv) == 0
    assert scored == ["fold0", "fold1", "fold2", "fold1"]
    assert trained == [3, 3]
    assert "| face AP50 | 0.500 ± 0.000 | 0.500 ± 0.000 |" in (out / "crossval.md").read_text()
    assert json.loads((out / "crossval.json").read_text())["mean_and_spread"]["face AP50"]["stock"] == [0.5, 0.0]
    assert main([*argv, "--seed", "1"]) == 1  # its folds are other ones
    assert "holds a cross-validation with another seed" in capsys.readouterr().err
    (out / "fold2.json").write_text("{")
    capsys.readouterr()
    assert main(argv) == 1
    assert "fold2.json: damaged" in capsys.readouterr().err


def test_a_fine_tuning_that_fails_is_told_with_its_log(data, tmp_path, capsys):
    out = tmp_path / "cv"
    (out / "fold0").mkdir(parents=True)
    (out / "fold0" / "strange.txt").write_text("mine")
    for fold in (1, 2):  # they end at once, too
        (out / f"fold{fold}").write_text("a file")
    assert main(["--data", str(data), "--out", str(out), "--folds", "3", "--jobs", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {Path(out) / 'fold0.log'}: fine-tuning this fold failed: ")
    assert "holds no fine-tuning" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--folds", "2"], "--folds 2: give 3 or more"),
        (["--jobs", "0"], "--jobs 0: give 1 or more"),
        (["--also-iou", "1.5"], "--also-iou is 1.5, must lie between 0.1 and 1"),
    ],
)
def test_options_out_of_range_are_refused_before_the_work(data, tmp_path, capsys, flags, told):
    assert main(["--data", str(data), "--out", str(tmp_path / "cv"), *flags]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "cv").exists()
