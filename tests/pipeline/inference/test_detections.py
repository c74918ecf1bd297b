"""Detections: checks, and conversion to other libraries' types, read back with those libraries."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from pipeline.inference.detections import Detections

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")


def two_faces(n: int = 2) -> Detections:
    boxes = np.float32([[1, 2, 11, 22], [30.5, 40, 50, 70.25]])[:n]
    probs = np.float32([[0.1, 0.8, 0.1], [0.4, 0.3, 0.3]])[:n]
    landmarks = np.zeros((n, 5, 2), np.float32)
    return Detections(boxes, np.float32([0.9, 0.5])[:n], probs, landmarks, CLASSES, unsure_margin=0.2)


def test_supervision_gets_boxes_scores_and_classes() -> None:
    found = two_faces()
    converted = found.to_supervision()
    np.testing.assert_array_equal(converted.xyxy, found.boxes)
    np.testing.assert_allclose(converted.confidence, [0.72, 0.2], rtol=1e-6)
    assert converted.class_id.tolist() == [1, 0]
    assert converted.data["class_name"].tolist() == ["without_mask", "with_mask"]
    assert converted.data["unsure"].tolist() == [False, True]
    assert len(converted[converted.confidence > 0.5]) == 1
    converted.xyxy[:] = 0  # a change of the copy does not change the detections
    assert found.boxes[0, 0] == 1


def test_supervision_gets_an_empty_result() -> None:
    assert len(Detections.empty(CLASSES).to_supervision()) == 0


def test_pandas_gets_one_row_per_face() -> None:
    table = two_faces().to_pandas()
    assert list(table.columns) == [
        *("x1", "y1", "x2", "y2", "label", "score", "face_score"),
        *("p_with_mask", "p_without_mask", "p_mask_weared_incorrect", "unsure"),
    ]
    assert table.label.tolist() == ["without_mask", "with_mask"]
    assert table.x2.tolist() == [11, 50]
    np.testing.assert_allclose(table.p_without_mask, [0.8, 0.3], rtol=1e-6)
    assert len(Detections.empty(CLASSES).to_pandas()) == 0


def test_coco_results_are_read_by_a_coco_evaluator(tmp_path: Path) -> None:
    faster_coco_eval = pytest.importorskip("faster_coco_eval")
    results = two_faces().to_coco(image_id=7)
    assert results[0] == {"image_id": 7, "category_id": 2, "bbox": [1, 2, 10, 20], "score": 0.72}
    annotations = {
        "info": {},
        "images": [{"id": 7, "width": 100, "height": 100}],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [30.5, 40, 19.5, 30.25], "area": 590, "iscrowd": 0},
        ],
    }
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(annotations))
    coco = faster_coco_eval.COCO(str(file))
    scored = faster_coco_eval.COCOeval_faster(coco, coco.loadRes(results), "bbox")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    assert scored.stats[0] == pytest.approx(1.0)


def test_coco_uses_given_category_ids() -> None:
    ids = {"with_mask": 5, "without_mask": 9}
    assert [result["category_id"] for result in two_faces().to_coco("a.jpg", ids)] == [9, 5]
    with pytest.raises(KeyError, match="with_mask"):
        two_faces().to_coco("a.jpg", {"without_mask": 9})


@pytest.mark.parametrize(("package", "convert"), [("supervision", "to_supervision"), ("pandas", "to_pandas")])
def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, package: str, convert: str) -> None:
    real_import = builtins.__import__

    def without_package(name: str, *args: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_package)
    with pytest.raises(UserError) as caught:
        getattr(two_faces(), convert)()
    assert str(caught.value) == f"this needs the package '{package}'; install it with `pip install {package}`"


def test_detections_refuse_shapes_that_do_not_fit() -> None:
    ones = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        Detections(np.zeros((1, 4)), ones, np.ones((1, 2), np.float32), np.zeros((1, 5, 2), np.float32), ("a",))
    with pytest.raises(ValueError, match="sum to 1"):
        Detections(
            np.zeros((1, 4)), ones, np.full((1, 2), 0.9, np.float32), np.zeros((1, 5, 2), np.float32), ("a", "b")
        )
