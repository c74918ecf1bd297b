"""Cross-validation: a detector's metrics by hand, folds kept and resumed, failures in one line."""

import json
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from common.annotations import MASK_CLASSES, AnnotatedImage, read_dataset
from common.errors import UserError
from common.splits import read_splits
from pipeline.data import split
from pipeline.data.duplicates import Duplicates
from pipeline.evaluate.metrics import Sample
from pipeline.training import crossval, fold_scoring
from pipeline.training.crossval import main
from pipeline.training.fold_scoring import (
    CASCADES,
    FALSE_ALARMS,
    PIPELINE,
    DetectorScore,
    ExternalData,
    face_metrics,
    face_samples,
    false_alarms,
    pipeline_metrics,
    read_samples,
    score_fold,
    write_fold,
)
from pipeline.training.fold_tables import fold_table, pooled_table, summarize_folds
from pipeline.training.plan import RECIPE_EXPERIMENTS, TrainingPlan
from pipeline.training.steps import TrainingStep
from stage1_faces.faces import Faces
from tests.helpers.fake_predictor import fake_detections

FACE = (20, 20, 50, 60)


@pytest.fixture
def data(tmp_path):
    """Write nine photos of noise, each with a face, as COCO; from p5 on it is of the second class."""
    root = tmp_path / "data"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(9):
        Image.fromarray(rng.integers(0, 255, (120, 240, 3), np.uint8)).save(root / f"p{i}.png")
    rows = [{"id": i, "image_id": i, "category_id": i // 5, "bbox": [20, 20, 30, 40]} for i in range(9)]
    images = [{"id": i, "file_name": f"p{i}.png"} for i in range(9)]
    categories = [{"id": 0, "name": "with_mask"}, {"id": 1, "name": "mask_weared_incorrect"}]
    coco = {"images": images, "categories": categories, "annotations": rows}
    (root / "_annotations.coco.json").write_text(json.dumps(coco))
    return root


class FoldDetector:
    """Finds the face with score 0.9, and a false alarm in the upper right corner with 0.4."""

    def detect(self, image, *, min_face=None, min_score=None):
        width = image.shape[1]
        boxes = np.float32([FACE, (width - 30, 0, width, 30)])
        scores = np.float32([0.9, 0.4])
        keep = scores >= (min_score or 0)
        return Faces(boxes[keep], scores[keep], np.zeros((keep.sum(), 5, 2), np.float32))


def test_metrics_of_a_detector(data):
    images = read_dataset(data).images
    metrics = face_metrics(face_samples(FoldDetector(), images, 0.0))
    assert metrics["face AP50"] == metrics["face AP75"] == metrics["face recall at IoU 0.5"] == 1
    assert metrics["faces 24-48 px found"] == 1
    assert metrics["faces <12 px found"] is None
    assert len(face_samples(FoldDetector(), images[:1], 0.5)[0].boxes) == 1


def test_false_alarms_are_counted_in_face_free_parts_from_the_threshold_on(data):
    images = read_dataset(data).images
    assert false_alarms(FoldDetector(), images, 0.3) == 2  # both detections are false there
    assert false_alarms(FoldDetector(), images, 0.5) == 1
    everywhere = [AnnotatedImage(i.path, i.image_id, i.size, np.float32([[0, 0, 240, 120]]), ("a",)) for i in images]
    assert false_alarms(FoldDetector(), everywhere, 0.3) is None


def test_mean_and_spread_over_folds():
    folds = [
        [DetectorScore("stock", 0.5, {"a": v, "b": None}), DetectorScore("fine-tuned", 0.4, {"a": 1.0, "b": v})]
        for v in (0.2, 0.4)
    ]
    table = summarize_folds(folds)
    assert table["a"]["stock"] == pytest.approx((0.3, 0.1414), abs=1e-4)
    assert table["a"]["fine-tuned"] == (1, 0)
    assert table["b"]["stock"] is None
    lines = fold_table(table, 2).splitlines()
    assert lines[2:] == ["| a | 0.300 ± 0.141 | 1.000 ± 0.000 |", "| b | - | 0.300 ± 0.141 |"]
    assert fold_table(table, 2, ("whole pipeline",)).splitlines()[2:] == []


def boxed(*boxes):
    return np.array(boxes, np.float32).reshape(-1, 4)


# Two faces, both found. The second, of class b, has the label a, with b a close second.
LABELS = ("a", "b")
PAIR = [
    Sample("1", boxed(FACE), [0], boxed(FACE), [0.6], [0], np.array([[0.6, 0.3]])),
    Sample("2", boxed(FACE), [1], boxed(FACE), [0.5], [0], np.array([[0.5, 0.4]])),
]


def test_metrics_of_the_whole_pipeline():
    # As a: 0.6 right, then 0.5 wrong. As b: 0.4 right, then 0.3 wrong. With one label per face, no face has label b.
    assert pipeline_metrics(PAIR, LABELS) == pytest.approx(
        {
            "mAP50": 1,
            "mAP50-95": 1,
            "AP50 a": 1,
            "AP50 b": 1,
            "mAP50, one label per face": 0.5,
            "mAP50-95, one label per face": 0.5,
            "face AP50 with stage 2's face score": 1,
            "face AP, IoU 0.50-0.95, with stage 2's face score": 1,
            "expected calibration error": 0.45,  # 0.6 is right, 0.5 is wrong: (0.4 + 0.5) / 2
        }
    )


def test_pooled_metrics_have_intervals_over_photos():
    lines = pooled_table(PAIR, LABELS).splitlines()
    assert "| mAP50 | 1.000 | 1.000-1.000 |" in lines
    # A resample has the first photo alone, the second alone, or both: 1, 0, 0.5.
    assert "| mAP50, one label | 0.500 | 0.000-1.000 |" in lines
    assert "| AP50/b, one label | 0.000 | 0.000-0.000 |" in lines
    assert lines[-1] == "| expected calibration error | 0.450 | |"
    assert pooled_table([Sample("1", boxed(FACE), [0], boxed(), [], [])], LABELS).splitlines()[-1].endswith("| - | |")


class FoldPredictor:
    """Finds what FoldDetector does; each box is 0.7 with_mask, 0.2 without_mask, 0.1 mask_weared_incorrect."""

    class bundle:  # noqa: N801  # as the predictor's attribute
        class meta:  # noqa: N801
            class_names = MASK_CLASSES
            score_threshold = 0.5
            metrics = MappingProxyType({"val_calibration_error": {"before": 0.2, "after": 0.1}})

        detector = FoldDetector

    @classmethod
    def load(cls, path):
        assert path.name == "bundle"
        return cls()

    def detect(self, image, min_score=None):
        found = FoldDetector().detect(image, min_score=min_score)
        return fake_detections(found.boxes, face_scores=found.scores)

    def classify(self, image, boxes):
        return np.tile(np.float32([0.2, 0.7, 0.1]), (len(boxes), 1))


def test_a_fold_is_scored_by_both_cascades_and_the_whole_pipeline(data, tmp_path, monkeypatch):
    monkeypatch.setattr(fold_scoring, "stock_detector", FoldDetector)
    monkeypatch.setattr(fold_scoring, "Predictor", FoldPredictor)
    (tmp_path / "s.csv").write_text("image_id,split\np0,val\np1,test\np2,train\n")
    images = read_dataset(data).images
    plan = TrainingPlan((data,), tmp_path / "s.csv", tmp_path / "fold0")
    external = ExternalData(0.35, images[3:5], {"mask_weared_incorrect": "without_mask"})
    face_free = {f"empty{k}": data / f"p{k}.png" for k in range(3)}
    (tmp_path / "s.csv").write_text((tmp_path / "s.csv").read_text() + "empty2,train\n")
    scores, samples = score_fold(plan, images, external, face_free)
    assert [(s.detector, s.threshold) for s in scores] == [
        ("stock", pytest.approx(0.9)),  # of the best F1: the corner's 0.4 is wrong
        ("fine-tuned", pytest.approx(0.9)),
        ("whole pipeline", 0.5),
    ]
    stock, tuned, whole = (s.figures for s in scores)
    assert (stock["face AP50"], stock["false alarms per face-free part"]) == (1, 1)
    assert (tuned["face AP50"], tuned["face AP at IoU 0.35 on external photos"]) == (1, 1)
    assert "face AP at IoU 0.35 on external photos" not in stock  # scored once for all folds
    assert (whole["mAP50"], whole["AP50 with_mask"], whole["AP50 without_mask"]) == (1, 1, None)
    assert whole["expected calibration error"] == pytest.approx(0.325)  # 0.63 is right, 0.28 wrong: (0.37 + 0.28) / 2
    assert whole[FALSE_ALARMS] == 2  # on two photos that were not learned from, two each: no threshold is asked for
    assert scores[2].calibration == {"before": 0.2, "after": 0.1}
    assert (whole["crop accuracy"], whole["crop macro-F1"]) == (0, 0)  # every annotated box is called without_mask
    assert (
        whole["mAP at IoU 0.35 on external photos"]
        == whole["mAP at IoU 0.35 on external photos, one label per face"]
        == 1
    )
    assert [s.image_id for s in samples] == ["p1"]
    assert samples[0].class_scores == pytest.approx(np.array([[0.63, 0.18, 0.09], [0.28, 0.08, 0.04]]))


def test_detections_are_kept_in_a_file(tmp_path):
    empty = Sample("none", boxed(), [], boxed(), [], [], np.zeros((0, 2)))
    write_fold(tmp_path / "fold0.json", tmp_path / "fold0.samples.json", [], [*PAIR, empty])
    read = read_samples(tmp_path / "fold0.samples.json", 2)
    for before, after in zip([*PAIR, empty], read, strict=True):
        for name, value in vars(before).items():
            assert np.array_equal(getattr(after, name), value), name
            assert np.shape(getattr(after, name)) == np.shape(value), name
    (tmp_path / "fold0.samples.json").write_text('[{"image_id": "1"}]')
    with pytest.raises(UserError, match=r"fold0\.samples\.json: damaged or missing .*; remove fold0\.json to score"):
        read_samples(tmp_path / "fold0.samples.json", 2)


@pytest.fixture
def folds(monkeypatch):
    """Replace training and scoring: return the names of the folds trained and scored."""
    trained, scored, seen_empty = [], [], []

    def fake_score_fold(plan, images, external, face_free):
        scored.append(plan.folder.name)
        seen_empty[:] = face_free
        own = set(read_splits(plan.splits).items())
        test = [image for image in images if (image.image_id, "test") in own]
        samples = [Sample(i.image_id, i.boxes, [0], i.boxes, [0.75], [0], np.array([[0.75, 0, 0]])) for i in test]
        whole = pipeline_metrics(samples, MASK_CLASSES)
        cascades = [DetectorScore(name, 0.5, {"face AP50": 0.5}) for name in CASCADES]
        return [*cascades, DetectorScore(PIPELINE, 0.5, whole, {"before": 0.1, "after": None})], samples

    def run_parallel(works, jobs, log, finished):
        trained.append([(folder.name, len(steps)) for folder, steps in works])
        for folder, _ in works:
            finished(folder)

    monkeypatch.setattr(crossval, "run_parallel", run_parallel)
    monkeypatch.setattr(crossval, "score_fold", fake_score_fold)
    monkeypatch.setattr(fold_scoring, "stock_detector", FoldDetector)
    return trained, scored, seen_empty


def test_photos_without_faces_are_read_before_the_work(data, tmp_path, folds, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    argv = ["--data", str(data), "--out", str(tmp_path / "cv"), "--folds", "3", "--face-free", str(empty)]
    assert main(argv) == 1
    assert f"--face-free {empty}: holds no photos; check the folder" in capsys.readouterr().err
    (empty / "a.jpg").write_bytes(b"no photo")
    Image.new("RGB", (40, 40)).save(empty / "b.png")
    assert main(argv) == 0
    assert "a.jpg: " in (said := capsys.readouterr().out) and "no false alarms are counted there" in said
    assert folds[2] == ["empty/b.png"]
    record = json.loads((tmp_path / "cv" / "crossval_config.json").read_text())
    assert record["face_free"] == ["empty/b.png"]  # the folder may be elsewhere when the command resumes
    assert main([*argv, "--leave-out-source", "data"]) == 1
    assert "--face-free: is for folds" in capsys.readouterr().err
    other = tmp_path / "other" / "empty"
    other.mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(other / "b.png")
    assert main([*argv, str(other)]) == 1
    assert "--face-free: 'empty' is the name of another folder" in capsys.readouterr().err


def test_folds_that_are_scored_are_not_repeated(data, tmp_path, folds, capsys):
    trained, scored, _ = folds
    out = tmp_path / "cv"
    argv = ["--data", str(data), "--out", str(out), "--folds", "3", "--external-data", str(data)]
    assert main(argv) == 0
    text = (out / "crossval.md").read_text()
    # Each photo: the face at 0.9 is right, the corner at 0.4 wrong.
    assert "| face AP at IoU 0.35 on external photos | 1.000 ± 0.000 | - |" in text
    assert "| face AP50 | 0.500 ± 0.000 | 0.500 ± 0.000 |" in text
    assert "| AP50 with_mask | 1.000 ± 0.000 |\n| AP50 without_mask | - |" in text
    assert "| AP50/with_mask | 1.000 | 1.000-1.000 |" in text
    assert "| expected calibration error | 0.250 | |" in text
    assert "| before | 0.100, 0.100, 0.100 |\n| after | -, -, - |" in text
    assert "| 0.5 | 0.000 | 0.000 |" in text  # every face found has a sure and right label
    assert text in capsys.readouterr().out
    (out / "fold1.json").unlink()
    assert main(argv) == 0
    assert scored == ["fold0", "fold1", "fold2", "fold1"]
    steps = len(RECIPE_EXPERIMENTS) + 3  # cascade, crops, bundle
    # A scored fold is not trained again, also where its folder is gone.
    assert trained == [[(f"fold{k}", steps) for k in range(3)], [("fold1", steps)]]
    record = json.loads((out / "crossval.json").read_text())
    assert record["mean_and_spread"]["face AP50"]["stock"] == [0.5, 0.0]
    assert record["pooled"]["AP50/with_mask"] == {"value": 1, "low": 1, "high": 1}
    tested = [i for k in range(3) for i, side in read_splits(out / f"splits.fold{k}.csv").items() if side == "test"]
    assert sorted(tested) == [f"p{i}" for i in range(9)]  # each photo once
    capsys.readouterr()
    assert main([*argv, "--seed", "1"]) == 1  # its folds differ
    assert "holds a cross-validation with another seed" in capsys.readouterr().err
    (out / "fold2.samples.json").unlink()
    assert main(argv) == 1
    assert "fold2.samples.json: damaged or missing" in capsys.readouterr().err
    (out / "fold2.json").write_text("{")
    assert main(argv) == 1
    assert "fold2.json: damaged" in capsys.readouterr().err


def test_frames_of_one_camera_are_cut_by_time_or_grouped_by_name(data, tmp_path, folds, monkeypatch, capsys):
    monkeypatch.setattr(split, "near_duplicate_groups", lambda photos, _: Duplicates([0] * len(photos), []))
    file = data / "_annotations.coco.json"
    coco = json.loads(file.read_text())
    for row in coco["annotations"]:
        row["category_id"] = row["id"] % 2  # each block has both classes
    file.write_text(json.dumps(coco))
    out = tmp_path / "cv"
    argv = ["--data", str(data), "--folds", "3", "--out"]
    assert main([*argv, str(out)]) == 1
    error = capsys.readouterr().err
    assert "9 photos make 1 group of different ones, too few for 3 parts; use --group-by REGEX (" in error
    assert "or --by-time (" in error
    assert main([*argv, str(out), "--by-time"]) == 0
    tested = [[n for n, s in read_splits(out / f"splits.fold{k}.csv").items() if s == "test"] for k in range(3)]
    assert tested == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p6", "p7", "p8"]]
    capsys.readouterr()
    assert main([*argv, str(out)]) == 1
    assert "holds a cross-validation with another by_time (True, now None)" in capsys.readouterr().err
    assert main([*argv, str(tmp_path / "grouped"), "--group-by", "[0-9]"]) == 0
    assert set(read_splits(tmp_path / "grouped" / "splits.fold0.csv").values()) == {"train", "val", "test"}


def test_a_failed_step_is_reported_with_its_log(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "cv"
    monkeypatch.setattr(TrainingPlan, "steps", [TrainingStep("cascade", ("json.tool", str(tmp_path / "nothing")))])
    assert main(["--data", str(data), "--out", str(out), "--folds", "3", "--jobs", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {out / 'fold0' / 'cascade.log'}: this step failed: ")
    assert "No such file" in error and error.count("\n") == 1
    assert not (out / "fold1" / "cascade.log").exists()  # no further step begins


def test_results_are_not_written_among_the_data(data, tmp_path, capsys):
    inner = data / "cv"
    flags = ["--out", str(inner), "--folds", "3"]
    for given in (["--data", str(data)], ["--data", str(tmp_path / "other"), "--external-data", str(data)]):
        assert main([*given, *flags]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {inner}: ") and "another --out" in error
    assert not inner.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--folds", "2"], "--folds 2: give 3 or more"),
        (["--jobs", "0"], "--jobs 0: use 1 or more"),
        (["--workers", "-1"], "--workers -1: use a number from 0 to 256"),
        (["--by-time", "--group-by", "p"], "--by-time and --group-by exclude each other"),
        (["--external-iou", "1.5"], "--external-iou is 1.5, must be between 0.1 and 1"),
        (["--experiments"], "--experiments: name at least one"),
        (["--experiments", "final"], "experiment: 'final' is unknown; did you mean"),
        (["--external-merge", "a=b"], "--external-merge: needs --external-data"),
    ],
)
def test_options_out_of_range_are_refused_before_the_work(data, tmp_path, capsys, flags, message):
    assert main(["--data", str(data), "--out", str(tmp_path / "cv"), *flags]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cv").exists()
