"""Pascal VOC in the layouts of tools and archives: which XML belongs to which image, and the splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.annotations import read_dataset
from common.errors import UserError
from tests.common.annotations.test_voc import save_photo, save_xml

BOX = ("with_mask", 11, 21, 30, 50)


def write(root: Path, *pairs: tuple[str, str]) -> Path:
    """Write images and their XML; an empty name is not written."""
    for photo, xml in pairs:
        if photo:
            save_photo(root / photo)
        if xml:
            save_xml(root / xml, BOX)
    return root


LAYOUTS: dict[str, tuple[str, str]] = {
    "Kaggle": ("images/a.png", "annotations/a.xml"),
    "capitals": ("Images/a.png", "Annotations/a.xml"),
    "other capitals": ("IMAGES/a.PNG", "ANNOTATIONS/a.XML"),
    "labels": ("images/a.png", "labels/a.xml"),
    "xml": ("images/a.png", "xml/a.xml"),
    "xmls": ("image/a.png", "xmls/a.xml"),
    "Annotation": ("img/a.png", "Annotation/a.xml"),
    "VOC": ("JPEGImages/a.jpg", "Annotations/a.xml"),
    "VOCdevkit": ("VOCdevkit/VOC2007/JPEGImages/a.jpg", "VOCdevkit/VOC2007/Annotations/a.xml"),
    "Oxford pets": ("images/a.png", "annotations/xmls/a.xml"),
    "folders of one name": ("images/images/a.png", "annotations/annotations/a.xml"),
    "LabelImg": ("photos/a.png", "photos/a.xml"),
    "other depth": ("images/day 1/cam/a.png", "annotations/a.xml"),
    "XML deeper": ("images/a.png", "annotations/day 1/cam/a.xml"),
    "photos in the root": ("a.png", "annotations/a.xml"),
    "photos in a folder of another name": ("raw/a.png", "annotations/a.xml"),
    "one too high": ("archive/images/a.png", "archive/annotations/a.xml"),
    "three too high": ("x/y/z/images/a.png", "x/y/z/annotations/a.xml"),
    "double suffix": ("images/a.png", "annotations/a.png.xml"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read(tmp_path: Path, layout: str) -> None:
    photo, _ = LAYOUTS[layout]
    write(tmp_path, LAYOUTS[layout])
    save_photo(tmp_path / "__MACOSX/images/._a.png")
    save_xml(tmp_path / "__MACOSX/annotations/a.xml", BOX)
    read = read_dataset(tmp_path)
    assert read.format_name == "Pascal VOC" and not read.problems and not read.notes
    (image,) = read.images
    assert image.path == tmp_path / photo and image.boxes.tolist() == [[10, 20, 30, 50]] and image.split is None


SPLITS: dict[str, tuple[str, str]] = {
    "Roboflow": ("{}/a.png", "{}/a.xml"),
    "nested": ("{}/images/a.png", "{}/annotations/a.xml"),
    "nested, labels": ("{}/images/a.png", "{}/labels/a.xml"),
    "XML in images": ("{}/images/a.png", "{}/images/a.xml"),
    "folders in images": ("images/{}/a.png", "annotations/{}/a.xml"),
    "XML in a folder of images/": ("images/{}/a.png", "images/{}/a.xml"),
    "folders in JPEGImages": ("JPEGImages/{}/a.png", "Annotations/{}/xmls/a.xml"),
    "photos in the root's folders": ("{}/a.png", "annotations/{}/a.xml"),
}


@pytest.mark.parametrize("layout", SPLITS)
@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "Validation"), ("train2017", "val2017")])
def test_folders_give_the_splits(tmp_path: Path, layout: str, names: tuple[str, ...]) -> None:
    photo, xml = SPLITS[layout]
    for number, name in enumerate(names):
        save_photo(tmp_path / photo.format(name))
        save_xml(tmp_path / xml.format(name), ("with_mask", 11 + number, 21, 30, 50))
    read = read_dataset(tmp_path)
    assert not read.problems
    for number, (name, split) in enumerate(zip(names, ("train", "val", "test"), strict=False)):
        (image,) = (image for image in read.images if image.path == tmp_path / photo.format(name))
        assert image.split == split and image.boxes[0, 0] == 10 + number


def test_lists_in_image_sets_give_the_splits(tmp_path: Path) -> None:
    write(
        tmp_path,
        *((f"JPEGImages/{n}.jpg", f"Annotations/{n}.xml") for n in ("a", "b", "c", "day 1/d", "e.x", "e", "f 1")),
    )
    sets = tmp_path / "ImageSets/Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("a\ne.x\n\n")
    (sets / "val.txt").write_text("b  1\na\ngone -1\n")
    (sets / "test.txt").write_text('c\r\n"day 1/d"\r\nJPEGImages/f 1.jpg\r\n')
    (sets / "with_mask_train.txt").write_text("c 1\n")
    (sets / "trainval.txt").write_text("a\nb\nc\n")
    read = read_dataset(tmp_path)
    assert {image.path.name: image.split for image in read.images} == {
        **{
            "a.jpg": "train",
            "b.jpg": "val",
            "c.jpg": "test",
            "d.jpg": "test",
            "e.x.jpg": "train",
            "e.jpg": None,
            "f 1.jpg": "test",
        }
    }
    assert [problem.reason for problem in read.problems] == [
        "a.jpg is also in the list of train; kept in train",
        "1 names have no image, such as 'gone -1'; not used",
    ]


def test_trainval_is_the_training_part_where_there_is_no_other(tmp_path: Path) -> None:
    write(tmp_path, *((f"JPEGImages/{n}.jpg", f"Annotations/{n}.xml") for n in "ab"))
    sets = tmp_path / "ImageSets/Main"
    sets.mkdir(parents=True)
    (sets / "trainval.txt").write_text("a\n")
    (sets / "test.txt").write_text("b\n")
    assert [image.split for image in read_dataset(tmp_path).images] == ["train", "test"]


def test_several_datasets_in_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("VOC2007", "VOC2012"):
        write(tmp_path, (f"VOCdevkit/{name}/JPEGImages/a.jpg", f"VOCdevkit/{name}/Annotations/a.xml"))
    with pytest.raises(UserError, match=r"holds 2 datasets \(VOC2007, VOC2012\); name one of them"):
        read_dataset(tmp_path)


def test_the_xml_in_the_folder_of_the_same_name_is_of_the_image(tmp_path: Path) -> None:
    for number, name in enumerate(("cam1", "cam2")):
        save_photo(tmp_path / f"images/{name}/a.png")
        save_xml(tmp_path / f"annotations/{name}/a.xml", ("with_mask", 11 + number, 21, 30, 50))
    read = read_dataset(tmp_path)
    assert not read.problems
    assert [(i.image_id, i.boxes[0, 0].item()) for i in read.images] == [("cam1/a", 10), ("cam2/a", 11)]


def test_xml_that_fits_several_images_is_refused(tmp_path: Path) -> None:
    write(
        tmp_path,
        ("images/cam1/a.png", ""),
        ("images/cam2/a.png", "annotations/a.xml"),
        ("images/b.png", "annotations/b.xml"),
    )
    read = read_dataset(tmp_path)
    assert [image.image_id for image in read.images] == ["b"]
    refused, *others = read.problems
    assert refused.objects == 1 and "fits 2 images (cam1/a.png, cam2/a.png)" in refused.reason
    assert [problem.reason for problem in others] == ["no annotation; not used"] * 2


@pytest.mark.parametrize(
    "filename", ["photo 1.png", "C:\\Users\\me\\photo 1.png", "/data/photo 1.jpg", "photo%201.png", "train/photo 1.png"]
)
def test_the_filename_decides_where_no_image_has_the_stem(tmp_path: Path, filename: str) -> None:
    save_photo(tmp_path / "images/photo 1.png")
    save_xml(tmp_path / "annotations/0001.xml", BOX, name=filename)
    (image,) = read_dataset(tmp_path).images
    assert image.path.name == "photo 1.png"


def test_the_stem_decides_over_a_filename_of_another_image(tmp_path: Path) -> None:
    for stem, left in (("0", 13), ("a", 11), ("b", 12)):
        save_xml(tmp_path / f"annotations/{stem}.xml", ("with_mask", left, 21, 30, 50), name="a.png")
    write(tmp_path, ("images/a.png", ""), ("images/b.png", ""))
    read = read_dataset(tmp_path)
    assert [(i.image_id, i.boxes[0, 0].item(), i.complete) for i in read.images] == [("a", 10, False), ("b", 11, True)]
    (problem,) = read.problems  # 0.xml is an old copy of a.xml
    assert problem.file.name == "0.xml" and problem.objects == 1 and "a.png is annotated twice" in problem.reason


def test_labels_with_as_many_txt_files_are_yolo(tmp_path: Path) -> None:
    write(tmp_path, ("images/a.png", "labels/a.xml"))
    (tmp_path / "labels/classes.txt").write_text("with_mask\n")
    assert read_dataset(tmp_path).format_name == "Pascal VOC"
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert read_dataset(tmp_path).format_name == "YOLO"


def test_annotations_that_are_not_read_are_named_in_a_note(tmp_path: Path) -> None:
    write(tmp_path, ("images/a.png", "annotations/a.xml"), ("train/b.png", "train/b.xml"))
    (tmp_path / "pom.xml").write_text("<project/>")
    read = read_dataset(tmp_path)
    assert [image.image_id for image in read.images] == ["a"]
    note = "1 other .xml files with annotations, such as train/b.xml, are not read; name their folder to read them"
    assert read.notes[0] == note and read.notes[1].startswith("not used: 1 photo in other folders, such as train/b.png")


def test_xml_of_other_formats_is_not_a_dataset(tmp_path: Path) -> None:
    write(tmp_path, ("data/images/a.png", "data/annotations/a.xml"))
    save_photo(tmp_path / "cover.png")
    (tmp_path / "cover.xml").write_text("<!-- <annotation> -->\n<project/>")
    assert [image.image_id for image in read_dataset(tmp_path).images] == ["a"]


def test_the_message_names_what_the_folder_holds(tmp_path: Path) -> None:
    write(tmp_path, ("a.png", ""), ("train/b.png", ""), ("train/deep/c.jpg", ""))
    (tmp_path / "labels.csv").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as raised:
        read_dataset(tmp_path)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}: no annotated dataset; looked for Pascal VOC (")
    assert "LabelMe (" in message and "CVAT for images (" in message
    assert message.endswith("; found 1 .csv, 1 .png, empty/ (no files), train/ (1 .jpg, 1 .png)")


def test_one_xml_file_is_not_a_dataset(tmp_path: Path) -> None:
    write(tmp_path, ("a.png", "a.xml"))
    with pytest.raises(UserError, match=r"a\.xml: holds one image's annotation \(Pascal VOC\); give the folder"):
        read_dataset(tmp_path / "a.xml")


def test_datumaro_and_cvat_write_zero_based_boxes(tmp_path: Path) -> None:
    write(tmp_path, ("JPEGImages/a.jpg", "Annotations/a.xml"))
    assert read_dataset(tmp_path).images[0].boxes.tolist() == [[10, 20, 30, 50]]
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nwith_mask:128,0,0::\n")
    read = read_dataset(tmp_path)
    assert read.images[0].boxes.tolist() == [[11, 21, 30, 50]]
    assert read.notes == ("pixels are counted from 0, because labelmap.txt is of CVAT or Datumaro, which do so",)
    (tmp_path / "labelmap.txt").write_text("with_mask\n")  # of another tool
    assert read_dataset(tmp_path).images[0].boxes.tolist() == [[10, 20, 30, 50]]


def test_what_supervision_writes_comes_back_equal(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    save_photo(tmp_path / "images/a.png")
    boxes = np.array([[0, 0, 20, 30], [10, 20, 100, 80], [5, 6, 6, 7]], np.float32)
    detections = sv.Detections(xyxy=boxes, class_id=np.array([1, 0, 0]))
    name = str(tmp_path / "images/a.png")
    sv.DetectionDataset(["with_mask", "zebra"], [name], {name: detections}).as_pascal_voc(
        annotations_directory_path=str(tmp_path / "annotations")
    )
    read = read_dataset(tmp_path)
    assert not read.problems and read.images[0].labels == ("zebra", "with_mask", "with_mask")
    np.testing.assert_array_equal(read.images[0].boxes, boxes)


def test_torchvision_reads_the_same_parts(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    voc = tmp_path / "VOCdevkit/VOC2012"
    write(voc, *((f"JPEGImages/{n}.jpg", f"Annotations/{n}.xml") for n in "abc"))
    (voc / "ImageSets/Main").mkdir(parents=True)
    (voc / "ImageSets/Main/train.txt").write_text("a\nc\n")
    (voc / "ImageSets/Main/val.txt").write_text("b\n")
    read = read_dataset(tmp_path)
    for split in ("train", "val"):
        theirs = torchvision.datasets.VOCDetection(tmp_path, image_set=split)
        assert [Path(file).stem for file in theirs.images] == [i.image_id for i in read.images if i.split == split]
