"""Detections in other libraries' types, read back with those libraries."""

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


def made(n: int = 2) -> Detections:
    boxes = np.float32([[1, 2, 11, 22], [30.5, 40, 50, 70.25]])[:n]
    probs = np.float32([[0.1, 0.8, 0.1], [0.4, 0.3, 0.3]])[:n]
    landmarks = np.zeros((n, 5, 2), np.float32)
    return Detections(boxes, np.float32([0.9, 0.5])[:n], probs, landmarks, CLASSES, unsure_margin=0.2)


def test_supervision_gets_boxes_scores_and_classes() -> None:
    found = made()
    theirs = found.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, found.boxes)
    np.testing.assert_allclose(theirs.confidence, [0.72, 0.2], rtol=1e-6)
    assert theirs.class_id.tolist() == [1, 0]
    assert theirs.data["class_name"].tolist() == ["without_mask", "with_mask"]
    assert theirs.data["unsure"].tolist() == [False, True]
    assert len(theirs[theirs.confidence > 0.5]) == 1
    theirs.xyxy[:] = 0  # their in-place edits are not ours
    assert found.boxes[0, 0] == 1


def test_supervision_takes_no_face() -> None:
    assert len(Detections.empty(CLASSES).to_supervision()) == 0


def test_pandas_gets_a_row_a_face() -> None:
    table = made().to_pandas()
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
    results = made().to_coco(image_id=7)
    assert results[0] == {"image_id": 7, "category_id": 2, "bbox": [1, 2, 10, 20], "score": 0.72}
    truth = {
        "info": {},
        "images": [{"id": 7, "width": 100, "height": 100}],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [30.5, 40, 19.5, 30.25], "area": 590, "iscrowd": 0},
        ],
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    coco = faster_coco_eval.COCO(str(file))
    scored = faster_coco_eval.COCOeval_faster(coco, coco.loadRes(results), "bbox")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    assert scored.stats[0] == pytest.approx(1.0)


def test_coco_takes_other_category_ids() -> None:
    ids = {"with_mask": 5, "without_mask": 9}
    assert [result["category_id"] for result in made().to_coco("a.jpg", ids)] == [9, 5]
    with pytest.raises(KeyError, match="with_mask"):
        made().to_coco("a.jpg", {"without_mask": 9})


@pytest.mark.parametrize(("package", "convert"), [("supervision", "to_supervision"), ("pandas", "to_pandas")])
def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, package: str, convert: str) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError) as caught:
        getattr(made(), convert)()
    assert str(caught.value) == f"this needs the package '{package}'; install it with `pip install {package}`"
