"""Layouts of COCO datasets, as tools write them, and how the names in the files find the images."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from common.annotations import Annotations, read_dataset
from common.annotations.coco import read_coco
from common.annotations.collect import DatasetError
from common.errors import UserError
from tests.helpers.coco_sets import face, save_photo, write_coco

BOX = [10, 20, 40, 60]  # of `face`


def found(read: Annotations, root: Path) -> list[tuple[str, str | None, int]]:
    """Return (path below the dataset's folder, split, number of faces) of each image."""
    return [(i.path.relative_to(root).as_posix(), i.split, len(i.boxes)) for i in read.images]


# The annotation file, the name that it gives, the photo, and the split.
LAYOUTS = {
    "official": ("annotations/instances_train2017.json", "a.jpg", "train2017/a.jpg", "train"),
    "official, images": ("annotations/instances_val2017.json", "a.jpg", "images/val2017/a.jpg", "val"),
    "keypoints only": ("annotations/person_keypoints_val2017.json", "a.jpg", "val2017/a.jpg", "val"),
    "Datumaro": ("annotations/instances_default.json", "a.jpg", "images/default/a.jpg", None),
    "Datumaro, inner folder": ("annotations/instances_default.json", "cam/1/a.jpg", "images/default/cam/1/a.jpg", None),
    "CVAT": ("annotations/instances_default.json", "a.jpg", "images/a.jpg", None),
    "CVAT, subset": ("annotations/instances_Train.json", "a.jpg", "images/Train/a.jpg", "train"),
    "MMDetection": ("annotations/instances_cam1.json", "a.jpg", "cam1/a.jpg", None),
    "Roboflow": ("valid/_annotations.coco.json", "a.jpg", "valid/a.jpg", "val"),
    "Roboflow, one folder": ("_annotations.coco.json", "a.jpg", "a.jpg", None),
    "Label Studio": ("result.json", "images/1f2e-a.jpg", "images/1f2e-a.jpg", None),
    "Label Studio, Windows": ("result.json", r"images\1f2e-a.jpg", "images/1f2e-a.jpg", None),
    "Label Studio, media": ("result.json", "../../label-studio/data/media/upload/1/a.jpg", "images/a.jpg", None),
    "Label Studio, local files": ("result.json", "/data/local-files/?d=folder/a.jpg", "folder/a.jpg", None),
    "Label Studio, encoded": ("result.json", "/data/local-files/?d=my%20set%2Fa%20b.jpg", "my set/a b.jpg", None),
    "web address": ("result.json", "https://host/up/a%20b.jpg?key=1/2", "images/a b.jpg", None),
    "a name with %20": ("result.json", "a%20b.jpg", "images/a%20b.jpg", None),
    "VIA": ("via_export_coco.json", "a.jpg", "a.jpg", None),
    "any name": ("my labels.JSON", "a.jpg", "images/a.jpg", None),
    "one file per split": ("train/train.json", "a.jpg", "train/a.jpg", "train"),
    "inner annotations": ("train/annotations.json", "a.jpg", "train/images/a.jpg", "train"),
    "annotations in a split": ("test/annotations/x.json", "a.jpg", "test/images/a.jpg", "test"),
    "splits below annotations": ("annotations/val/x.json", "a.jpg", "images/val/a.jpg", "val"),
    "next to images": ("images/x.json", "a.jpg", "images/a.jpg", None),
    "in a plain folder": ("photos/x.json", "a.jpg", "photos/a.jpg", None),
    "AutoGluon": ("Annotations/train_labels.json", "a.jpg", "images/a.jpg", "train"),
    "a path with ..": ("annotations/x.json", "../images/a.jpg", "images/a.jpg", None),
    "other machine": ("annotations/x.json", r"D:\work\set\images\a.jpg", "images/a.jpg", None),
    "other suffix": ("annotations/x.json", "a.jpg", "images/a.jfif", None),
    "AVIF": ("annotations/x.json", "a.jpg", "images/a.avif", None),
    "NFD on disk": ("x.json", "사진.jpg", "images/" + unicodedata.normalize("NFD", "사진.jpg"), None),
    "NFD in the file": ("x.json", unicodedata.normalize("NFD", "é/ü.jpg"), "é/ü.jpg", None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    file, name, photo, split = LAYOUTS[layout]
    save_photo(tmp_path / photo)
    write_coco(tmp_path / file, [name], [face()])
    read = read_dataset(tmp_path)
    assert read.format_name == "COCO" and not read.problems
    assert found(read, tmp_path) == [(photo, split, 1)]
    np.testing.assert_array_equal(read.images[0].boxes, [BOX])
    (image,) = read_dataset(tmp_path / file).images  # the file alone; its images are near it
    assert image.path.samefile(tmp_path / photo) and image.split is None


def test_annotations_in_a_folder_of_any_name(tmp_path: Path) -> None:
    save_photo(tmp_path / "photos/a.jpg")
    file = write_coco(tmp_path / "ground truth/x.json", ["a.jpg"], [face()])
    assert found(read_dataset(tmp_path), tmp_path) == [("photos/a.jpg", None, 1)]
    with pytest.raises(DatasetError, match="give the folder that has both the JSON and the images"):
        read_dataset(file)  # the folders next to that of the file may be of other datasets


def test_a_file_named_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("set/images/a.jpg", "set/images/b.jpg", "set/c.jpg", "set/images/c.jpg"):
        save_photo(tmp_path / name)
    write_coco(tmp_path / "set/annotations/x.json", ["a.jpg", "b.jpg"], [face()])
    write_coco(tmp_path / "set/y.json", ["c.jpg", "images/c.jpg"], [face()])
    for folder, file, photos in (
        ("set/annotations", "x.json", ["images/a.jpg", "images/b.jpg"]),
        ("set", "annotations/x.json", ["images/a.jpg", "images/b.jpg"]),
        ("set/images", "../annotations/x.json", ["images/a.jpg", "images/b.jpg"]),
        (".", "set/annotations/x.json", ["images/a.jpg", "images/b.jpg"]),
        ("set/images", "../y.json", ["c.jpg", "images/c.jpg"]),
        ("set", "y.json", ["c.jpg", "images/c.jpg"]),
    ):
        monkeypatch.chdir(tmp_path / folder)
        read = read_dataset(file)
        assert [i.path.resolve().relative_to(tmp_path / "set").as_posix() for i in read.images] == photos
        assert read.images[0].labels == ("with_mask",) and not any(p.objects for p in read.problems)


def test_two_datasets_in_a_folder_are_not_mixed(tmp_path: Path) -> None:
    for name in ("annotated 1", "annotated 2"):
        save_photo(tmp_path / name / "images/a.jpg")
        write_coco(tmp_path / name / "annotations/x.json", ["a.jpg"], [face()])
    with pytest.raises(UserError, match=r"holds 2 datasets \(annotated 1, annotated 2\); name one of them"):
        read_dataset(tmp_path)


def test_images_outside_the_dataset_by_their_path(tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "photos/a.jpg")
    save_photo(tmp_path / "photos/b.jpg")
    names = [str(photo), "../../photos/b.jpg", f"/{'x' * 5000}.jpg"]
    write_coco(tmp_path / "set/annotations/x.json", names, [face(), face(2), face(3)])
    read = read_dataset(tmp_path / "set")
    assert found(read, tmp_path) == [("photos/a.jpg", None, 1), ("photos/b.jpg", None, 1)]
    assert (read.face_count, read.refused_count) == (2, 1)


def test_masks_of_the_images_names_are_not_taken_for_images(tmp_path: Path) -> None:
    for folder in ("images/val", "masks", "annotations/panoptic_val"):
        save_photo(tmp_path / folder / "a.png")
    write_coco(tmp_path / "annotations/x.json", ["a.png"], [face()])
    assert found(read_dataset(tmp_path), tmp_path) == [("images/val/a.png", None, 1)]


def test_names_with_percent_signs(tmp_path: Path) -> None:
    for name in ("a%20b.jpg", "a b.jpg"):
        save_photo(tmp_path / "images" / name)
    write_coco(tmp_path / "x.json", ["a b.jpg", "a%20b.jpg"], [face(), face(2, bbox=[1, 2, 9, 9])])
    boxes = {image.path.name: image.boxes[0, 0] for image in read_dataset(tmp_path).images}
    assert boxes == {"a b.jpg": 10, "a%20b.jpg": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("package.json", '{"name": "x", "images": "a", "annotations": "b"}'),
        ("via_project.json", '{"_via_settings": {}, "_via_img_metadata": {"a.jpg1": {"filename": "a.jpg"}}}'),
        ("a.json", '{"version": "5.0", "shapes": [], "imagePath": "a.jpg", "imageData": "\\"images\\""}'),
        ("tasks.json", '[{"id": 1, "annotations": [], "images": []}]'),
        ("empty.json", ""),
        ("broken.json", "{"),
        ("annotations/a.json", '{"shapes": [{"label": "x"}], "imagePath": "a.jpg"}'),
    ],
)
def test_other_json_files_are_not_coco(tmp_path: Path, name: str, text: str) -> None:
    save_photo(tmp_path / "images/a.jpg")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="no COCO dataset"):
        read_coco(tmp_path)
    write_coco(tmp_path / "x.json", ["a.jpg"], [face()])
    read = read_coco(tmp_path)
    assert not read.problems and not read.notes and read.face_count == 1


def test_links_that_lead_to_themselves_or_to_the_dataset_are_no_other_dataset(tmp_path: Path) -> None:
    save_photo(tmp_path / "set/images/a.png")
    write_coco(tmp_path / "set/annotations/x.json", ["a.png"], [face(1)])
    (tmp_path / "set/itself").symlink_to("itself")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "copy").symlink_to("set")
    assert read_dataset(tmp_path).face_count == 1


def test_a_task_without_boxes_and_categories_is_ignored(tmp_path: Path) -> None:
    save_photo(tmp_path / "train/images/a.png")
    write_coco(tmp_path / "train/annotations/instances.json", ["a.png"], [face(1)])
    (tmp_path / "train/annotations/captions.json").write_text('{"images": [], "annotations": []}')
    read = read_dataset(tmp_path)
    assert read.face_count == 1 and not read.problems
    assert read.notes[0] == "ignored, because it has no boxes: captions.json"


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"set\.zip: is an archive; unpack it, and give the folder"):
        read_dataset(tmp_path / "set.zip")
