"""pipeline.evaluate: other detectors' results through the command line, ours through the function."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.annotations import read_dataset
from pipeline.evaluate.command import main
from pipeline.evaluate.evaluation import Settings, detect_samples, evaluate, evaluate_samples
from pipeline.evaluate.metrics import Sample
from pipeline.evaluate.pictures import draw_reliability

FACES = {  # file stem -> [(class, box)]
    "a": [("with_mask", (10, 10, 40, 50)), ("without_mask", (60, 10, 90, 50))],
    "b": [("without_mask", (5, 5, 25, 25))],
    "c": [],
    "d": [("mask_weared_incorrect", (20, 20, 80, 80))],
}
SIDES = {"a": "test", "b": "test", "c": "test", "d": "train"}
REAL = Path(__file__).resolve().parents[3].parent / "shared/data/face-mask-detection"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small Pascal VOC set of noise, and its splits.csv beside it."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    generator = np.random.default_rng(0)
    for stem, faces in FACES.items():
        Image.fromarray(generator.integers(0, 255, (100, 120, 3), np.uint8)).save(root / "images" / f"{stem}.png")
        objects = "".join(
            # VOC pixels count from 1 and include the last.
            f"<object><name>{name}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for name, (x1, y1, x2, y2) in faces
        )
        size = "<size><width>120</width><height>100</height><depth>3</depth></size>"
        xml = f"<annotation><filename>{stem}.png</filename>{size}{objects}</annotation>"
        (root / "annotations" / f"{stem}.xml").write_text(xml)
    rows = "".join(f"{stem},{side}\n" for stem, side in SIDES.items())
    (tmp_path / "splits.csv").write_text("image_id,split\n" + rows)
    return root


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering takes most of the time; tests that are not about pictures get empty files."""

    def save(_: object, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    monkeypatch.setattr("pipeline.evaluate.pictures._save", save)


def detection(image: Any, category: Any, box: tuple[float, ...], score: float) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {"image_id": image, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}


CATEGORIES = [{"id": 1, "name": "with_mask"}, {"id": 2, "name": "without_mask"}]
# Photo a: both faces found, the second called by the wrong name. Photo b: found, and a false alarm. d is not in test.
RESULTS = [
    detection("a.png", 1, (10, 10, 40, 50), 0.9),
    detection("somewhere/a.png", 1, (60, 10, 90, 50), 0.8),
    detection("b", 2, (5, 5, 25, 25), 0.7),
    detection("b", 2, (80, 60, 110, 90), 0.6),
    detection("d", 2, (20, 20, 80, 80), 0.9),
]


def call(data: Path, results: Any, *options: str, split: str = "test") -> int:
    file = data.parent / "other.json"
    file.write_text(json.dumps(results))
    argv = ["--data", str(data), "--splits", str(data.parent / "splits.csv"), "--split", split, "--skip-bundle"]
    argv += ["--predictions", str(file), "--out", str(data.parent / "out"), "--bootstrap", "10", *options]
    return main(argv)


def report(data: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((data.parent / "out" / "evaluation.json").read_text())
    return record


def test_scores_another_detectors_results(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(data, {"categories": CATEGORIES, "annotations": RESULTS}) == 0
    record = report(data)
    other = record["detectors"][0]
    # with_mask: hit (0.9), false (0.8): AP 1. without_mask: hit (0.7), false (0.6), one of two truths: 51 of 101.
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
    both = {"mAP50", "mAP50-95", "AP50/with_mask", "AP50/without_mask"}
    assert set(other["intervals"]) == {"face_AP50", *both, *(f"{name}, one label" for name in both)}
    out = data.parent / "out"
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    pictures = {"pr_curves.png", "other/confusion_matrix.png", "other/reliability.png", "other/worst_wrong_class.png"}
    assert files == {"evaluation.json", "evaluation.md", *pictures}
    text = (out / "evaluation.md").read_text()
    assert "no detection in 1 of 3 photos" in text
    assert "| wrong class | 2 | 1 |" in text
    assert "Headline" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_a_worse_kind_that_is_gone_leaves_no_old_picture(data: Path) -> None:
    header = {"categories": CATEGORIES}
    assert call(data, {**header, "annotations": RESULTS}, "--score-threshold", "0.1") == 0
    picture = data.parent / "out/other/worst_false_alarm.png"
    assert picture.is_file()
    assert call(data, {**header, "annotations": RESULTS[:1]}) == 0
    assert not picture.exists()
    assert (data.parent / "out/other/worst_missed.png").is_file()


@pytest.mark.usefixtures("undrawn")
def test_images_and_categories_by_number(data: Path) -> None:
    truth = data.parent / "gt.json"
    truth.write_text(json.dumps({"images": [{"id": 7, "file_name": "x/a.jpg"}], "categories": CATEGORIES}))
    assert call(data, [detection(7, 1, (10, 10, 40, 50), 0.9)], "--coco-truth", str(truth)) == 0
    expected = report(data)["detectors"]
    names = ["--categories", "with_mask", "without_mask"]
    for given, options in (
        ([detection("a", 0, (10, 10, 40, 50), 0.9)], names),
        ([detection("a", 1, (10, 10, 40, 50), 0.9)], [*names, "--first-category", "1"]),
        ([detection("a", "with_mask", (10, 10, 40, 50), 0.9)], []),
        ([detection("a", "mask", (10, 10, 40, 50), 0.9)], ["--merge", "mask=with_mask"]),
    ):
        assert call(data, given, *options) == 0
        assert report(data)["detectors"] == expected


@pytest.mark.usefixtures("undrawn")
def test_merged_classes_are_scored_as_one(data: Path) -> None:
    found = {"categories": CATEGORIES, "annotations": RESULTS}
    assert call(data, found, "--merge", "mask_weared_incorrect=without_mask", split="all") == 0
    record = report(data)
    assert record["faces"] == {"with_mask": 1, "without_mask": 3}
    # Face d now counts as found: without_mask has hits at 0.9, 0.7 and a false one at 0.6, of three truths.
    assert record["detectors"][0]["scores"]["classes"][1]["overall"]["ap50"] == pytest.approx(67 / 101)


@pytest.mark.usefixtures("undrawn")
def test_own_iou_and_a_class_without_truths(data: Path) -> None:
    loose = detection("b", "mask_weared_incorrect", (5, 5, 25, 13), 0.9)  # IoU 0.4 on a bare face
    assert call(data, [loose], "--iou", "0.35") == 0
    other = report(data)["detectors"][0]
    assert other["scores"]["faces"]["overall"]["ap50"] == 0
    assert other["scores"]["faces"]["overall"]["ap_at_iou"] == pytest.approx(34 / 101)
    assert other["scores"]["mean"]["overall"]["ap_at_iou"] == 0
    assert other["confusion"]["rows_true_columns_predicted"][1] == [0, 0, 1, 1]
    assert "1 detections of mask_weared_incorrect, a class without truths" in "".join(report(data)["notes"])


@pytest.mark.usefixtures("undrawn")
def test_no_detection_at_all(data: Path) -> None:
    assert call(data, []) == 0
    scores = report(data)["detectors"][0]["scores"]
    assert scores["mean"]["overall"]["ap50"] == scores["faces"]["overall"]["ap50"] == 0


@pytest.mark.parametrize(
    ("results", "options", "message"),
    [
        ([detection("zz.jpg", "with_mask", (0, 0, 9, 9), 1)], [], "image 'zz.jpg' is not in the data"),
        ([detection(7, "with_mask", (0, 0, 9, 9), 1)], [], "--coco-truth"),
        ([detection("a", "hat", (0, 0, 9, 9), 1)], [], "class 'hat' is none of with_mask"),
        ([detection("a", 1, (0, 0, 9, 9), 1)], [], "give --categories"),
        ([detection("a", 1, (0, 0, 9, 9), 1)], ["--categories", "with_mask", "without_mask"], "--first-category"),
        ([{"image_id": "a", "category_id": "with_mask", "bbox": [0, 0, 9, 9]}], [], "a score"),
        ([detection("a", "with_mask", (9, 9, 0, 0), 1)], [], "not usable"),
        ({"detections": []}, [], "not COCO results"),
        ([], ["--split", "dev"], "--split is 'dev'"),
        ([], ["--split", "val"], "no images in split 'val'"),
        ([], ["--merge", "with_mask"], "form A=B"),
        ([], ["--merge", "with_mask=hat"], "'hat' is none of"),
        ([], ["--iou", "0"], "--iou"),
        ([], ["--score-threshold", "2"], "--score-threshold"),
        ([], ["--out", __file__], "is a file; name a folder with --out"),
        ([], ["--predictions", "nowhere.json"], "nowhere.json: not found"),
    ],
)
def test_bad_input_is_one_clear_line(
    data: Path, capsys: pytest.CaptureFixture[str], results: Any, options: list[str], message: str
) -> None:
    assert call(data, results, *options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (data.parent / "out").exists()


@pytest.mark.parametrize("inner", [".", "images/report"])
def test_a_report_is_not_written_among_the_data(data: Path, capsys: pytest.CaptureFixture[str], inner: str) -> None:
    out, before = data / inner, sorted(data.rglob("*"))
    assert call(data, [], "--out", str(out)) == 1
    said = f"error: {out}: lies in {data} and would be read as data; give another --out\n"
    assert capsys.readouterr().err == said
    assert sorted(data.rglob("*")) == before


@pytest.mark.usefixtures("undrawn")
def test_split_and_data_that_do_not_fit(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = data.parent / "splits.csv"
    whole = splits.read_text()
    splits.write_text(whole + "gone,test\n")
    assert call(data, []) == 1
    assert "1 images of split test are not in" in capsys.readouterr().err
    splits.write_text(whole.replace("d,train\n", "gone,train\n"))
    assert call(data, []) == 0
    assert f"1 images of the data are not in {splits}: d" in capsys.readouterr().out


@dataclass(frozen=True)
class FakePredictor:
    """Finds what it is told to in each photo, whatever the pixels, in the order of the calls."""

    found: list[SimpleNamespace]
    class_names: tuple[str, ...] = ("without_mask", "with_mask", "mask_weared_incorrect")  # not the data's order
    unsure: float = 0.45

    @property
    def bundle(self) -> SimpleNamespace:
        return SimpleNamespace(
            meta=SimpleNamespace(
                class_names=self.class_names, thresholds={"score": 0.5}, judge=SimpleNamespace(unsure=self.unsure)
            ),
            describe=lambda: {"name": "fake"},
        )

    def detect(self, image: np.ndarray, min_score: float | None = None) -> SimpleNamespace:
        assert image.shape == (100, 120, 3)
        found = self.found.pop(0)
        kept = found.face_scores * found.class_probs.max(axis=1, initial=0) >= (min_score or 0)
        return SimpleNamespace(**{name: values[kept] for name, values in vars(found).items()})


def faces(*rows: tuple[tuple[float, ...], float, int | tuple[float, ...]]) -> SimpleNamespace:
    """Rows of a box, a face score, and the class probabilities, or the one class that is sure."""
    boxes = np.array([r[0] for r in rows], np.float32).reshape(-1, 4)
    probs = [np.eye(3)[r[2]] if isinstance(r[2], int) else r[2] for r in rows]
    return SimpleNamespace(
        boxes=boxes,
        face_scores=np.array([r[1] for r in rows], np.float32),
        class_probs=np.array(probs, np.float32).reshape(-1, 3),
    )


def fake() -> FakePredictor:
    a = faces(((10, 10, 40, 50), 0.9, 1), ((61, 10, 90, 50), 0.4, 0))
    return FakePredictor([a, faces(((5, 5, 25, 25), 0.8, 1)), faces(), faces(((20, 20, 80, 80), 1 / 3, 2))])


def test_evaluates_a_predictor_with_its_own_class_order_and_threshold(data: Path) -> None:
    result = evaluate(fake(), read_dataset(data).images, Settings(rounds=5))  # type: ignore[arg-type]
    assert [c.overall.ap50 for c in result.scores.classes] == pytest.approx([51 / 101, 1, 1])
    # At the bundle's 0.5: bare face b is called masked; the faces at 0.4 and 1/3 are lost.
    assert result.confusion == ((0, 1, 0, 1), (0, 1, 0, 0), (0, 0, 0, 1), (0, 0, 0, 0))
    assert result.seconds is not None
    assert result.seconds >= 0
    assert result.each_class == result.scores  # every other class of its faces has probability 0
    # Bins: 0.8 wrong and 0.9 (in single precision just below) right, 0.4 right, 1/3 right.
    assert result.reliability["found"].ece == pytest.approx((2 * abs(0.85 - 0.5) + 0.6 + 2 / 3) / 4)
    assert result.reliability["reported"].ece == pytest.approx(0.35)
    assert {s.by for s in result.slices} == {"size", "light", "blur", "class"}
    assert [(t.margin, t.unsure, t.wrong) for t in result.unsure if t.own] == [(0.45, 0, 1)]


def test_a_class_that_the_bundle_does_not_know_is_named(data: Path) -> None:
    from common.errors import UserError

    two = replace(fake(), class_names=("with_mask", "without_mask"))
    with pytest.raises(UserError, match=r"d\.png: class 'mask_weared_incorrect' is none of"):
        evaluate(two, read_dataset(data).images)  # type: ignore[arg-type]


@pytest.mark.usefixtures("undrawn")
def test_ours_stands_beside_the_other_and_can_be_scored_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference.predictor.Predictor.load", lambda *_, **__: fake())
    other = data.parent / "theirs.json"
    other.write_text(json.dumps({"categories": CATEGORIES, "annotations": RESULTS}))
    common = ["--data", str(data), "--split", "all", "--bootstrap", "5"]
    out, again = data.parent / "out", data.parent / "again"
    assert main([*common, "--predictions", str(other), "--out", str(out)]) == 0
    ours, theirs = report(data)["detectors"]
    assert (ours["name"], theirs["name"]) == ("ours", "theirs")
    assert (ours["threshold"], ours["threshold_from"]) == (0.5, "the bundle's")
    assert report(data)["bundle"] == {"name": "fake"}
    assert (out / "confusion_matrix.png").is_file()
    assert "| ours |" in (out / "evaluation.md").read_text()

    found = str(out / "predictions.coco.json")
    assert (
        main([*common, "--skip-bundle", "--predictions", found, "--out", str(again), "--score-threshold", "0.5"]) == 0
    )
    record = json.loads((again / "evaluation.json").read_text())["detectors"][0]
    assert_same_scores(record, ours)
    assert record["errors"] == ours["errors"]


def assert_same_scores(record: dict[str, Any], expected: dict[str, Any]) -> None:
    """The data's class order differs from the fake bundle's, so classes are compared by name."""
    for way in ("scores", "each_class"):
        by_name = {c["name"]: c for c in expected[way]["classes"]}
        assert {c["name"]: c for c in record[way]["classes"]} == by_name
        assert record[way]["faces"] == expected[way]["faces"]
        assert record[way]["mean"]["overall"] == pytest.approx(expected[way]["mean"]["overall"])


def doubtful() -> FakePredictor:
    """Faces whose second class is the true one, in the fake's order: without, with, incorrect."""
    a = faces(((10, 10, 40, 50), 0.9, (0.5, 0.4, 0.1)), ((60, 10, 90, 50), 0.8, (0.45, 0.25, 0.3)))
    b = faces(((5, 5, 25, 25), 0.7, (0.3, 0.699, 0.001)))  # 0.7 * 0.001 is below the floor
    return FakePredictor([a, b, faces(), faces(((20, 20, 80, 80), 0.6, (0.25, 0.4, 0.35)))])


@pytest.mark.usefixtures("undrawn")
def test_predictions_hold_a_row_for_each_class_and_score_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference.predictor.Predictor.load", lambda *_, **__: doubtful())
    out, again = data.parent / "out", data.parent / "again"
    common = ["--data", str(data), "--split", "all", "--bootstrap", "2"]
    for merge in ([], ["--merge", "mask_weared_incorrect=with_mask"]):
        assert main([*common, *merge, "--out", str(out)]) == 0
        ours = report(data)["detectors"][0]
        file = out / "predictions.coco.json"
        written = json.loads(file.read_text())
        assert len(written["annotations"]) == (8 if merge else 11)  # of 4 faces; one class is below the floor
        assert [c["name"] for c in written["categories"]][:2] == ["without_mask", "with_mask"]
        assert main([*common, *merge, "--skip-bundle", "--predictions", str(file), "--out", str(again)]) == 0
        record = json.loads((again / "evaluation.json").read_text())["detectors"][0]
        assert_same_scores(record, ours)
        assert {n: i["value"] for n, i in record["intervals"].items()} == pytest.approx(
            {n: i["value"] for n, i in ours["intervals"].items()}
        )


@pytest.mark.usefixtures("undrawn")
def test_every_class_is_scored_beside_the_best_label(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference.predictor.Predictor.load", lambda *_, **__: doubtful())
    out = data.parent / "out"
    assert main(["--data", str(data), "--split", "all", "--bootstrap", "2", "--out", str(out)]) == 0
    ours = report(data)["detectors"][0]
    figures = {way: {c["name"]: c["overall"]["ap50"] for c in ours[way]["classes"]} for way in ("scores", "each_class")}
    # One label: a1 0.45 without (false), a2 0.36 without (hit), b 0.4893 with (false), d 0.24 with (false).
    assert figures["scores"] == pytest.approx(
        {"without_mask": 51 / 2 / 101, "with_mask": 0, "mask_weared_incorrect": 0}
    )
    # with_mask: b 0.4893 and d 0.24 false, a1 0.36 a hit between them. without_mask: a1 0.45 false, a2 0.36 and
    # b 0.21 hits, d 0.15 false. mask_weared_incorrect: a2 0.24 false, d 0.21 a hit.
    assert figures["each_class"] == pytest.approx(
        {"without_mask": 2 / 3, "with_mask": 1 / 2, "mask_weared_incorrect": 1 / 2}
    )
    assert ours["intervals"]["mAP50"]["value"] == pytest.approx((2 / 3 + 1) / 3)
    assert ours["intervals"]["mAP50, one label"]["value"] == pytest.approx(51 / 2 / 101 / 3)
    assert ours["each_class"]["faces"] == ours["scores"]["faces"]
    assert ours["settings"]["class_floor"] == 0.001
    assert ours["slice_cuts"]["luma"] == [85, 150]
    # Nothing reaches the fake's 0.5.
    assert ours["reliability"]["reported"] == {"floor": 0.5, "count": 0, "ece": None, "bins": []}
    assert ours["reliability"]["found"]["count"] == 4
    assert all(t["found"] == 0 and t["unsure_share"] is None for t in ours["unsure"])
    text = (out / "evaluation.md").read_text()
    assert "| mAP50 | 0.556 [" in text and "| mAP50, one label | 0.084 [" in text
    assert "so they compare with such detectors' published figures" in text
    assert (out / "reliability.png").is_file()


@pytest.mark.parametrize(("floor", "count"), [(0.0, 2), (0.42, 2), (0.445, 1)])
def test_merged_classes_are_added_up_before_the_label_is_chosen(data: Path, floor: float, count: int) -> None:
    images = read_dataset(data).images[:1]
    ((s,), _) = detect_samples(
        doubtful(),  # type: ignore[arg-type]
        images,
        ("without_mask", "with_mask"),
        {"mask_weared_incorrect": "with_mask"},
        floor,
    )
    # 0.9 * (0.5 | 0.4 + 0.1) is a tie, which the first class wins. 0.8 * (0.45 | 0.25 + 0.3) changes its label; its
    # best class alone, 0.36, would not have reached the second floor, both together do.
    assert s.class_scores is not None
    assert s.scores.tolist() == pytest.approx([0.45, 0.44][:count])
    assert s.labels.tolist()[1:] == [1][: count - 1]
    assert s.class_scores[:, 0].tolist() == pytest.approx([0.45, 0.36][:count])


@pytest.mark.usefixtures("undrawn")
def test_names_that_become_one_class_are_added_up_in_others_results_too(data: Path) -> None:
    box = (10, 10, 40, 50)
    rows = [
        detection("a", "without_mask", box, 0.5),
        detection("a", "with_mask", box, 0.4),
        detection("a", "mask_weared_incorrect", box, 0.3),
        detection("a", "mask_weared_incorrect", (60, 10, 90, 50), 0.2),
    ]
    assert call(data, rows, "--merge", "mask_weared_incorrect=with_mask", "--score-threshold", "0.6") == 0
    other = report(data)["detectors"][0]
    # 0.4 + 0.3 passes 0.6 and is right; before, 0.5 for without_mask would have been the label.
    assert other["confusion"]["rows_true_columns_predicted"][0] == [1, 0, 0]
    assert other["reliability"]["reported"]["bins"][0]["score"] == pytest.approx(0.7)
    assert other["reliability"]["found"]["count"] == 2  # a face each


@pytest.mark.usefixtures("undrawn")
def test_a_row_for_each_class_is_no_duplicate(data: Path) -> None:
    rows = [detection("b", name, (5, 5, 25, 25), score) for name, score in (("without_mask", 0.6), ("with_mask", 0.4))]
    assert call(data, rows, "--score-threshold", "0.1") == 0
    other = report(data)["detectors"][0]
    assert other["errors"]["kinds"]["duplicate"] == 0
    assert other["confusion"]["rows_true_columns_predicted"][3] == [0, 0, 0, 0]
    assert not (data.parent / "out/other/worst_duplicate.png").exists()


def test_the_reliability_diagram_shows_shares_and_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("pipeline.evaluate.pictures._save", lambda figure, path: drawn.append((figure, path)))
    box, far = (0, 0, 50, 50), (200, 200, 250, 250)
    photos = [Sample(str(i), [box], [0], [box, far], [0.95, 0.55], [0, 0]) for i in range(3)]
    result = evaluate_samples(photos, ("with_mask",), Settings(rounds=0), threshold=0.6)
    draw_reliability(result, tmp_path / "r.png")
    ((figure, path),) = drawn
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert heights == [[0, 1], [1], [3, 3], [3]]  # found and reported: shares above, counts below
    assert path == tmp_path / "r.png"


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
def test_the_stock_cascade_stands_beside_ours(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--data",
        str(data),
        "--split",
        "all",
        "--bootstrap",
        "0",
        "--no-pictures",
        "--out",
        str(data.parent / "out"),
    ]
    assert main([*argv, "--stock"]) == 0
    ours, stock = report(data)["detectors"]
    assert (ours["name"], stock["name"]) == ("ours", "stock cascade")
    assert stock["images"] == ours["images"] == 4
    assert "best F1" in stock["threshold_from"]
    capsys.readouterr()
    assert main([*argv, "--stock", "--skip-bundle"]) == 1
    assert "exclude each other" in capsys.readouterr().err
