"""The COCO reader: ids, crowd regions, outlines, classes, and merged and ignored files."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.annotations import Annotations, read_dataset
from common.annotations.coco_files import outline_hull
from common.annotations.collect import DatasetError
from tests.helpers.coco_sets import SIZE, face, save_photo, write_coco

BOX = [10, 20, 40, 60]  # of `face`


def reasons(read: Annotations) -> list[str]:
    return [problem.reason for problem in read.problems]


def found(read: Annotations, root: Path) -> list[tuple[str, str | None, int]]:
    """Return (path below the dataset's folder, split, number of faces) of each image."""
    return [(i.path.relative_to(root).as_posix(), i.split, len(i.boxes)) for i in read.images]


def check_objects(read: Annotations, objects: int) -> None:
    """Check that each annotated object was read or refused."""
    assert read.face_count + read.refused_count == objects


def test_crowd_regions_are_counted_and_their_photos_incomplete(tmp_path: Path) -> None:
    for name in "abc":
        save_photo(tmp_path / f"{name}.png")
    crowd = {"iscrowd": 1, "segmentation": {"counts": [10, 5], "size": [80, 100]}}
    rows = [face(), face(2, 2, [0, 0, 9, 9], **crowd), face(iscrowd="1"), face(iscrowd="0", bbox=[1, 2, 9, 9])]
    file = write_coco(tmp_path / "x.json", ["a.jpg", "b.png"], rows)
    read = read_dataset(file)
    a, b = read.images
    assert a.path.name == "a.png" and not a.complete and not b.complete
    np.testing.assert_array_equal(a.boxes, [BOX, [1, 2, 10, 11]])
    assert b.boxes.shape == (0, 4)
    assert read.class_names == ("with_mask", "without_mask", "mask_weared_incorrect")
    assert [(p.file.name, p.kind, p.objects) for p in read.problems] == [
        ("x.json", "refused", 2),
        ("c.png", "unmatched", 0),
    ]
    assert any(note.startswith("2 crowd regions (iscrowd 1) were left out") for note in read.notes)
    check_objects(read, 4)


def test_where_all_annotations_are_crowds_their_boxes_are_used(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.jpg")
    save_photo(tmp_path / "images/b.jpg")
    mask = {"counts": [85, 10, 70, 10], "size": [80, 100]}
    rows = [face(iscrowd=1), face(2, bbox=..., segmentation=mask, iscrowd=1.0), face(2, bbox=[], iscrowd=True)]
    write_coco(tmp_path / "annotations/x.json", ["a.jpg", "b.jpg"], rows)
    read = read_dataset(tmp_path)
    assert [image.boxes.tolist() for image in read.images] == [[BOX], [[1, 5, 3, 15]]]
    assert [image.complete for image in read.images] == [True, False]
    assert any(note.startswith("all 3 annotations are crowd regions") for note in read.notes)
    check_objects(read, 3)


def compressed(runs: list[int]) -> str:
    """Return runs as COCO's text: rleToString of cocodataset/cocoapi, common/maskApi.c."""
    text = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            text += chr((group | (32 if more else 0)) + 48)
    return text


def test_masks_have_a_box(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 40, 2)
        mask = np.zeros((height, width), bool)
        (top, left), (down, across) = rng.integers(0, (height, width)), rng.integers(1, 12, 2)
        mask[top : top + down, left : left + across] = (
            rng.random(mask[top : top + down, left : left + across].shape) < 0.7
        )
        flat = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
        changes = np.flatnonzero(flat[1:] != flat[:-1])
        runs = np.diff(np.concatenate([[0], changes])).tolist()
        ys, xs = np.nonzero(mask)
        expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if mask.any() else None
        for counts in (runs, compressed(runs)):
            assert outline_hull({"counts": counts, "size": [int(height), int(width)]}) == expected


@pytest.mark.parametrize(
    ("outline", "hull"),
    [
        ([[10, 10, 40, 10, 40, 50, 10, 50]], (10, 10, 40, 50)),
        ([10, 10, 40.5, 10, 40.5, 50], (10, 10, 40.5, 50)),  # VIA
        ([[[10, 10], [40, 10], [40, 50]]], (10, 10, 40, 50)),
        ([[10, 10, 40, 10, 40, 50], ["60", 5, 70, 5, 70, 9]], (10, 5, 70, 50)),
        ([[10, 10, 40, 10, 40]], None),
        ([[10, 10, float("nan"), 10, 40, 50]], None),
        ([[10, 10, 10, 40, 10, 50]], None),
        ([[]], None),
        ("text", None),
        (None, None),
        ({"counts": [75, 10], "size": [80, 100]}, (0, 0, 2, 80)),  # from the end of a column to the start of the next
        ({"counts": [10, 5]}, None),
        ({"counts": [10, -5], "size": [8, 8]}, None),
        ({"counts": [10, 500], "size": [8, 8]}, None),
        ({"counts": "\x00", "size": [8, 8]}, None),
        ({"counts": "o" * 99, "size": [8, 8]}, None),
        ({"counts": [10, 5], "size": [0, 8]}, None),
        ({"counts": [9, 5], "size": [80, 80]}, None),  # not the image's size
    ],
)
def test_hulls_of_outlines(outline: Any, hull: tuple[float, ...] | None) -> None:
    assert outline_hull(outline, SIZE) == hull


@pytest.mark.parametrize("bbox", [..., None, [], [0, 0, 0, 0], [10, 10, 0, 0], [1, 2, 3], "x"], ids=str)
def test_a_face_without_box_has_the_hull_of_its_polygons(tmp_path: Path, bbox: Any) -> None:
    save_photo(tmp_path / "images/a.jpg")
    rows = [face(bbox=bbox, segmentation=[[10, 20, 40, 20, 40, 60]]), face(bbox=bbox, segmentation=[])]
    write_coco(tmp_path / "annotations/x.json", ["a.jpg"], rows)
    read = read_dataset(tmp_path)
    assert read.images[0].boxes.tolist() == [BOX] and not read.images[0].complete
    assert "1 faces have no bbox: the box around their polygons or mask is used" in read.notes
    check_objects(read, 2)


def test_a_rotated_box_has_its_upright_hull(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.jpg")
    rows = [
        face(bbox=[10, 20, 30, 40], attributes={"occluded": False, "rotation": 0.0}),
        face(bbox=[40, 30, 20, 40], attributes={"rotation": 90.0}),
        face(bbox=[60, 20, 20, 20], attributes={"rotation": 45}),
        face(bbox=[70, 20, 20, 20], attributes={"rotation": 360.0}),
    ]
    write_coco(tmp_path / "annotations/instances_default.json", ["a.jpg"], rows)
    read = read_dataset(tmp_path)
    half = 10 * 2**0.5
    expected = [BOX, [30, 40, 70, 60], [70 - half, 30 - half, 70 + half, 30 + half], [70, 20, 90, 40]]
    np.testing.assert_allclose(read.images[0].boxes, expected, atol=1e-4)
    assert "2 rotated boxes were read as the upright boxes around them" in read.notes


@pytest.mark.parametrize(("image", "category"), [(1.0, "1"), ("1", 1.0), (" 1 ", "1.0"), ("1.00", 1), ("0001", 1)])
def test_ids_that_are_floats_or_text(tmp_path: Path, image: Any, category: Any) -> None:
    save_photo(tmp_path / "a.jpg")
    file = write_coco(tmp_path / "x.json", ["a.jpg"], [face(image, category)])
    assert read_dataset(file).images[0].labels == ("with_mask",)
    content = json.loads(file.read_text())
    content["images"][0]["id"], content["categories"][1]["id"] = image, category
    content["annotations"][0] |= {"image_id": 1, "category_id": 1}
    file.write_text(json.dumps(content))
    assert read_dataset(file).images[0].labels == ("with_mask",)


def test_ids_of_different_images_are_not_mixed(tmp_path: Path) -> None:
    for name in "abcd":
        save_photo(tmp_path / f"{name}.jpg")
    file = write_coco(tmp_path / "x.json", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], [])
    content = json.loads(file.read_text())
    for row, key in zip(content["images"], [1, 1.0, None, 2**60], strict=True):
        row["id"] = key
    content["annotations"] = [face(1), face(1), face(None), face(float(2**60)), face(2**60)]
    file.write_text(json.dumps(content))
    read = read_dataset(file)
    assert found(read, tmp_path) == [("d.jpg", None, 1)]
    two = "image id 1.0 is given to 'a.jpg' and to 'b.jpg'; not used, give each image its own id"
    assert sorted(reasons(read)) == sorted(
        [
            "annotation number 3 is of image None, which is not listed; left out",
            f"annotation number 4 is of image {float(2**60)}, which is not listed; left out",
            *(two, two, "image 'c.jpg' has no id; not used"),
        ]
    )
    check_objects(read, 5)


def test_an_image_listed_twice(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/train2017/a.png")
    save_photo(tmp_path / "images/b.png")
    write_coco(tmp_path / "annotations/instances_train2017.json", ["a.png"], [face()])
    rows = [face(bbox=[10.5, 20, 30, 40]), face(2, bbox=[50, 20, 30, 40]), face(2, bbox=[50, 20, 30, 40])]
    file = write_coco(tmp_path / "annotations/val.json", ["b.png", "b.png", "b.png"], rows)
    content = json.loads(file.read_text())
    content["images"][2]["id"] = 1  # the same image once more
    file.write_text(json.dumps(content))
    read = read_dataset(tmp_path)
    assert found(read, tmp_path) == [("images/train2017/a.png", "train", 1), ("images/b.png", "val", 2)]
    assert [(p.kind, p.reason) for p in read.problems] == [
        ("changed", "image id 1 is listed twice for 'b.png'; used once"),
        ("changed", "'b.png' is listed twice; the faces of both were taken"),
        ("refused", "image 'b.png': annotation 3 (with_mask) repeats an earlier box; left out"),
    ]
    check_objects(read, 4)


def test_two_names_that_fit_one_photo(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.avif", "x/c.jpg"):
        save_photo(tmp_path / "images" / name)
    names = ["a.png", "a.jpg", "b.jpg", "b.png", "x/c.jpg", "images/x/c.jpg", "set/images/y/a.jpg"]
    write_coco(tmp_path / "x.json", names, [face(i, bbox=[10 + i, 20, 30, 40]) for i in range(1, 8)])
    read = read_dataset(tmp_path)
    assert found(read, tmp_path / "images") == [("a.jpg", None, 1), ("x/c.jpg", None, 2)]
    assert read.images[0].boxes[0, 0] == 12
    both = "'b.jpg' and 'b.png' are two images, but only b.avif is there; not used, add the other one"
    assert [(p.kind, p.reason) for p in read.problems if p.objects] == [
        ("unmatched", "image 'a.png' is missing (a.jpg is listed as another image); not used"),
        *[("refused", both)] * 2,
        ("unmatched", "image 'set/images/y/a.jpg' is missing (a.jpg is listed as another image); not used"),
    ]
    check_objects(read, 7)


def test_categories_with_odd_names(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg")
    decomposed = unicodedata.normalize("NFD", "ü")
    categories = [(1, 5), (2, True), (3, None), (4, "ü"), (5, decomposed), (6, "u"), (6, "v"), (7, ["y"]), (8, 2.5)]
    rows = [face(1, key, [10 * key, 10, 9, 9]) for key in range(1, 9)]
    read = read_dataset(write_coco(tmp_path / "x.json", ["a.jpg"], rows, categories))
    assert read.images[0].labels == ("5", "true", "ü", "ü", "2.5")
    assert reasons(read) == [
        "image 'a.jpg': annotation 6 has the category 6, which has the names u and v; left out",
        "image 'a.jpg': annotation 3 has no class name; left out",
        "image 'a.jpg': annotation 7 has no class name; left out",
    ]
    check_objects(read, 8)


def test_files_without_boxes_are_ignored(tmp_path: Path) -> None:
    for name in "abc":
        save_photo(tmp_path / f"images/{name}.jpg")
    folder = tmp_path / "annotations"
    write_coco(folder / "image_info_default.json", ["a.jpg", "b.jpg", "c.jpg"], [])
    write_coco(folder / "labels_default.json", ["a.jpg"], [face(bbox=...)])
    write_coco(folder / "captions_default.json", ["a.jpg"], [{"image_id": 1, "caption": "a mask"}])
    write_coco(
        folder / "panoptic_default.json", ["a.jpg"], [{"image_id": 1, "segments_info": [{"bbox": [0, 0, 9, 9]}]}]
    )
    (folder / "image_info_test.json").write_text('{"images": []}')
    (folder / "instances_none.json").write_text('{"images": [], "annotations": [], "categories": []}')
    write_coco(folder / "instances_default.json", ["a.jpg", "b.jpg"], [face()])
    read = read_dataset(tmp_path)
    assert found(read, tmp_path) == [("images/a.jpg", None, 1), ("images/b.jpg", None, 0)]
    assert reasons(read) == ["not listed in a COCO file; not used"]  # c.jpg: nobody looked for faces
    ignored = "captions_default.json, image_info_default.json, labels_default.json, panoptic_default.json"
    assert f"ignored, because it has no boxes: {ignored}" in read.notes
    check_objects(read, 1)
    (folder / "instances_default.json").unlink()
    (folder / "instances_none.json").unlink()
    with pytest.raises(DatasetError, match="no image has a face"):
        read_dataset(tmp_path)


def test_files_with_boxes_are_merged(tmp_path: Path) -> None:
    for name in "ab":
        save_photo(tmp_path / f"images/{name}.jpg")
    folder = tmp_path / "annotations"
    write_coco(folder / "instances_all.json", ["a.jpg", "b.jpg"], [face(), face(bbox=[50, 5, 9, 9])])
    more = [face(2, keypoints=[]), face(2, bbox=[1, 2, 9, 9]), face(1, 2, bbox=[1, 2, 9, 9])]
    write_coco(folder / "person_keypoints_all.json", ["b.jpg", "a.jpg"], more)
    read = read_dataset(tmp_path)
    assert read.images[0].boxes.tolist() == [BOX, [50, 5, 59, 14], [1, 2, 10, 11]]
    assert read.images[1].boxes.tolist() == [[1, 2, 10, 11]] and read.images[1].labels == ("without_mask",)
    assert [str(p) for p in read.problems] == [
        f"{folder}/instances_all.json: image 'a.jpg': annotation 1 of person_keypoints_all.json (with_mask) "
        "repeats an earlier box; left out"
    ]
    assert all(image.complete for image in read.images)
    check_objects(read, 5)


def test_merged_files_that_differ_in_the_size(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.jpg")
    folder = tmp_path / "annotations"
    write_coco(folder / "instances_a.json", ["a.jpg"], [face()])
    file = write_coco(folder / "instances_b.json", ["a.jpg"], [face(bbox=[1, 2, 9, 9])])
    content = json.loads(file.read_text())
    content["images"][0] |= {"width": 50, "height": 40}
    file.write_text(json.dumps(content))
    read = read_dataset(tmp_path)
    assert read.images[0].boxes.tolist() == [BOX] and not read.images[0].complete
    assert "the size 50x40, but with 100x80 in instances_a.json; its faces here are not used" in reasons(read)[0]
    check_objects(read, 2)
    content["images"][0] |= {"width": None}  # then the boxes are for the photo as it is
    file.write_text(json.dumps(content))
    assert read_dataset(tmp_path).images[0].boxes.tolist() == [BOX, [1, 2, 10, 11]]


def test_one_photo_of_two_splits(tmp_path: Path) -> None:
    for name in "abc":
        save_photo(tmp_path / f"images/{name}.jpg")
    folder = tmp_path / "annotations"
    write_coco(folder / "instances_train.json", ["a.jpg", "b.jpg", "c.jpg"], [face(), face(2), face(3)])
    write_coco(folder / "instances_val.json", ["a.jpg", "b.jpg"], [face(), face(2, bbox=[1, 2, 9, 9])])
    read = read_dataset(tmp_path)
    assert found(read, tmp_path) == [("images/a.jpg", "train", 1), ("images/c.jpg", "train", 1)]
    two = "'b.jpg' is listed for train and val with different faces, as two images would be; not used, give the folders"
    assert [p.reason for p in read.problems if p.reason.startswith(two)] and len(read.problems) == 4
    assert "'a.jpg' is listed for val, and for train in instances_train.json; taken for train" in reasons(read)
    check_objects(read, 5)
