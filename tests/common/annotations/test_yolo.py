"""YOLO reader on small datasets in the layouts of Ultralytics, Roboflow, Darknet and CVAT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.annotations import read_dataset
from common.annotations.yolo import read_yolo
from common.errors import UserError


def save_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(path)


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
