"""What the COCO reader refuses: boxes in other units, names that are not clear, missing images, unreadable files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from common.annotations import Annotations, read_dataset
from common.annotations.collect import DatasetError
from common.errors import UserError
from tests.helpers.coco_sets import face, save_photo, write_coco


def write_faces(root: Path, boxes: list[Any], sizes: bool = True) -> Path:
    """Write one photo per box; without `sizes` the file gives no width and height."""
    names = [f"{i}.png" for i in range(len(boxes))]
    for name in names:
        save_photo(root / "images" / name)
    file = write_coco(root / "annotations/x.json", names, [face(i, bbox=box) for i, box in enumerate(boxes, start=1)])
    if not sizes:
        content = json.loads(file.read_text())
        content["images"] = [{key: row[key] for key in ("id", "file_name")} for row in content["images"]]
        file.write_text(json.dumps(content))
    return file


def reasons(read: Annotations) -> list[str]:
    return [problem.reason for problem in read.problems]


@pytest.mark.parametrize("sizes", [True, False])
def test_normalised_boxes_are_refused(tmp_path: Path, sizes: bool) -> None:
    file = write_faces(tmp_path, [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [0.5, 0.5, 0, 0]], sizes)
    with pytest.raises(UserError, match="its boxes look normalised") as raised:
        read_dataset(tmp_path)
    assert str(raised.value).startswith(f"{file}: ") and "convert the boxes to x, y, width, height" in str(raised.value)


def test_single_boxes_that_look_normalised_are_refused_by_name(tmp_path: Path) -> None:
    write_faces(tmp_path, [[0.1, 0.2, 0.3, 0.4], [0, 0, 20, 10]])
    read = read_dataset(tmp_path)
    assert [image.complete for image in read.images] == [False, True]
    assert reasons(read) == [
        "image '0.png': annotation 1 has a box that looks normalised (0.1, 0.2, 0.4, 0.6); left out"
    ]
    assert (read.face_count, read.refused_count) == (1, 1)


def test_boxes_before_the_image_are_outside_and_not_normalised(tmp_path: Path) -> None:
    write_faces(tmp_path, [[-50, -50, 20, 20], [10, 10, 20, 20]])
    assert reasons(read_dataset(tmp_path)) == [
        "image '0.png': annotation 1 has a box outside the 100x80 image (-50, -50, -30, -30); left out"
    ]


@pytest.mark.parametrize(
    ("listed", "used", "fix"),
    [
        ((1, 2, 3), (0, 1, 2), "add 1 to each `category_id`; if they are right, list category 0"),
        ((1, 2, 3), (0, 2), "add 1 to each `category_id`; if they are right, list category 0"),
        ((0, 1), (2, 1), "subtract 1 from each `category_id`; if they are right, list category 2"),
    ],
)
def test_categories_that_are_off_by_one_refuse_the_file(
    tmp_path: Path, listed: tuple[int, ...], used: tuple[int, ...], fix: str
) -> None:
    names = [save_photo(tmp_path / f"{i}.png").name for i in range(len(used))]
    faces = [face(i, key) for i, key in enumerate(used, start=1)]
    file = write_coco(tmp_path / "x.json", names, faces, [(key, f"class {key}") for key in listed])
    with pytest.raises(DatasetError) as raised:
        read_dataset(tmp_path)
    what = f"the categories {min(used)} to {max(used)}, but it lists {min(listed)} to {max(listed)}"
    assert str(raised.value) == f"{file}: its annotations have {what}, so classes would be wrong; {fix}"


@pytest.mark.parametrize(
    ("listed", "used"),
    [
        ((0, 1, 2), (1, 2)),  # Roboflow lists an unused one first
        ((1, 2, 3), (1, 2)),
        ((1, 2, 3), (0, 1, 2, 3)),  # one unknown category
        ((1, 2, 3), (2, 3, 7)),
        ((1, 3), (0, 1, 2)),
        ((1,), (0, 1)),
    ],
)
def test_other_categories_are_not_off_by_one(tmp_path: Path, listed: tuple[int, ...], used: tuple[int, ...]) -> None:
    names = [save_photo(tmp_path / f"{i}.png").name for i in range(len(used))]
    faces = [face(i, key) for i, key in enumerate(used, start=1)]
    write_coco(tmp_path / "x.json", names, faces, [(key, f"class {key}") for key in listed])
    read = read_dataset(tmp_path)
    assert read.face_count == len({*used} & {*listed}) and read.face_count + read.refused_count == len(used)


def test_a_crowd_region_does_not_count_as_a_used_category(tmp_path: Path) -> None:
    names = [save_photo(tmp_path / f"{i}.png").name for i in range(2)]
    faces = [face(1, 1), face(2, 0, iscrowd=1)]
    write_coco(tmp_path / "x.json", names, faces, [(1, "a"), (2, "b")])
    assert read_dataset(tmp_path).face_count == 1


def test_problems_of_a_photos_size_name_the_photo(tmp_path: Path) -> None:
    for name, size in (("a.png", (200, 160)), ("b.png", (60, 30)), ("c.png", (100, 80))):
        save_photo(tmp_path / name, size)
    faces = [face(1), face(2, bbox=[50, 20, 30, 40]), face(3)]
    file = write_coco(tmp_path / "x.json", ["a.png", "b.png", "c.png"], faces)
    assert {str(problem) for problem in read_dataset(tmp_path).problems} == {
        f"{file}: image 'a.png': its annotation is for a 100x80 image, but the image is 200x160; boxes were scaled",
        f"{file}: image 'b.png': its annotation is for a 100x80 image, but the image is 60x30, and boxes do not fit; "
        "not used",
    }


def test_small_images_may_have_small_boxes(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.png", (4, 4))
    (tmp_path / "x.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png"}],
                "annotations": [face(bbox=[0, 0, 1, 1])],
                "categories": [{"id": 1, "name": "x"}],
            }
        )
    )
    assert read_dataset(tmp_path).images[0].boxes.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("sizes", [True, False])
def test_corners_are_refused(tmp_path: Path, sizes: bool) -> None:
    rng = random.Random(0)
    lefts = [(rng.randint(0, 70), rng.randint(0, 50)) for _ in range(20)]
    corners = [[x, y, x + rng.randint(10, 30), y + rng.randint(10, 30)] for x, y in lefts]
    file = write_faces(tmp_path / "corners", corners, sizes)
    with pytest.raises(UserError, match="its boxes look like corners") as raised:
        read_dataset(tmp_path / "corners")
    assert str(raised.value).startswith(f"{file}: ")
    write_faces(tmp_path / "right", [[x, y, right - x, bottom - y] for x, y, right, bottom in corners], sizes)
    assert read_dataset(tmp_path / "right").face_count == 20


def test_boxes_past_the_edge_are_not_corners(tmp_path: Path) -> None:
    past = [[60 + i, 50, 60, 60] for i in range(8)]
    write_faces(tmp_path / "mixed", [*past, [80, 70, 30, 20], [90, 10, 20, 20], [50, 40, 30, 30]])
    read = read_dataset(tmp_path / "mixed")
    assert read.face_count == 11 and read.clipped_boxes == 10
    write_faces(tmp_path / "few", [[60, 50, 90, 75], [60, 50, 91, 76]])
    assert read_dataset(tmp_path / "few").clipped_boxes == 2


def test_the_folder_named_after_the_split_decides(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(2):
            save_photo(tmp_path / f"images/{split}/{i}.jpg")
    write_coco(tmp_path / "annotations/instances_train.json", ["0.jpg"], [face()])
    file = write_coco(tmp_path / "annotations/instances_val.json", ["1.jpg", "2.jpg"], [face(), face(2)])
    save_photo(tmp_path / "images/train/2.jpg")
    for path in (tmp_path, file):
        read = read_dataset(path)
        folders = [(i.image_id.split("/")[-1], i.path.parent.name) for i in read.images]
        assert folders == ([("0", "train"), ("1", "val")] if path is tmp_path else [("1", "val")])
        missing = next(p for p in read.problems if p.objects)
        assert missing.kind == "unmatched" and missing.reason == (
            "image '2.jpg' is missing; not used (images/train/2.jpg is in the folder of another split; "
            "to use it, give its folder in file_name)"
        )


def test_the_folder_named_after_the_subset_decides(tmp_path: Path) -> None:
    for subset in ("cam1", "cam2"):
        save_photo(tmp_path / f"images/{subset}/frame.png")
    save_photo(tmp_path / "images/cam2/other.png")
    write_coco(tmp_path / "annotations/instances_cam1.json", ["frame.png", "other.png"], [face(), face(2)])
    write_coco(tmp_path / "annotations/instances_cam2.json", ["frame.png"], [face(bbox=[1, 2, 9, 9])])
    read = read_dataset(tmp_path)
    assert [(i.path.parent.name, i.boxes[0, 0]) for i in read.images] == [("cam1", 10), ("cam2", 1)]
    assert sorted(p.kind for p in read.problems) == ["unmatched", "unmatched"]  # other.png, listed and not listed
    assert (read.face_count, read.refused_count) == (2, 1)


def test_ambiguous_names_are_refused_and_their_photos_not_face_free(tmp_path: Path) -> None:
    for name in ("x/a.jpg", "y/a.jpg", "y/b.jpg"):
        save_photo(tmp_path / "images" / name)
    write_coco(tmp_path / "annotations/default.json", ["a.jpg", "b.jpg", "y/a.jpg"], [face(), face(2)])
    read = read_dataset(tmp_path)
    assert [(i.path.parent.name, i.path.name, i.complete) for i in read.images] == [
        ("y", "a.jpg", False),  # listed by its path, but the other annotation may be of it
        ("y", "b.jpg", True),
    ]
    (problem,) = read.problems
    assert problem.objects == 1 and problem.kind == "refused"
    assert problem.reason.startswith("image 'a.jpg' fits 2 images (x/a.jpg, y/a.jpg)")


def test_the_images_next_to_the_file_come_first(tmp_path: Path) -> None:
    for name in ("train/a.jpg", "train/old/a.jpg", "a.jpg"):
        save_photo(tmp_path / name)
    write_coco(tmp_path / "train/_annotations.coco.json", ["a.jpg"], [face()])
    assert [i.path for i in read_dataset(tmp_path).images] == [tmp_path / "train/a.jpg"]


def test_missing_images_are_counted_with_their_faces(tmp_path: Path) -> None:
    for name in ("a.jpg", "new name.jpg"):
        save_photo(tmp_path / "images" / name)
    save_photo(tmp_path / "logo.png")
    names = ["a.jpg", "old name.jpg", "", "gone.jpg"]
    file = write_coco(tmp_path / "annotations/x.json", names, [face(), face(2), face(2, 2), face(3)])
    read = read_dataset(tmp_path)
    assert [(p.reason, p.kind, p.objects) for p in read.problems] == [
        ("image 'old name.jpg' is missing; not used", "unmatched", 2),
        ("an image has no file_name; not used", "unmatched", 1),
        ("image 'gone.jpg' is missing; not used", "unmatched", 0),
        ("not listed in a COCO file; not used", "unmatched", 0),
    ]
    names = "check their names ('old name.jpg' is missing, new name.jpg is not listed)"
    assert f"3 listed images are missing, and 1 photos are not listed: {names}" in read.notes
    assert f"1 photos in other folders are not used, such as {tmp_path / 'logo.png'}" in read.notes
    (tmp_path / "images/a.jpg").unlink()
    for path in (tmp_path, file):
        with pytest.raises(DatasetError) as raised:
            read_dataset(path)
        assert "none of the 4 listed images is there, such as 'a.jpg'; it has 2 photos, such as" in str(raised.value)
        assert sum(problem.objects for problem in raised.value.problems) == 4


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    save_photo(tmp_path / "images/사진.jpg")
    write_coco(tmp_path / "labels.json", ["사진.jpg"], [face()], [(1, "마스크")], encoding)
    assert read_dataset(tmp_path).images[0].labels == ("마스크",)


def test_a_file_in_another_encoding_is_refused_with_the_fix(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/사진.jpg")
    file = write_coco(tmp_path / "labels.json", ["사진.jpg"], [face()], [(1, "마스크 착용")], "cp949")
    with pytest.raises(
        UserError, match=r"labels\.json: is not UTF-8 text; it looks like CP949 \(Korean\).*iconv -f CP949"
    ):
        read_dataset(tmp_path)
    write_coco(tmp_path / "other.json", ["사진.jpg"], [face()])
    read = read_dataset(tmp_path)  # the rest is used, and the file named
    assert [problem.file for problem in read.problems] == [file]


TRUNCATED = ('{"images": [{"id": 1, "file_name": "a.jpg"', '{"images": [], "annotations": [')


@pytest.mark.parametrize("text", ["[" * 100_000, "\udce9", *TRUNCATED, ""])
def test_broken_files_are_reported(tmp_path: Path, text: str) -> None:
    save_photo(tmp_path / "images/a.jpg")
    file = tmp_path / "annotations/train.json"
    file.parent.mkdir()
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=r"train\.json"):
        read_dataset(file)
    if text in TRUNCATED:
        with pytest.raises(UserError, match=r"train\.json: malformed JSON"):
            read_dataset(tmp_path)
    write_coco(tmp_path / "annotations/val.json", ["a.jpg"], [face()])
    read = read_dataset(tmp_path)
    assert read.face_count == 1
    assert [p.file for p in read.problems] == ([] if text in ("[" * 100_000, "\udce9") else [file])


def test_faces_of_a_refused_file_are_counted(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.jpg")
    write_coco(tmp_path / "annotations/instances_a.json", ["a.jpg"], [face()])
    file = write_coco(tmp_path / "annotations/instances_b.json", ["a.jpg"], [face(), face()])
    content = json.loads(file.read_text())
    for key in ("categories", "images"):
        file.write_text(json.dumps(content | {key: {}}))
        read = read_dataset(tmp_path)
        assert (read.face_count, read.refused_count) == (1, 2)
    file.write_text(json.dumps(content | {"annotations": [*content["annotations"], None]}))
    assert read_dataset(tmp_path).refused_count == 3


def test_constants_that_are_not_numbers(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg")
    nan, infinite = float("nan"), float("inf")
    rows = [
        face(),
        face(bbox=[nan, 1, 2, 3]),
        face(bbox=[1, 1, infinite, 3]),
        face(nan),
        face(1, nan),
        face(bbox=["9"] * 4),
    ]
    file = write_coco(tmp_path / "x.json", ["a.jpg"], rows)
    content = json.loads(file.read_text())
    content["images"][0] |= {"width": nan, "height": infinite}
    file.write_text(json.dumps(content))
    assert "NaN" in file.read_text() and "Infinity" in file.read_text()
    read = read_dataset(tmp_path)
    assert read.images[0].boxes.tolist() == [[10, 20, 40, 60], [9, 9, 18, 18]] and not read.images[0].complete
    assert (read.face_count, read.refused_count) == (2, 4)


def test_a_face_of_an_unlisted_image_may_be_of_any_photo_without_faces(tmp_path: Path) -> None:
    names = ["a.png", "b.png"]
    for name in names:
        save_photo(tmp_path / "images" / name)
    stray = {key: value for key, value in face(2).items() if key != "image_id"}
    write_coco(tmp_path / "annotations/x.json", names, [face(1), stray])
    read = read_dataset(tmp_path)
    assert [image.complete for image in read.images] == [True, False]
    assert (read.face_count, read.refused_count) == (1, 1)
