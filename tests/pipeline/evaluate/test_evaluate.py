"""pipeline.evaluate on other detectors' results, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.annotations import read_dataset
from pipeline.evaluate.command import main
from pipeline.evaluate.evaluation import EvaluationSettings, evaluate_samples
from pipeline.evaluate.metrics import Sample
from pipeline.evaluate.pictures import draw_reliability, draw_worst
from pipeline.evaluate.tide_errors import list_errors
from tests.helpers.training.evaluation_data import CATEGORIES, RESULTS, detection, evaluate_results, read_report

REAL = Path(__file__).resolve().parents[3].parent / "shared/data/face-mask-detection"


@pytest.mark.slow
def test_scores_another_detectors_results(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate_results(data, {"categories": CATEGORIES, "annotations": RESULTS}) == 0
    record = read_report(data)
    other = record["detectors"][0]
    # with_mask: hit (0.9), false (0.8): AP 1. without_mask: hit (0.7), false (0.6), one of two faces: 51 of 101.
    assert [c["overall"]["ap50"] for c in other["scores"]["classes"]] == pytest.approx([1, 51 / 101, None])
    assert other["scores"]["mean"]["overall"]["ap50"] == pytest.approx((1 + 51 / 101) / 2)
    assert other["scores"]["faces"]["overall"]["ap50"] == 1
    assert record["photos"] == 3
    assert record["faces"] == {"with_mask": 1, "without_mask": 2, "mask_weared_incorrect": 0}
    assert other["silent_images"] == 1
    assert other["threshold"] == 0.7  # F1 after each score: 1/2, 2/5, 4/6, 4/7
    assert other["confusion"]["rows_true_columns_predicted"] == [[1, 0, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert other["errors"]["kinds"]["wrong_class"] == 1
    assert other["each_class"] == other["scores"]  # no box has two rows
    names = {"mAP50", "mAP50-95", "AP50/with_mask", "AP50/without_mask"}
    assert set(other["intervals"]) == {"face_AP50", *names, *(f"{name}, one label" for name in names)}
    out = data.parent / "out"
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    pictures = {"pr_curves.png", "other/confusion_matrix.png", "other/reliability.png", "other/worst_wrong_class.png"}
    assert files == {"evaluation.json", "evaluation.md", *pictures}
    text = (out / "evaluation.md").read_text()
    assert "no detection in 1 of 3 photos" in text
    assert "| wrong class | 2 | 1 |" in text
    assert "Headline" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_the_picture_of_a_kind_without_errors_is_removed(data: Path) -> None:
    header = {"categories": CATEGORIES}
    assert evaluate_results(data, {**header, "annotations": RESULTS}, "--score-threshold", "0.1") == 0
    picture = data.parent / "out/other/worst_false_alarm.png"
    assert picture.is_file()
    assert evaluate_results(data, {**header, "annotations": RESULTS[:1]}) == 0
    assert not picture.exists()
    assert (data.parent / "out/other/worst_missed.png").is_file()


def test_names_are_no_formulas(tmp_path: Path) -> None:
    box, far = (5.0, 5.0, 30.0, 30.0), (40.0, 40.0, 70.0, 70.0)
    photo = Sample("IMG_$1_$2", [box], [0], [box, far], [0.9, 0.8], [1, 0])
    draw_worst(tmp_path, [photo], list_errors([photo]), ["$x_{$", "a"], lambda _: np.zeros((90, 90, 3), np.uint8))
    assert len(list(tmp_path.glob("worst_*.png"))) == 2


@pytest.mark.usefixtures("undrawn")
def test_images_and_categories_by_number(data: Path) -> None:
    truth = data.parent / "gt.json"
    truth.write_text(json.dumps({"images": [{"id": 7, "file_name": "x/a.jpg"}], "categories": CATEGORIES}))
    assert evaluate_results(data, [detection(7, 1, (10, 10, 40, 50), 0.9)], "--coco-truth", str(truth)) == 0
    expected = read_report(data)["detectors"]
    names = ["--categories", "with_mask", "without_mask"]
    for given, options in (
        ([detection("a", 0, (10, 10, 40, 50), 0.9)], names),
        ([detection("a", 1, (10, 10, 40, 50), 0.9)], [*names, "--first-category", "1"]),
        ([detection("a", "with_mask", (10, 10, 40, 50), 0.9)], []),
        ([detection("a", "mask", (10, 10, 40, 50), 0.9)], ["--merge", "mask=with_mask"]),
    ):
        assert evaluate_results(data, given, *options) == 0
        assert read_report(data)["detectors"] == expected


@pytest.mark.usefixtures("undrawn")
def test_merged_classes_are_scored_as_one(data: Path) -> None:
    found = {"categories": CATEGORIES, "annotations": RESULTS}
    assert evaluate_results(data, found, "--merge", "mask_weared_incorrect=without_mask", split="all") == 0
    record = read_report(data)
    assert record["faces"] == {"with_mask": 1, "without_mask": 3}
    # Face d now counts as found: without_mask has hits at 0.9, 0.7 and a false one at 0.6, of three faces.
    assert record["detectors"][0]["scores"]["classes"][1]["overall"]["ap50"] == pytest.approx(67 / 101)


@pytest.mark.usefixtures("undrawn")
def test_the_iou_of_the_run_and_a_class_without_faces(data: Path) -> None:
    loose = detection("b", "mask_weared_incorrect", (5, 5, 25, 13), 0.9)  # IoU 0.4 on a bare face
    assert evaluate_results(data, [loose], "--iou", "0.35") == 0
    other = read_report(data)["detectors"][0]
    assert other["scores"]["faces"]["overall"]["ap50"] == 0
    assert other["scores"]["faces"]["overall"]["ap_at_iou"] == pytest.approx(34 / 101)
    assert other["scores"]["mean"]["overall"]["ap_at_iou"] == 0
    assert other["confusion"]["rows_true_columns_predicted"][1] == [0, 0, 1, 1]
    assert "1 detections of mask_weared_incorrect, a class without annotated faces" in "".join(
        read_report(data)["notes"]
    )


@pytest.mark.usefixtures("undrawn")
def test_no_detection_at_all(data: Path) -> None:
    assert evaluate_results(data, []) == 0
    scores = read_report(data)["detectors"][0]["scores"]
    assert scores["mean"]["overall"]["ap50"] == scores["faces"]["overall"]["ap50"] == 0


@pytest.mark.parametrize(
    ("results", "options", "message"),
    [
        ([detection("zz.jpg", "with_mask", (0, 0, 9, 9), 1)], [], "image 'zz.jpg' is not in the data"),
        ([detection(7, "with_mask", (0, 0, 9, 9), 1)], [], "--coco-truth"),
        ([detection("a", "hat", (0, 0, 9, 9), 1)], [], "class 'hat' is not one of with_mask"),
        ([detection("a", 1, (0, 0, 9, 9), 1)], [], "give --categories"),
        ([detection("a", 1, (0, 0, 9, 9), 1)], ["--categories", "with_mask", "without_mask"], "--first-category"),
        ([{"image_id": "a", "category_id": "with_mask", "bbox": [0, 0, 9, 9]}], [], "a score"),
        ([detection("a", "with_mask", (9, 9, 0, 0), 1)], [], "not usable"),
        ([detection("a", "with_mask", (0, 0, 1e300, 9), 1)], [], "not usable"),
        ([detection("a", "with_mask", (0, 0, float("nan"), 9), 1)], [], "not usable"),
        ([detection("a", "with_mask", (0, 0, 9, 9), 87.5)], [], "score is 87.5; use probabilities from 0 to 1 (divide"),
        ([detection("a", "with_mask", (0, 0, 9, 9), -3)], [], "score is -3.0; use probabilities"),
        ({"detections": []}, [], "not COCO results"),
        ([], ["--split", "dev"], "--split is 'dev'"),
        ([], ["--split", "val"], "no images in split 'val'"),
        ([], ["--merge", "with_mask"], "form A=B"),
        ([], ["--merge", "with_mask=hat"], "'hat' is not one of"),
        ([], ["--iou", "0"], "--iou is 0.0, must be between 0.1 and 1"),
        ([], ["--seed", "-1"], "--seed is -1, must be 0 or more"),
        ([], ["--score-threshold", "2"], "--score-threshold"),
        ([], ["--out", __file__], "is a file; name a folder with --out"),
        ([], ["--predictions", "nowhere.json"], "nowhere.json: not found"),
    ],
)
def test_bad_input_is_one_clear_line(
    data: Path, capsys: pytest.CaptureFixture[str], results: Any, options: list[str], message: str
) -> None:
    assert evaluate_results(data, results, *options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (data.parent / "out").exists()


@pytest.mark.usefixtures("undrawn")
def test_results_as_tables_write_them(data: Path) -> None:
    """Ids of 1.0, as of a column with gaps, and a byte order mark."""
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    rows = [{"image_id": 1.0, "category_id": 1.0, "bbox": [0, 0, 9, 9], "score": 0.9}]
    results = {"images": images, "categories": [{"id": 1, "name": "with_mask"}], "annotations": rows}
    assert evaluate_results(data, results) == 0
    file = data.parent / "other.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    argv = ["--data", str(data), "--splits", str(data.parent / "splits.csv"), "--split", "test", "--skip-bundle"]
    assert main([*argv, "--predictions", str(file), "--out", str(data.parent / "out"), "--bootstrap", "0"]) == 0


def test_deeply_nested_results_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data.parent / "deep.json").write_text("[" * 100_000)
    assert evaluate_results(data, [], "--predictions", str(data.parent / "deep.json")) == 1
    assert "deep.json: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize("inner", [".", "images/report"])
def test_a_report_is_not_written_among_the_data(data: Path, capsys: pytest.CaptureFixture[str], inner: str) -> None:
    out, before = data / inner, sorted(data.rglob("*"))
    assert evaluate_results(data, [], "--out", str(out)) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {out}: ") and "another --out" in error and error.count("\n") == 1
    assert sorted(data.rglob("*")) == before


@pytest.mark.usefixtures("undrawn")
def test_split_and_data_that_do_not_fit(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = data.parent / "splits.csv"
    whole = splits.read_text()
    splits.write_text(whole + "gone,test\n")
    assert evaluate_results(data, []) == 1
    assert "1 images of split test are not in" in capsys.readouterr().err
    splits.write_text(whole.replace("d,train\n", "gone,train\n"))
    assert evaluate_results(data, []) == 0
    assert f"1 images of the data are not in {splits}: d" in capsys.readouterr().out


@pytest.mark.parametrize(("old", "new"), [("--no-ours", "--skip-bundle"), ("--score", "--score-threshold")])
def test_a_renamed_flag_is_refused_with_the_new_name(
    data: Path, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    assert main(["--data", str(data), old]) == 1
    assert capsys.readouterr().err == f"error: {old}: has a new name; use {new}\n"


@pytest.mark.usefixtures("undrawn")
def test_scores_of_merged_classes_are_added_up_in_other_detectors_results(data: Path) -> None:
    box = (10, 10, 40, 50)
    rows = [
        detection("a", "without_mask", box, 0.5),
        detection("a", "with_mask", box, 0.4),
        detection("a", "mask_weared_incorrect", box, 0.3),
        detection("a", "mask_weared_incorrect", (60, 10, 90, 50), 0.2),
    ]
    assert evaluate_results(data, rows, "--merge", "mask_weared_incorrect=with_mask", "--score-threshold", "0.6") == 0
    other = read_report(data)["detectors"][0]
    # 0.4 + 0.3 passes 0.6 and is right. Without the sum, the label would be without_mask with 0.5.
    assert other["confusion"]["rows_true_columns_predicted"][0] == [1, 0, 0]
    assert other["reliability"]["reported"]["bins"][0]["score"] == pytest.approx(0.7)
    assert other["reliability"]["found"]["count"] == 2  # one per face


@pytest.mark.usefixtures("undrawn")
def test_one_row_per_class_of_a_box_is_not_a_duplicate(data: Path) -> None:
    rows = [detection("b", name, (5, 5, 25, 25), score) for name, score in (("without_mask", 0.6), ("with_mask", 0.4))]
    assert evaluate_results(data, rows, "--score-threshold", "0.1") == 0
    other = read_report(data)["detectors"][0]
    assert other["errors"]["kinds"]["duplicate"] == 0
    assert other["confusion"]["rows_true_columns_predicted"][3] == [0, 0, 0, 0]
    assert not (data.parent / "out/other/worst_duplicate.png").exists()


def test_the_reliability_diagram_shows_shares_and_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("pipeline.evaluate.pictures.save_figure", lambda figure, path: drawn.append((figure, path)))
    box, far = (0, 0, 50, 50), (200, 200, 250, 250)
    photos = [Sample(str(i), [box], [0], [box, far], [0.95, 0.55], [0, 0]) for i in range(3)]
    result = evaluate_samples(photos, ("with_mask",), EvaluationSettings(rounds=0), threshold=0.6)
    draw_reliability(result, tmp_path / "r.png")
    ((figure, path),) = drawn
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert heights == [[0, 1], [1], [3, 3], [3]]  # found and reported: shares above, counts below
    assert path == tmp_path / "r.png"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the photos in {REAL}")
@pytest.mark.usefixtures("undrawn")
def test_perfect_results_on_real_photos_score_one(tmp_path: Path) -> None:
    images = read_dataset(REAL).images[:40]
    results = [
        detection(image.image_id, label, tuple(box.astype(float).tolist()), 1.0)
        for image in images
        for box, label in zip(image.boxes, image.labels, strict=True)
    ]
    splits, file = tmp_path / "splits.csv", tmp_path / "perfect.json"
    splits.write_text("image_id,split\n" + "".join(f"{image.image_id},test\n" for image in images))
    file.write_text(json.dumps(results))
    argv = ["--data", str(REAL), "--splits", str(splits), "--skip-bundle", "--predictions", str(file)]
    assert main([*argv, "--bootstrap", "20", "--no-pictures", "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())["detectors"][0]
    assert record["scores"]["mean"]["overall"]["ap"] == 1
    assert record["intervals"]["mAP50"] == {"value": 1, "low": 1, "high": 1}
    assert record["errors"]["correct"] == len(results)
    assert not any(record["errors"]["kinds"].values())


@pytest.mark.usefixtures("undrawn")
def test_a_photo_that_cannot_be_read_is_in_no_score(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {"categories": CATEGORIES, "annotations": RESULTS}
    assert evaluate_results(data, results) == 0
    before = json.loads((data.parent / "out/evaluation.json").read_text())
    first = sorted(data.rglob("*.png"))[0]
    first.write_bytes(first.read_bytes()[:-40])
    capsys.readouterr()
    assert evaluate_results(data, results) == 1
    assert f"warning: {first}: " in capsys.readouterr().err
    after = json.loads((data.parent / "out/evaluation.json").read_text())
    assert (before["unreadable_photos"], after["unreadable_photos"]) == (0, 1)
    assert after["photos"] == before["photos"] - 1
    assert "left out of all scores: 1 unreadable photo" in (data.parent / "out/evaluation.md").read_text()


@pytest.mark.parametrize(
    "options", [("--coco-truth", "nowhere.json"), ("--categories", "a", "b"), ("--first-category", "0")]
)
def test_options_of_other_results_need_them(
    data: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    assert main(["--data", str(data), "--split", "all", "--out", str(data.parent / "out"), *options]) == 1
    assert f"{options[0]}: is for the files of --predictions" in capsys.readouterr().err
