"""pipeline.evaluate on a predictor, and on the bundle next to other detectors."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.annotations import read_dataset
from pipeline.evaluate.command import main
from pipeline.evaluate.evaluation import detect_samples
from tests.helpers.training.evaluation_data import CATEGORIES, RESULTS, read_report


@dataclass(frozen=True)
class ScriptedPredictor:
    """Return the given detections photo by photo, whatever the pixels."""

    found: list[SimpleNamespace]
    class_names: tuple[str, ...] = ("without_mask", "with_mask", "mask_weared_incorrect")  # not the data's order
    unsure_margin: float = 0.45

    @property
    def bundle(self) -> SimpleNamespace:
        return SimpleNamespace(
            meta=SimpleNamespace(
                class_names=self.class_names,
                thresholds={"score": 0.5},
                fusion=SimpleNamespace(unsure_margin=self.unsure_margin),
            ),
            describe=lambda: {"name": "fake"},
        )

    def detect(self, image: np.ndarray, min_score: float | None = None) -> SimpleNamespace:
        assert image.shape == (100, 120, 3)
        found = self.found.pop(0)
        kept = found.face_scores * found.class_probs.max(axis=1, initial=0) >= (min_score or 0)
        return SimpleNamespace(**{name: values[kept] for name, values in vars(found).items()})


def faces(*rows: tuple[tuple[float, ...], float, int | tuple[float, ...]]) -> SimpleNamespace:
    """Return detections from rows of a box, a face score, and class probabilities (or one certain class)."""
    boxes = np.array([r[0] for r in rows], np.float32).reshape(-1, 4)
    probs = [np.eye(3)[r[2]] if isinstance(r[2], int) else r[2] for r in rows]
    return SimpleNamespace(
        boxes=boxes,
        face_scores=np.array([r[1] for r in rows], np.float32),
        class_probs=np.array(probs, np.float32).reshape(-1, 3),
    )


def scripted() -> ScriptedPredictor:
    a = faces(((10, 10, 40, 50), 0.9, 1), ((61, 10, 90, 50), 0.4, 0))
    return ScriptedPredictor([a, faces(((5, 5, 25, 25), 0.8, 1)), faces(), faces(((20, 20, 80, 80), 1 / 3, 2))])


@pytest.mark.usefixtures("undrawn")
def test_the_bundle_has_its_own_class_order_and_threshold(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference.predictor.Predictor.load", lambda *_, **__: scripted())
    assert main(["--data", str(data), "--split", "all", "--bootstrap", "5", "--out", str(data.parent / "out")]) == 0
    (ours,) = read_report(data)["detectors"]
    assert [c["overall"]["ap50"] for c in ours["scores"]["classes"]] == pytest.approx([51 / 101, 1, 1])
    # At the bundle's 0.5: bare face b has the label with_mask; the faces at 0.4 and 1/3 are not reported.
    expected = [[0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert ours["confusion"]["rows_true_columns_predicted"] == expected
    assert ours["seconds"] >= 0
    assert ours["each_class"] == ours["scores"]  # every other class has probability 0
    # Bins: 0.8 wrong and 0.9 (in single precision just below) right, 0.4 right, 1/3 right.
    assert ours["reliability"]["found"]["ece"] == pytest.approx((2 * abs(0.85 - 0.5) + 0.6 + 2 / 3) / 4)
    assert ours["reliability"]["reported"]["ece"] == pytest.approx(0.35)
    assert {s["by"] for s in ours["slices"]} == {"size", "light", "blur", "class"}
    assert [(p["margin"], p["unsure"], p["wrong"]) for p in ours["unsure"] if p["own"]] == [(0.45, 0, 1)]


def test_a_class_that_the_bundle_does_not_know_is_named(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two = replace(scripted(), class_names=("with_mask", "without_mask"))
    monkeypatch.setattr("pipeline.inference.predictor.Predictor.load", lambda *_, **__: two)
    assert main(["--data", str(data), "--split", "all", "--out", str(data.parent / "out")]) == 1
    error = capsys.readouterr().err
    assert "d.png: class 'mask_weared_incorrect' is not one of" in error and error.count("\n") == 1


@pytest.mark.usefixtures("undrawn")
def test_the_bundle_is_scored_next_to_another_detector_and_its_predictions_score_the_same(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.inference.predictor.Predictor.load", lambda *_, **__: scripted())
    other = data.parent / "theirs.json"
    other.write_text(json.dumps({"categories": CATEGORIES, "annotations": RESULTS}))
    common = ["--data", str(data), "--split", "all", "--bootstrap", "5"]
    out, again = data.parent / "out", data.parent / "again"
    assert main([*common, "--predictions", str(other), "--out", str(out)]) == 0
    ours, theirs = read_report(data)["detectors"]
    assert (ours["name"], theirs["name"]) == ("ours", "theirs")
    assert (ours["threshold"], ours["threshold_from"]) == (0.5, "the bundle's")
    assert read_report(data)["bundle"] == {"name": "fake"}
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
    """Compare classes by name, because the data's class order differs from the predictor's."""
    for view in ("scores", "each_class"):
        by_name = {c["name"]: c for c in expected[view]["classes"]}
        assert {c["name"]: c for c in record[view]["classes"]} == by_name
        assert record[view]["faces"] == expected[view]["faces"]
        assert record[view]["mean"]["overall"] == pytest.approx(expected[view]["mean"]["overall"])


def ambiguous() -> ScriptedPredictor:
    """Return faces whose second class is the true one, in the predictor's order: without, with, incorrect."""
    a = faces(((10, 10, 40, 50), 0.9, (0.5, 0.4, 0.1)), ((60, 10, 90, 50), 0.8, (0.45, 0.25, 0.3)))
    b = faces(((5, 5, 25, 25), 0.7, (0.3, 0.699, 0.001)))  # 0.7 * 0.001 is below the lowest class score
    return ScriptedPredictor([a, b, faces(), faces(((20, 20, 80, 80), 0.6, (0.25, 0.4, 0.35)))])


@pytest.mark.usefixtures("undrawn")
def test_predictions_hold_a_row_for_each_class_and_score_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference.predictor.Predictor.load", lambda *_, **__: ambiguous())
    out, again = data.parent / "out", data.parent / "again"
    common = ["--data", str(data), "--split", "all", "--bootstrap", "2"]
    for merge in ([], ["--merge", "mask_weared_incorrect=with_mask"]):
        assert main([*common, *merge, "--out", str(out)]) == 0
        ours = read_report(data)["detectors"][0]
        file = out / "predictions.coco.json"
        written = json.loads(file.read_text())
        assert len(written["annotations"]) == (8 if merge else 11)  # of 4 faces; one class is below the lowest score
        assert [c["name"] for c in written["categories"]][:2] == ["without_mask", "with_mask"]
        assert main([*common, *merge, "--skip-bundle", "--predictions", str(file), "--out", str(again)]) == 0
        record = json.loads((again / "evaluation.json").read_text())["detectors"][0]
        assert_same_scores(record, ours)
        assert {n: i["value"] for n, i in record["intervals"].items()} == pytest.approx(
            {n: i["value"] for n, i in ours["intervals"].items()}
        )


@pytest.mark.usefixtures("undrawn")
def test_every_class_and_the_best_label_are_both_scored(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference.predictor.Predictor.load", lambda *_, **__: ambiguous())
    out = data.parent / "out"
    assert main(["--data", str(data), "--split", "all", "--bootstrap", "2", "--out", str(out)]) == 0
    ours = read_report(data)["detectors"][0]
    ap50 = {view: {c["name"]: c["overall"]["ap50"] for c in ours[view]["classes"]} for view in ("scores", "each_class")}
    # One label: a1 0.45 without (false), a2 0.36 without (hit), b 0.4893 with (false), d 0.24 with (false).
    assert ap50["scores"] == pytest.approx({"without_mask": 51 / 2 / 101, "with_mask": 0, "mask_weared_incorrect": 0})
    # with_mask: b 0.4893 and d 0.24 false, a1 0.36 a hit between them. without_mask: a1 0.45 false, a2 0.36 and
    # b 0.21 hits, d 0.15 false. mask_weared_incorrect: a2 0.24 false, d 0.21 a hit.
    assert ap50["each_class"] == pytest.approx(
        {"without_mask": 2 / 3, "with_mask": 1 / 2, "mask_weared_incorrect": 1 / 2}
    )
    assert ours["intervals"]["mAP50"]["value"] == pytest.approx((2 / 3 + 1) / 3)
    assert ours["intervals"]["mAP50, one label"]["value"] == pytest.approx(51 / 2 / 101 / 3)
    assert ours["each_class"]["faces"] == ours["scores"]["faces"]
    assert ours["settings"]["class_floor"] == 0.001
    assert ours["slice_cuts"]["luma"] == [85, 150]
    # No score reaches the predictor's threshold of 0.5.
    assert ours["reliability"]["reported"] == {"floor": 0.5, "count": 0, "ece": None, "bins": []}
    assert ours["reliability"]["found"]["count"] == 4
    assert all(t["found"] == 0 and t["unsure_share"] is None for t in ours["unsure"])
    text = (out / "evaluation.md").read_text()
    assert "| mAP50 | 0.556 [" in text and "| mAP50, one label | 0.084 [" in text
    assert "so they compare with such detectors' published figures" in text
    assert (out / "reliability.png").is_file()


@pytest.mark.parametrize(("min_score", "count"), [(0.0, 2), (0.42, 2), (0.445, 1)])
def test_merged_classes_are_added_up_before_the_label_is_chosen(data: Path, min_score: float, count: int) -> None:
    images = read_dataset(data).images[:1]
    ((s,), _) = detect_samples(
        ambiguous(),  # type: ignore[arg-type]
        images,
        ("without_mask", "with_mask"),
        {"mask_weared_incorrect": "with_mask"},
        min_score,
    )
    # 0.9 * (0.5 | 0.4 + 0.1) is a tie, which the first class wins. 0.8 * (0.45 | 0.25 + 0.3) changes the label. The
    # best class alone, 0.36, is below the second lowest score; the sum is above it.
    assert s.class_scores is not None
    assert s.scores.tolist() == pytest.approx([0.45, 0.44][:count])
    assert s.labels.tolist()[1:] == [1][: count - 1]
    assert s.class_scores[:, 0].tolist() == pytest.approx([0.45, 0.36][:count])


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_stock_cascade_is_scored_next_to_the_bundle(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--data", str(data), "--split", "all", "--bootstrap", "0", "--no-pictures"]
    argv += ["--out", str(data.parent / "out")]
    assert main([*argv, "--stock"]) == 0
    ours, stock = read_report(data)["detectors"]
    assert (ours["name"], stock["name"]) == ("ours", "stock cascade")
    assert stock["images"] == ours["images"] == 4
    assert "best F1" in stock["threshold_from"]
    capsys.readouterr()
    assert main([*argv, "--stock", "--skip-bundle"]) == 1
    assert "exclude each other" in capsys.readouterr().err
