"""Annotations in two formats in one folder: refused where one format lacks faces of the other, else a note."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from common.annotations import ReadingArgs, read_dataset
from common.annotations.collect import DatasetError
from tests.helpers.coco_sets import face, save_photo, write_coco

ROW = "0 0.2 0.4375 0.2 0.375\n"


def write_photos(root: Path, names: str, folder: str = "") -> Path:
    """Write a photo for each letter."""
    for name in names:
        save_photo(root / folder / f"{name}.jpg")
    return root


def write_voc(root: Path, names: str, folder: str = "") -> Path:
    """Write one XML with a face for each letter."""
    edges = "<xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>50</ymax>"
    page = f"<annotation><object><name>with_mask</name><bndbox>{edges}</bndbox></object></annotation>"
    return write_files(root / folder, names, ".xml", page)


def write_yolo(root: Path, names: str, folder: str = "") -> Path:
    """Write label files with two faces, and the names of classes."""
    (root / "classes.txt").write_text("with_mask\nwithout_mask\n")
    return write_files(root / folder, names, ".txt", ROW + "1 0.6 0.5 0.2 0.3\n")


def write_labelme(root: Path, names: str, folder: str = "") -> Path:
    """Write one LabelMe file with a face for each letter."""
    shape = {"label": "with_mask", "shape_type": "rectangle", "points": [[10, 20], [30, 50]]}
    return write_files(root / folder, names, ".json", json.dumps({"shapes": [shape]}))


def write_one_coco(root: Path, names: str) -> Path:
    """Write a COCO file with one face for each letter."""
    return write_coco(root / "all.json", [f"{name}.jpg" for name in names], [face(i + 1) for i in range(len(names))])


def write_files(folder: Path, names: str, suffix: str, text: str) -> Path:
    """Write a file for each letter, and return the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}{suffix}").write_text(text)
    return folder / f"{names[-1]}{suffix}"


Writer = Callable[[Path, str], Path]


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (write_voc, write_yolo, ("Pascal VOC", "YOLO")),  # LabelImg, whose format was changed
        (write_voc, write_labelme, ("Pascal VOC", "LabelMe")),
        (write_labelme, write_yolo, ("LabelMe", "YOLO")),
        (write_voc, write_one_coco, ("Pascal VOC", "COCO")),
        (write_one_coco, write_yolo, ("COCO", "YOLO")),
    ],
)
def test_photos_with_another_format_alone_refuse_the_dataset(
    tmp_path: Path, first: Writer, second: Writer, names: tuple[str, str]
) -> None:
    write_photos(tmp_path, "abcde")
    first(tmp_path, "ab")
    file = second(tmp_path, "cd").name
    file = file.replace("d.", "c.")
    with pytest.raises(DatasetError) as raised:
        read_dataset(tmp_path)
    own, other = names
    what = f"{tmp_path}: has {own} and {other} annotations, and only {other} has those of 2 photos, such as c.jpg"
    fix = f"convert them to one format, or move the files of {own} or {other} out of the folder"
    assert str(raised.value) == f"{what} in {file}; {fix}"
    assert {problem.file.name for problem in raised.value.problems} == {"c.jpg", "d.jpg", "e.jpg"}


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        (
            write_voc,
            write_yolo,
            "Pascal VOC (2 faces) is read, and YOLO of the same photos (4 faces, such as in a.txt)",
        ),
        (
            write_voc,
            write_one_coco,
            "Pascal VOC (2 faces) is read, and COCO of the same photos (2 faces, such as in all",
        ),
        (write_one_coco, write_yolo, "COCO (2 faces) is read, and YOLO of the same photos (4 faces, such as in a.txt)"),
    ],
)
def test_two_formats_of_the_same_photos_are_a_note(tmp_path: Path, first: Writer, second: Writer, line: str) -> None:
    write_photos(tmp_path, "abc")
    first(tmp_path, "ab")
    second(tmp_path, "ab")
    read = read_dataset(tmp_path)
    assert read.face_count == 2 and [problem.file.name for problem in read.problems] == ["c.jpg"]
    (note,) = read.notes
    assert note.startswith(line) and note.endswith(" is not; move the files of one format out of the folder")


def test_the_note_names_a_file_with_its_folder(tmp_path: Path) -> None:
    write_photos(tmp_path, "ab", "images")
    write_voc(tmp_path, "ab", "annotations")
    write_yolo(tmp_path, "ab", "labels")
    (note,) = read_dataset(tmp_path).notes
    assert "such as in labels/a.txt" in note


def test_an_empty_file_of_the_format_that_is_read_says_that_there_is_no_face(tmp_path: Path) -> None:
    write_photos(tmp_path, "ab")
    write_voc(tmp_path, "a")
    (tmp_path / "b.xml").write_text("<annotation/>")
    write_yolo(tmp_path, "b")
    read = read_dataset(tmp_path)
    assert [len(image.boxes) for image in read.images] == [1, 0] and len(read.notes) == 1


def test_a_refused_file_stays_one_problem(tmp_path: Path) -> None:
    write_photos(tmp_path, "ab")
    write_voc(tmp_path, "a")
    (tmp_path / "b.xml").write_text("<annotation>")
    write_yolo(tmp_path, "ab")
    read = read_dataset(tmp_path)
    assert [image.image_id for image in read.images] == ["a"] and len(read.notes) == 1
    assert [problem.file.name for problem in read.problems] == ["b.xml"]


def test_a_refused_photo_of_a_coco_file_stays_one_problem(tmp_path: Path) -> None:
    write_photos(tmp_path, "a")
    save_photo(tmp_path / "b.jpg", (30, 70))
    write_one_coco(tmp_path, "ab")
    write_yolo(tmp_path, "ab")
    read = read_dataset(tmp_path)
    assert [image.image_id for image in read.images] == ["a"] and len(read.problems) == 1


@pytest.mark.parametrize("unlabelled", ["face-free", "skip"])
def test_photos_that_yolo_takes_as_face_free_may_have_xml(tmp_path: Path, unlabelled: str) -> None:
    write_photos(tmp_path, "abc", "images")
    write_yolo(tmp_path, "a", "labels")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [with_mask, without_mask]\n")
    write_voc(tmp_path, "b", "annotations")
    with pytest.raises(
        DatasetError, match=r"only Pascal VOC has those of 1 photo, such as b\.jpg in annotations/b\.xml"
    ):
        read_dataset(tmp_path, ReadingArgs(unlabelled=unlabelled))  # type: ignore[arg-type]
    named = read_dataset(tmp_path / "data.yaml", ReadingArgs(unlabelled=unlabelled))  # type: ignore[arg-type]
    assert named.face_count == 2  # the format was chosen


def test_label_files_count_also_without_class_names(tmp_path: Path) -> None:
    write_photos(tmp_path, "abc")
    write_voc(tmp_path, "ab")
    write_yolo(tmp_path, "c")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DatasetError, match=r"only YOLO has those of 1 photo, such as c\.jpg in c\.txt; convert"):
        read_dataset(tmp_path)


def test_other_files_are_no_second_format(tmp_path: Path) -> None:
    write_photos(tmp_path, "abc", "images")
    write_voc(tmp_path, "ab", "annotations")
    (tmp_path / "README.txt").write_text("Photos of 2024.\n")
    (tmp_path / "classes.txt").write_text("with_mask\n")
    (tmp_path / "splits.csv").write_text("image,split\na,train\n")
    write_files(tmp_path / "images", "abc", ".txt", "110 120 130 140 150 160 170 180 190 200\n")  # landmarks
    write_files(tmp_path / "captions", "abc", ".json", '{"caption": "two people"}')
    write_coco(tmp_path / "of_other_photos.json", ["x.jpg", "y.jpg"], [face(), face(2)])
    read = read_dataset(tmp_path)
    assert not read.notes and [problem.file.name for problem in read.problems] == ["c.jpg"]


def test_a_conversion_with_copies_of_the_photos_is_noted(tmp_path: Path) -> None:
    """VOC in images/ and annotations/, and its YOLO conversion with the photos copied to train/images."""
    write_photos(tmp_path, "abc", "images")
    write_voc(tmp_path, "abc", "annotations")
    write_photos(tmp_path, "abc", "train/images")
    write_yolo(tmp_path, "abc", "train/labels")
    read = read_dataset(tmp_path)
    assert read.face_count == 3 and {image.image_id for image in read.images} >= {"a", "b", "c"}
    assert any("YOLO of the same photos (6 faces" in note for note in read.notes)
