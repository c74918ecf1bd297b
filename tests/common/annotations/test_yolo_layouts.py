"""Layouts of YOLO datasets: Ultralytics, Roboflow, Darknet, CVAT, and paths of other machines; classes as written."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import supervision as sv

from common.annotations import Annotations, read_dataset
from common.annotations.collect import DatasetError
from common.annotations.reader import find_dataset
from common.errors import UserError
from tests.helpers.yolo_sets import SIZE, save_photo, save_text

ROW = "0 0.5 0.5 0.2 0.3"
BOX = [80, 56, 120, 104]


def write_pair(root: Path, photo: str, label: str, rows: str = ROW) -> None:
    save_photo(root / photo)
    save_text(root / label, rows)


def write_roboflow(root: Path, config: str, *splits: str) -> None:
    for split in splits or ("train", "valid"):
        write_pair(root, f"{split}/images/{split}.jpg", f"{split}/labels/{split}.txt")
    if config:
        save_text(root / "data.yaml", config)


def splits_of(read: Annotations) -> dict[str, str | None]:
    """Return the split of each image, after a check that each has one face at BOX."""
    for image in read.images:
        np.testing.assert_allclose(image.boxes, [BOX], atol=0.01)
    return {image.path.stem: image.split for image in read.images}


@pytest.mark.parametrize(
    "paths",
    [
        "train: ../train/images\nval: ../valid/images",
        "train: ..\\train\\images\nval: ..\\valid\\images",
        'train: "..\\train\\images"\nval: "..\\valid\\images"',
        "train: Masks-1/train/images\nvalid: Masks-1/valid/images",
        "train: /content/datasets/x/train/images\nval: /content/datasets/x/valid/images",
        "train: D:\\sets\\x\\train\\images\nval: D:\\sets\\x\\valid\\images",
        "path: /somewhere/x\ntrain: train/images\nval: valid/images",
        "path: C:\\x\ntrain: Train\\Images\nval: valid\\images",
        "path: ../datasets/x\ntrain: [train/images]\nval: ['valid']",
        "path: .\ntrain: ./train/images/\nval: ./valid",
    ],
)
def test_paths_of_data_yaml(tmp_path: Path, paths: str) -> None:
    write_roboflow(tmp_path, f"{paths}\nnc: 1\nnames: ['mask']\n")
    read = read_dataset(tmp_path)
    assert splits_of(read) == {"train": "train", "valid": "val"} and not read.problems


def test_the_end_of_a_path_does_not_stand_for_another_split(tmp_path: Path) -> None:
    write_pair(tmp_path, "images/a.jpg", "labels/a.txt")
    save_text(tmp_path / "data.yaml", "train: images\nval: valid/images\nnames: [mask]")
    read = read_dataset(tmp_path)
    assert splits_of(read) == {"a": "train"}
    (problem,) = read.problems
    assert problem.kind == "unmatched" and problem.file.name == "data.yaml"
    assert problem.reason == f"val: valid/images does not exist; not used, tried {tmp_path}/valid/images"


def test_each_path_that_fails_is_named(tmp_path: Path) -> None:
    write_roboflow(tmp_path, "train: a/b/train/pics\nval: [c/valid, d/valid]\nnames: [mask]")
    shutil.rmtree(tmp_path / "valid")
    with pytest.raises(DatasetError) as raised:
        read_dataset(tmp_path)
    assert "hold no image; 3 problems, the first: " in str(raised.value)
    reasons = [problem.reason for problem in raised.value.problems]
    assert [reason.split(";")[0] for reason in reasons] == [
        "train: a/b/train/pics does not exist",
        "val: c/valid does not exist",
        "val: d/valid does not exist",
    ]
    assert f"tried {tmp_path}/a/b/train/pics, {tmp_path}/b/train/pics, {tmp_path}/train/pics" in reasons[0]


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    write_roboflow(tmp_path, "train: train/images\nval: valid/images\nnames: [mask]", "train")
    (tmp_path / "valid/images").mkdir(parents=True)
    assert [p.reason for p in read_dataset(tmp_path).problems] == ["val: valid/images holds no image; not used"]


def test_yolov5_config_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write_pair(tmp_path, "datasets/coco128/images/train2017/a.jpg", "datasets/coco128/labels/train2017/a.txt")
    text = (
        "path: ../datasets/coco128\ntrain: images/train2017\nval: images/train2017\ntest:  # optional\nnames: {0: mask}"
    )
    config = save_text(tmp_path / "yolov5/data/coco128.yaml", text)
    read = read_dataset(config)
    assert splits_of(read) == {"a": "train"}
    reason = "1 images are in train and val, such as a.jpg; kept in train"
    assert [(p.kind, p.reason) for p in read.problems] == [("changed", reason)]


def test_links_are_followed_and_an_image_is_read_once(tmp_path: Path) -> None:
    write_pair(tmp_path, "store/images/a.jpg", "store/labels/a.txt")
    set_folder = tmp_path / "set"
    (set_folder / "images").mkdir(parents=True)
    (set_folder / "images/train").symlink_to(tmp_path / "store/images")
    (set_folder / "images/train/loop").symlink_to(set_folder / "images")
    (set_folder / "val").mkdir()
    (set_folder / "val/b.jpg").symlink_to(tmp_path / "store/images/a.jpg")
    save_text(set_folder / "data.yaml", "train: images/train\nval: val\nnames: [mask]")
    read = read_dataset(set_folder)
    assert splits_of(read) == {"a": "train"} and read.face_count + read.refused_count == 1


@pytest.mark.parametrize("prefix", ["", "./", "data/", "/data/x/", "C:\\data\\", "..\\"])
def test_lists_of_images(tmp_path: Path, prefix: str) -> None:
    names = ("images/train/a.jpg", "images/train/b.JPG", "images/val/a.png")
    for name in names:
        write_pair(tmp_path, name, name.replace("images", "labels").rsplit(".", 1)[0] + ".txt")
    lines = [prefix + (name.replace("/", "\\") if "\\" in prefix else name) for name in names]
    save_text(tmp_path / "train.txt", "\n".join(lines[:2]) + "\n\n")
    save_text(tmp_path / "val.txt", f"{lines[2]}\n{prefix}images{'/'}val/gone.jpg\n", "utf-16")
    save_text(tmp_path / "data.yaml", "path: .\ntrain: train.txt\nval: val.txt\nnames:\n  0: mask\n")
    read = read_dataset(tmp_path)
    assert [(i.image_id, i.split) for i in read.images] == [
        ("train/a", "train"),
        ("train/b", "train"),
        ("val/a", "val"),
    ]
    (problem,) = read.problems
    assert problem.file.name == "val.txt" and "gone.jpg' is missing; not used" in problem.reason


def test_a_name_in_a_list_that_fits_two_images_is_refused(tmp_path: Path) -> None:
    for folder in "xy":
        write_pair(tmp_path, f"images/{folder}/a.jpg", f"labels/{folder}/a.txt")
    write_pair(tmp_path, "images/b.jpg", "labels/b.txt")
    save_text(tmp_path / "train.txt", "a.jpg\nimages/b.jpg\n")
    save_text(tmp_path / "data.yaml", "train: train.txt\nnames: [mask]")
    read = read_dataset(tmp_path)
    assert splits_of(read) == {"b": "train"}
    assert any("'a.jpg' fits 2 images" in problem.reason for problem in read.problems)


def write_darknet(root: Path, prefix: str = "data/") -> None:
    for split in ("train", "valid"):
        folder = f"obj_{split}_data"
        write_pair(root, f"{folder}/sub/{split}.jpg", f"{folder}/sub/{split}.txt")
        save_text(root / f"{split}.txt", f"{prefix}{folder}/sub/{split}.jpg\n")
    save_text(root / "obj.names", "mask\nno mask\n")
    lists = f"train = {prefix}train.txt\nvalid = {prefix}valid.txt\n"
    save_text(root / "obj.data", f"classes = 2\n{lists}names = {prefix}obj.names\nbackup = backup/\n")


@pytest.mark.parametrize("prefix", ["data/", "", "C:\\sets\\"])
def test_darknet(tmp_path: Path, prefix: str) -> None:
    write_darknet(tmp_path, prefix)
    for root in (tmp_path, tmp_path / "obj.data"):
        read = read_dataset(root)
        assert splits_of(read) == {"train": "train", "valid": "val"} and not read.problems
        assert {label for image in read.images for label in image.labels} == {"mask"}
    (tmp_path / "obj.data").unlink()
    assert splits_of(read_dataset(tmp_path)) == {"train": "train", "valid": "val"}


def test_roboflows_darknet_export(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_pair(tmp_path, f"{split}/{split}.jpg", f"{split}/{split}.txt")
        save_text(tmp_path / f"{split}/_darknet.labels", "mask\nno mask\n")
    save_text(tmp_path / "README.dataset.txt", "Masks\nhttps://example.org\n")
    read = read_dataset(tmp_path)
    assert splits_of(read) == {"train": "train", "valid": "val"} and not read.problems
    save_text(tmp_path / "valid/_darknet.labels", "no mask\nmask\n")
    with pytest.raises(UserError, match=r"train/_darknet\.labels and .*valid/_darknet\.labels: name different classes"):
        read_dataset(tmp_path)


def test_labelimg_in_one_folder(tmp_path: Path) -> None:
    write_pair(tmp_path, "a.jpg", "a.txt")
    save_text(tmp_path / "classes.txt", "mask\n")
    assert splits_of(read_dataset(tmp_path)) == {"a": None}


def test_split_folders_without_a_configuration(tmp_path: Path) -> None:
    write_roboflow(tmp_path, "")
    with pytest.raises(UserError, match=r"no class names; add `names:` to data\.yaml or a classes\.txt"):
        read_dataset(tmp_path)
    save_text(tmp_path / "classes.txt", "mask\n")
    assert splits_of(read_dataset(tmp_path)) == {"train": "train", "valid": "val"}


def test_capital_folders(tmp_path: Path) -> None:
    write_pair(tmp_path, "Images/a.jpg", "Labels/a.txt")
    save_text(tmp_path / "classes.txt", "mask\n")
    assert splits_of(read_dataset(tmp_path)) == {"a": None}


def test_the_yaml_is_chosen_by_name_then_content(tmp_path: Path) -> None:
    write_roboflow(tmp_path, "")
    save_text(tmp_path / "hyp.yaml", "lr0: 0.01\n")
    save_text(tmp_path / "mask.yaml", "train: train/images\nval: valid/images\nnames: [mask]\n")
    assert splits_of(read_dataset(tmp_path)) == {"train": "train", "valid": "val"}
    save_text(tmp_path / "other.yml", "train: train/images\nnames: [no mask]\n")
    with pytest.raises(UserError, match=r"has 2 YOLO configurations \(mask\.yaml, other\.yml\); name one with --data"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path / "other.yml").images[0].labels == ("no mask",)
    save_text(tmp_path / "data.yaml", "train: train/images\nnames: [cloth mask]\n")
    assert read_dataset(tmp_path).images[0].labels == ("cloth mask",)


def test_a_yaml_of_something_else_is_no_configuration(tmp_path: Path) -> None:
    write_pair(tmp_path / "set", "images/a.jpg", "labels/a.txt")
    save_text(tmp_path / "set/classes.txt", "mask")
    save_text(tmp_path / "config.yaml", "names: [a]\n")
    save_text(tmp_path / "table.data", "1,2,3\n" * 10)
    found = find_dataset(tmp_path)
    assert found is not None and found[0] == tmp_path / "set"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names: mask", ["mask"]),
        ("names: [yes, no]", ["yes", "no"]),
        ("names:\n  0: off\n  1: on", ["off", "on"]),
        ("names: {1: 007, 0: 1_0}", ["1_0", "007"]),
        ("names:\n- null\n- 'no'", ["null", "no"]),
        ('names: ["\\uB9C8\\uC2A4\\uD06C", 노마스크]', ["마스크", "노마스크"]),
        ("names: data/obj.names", ["from", "a file"]),
    ],
)
def test_names_are_read_as_written(tmp_path: Path, names: str, expected: list[str]) -> None:
    for i in range(len(expected)):
        write_pair(tmp_path, f"images/a{i}.jpg", f"labels/a{i}.txt", f"{i}{ROW[1:]}")
    save_text(tmp_path / "obj.names", "from\na file\n")
    save_text(tmp_path / "data.yaml", f"train: images\n{names}\n")
    assert [image.labels[0] for image in read_dataset(tmp_path).images] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: a, 00: b}", "`names` has number 0 twice (a, b); remove one"),
        ("names:\n  1: a\n  1: b", "`names` has number 1 twice (a, b); remove one"),
        ("names: [a]\nnames: [b]", "has `names:` twice; remove one"),
        ("names:\n  0: a\n? 1: b", "the key on line 4 is a list or a table; correct it"),
        ("names: mask, no mask", "`names` is not a list of names or a table from number to name; correct it"),
        ("names: gone.names", "names: gone.names does not exist (tried {root}/gone.names); correct it"),
        ("names: []", "no class names; add `names:` to data.yaml or a classes.txt"),
        ("names:", "no class names; add `names:` to data.yaml or a classes.txt"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write_pair(tmp_path, "images/a.jpg", "labels/a.txt")
    save_text(tmp_path / "data.yaml", f"train: images\n{text}\n")
    with pytest.raises(UserError) as raised:
        read_dataset(tmp_path)
    assert str(raised.value) == f"{tmp_path}/data.yaml: {message.format(root=tmp_path)}"


def test_what_does_not_agree_in_the_configuration_is_noted(tmp_path: Path) -> None:
    write_pair(tmp_path, "images/a.jpg", "labels/a.txt")
    save_text(tmp_path / "labels/classes.txt", "dog\nmask\n")
    save_text(tmp_path / "data.yaml", "train: images\nnc: 3\nnames: [mask, no mask, 'mask ']\n")
    notes = read_dataset(tmp_path).notes
    assert f"{tmp_path}/data.yaml: the classes 0, 2 are all named 'mask'" in notes
    assert f"{tmp_path}/labels/classes.txt names other classes than data.yaml, whose names are used" in notes
    save_text(tmp_path / "data.yaml", "train: images\nnc: 3\nnames: [mask, no mask]\n")
    expected = f"{tmp_path}/data.yaml: nc is 3, but it names 2 classes; the names are used"
    assert expected in read_dataset(tmp_path).notes


def test_an_empty_line_in_a_list_of_classes_counts(tmp_path: Path) -> None:
    write_pair(tmp_path, "images/a.jpg", "labels/a.txt", f"2{ROW[1:]}")
    save_text(tmp_path / "classes.txt", "mask\n\nno mask\n\n")
    assert read_dataset(tmp_path).images[0].labels == ("no mask",)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-le"])
def test_encodings_that_are_read(tmp_path: Path, encoding: str) -> None:
    write_pair(tmp_path, "images/a.jpg", "labels/a.txt", ROW)
    save_text(tmp_path / "labels/a.txt", ROW, encoding)
    save_text(tmp_path / "data.yaml", "train: images\nnames: [mask]\n", encoding)
    assert splits_of(read_dataset(tmp_path)) == {"a": "train"}


@pytest.mark.parametrize("file", ["data.yaml", "mask.yaml", "classes.txt"])
def test_another_encoding_is_refused_with_the_way_to_convert(tmp_path: Path, file: str) -> None:
    write_pair(tmp_path, "images/a.jpg", "labels/a.txt")
    text = "마스크\n" if file == "classes.txt" else "train: images\nnames: [마스크]\n"
    save_text(tmp_path / file, text, "cp949")
    with pytest.raises(UserError) as raised:
        read_dataset(tmp_path)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/{file}: is not UTF-8 text; it looks like CP949 (Korean)")
    assert "iconv -f CP949 -t UTF-8" in message


@pytest.mark.skipif(os.path.supports_unicode_filenames, reason="this file system changes the form of names")
@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_in_both_unicode_forms(tmp_path: Path, forms: tuple[str, str]) -> None:
    photo, label = (unicodedata.normalize(form, "마스크é") for form in forms)
    write_pair(tmp_path, f"images/{photo}.JPG", f"labels/{label}.txt")
    save_text(tmp_path / "classes.txt", "mask\n")
    read = read_dataset(tmp_path)
    assert [image.image_id for image in read.images] == ["마스크é"] and read.face_count == 1


def test_the_export_of_supervision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = {}
    for i in range(4):
        corner = rng.uniform(0, 100, (i, 2))
        boxes[f"p{i}"] = np.concatenate([corner, corner + rng.uniform(10, 60, (i, 2))], axis=1)
        save_photo(tmp_path / f"source/p{i}.png")
    annotations = {
        f"{tmp_path}/source/{stem}.png": sv.Detections(
            xyxy=own.reshape(-1, 4).astype(np.float32), class_id=np.arange(len(own)) % 2
        )
        for stem, own in boxes.items()
    }
    made = sv.DetectionDataset(classes=["mask", "no mask"], images=list(annotations), annotations=annotations)
    for images, labels in (("images", "labels"), ("train/images", "train/labels"), ("pics", "annos")):
        root = tmp_path / images.replace("/", "-")
        made.as_yolo(str(root / images), str(root / labels), str(root / "data.yaml"))
        read = read_dataset(root)
        assert not read.problems and read.face_count == 6
        for image in read.images:
            own = boxes[image.image_id]
            assert image.labels == tuple(["mask", "no mask"][k % 2] for k in range(len(own)))
            # supervision writes five decimals.
            np.testing.assert_allclose(image.boxes, own.reshape(-1, 4), atol=1.01e-5 * max(SIZE))


@pytest.mark.parametrize("photo", ["a.jpg", "imgs/a.jpg", "Image/train/a.jpg"])
@pytest.mark.parametrize("label", ["labels/a.txt", "Label/a.txt", "annotations/a.txt"])
def test_labels_in_folders_of_other_names(tmp_path: Path, photo: str, label: str) -> None:
    write_pair(tmp_path / "set", photo, label)
    with pytest.raises(UserError, match=r"no class names; add `names:` to data\.yaml or a classes\.txt"):
        read_dataset(tmp_path)
    save_text(tmp_path / "set/classes.txt", "mask")
    read = read_dataset(tmp_path)
    assert (read.face_count, read.refused_count, len(read.images)) == (1, 0, 1)


def test_text_next_to_photos_that_has_no_rows_is_no_dataset(tmp_path: Path) -> None:
    write_pair(tmp_path, "a.jpg", "other/b.txt")
    save_text(tmp_path / "a.txt", "a man with a mask, 3 of 5")
    with pytest.raises(UserError, match="no annotated dataset"):
        read_dataset(tmp_path)
