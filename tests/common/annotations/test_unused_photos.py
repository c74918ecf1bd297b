"""Photos that a dataset neither has nor names are told in a note."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.annotations import read_dataset
from common.annotations.collect import DatasetError
from tests.helpers.coco_sets import save_photo

ROW = "0 0.4 0.4 0.2 0.3\n"
PAGE = (
    "<annotation><object><name>with_mask</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>50</ymax>"
    "</bndbox></object></annotation>"
)


def write_yolo(root: Path, folder: str, *stems: str) -> None:
    """Write photos in FOLDER/images with a face each in FOLDER/labels."""
    for stem in stems:
        save_photo(root / folder / "images" / f"{stem}.jpg")
        label = root / folder / "labels" / f"{stem}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(ROW)


def test_a_part_that_data_yaml_does_not_name(tmp_path: Path) -> None:
    for folder, stem in (("train", "a"), ("val", "b"), ("test", "c")):
        write_yolo(tmp_path, folder, stem)
    (tmp_path / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [with_mask]\n")
    read = read_dataset(tmp_path)
    assert read.face_count == 2
    what = (
        "not used: 1 photo in other folders, such as test/images/c.jpg; 1 has an annotation, such as test/images/c.jpg"
    )
    assert read.notes[-1] == f"{what} (name the folder with --data, or in data.yaml)"


def test_photos_without_annotations_in_a_folder_that_is_not_read(tmp_path: Path) -> None:
    save_photo(tmp_path / "train/a.jpg")
    (tmp_path / "train/a.xml").write_text(PAGE)
    save_photo(tmp_path / "test/b.jpg")
    assert read_dataset(tmp_path).notes == ("not used: 1 photo in other folders, such as test/b.jpg",)


def test_the_folder_that_is_read_is_named(tmp_path: Path) -> None:
    save_photo(tmp_path / "sample/a.jpg")
    (tmp_path / "sample/a.xml").write_text(PAGE)
    for stem in "bc":
        save_photo(tmp_path / "images" / f"{stem}.jpg")
    note = "not used: 2 photos in other folders, such as images/b.jpg; sample/ is read"
    assert read_dataset(tmp_path).notes == (note,)


def test_copies_and_named_photos_need_no_note(tmp_path: Path) -> None:
    for folder in ("images", "backup"):
        save_photo(tmp_path / folder / "a.jpg")
    save_photo(tmp_path / "images/b.jpg")  # named: it has no annotation
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/a.xml").write_text(PAGE)
    read = read_dataset(tmp_path)
    assert not read.notes and [problem.file.name for problem in read.problems] == ["b.jpg"]


def test_rows_of_two_corners_are_refused(tmp_path: Path) -> None:
    """Read as centre and size, they would leave the photo."""
    write_yolo(tmp_path, "", "a", "b")
    (tmp_path / "classes.txt").write_text("with_mask\n")
    (tmp_path / "labels/a.txt").write_text("0 0.6 0.5 0.9 0.99\n0 0.1 0.2 0.4 0.7\n0 0.7 0.1 0.95 0.4\n")
    (tmp_path / "labels/b.txt").write_text("0 0.55 0.6 0.9 0.95\n")
    with pytest.raises(DatasetError) as raised:
        read_dataset(tmp_path)
    what = "line 1: the rows look like corners, x1 y1 x2 y2 (3 of 4 boxes would leave their photos)"
    assert str(raised.value).startswith(f"{tmp_path}/labels/a.txt: {what}; write `class cx cy w h`")


def test_large_faces_are_no_corners(tmp_path: Path) -> None:
    write_yolo(tmp_path, "", *"abcd")
    (tmp_path / "classes.txt").write_text("with_mask\n")
    for stem in "abcd":
        (tmp_path / f"labels/{stem}.txt").write_text("0 0.45 0.48 0.85 0.9\n")
    assert read_dataset(tmp_path).face_count == 4


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ("0: with_mask\n1: without_mask\n", "each line begins with the class's number"),
        ("1 with_mask\n2 without_mask\n", "each line begins with the class's number"),
        ("with_mask,without_mask\n", "all class names are on one line"),
    ],
)
def test_class_names_of_another_form_are_refused(tmp_path: Path, names: str, fault: str) -> None:
    write_yolo(tmp_path, "", "a")
    (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(DatasetError) as raised:
        read_dataset(tmp_path)
    assert str(raised.value) == f"{tmp_path}/classes.txt: {fault}; write one class name per line"


def test_split_folders_with_a_year(tmp_path: Path) -> None:
    write_yolo(tmp_path, "train2017", "a")
    write_yolo(tmp_path, "val2017", "b")
    (tmp_path / "classes.txt").write_text("with_mask\n")
    assert {image.split for image in read_dataset(tmp_path).images} == {"train", "val"}
