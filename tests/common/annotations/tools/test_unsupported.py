"""Hints on exports that are not read: each is named with what to export, and no supported file is taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.annotations import read_dataset
from common.annotations.tools.unsupported import HEAD_BYTES, SIGNATURES, recognise, recognise_folder
from common.errors import UserError

BOX = {"x": 1, "y": 2, "width": 3, "height": 4}
STUDIO = {**BOX, "rectanglelabels": ["with_mask"], "original_width": 320, "original_height": 240}
HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
CREATEML = [{"image": "a.jpg", "annotations": [{"label": "with_mask", "coordinates": BOX}]}]
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 30]}],
    "categories": [{"id": 1, "name": "with_mask"}],
}
# (file, content, name of the format)
UNSUPPORTED: list[tuple[str, Any, str]] = [
    ("p.json", [{"id": 1, "annotations": [{"result": [{"value": STUDIO}]}]}], "Label Studio's own JSON"),
    ("min.json", [{"image": "a.jpg", "label": [STUDIO]}], "Label Studio's own JSON"),
    ("p.csv", 'id,label\n0,"[{""rectanglelabels"": [""m""], ""original_width"": 3}]"\n', "Label Studio's own CSV"),
    ("train/_annotations.csv", f"{HEADER}a.jpg,320,240,with_mask,20,30,80,100\n", "Roboflow's CSV"),
    ("train/_annotations.csv", "a.jpg,20,30,80,100,with_mask\n", "Roboflow's CSV"),
    ("train/_classes.csv", "filename, with_mask, without_mask\na.jpg, 0, 1\n", "Roboflow's CSV of classes"),
    ("train/Mask.tfrecord", "xx", "a TFRecord file"),
    ("_annotations.train.jsonl", {"image": "a.jpg", "suffix": "<loc0012>"}, "PaliGemma's JSONL"),
    ("_annotations.txt", "a.jpg 20,30,80,100,0 120,40,170,110,1\n", "Keras YOLO text"),
    ("boxes.csv", "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n", "Open Images CSV"),
    ("labels.csv", "with_mask,20,30,60,70,a.jpg,320,240\n", "makesense.ai's CSV"),
    ("labels.csv", "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name\n", "makesense.ai's CSV"),
    ("train_labels.csv", HEADER, "a CSV of boxes"),
    ("train.csv", "name,x1,x2,y1,y2,classname\na.jpg,1,2,3,4,mask\n", "a CSV of boxes"),
    ("vott.csv", '"image","xmin","ymin","xmax","ymax","label"\n', "a CSV of boxes"),
    ("retina.csv", "b.jpg,,,,,\na.jpg,20,30,80,100,with_mask\n", "a CSV of boxes"),
    ("import.csv", "TRAIN,gs://b/a.jpg,with_mask,0.1,0.1,,,0.2,0.2,,\n", "Vertex AI's CSV"),
    ("a.json", CREATEML, "CreateML JSON"),
    ("via.json", {"project": {"pid": "__VIA_PROJECT_ID__", "vid_list": ["1"]}}, "a VIA 3 project"),
    ("via.csv", '# Notes:\n# CSV_HEADER = metadata_id,file_list\n"1_a","[]"\n', "VIA 3's CSV"),
    ("annotations/d.json", {"dm_format_version": "1.0", "items": []}, "Datumaro JSON"),
    ("annotations/d.json", {"info": {}, "categories": {"label": {"labels": []}}, "items": []}, "Datumaro JSON"),
    ("ds0/ann/a.jpg.json", {"objects": [{"geometryType": "rectangle", "classTitle": "m"}]}, "Supervisely's JSON"),
    ("r/latest/a.json", {"schema_ref": "x", "annotations": [{"bounding_box": BOX}]}, "V7 Darwin JSON"),
    ("v.json", {"assets": {"a": {"regions": [{"boundingBox": BOX}]}}}, "a VoTT export"),
    ("samples.json", {"samples": [{"ground_truth": {"_cls": "Detections"}}]}, "a FiftyOne dataset"),
    ("labels.json", {"classes": ["m"], "labels": {"a": [{"bounding_box": [0, 0, 1, 1]}]}}, "a FiftyOne dataset"),
    ("a.json", {"info": {"description": "ISAT", "name": "a.jpg"}, "objects": []}, "ISAT JSON"),
    (
        "t.xml",
        "<?xml version='1.0'?><dataset><images><image file='a.jpg'><box top='3' left='2'/></image></images></dataset>",
        "dlib XML",
    ),
    ("output.manifest", {"source-ref": "s3://b/a.jpg"}, "a SageMaker manifest"),
    ("export.ndjson", {"data_row": {"external_id": "a.jpg"}}, "a Labelbox export"),
    ("train/metadata.jsonl", {"file_name": "a.jpg", "objects": {"bbox": [[1, 2, 3, 4]]}}, "a Hugging Face dataset"),
    ("data/train-0.parquet", "PAR1", "a Hugging Face dataset"),
    ("wider_bbx_gt.txt", "0--x/a.jpg\n1\n20 30 60 70 0 0 0 0 0 0\n", "WIDER FACE text"),
    ("label.txt", "# 0--x/a.jpg\n20 30 60 70 30.0 40.0 0.0\n", "RetinaFace text"),
    ("labelTxt/a.txt", "imagesource:x\ngsd:1\n80 30 80 100 20 100 20 30 with_mask 0\n", "text in the format of DOTA"),
    ("label_2/a.txt", f"with_mask 0.0 0 0.0 20.00 30.00 80.00 100.00{' 0.0' * 7}\n", "text in the format of KITTI"),
    ("ground-truth/a.txt", "with_mask 20 30 80 100\n", "text with a class and a box in pixels per line"),
    ("Label/a.txt", "Human face 40.0 41.0 131.0 147.0\n", "text with a class and a box in pixels per line"),
]
SUPPORTED: list[tuple[str, Any]] = [
    ("coco.json", COCO),
    ("a.json", {"shapes": [{"label": "m", "points": [[1, 2], [3, 4]]}], "imagePath": "a.jpg"}),
    ("via.json", {"a.jpg-1": {"filename": "a.jpg", "regions": [{"shape_attributes": {"name": "rect", **BOX}}]}}),
    ("via.csv", 'filename,region_shape_attributes,region_attributes\na.jpg,"{}","{}"\n'),
    (
        "annotations.xml",
        '<annotations><image name="a.jpg"><box xtl="1" ytl="2" xbr="3" ybr="4"/></image></annotations>',
    ),
    ("a.xml", "<annotation><filename>a.jpg</filename><object><name>dataset</name></object></annotation>"),
    ("a.txt", "0 0.5 0.5 0.2 0.2\n"),
    ("a.txt", "with_mask 0.5 0.5 0.2 0.2\n"),
    ("a.txt", "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n"),
    ("a.txt", "0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.3 0.1 2 0.2 0.2 2\n"),
    ("a.txt", "0 100 100 20 20\n"),
    ("a.txt", ""),
    ("train.txt", "images/a.jpg\nimages/b.jpg\n"),
    ("classes.txt", "with_mask\nwithout_mask\n"),
    ("data.yaml", "names: [with_mask]\ntrain: images\n"),
    ("a.json", "{broken"),
    ("a.csv", '"never closed\n' * 3),
]


def save(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def save_photo(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80), (90, 120, 150)).save(file)


def message_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_dataset(path)
    return str(caught.value)


@pytest.mark.parametrize(("name", "content", "what"), UNSUPPORTED)
def test_unsupported_export_is_named_with_what_to_do(tmp_path: Path, name: str, content: Any, what: str) -> None:
    file = save(tmp_path / name, content)
    save_photo(tmp_path / "a.jpg")
    of_folder, of_file = message_of(tmp_path), message_of(file)
    assert of_folder.startswith(f"{tmp_path}: holds {what}"), of_folder
    assert f"({name}), which is not read; " in of_folder
    assert of_file.startswith(f"{file}: holds {what}")
    assert "which is not read; " in of_file
    assert len(of_folder) - len(str(tmp_path)) < 200


def test_every_signature_has_an_example() -> None:
    names = {what for _, _, what in UNSUPPORTED}
    assert all(any(each.name.startswith(name) for name in names) for each in SIGNATURES)


@pytest.mark.parametrize(("name", "content"), SUPPORTED)
def test_supported_file_is_not_taken_for_another_format(tmp_path: Path, name: str, content: Any) -> None:
    assert recognise(save(tmp_path / name, content)) is None
    assert recognise_folder(tmp_path) is None


def test_utf16_export_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(HEADER, encoding="utf-16")
    assert "a CSV of boxes" in str(recognise(tmp_path / "labels.csv"))


def test_line_that_the_head_cuts_off_does_not_matter(tmp_path: Path) -> None:
    row = f"with_mask 0.0 0 0.0 20.00 30.00 80.00 100.00{' 0.0' * 7}\n"
    file = save(tmp_path / "a.txt", row * (2 * HEAD_BYTES // len(row)))
    assert "KITTI" in str(recognise(file))


def test_missing_path_is_not_recognised(tmp_path: Path) -> None:
    assert recognise(tmp_path / "none.json") is None
    assert recognise(tmp_path) is None
    assert recognise_folder(tmp_path / "none") is None


def test_supported_format_next_to_an_unsupported_one_is_read(tmp_path: Path) -> None:
    save(tmp_path / "labels.csv", f"{HEADER}a.jpg,100,80,with_mask,10,20,30,50\n")
    save(tmp_path / "coco.json", COCO)
    save_photo(tmp_path / "a.jpg")
    assert read_dataset(tmp_path).face_count == 1


def test_other_labels_in_the_folders_of_yolo_are_named(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.jpg")
    file = save(tmp_path / "labels/a.txt", f"with_mask 0.0 0 0.0 20.00 30.00 80.00 60.00{' 0.0' * 7}\n")
    assert "holds text in the format of KITTI (labels/a.txt)" in message_of(tmp_path)
    save(tmp_path / "data.yaml", "train: images\nnames: [with_mask]\n")
    file.unlink()
    save(tmp_path / "labelTxt/a.txt", "80 30 80 60 20 60 20 30 with_mask 0\n")
    for path in (tmp_path, tmp_path / "data.yaml"):
        assert 'DOTA (labelTxt/a.txt), which is not read; export as "YOLOv8 Oriented' in message_of(path)


def test_errors_of_yolo_labels_stay(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.jpg")
    save(tmp_path / "labels/a.txt", "0 0.5 0.5 0.2 0.2\n")
    assert "no class names" in message_of(tmp_path)


@pytest.mark.parametrize("names", [("images.zip",), ("annotations.zip", "photos.tar")])
def test_packed_photos_are_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    for name in names:
        save(tmp_path / name, "PK")
    assert message_of(tmp_path) == f"{tmp_path}: holds no photo; unpack {names[-1]}"
    save(tmp_path / "annotations/a.xml", f"<annotation><object><name>with_mask</name>{box}</object></annotation>")
    assert message_of(tmp_path) == f"{tmp_path}: holds no photo; unpack {names[-1]}"
    save_photo(tmp_path / "images/a.jpg")
    assert read_dataset(tmp_path).face_count == 1


def test_yolo_labels_without_photos_are_counted(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / f"labels/{name}.txt", "0 0.5 0.5 0.2 0.2\n")
    save(tmp_path / "classes.txt", "with_mask\n")
    (tmp_path / "images").mkdir()
    where = tmp_path / "images"
    assert f"it holds 2 label files but no photo; put the photos into {where}" in message_of(tmp_path)


@pytest.mark.parametrize("split", ["", "train/"])
def test_class_folders_without_boxes_are_named(tmp_path: Path, split: str) -> None:
    for name in ("with_mask", "without_mask"):
        save_photo(tmp_path / f"{split}{name}/a.jpg")
    message = message_of(tmp_path)
    assert "holds photos in class folders (with_mask/, without_mask/), without boxes; draw boxes" in message
    save(tmp_path / "notes.txt", "x")
    assert "no annotated dataset" in message_of(tmp_path)
