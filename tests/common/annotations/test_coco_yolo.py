"""COCO and YOLO readers on small datasets in the layouts of COCO, Ultralytics and Roboflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.annotations import read_dataset
from common.annotations.yolo import read_yolo
from common.errors import UserError


def save_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(path)


def write_coco(file: Path, names: list[str], annotations: list[dict[str, Any]]) -> Path:
    """Write a COCO file with image ids from 1 and Roboflow's categories: an unused 0, with_mask, without_mask."""
    file.parent.mkdir(parents=True, exist_ok=True)
    categories = [
        {"id": 0, "name": "masks", "supercategory": "none"},
        {"id": 1, "name": "with_mask", "supercategory": "masks"},
        {"id": 2, "name": "without_mask", "supercategory": "masks"},
    ]
    images = [{"id": i, "file_name": n, "width": 100, "height": 80} for i, n in enumerate(names, start=1)]
    rows = [{"id": i} | row for i, row in enumerate(annotations, start=1)]
    file.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return file


def coco_face(
    image_id: int = 1, category_id: int = 1, bbox: object = (10.5, 20, 30, 40), **more: int
) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


def test_coco_file_given_directly(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save_photo(tmp_path / name)
    file = write_coco(
        tmp_path / "x.json", ["a.jpg", "b.png"], [coco_face(), coco_face(category_id=2, bbox=[0, 0, 9, 9], iscrowd=1)]
    )
    read = read_dataset(file)
    a, b = read.images
    assert a.path.name == "a.png"
    np.testing.assert_array_equal(a.boxes, [[10.5, 20, 40.5, 60]])
    assert b.boxes.shape == (0, 4)
    assert read.class_names == ("with_mask", "without_mask", "mask_weared_incorrect")
    assert [p.file.name for p in read.problems] == ["c.png"] and "not listed" in read.problems[0].reason


def test_roboflow_coco_folders_and_dummy_category(tmp_path: Path) -> None:
    for folder in ("train", "valid"):
        save_photo(tmp_path / folder / f"{folder}.jpg")
        write_coco(tmp_path / folder / "_annotations.coco.json", [f"{folder}.jpg"], [coco_face()])
    read = read_dataset(tmp_path)
    assert [(i.image_id, i.split) for i in read.images] == [("train", "train"), ("valid", "val")]
    assert "masks" not in read.class_names


def test_coco_annotations_folder(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/train2017/a.png")
    save_photo(tmp_path / "images/b.png")
    write_coco(tmp_path / "annotations/instances_train2017.json", ["a.png"], [coco_face()])
    write_coco(tmp_path / "annotations/val.json", ["b.png", "b.png"], [coco_face(), coco_face(image_id=2)])
    read = read_dataset(tmp_path)
    assert [(i.image_id, i.split) for i in read.images] == [("a", "train"), ("b", "val")]
    assert len(read.problems) == 1 and "twice" in read.problems[0].reason


@pytest.mark.parametrize("text", ["[" * 100_000, "\udce9"])
def test_malformed_coco_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=r"x\.json"):
        read_dataset(tmp_path / "x.json")


def write_yolo(root: Path, part: str, stem: str, *lines: str) -> None:
    save_photo(root / part / "images" / f"{stem}.jpg")
    (root / part / "labels").mkdir(parents=True, exist_ok=True)
    (root / part / "labels" / f"{stem}.txt").write_text("\n".join(lines))


def test_roboflow_yolo(tmp_path: Path) -> None:
    write_yolo(tmp_path, "train", "a", "1 0.5 0.5 0.2 0.5", "", "0 0.1 0.25 0.3 0.25 0.2 0.5")
    write_yolo(tmp_path, "valid", "b", "0 0.999 0.5 0.1 0.1", "7 0.5 0.5 0.1 0.1", "0 0.5 0.5", "0 0.5 nan 0.1 0.1")
    save_photo(tmp_path / "valid/images/empty.jpg")
    (tmp_path / "valid/labels/gone.txt").write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\n"
        "names: ['with_mask', 'without_mask']\n"
    )
    read = read_dataset(tmp_path)
    assert [(i.image_id, i.split, i.labels) for i in read.images] == [
        ("a", "train", ("without_mask", "with_mask")),
        ("b", "val", ("with_mask",)),
        ("empty", "val", ()),
    ]
    np.testing.assert_allclose(read.images[0].boxes, [[40, 20, 60, 60], [10, 20, 30, 40]], atol=1e-4)
    assert read.clipped_boxes == 1
    problems = [(p.file.name, p.reason.split(";")[0]) for p in read.problems]
    assert problems == [
        ("data.yaml", "test: ../test/images does not exist"),
        ("b.txt", "line 2 has the unknown class 7"),
        ("b.txt", "line 3 has 3 values, which is not a box or a polygon"),
        ("b.txt", "line 4 has a box edge that is missing or not a number"),
        ("gone.txt", "no image of this name"),
    ]


def test_yolo_names_as_table_and_image_lists(tmp_path: Path) -> None:
    write_yolo(tmp_path, ".", "a", "3 0.5 0.5 0.2 0.5")
    write_yolo(tmp_path, ".", "b", "3 0.5 0.5 0.2 0.5")
    (tmp_path / "train.txt").write_text("./images/a.jpg\n./images/gone.jpg\n")
    (tmp_path / "data.yaml").write_text("path: /elsewhere\ntrain: train.txt\nval: [images]\nnames: {3: with_mask}\n")
    read = read_yolo(tmp_path / "data.yaml")
    assert [(i.image_id, i.split) for i in read.images] == [("a", "train"), ("b", "val")]
    assert any("gone.jpg" in p.reason for p in read.problems)


def test_bare_yolo_folders_need_class_names(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/train/a.png")
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/a.txt").write_text("1 0.5 0.5 0.5 0.5")
    with pytest.raises(UserError, match=r"classes\.txt"):
        read_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("without_mask\nwith_mask\n")
    (image,) = read_dataset(tmp_path).images
    assert image.labels == ("with_mask",) and image.split == "train"
    np.testing.assert_array_equal(image.boxes, [[25, 20, 75, 60]])


def test_rounding_of_normalised_boxes_does_not_count_as_clipping(tmp_path: Path) -> None:
    write_yolo(tmp_path, ".", "a", "0 0.833333 0.5 0.333335 1.000001")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [with_mask]\n")
    read = read_dataset(tmp_path)
    assert read.clipped_boxes == 0 and read.images[0].boxes[0, 2] == 100
