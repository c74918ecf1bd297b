"""Invalid annotations in each format: the line that each gives, and the rest of the dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.annotations import MASK_CLASSES, Annotations, read_dataset
from common.annotations.collect import image_ids
from common.errors import UserError

# Photos a and b have 100x80 px. Photo a has a face at GOOD; each test annotates photo b.
GOOD = [10.0, 20.0, 30.0, 50.0]
DatasetWriter = Callable[[Path, Any], Path]


def write_photos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for stem in "ab":
        Image.new("RGB", (100, 80)).save(folder / f"{stem}.png")


def voc_object(label: str | None = "with_mask", **edges: object) -> str:
    """Return a face at GOOD in VOC's 1-based pixels, with changed edges; None removes an edge."""
    edges = {"xmin": 11, "ymin": 21, "xmax": 30, "ymax": 50, **edges}
    text = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges.items() if value is not None)
    name = "" if label is None else f"<name>{label}</name>"
    return f"<object>{name}<bndbox>{text}</bndbox></object>"


def write_voc(root: Path, page: str) -> Path:
    """Write a VOC dataset; `page` is the XML file of photo b, or its content."""
    write_photos(root / "images")
    (root / "annotations").mkdir()
    (root / "annotations/a.xml").write_text(f"<annotation>{voc_object()}</annotation>")
    whole = not page or page.startswith(("<!", "<annotation", "<svg"))
    (root / "annotations/b.xml").write_text(page if whole else f"<annotation>{page}</annotation>")
    return root / "annotations/b.xml"


def coco_face(**fields: Any) -> dict[str, Any]:
    """Return a face of photo b at GOOD with changed fields; an Ellipsis removes a field."""
    row = {"image_id": 2, "category_id": 1, "bbox": [10, 20, 20, 30], **fields}
    return {name: value for name, value in row.items() if value is not ...}


def write_coco(root: Path, rows: list[dict[str, Any]]) -> Path:
    write_photos(root)
    categories = [{"id": 1, "name": "with_mask"}, {"id": 2, "name": "zebra"}, {"id": 3}]
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    faces = [{"id": i, **row} for i, row in enumerate([coco_face(image_id=1), *rows])]
    file = root / "_annotations.coco.json"
    file.write_text(json.dumps({"images": images, "annotations": faces, "categories": categories}))
    return file


def write_yolo(root: Path, lines: str) -> Path:
    write_photos(root / "images")
    (root / "labels").mkdir()
    (root / "data.yaml").write_text("train: images\nnames: [with_mask, zebra]\n")
    (root / "labels/a.txt").write_text("0 0.2 0.4375 0.2 0.375")
    (root / "labels/b.txt").write_text(lines)
    return root / "labels/b.txt"


def boxes_of(read: Annotations, image_id: str) -> list[list[float]]:
    (image,) = (image for image in read.images if image.image_id == image_id)
    return [[round(v, 3) for v in box] for box in image.boxes.tolist()]


def refusal(root: Path) -> str:
    """Return the message of a dataset that cannot be read."""
    with pytest.raises(UserError) as raised:
        read_dataset(root)
    return str(raised.value)


MISSING_EDGE = "has a box edge that is missing or not a number; left out"
FACE_FAULTS: dict[str, tuple[DatasetWriter, Any, str]] = {
    "voc, missing edge": (write_voc, voc_object(xmin=None), f"object 1 {MISSING_EDGE}"),
    "voc, missing box": (write_voc, "<object><name>with_mask</name></object>", f"object 1 {MISSING_EDGE}"),
    "voc, missing class": (write_voc, voc_object(None), "object 1 has no class name; left out"),
    "voc, empty edge": (write_voc, voc_object(xmin=""), f"object 1 {MISSING_EDGE}"),
    "voc, NaN": (write_voc, voc_object(ymax="nan"), f"object 1 {MISSING_EDGE}"),
    "voc, infinite": (write_voc, voc_object(ymax="1e999"), f"object 1 {MISSING_EDGE}"),
    "voc, swapped": (
        write_voc,
        voc_object(xmin=31, xmax=10),
        "object 1 has an empty or inverted box (30, 20, 10, 50); left out",
    ),
    "voc, empty": (
        write_voc,
        voc_object(xmin=31, xmax=30),
        "object 1 has an empty or inverted box (30, 20, 30, 50); left out",
    ),
    "voc, outside": (
        write_voc,
        voc_object(xmin=101, xmax=120),
        "object 1 has a box outside the 100x80 image (100, 20, 120, 50); left out",
    ),
    "coco, missing box": (write_coco, [coco_face(bbox=...)], f"image 'b.png': annotation 1 {MISSING_EDGE}"),
    "coco, missing edge": (write_coco, [coco_face(bbox=[1, 2, 3])], f"image 'b.png': annotation 1 {MISSING_EDGE}"),
    "coco, missing image": (
        write_coco,
        [coco_face(image_id=...)],
        "annotation 1 is of image None, which is not listed; left out",
    ),
    "coco, missing class": (
        write_coco,
        [coco_face(category_id=...)],
        "image 'b.png': annotation 1 has the unknown category None; left out",
    ),
    "coco, class without name": (
        write_coco,
        [coco_face(category_id=3)],
        "image 'b.png': annotation 1 has no class name; left out",
    ),
    "coco, unknown class": (
        write_coco,
        [coco_face(category_id=9)],
        "image 'b.png': annotation 1 has the unknown category 9; left out",
    ),
    "coco, boolean edge": (
        write_coco,
        [coco_face(bbox=[1, 2, True, 4])],
        f"image 'b.png': annotation 1 {MISSING_EDGE}",
    ),
    "coco, NaN": (
        write_coco,
        [coco_face(bbox=[float("nan"), 20, 20, 30])],
        f"image 'b.png': annotation 1 {MISSING_EDGE}",
    ),
    "coco, swapped": (
        write_coco,
        [coco_face(bbox=[30, 20, -20, 30])],
        "image 'b.png': annotation 1 has an empty or inverted box (30, 20, 10, 50); left out",
    ),
    "coco, empty": (
        write_coco,
        [coco_face(bbox=[30, 20, 0, 30])],
        "image 'b.png': annotation 1 has an empty or inverted box (30, 20, 30, 50); left out",
    ),
    "coco, outside": (
        write_coco,
        [coco_face(bbox=[100, 20, 20, 30])],
        "image 'b.png': annotation 1 has a box outside the 100x80 image (100, 20, 120, 50); left out",
    ),
    "yolo, missing edge": (
        write_yolo,
        "0 0.5 0.5 0.2",
        "line 1 has 4 values, which is not a box or a polygon; left out",
    ),
    "yolo, missing class": (write_yolo, "mask 0.5 0.5 0.2 0.5", "line 1 has the unknown class mask; left out"),
    "yolo, unknown class": (write_yolo, "7 0.5 0.5 0.2 0.5", "line 1 has the unknown class 7; left out"),
    "yolo, NaN": (write_yolo, "0 nan 0.5 0.2 0.5", f"line 1 {MISSING_EDGE}"),
    "yolo, class NaN": (write_yolo, "nan 0.5 0.5 0.2 0.5", "line 1 has the unknown class nan; left out"),
    "yolo, swapped": (
        write_yolo,
        "0 0.5 0.5 -0.2 0.5",
        "line 1 has an empty or inverted box (60, 20, 40, 60); left out",
    ),
    "yolo, empty": (write_yolo, "0 0.5 0.5 0 0.5", "line 1 has an empty or inverted box (50, 20, 50, 60); left out"),
    "yolo, outside": (
        write_yolo,
        "0 1.5 0.5 0.2 0.5",
        "line 1 has a box outside the 100x80 image (140, 20, 160, 60); left out",
    ),
}


@pytest.mark.parametrize("fault", FACE_FAULTS)
def test_an_invalid_face_is_left_out_and_reported(tmp_path: Path, fault: str) -> None:
    write, content, line = FACE_FAULTS[fault]
    file = write(tmp_path / "set", content)
    read = read_dataset(tmp_path / "set")
    assert [str(problem) for problem in read.problems] == [f"{file}: {line}"]
    assert (boxes_of(read, "a"), boxes_of(read, "b")) == ([GOOD], [])
    assert read.class_names == MASK_CLASSES and read.clipped_boxes == 0


DUPLICATES: dict[str, tuple[DatasetWriter, Any, Any, str]] = {
    "voc": (write_voc, voc_object() * 2, voc_object() + voc_object("zebra"), "object 2"),
    "coco": (write_coco, [coco_face()] * 2, [coco_face(), coco_face(category_id=2)], "image 'b.png': annotation 2"),
    "yolo": (
        write_yolo,
        "0 0.2 0.4375 0.2 0.375\n" * 2,
        "0 0.2 0.4375 0.2 0.375\n1 0.2 0.4375 0.2 0.375",
        "line 2",
    ),
}


@pytest.mark.parametrize("kind", DUPLICATES)
def test_the_first_of_two_equal_boxes_is_used(tmp_path: Path, kind: str) -> None:
    write, same, other, location = DUPLICATES[kind]
    for name, content, line in (
        ("same", same, f"{location} (with_mask) repeats an earlier box; left out"),
        ("other", other, f"{location} (zebra) repeats an earlier box, annotated as with_mask there; left out"),
    ):
        file = write(tmp_path / name, content)
        read = read_dataset(tmp_path / name)
        assert [str(problem) for problem in read.problems] == [f"{file}: {line}"]
        assert boxes_of(read, "b") == [GOOD] and read.class_names == MASK_CLASSES


@pytest.mark.parametrize(
    ("write", "content"),
    [
        (write_voc, voc_object(xmin=-10)),
        (write_coco, [coco_face(bbox=[-11, 20, 41, 30])]),
        (write_yolo, "0 0.095 0.4375 0.41 0.375"),
    ],
)
def test_a_negative_edge_is_clipped_and_counted(tmp_path: Path, write: DatasetWriter, content: Any) -> None:
    write(tmp_path / "set", content)
    read = read_dataset(tmp_path / "set")
    assert not read.problems and read.clipped_boxes == 1
    assert boxes_of(read, "b") == [[0, 20, 30, 50]]


@pytest.mark.parametrize(("write", "content"), [(write_voc, "<size/>"), (write_coco, []), (write_yolo, "")])
def test_a_photo_without_faces_and_a_dataset_of_one_class(tmp_path: Path, write: DatasetWriter, content: Any) -> None:
    write(tmp_path / "set", content)
    read = read_dataset(tmp_path / "set")
    assert not read.problems
    assert [image.labels for image in read.images] == [("with_mask",), ()]
    assert read.images[1].boxes.shape == (0, 4)
    assert read.class_names == MASK_CLASSES  # it fits a model of all three classes


@pytest.mark.parametrize(
    ("write", "content"),
    [
        (write_voc, voc_object("zebra")),
        (write_coco, [coco_face(category_id=2)]),
        (write_yolo, "1 0.2 0.4375 0.2 0.375"),
    ],
)
def test_another_class_is_added(tmp_path: Path, write: DatasetWriter, content: Any) -> None:
    write(tmp_path / "set", content)
    read = read_dataset(tmp_path / "set")
    assert not read.problems and read.images[1].labels == ("zebra",)
    assert read.class_names == ("with_mask", "zebra")


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation><filename>&y;</filename></annotation>'


@pytest.mark.parametrize(
    ("page", "line"),
    [
        (BOMB, "declares XML entities (EntitiesForbidden), which are not expanded; not used, export it again"),
        ("", "malformed XML (no element found: line 1, column 0); not used, export it again"),
        ("<annotation>", "malformed XML (no element found: line 1, column 12); not used, export it again"),
        ("<svg/>", "is not a Pascal VOC file (its root is <svg>); not used, export it again"),
    ],
)
def test_invalid_voc_files(tmp_path: Path, page: str, line: str) -> None:
    file = write_voc(tmp_path / "set", page)
    read = read_dataset(tmp_path / "set")
    assert [str(problem) for problem in read.problems] == [f"{file}: {line}"]
    assert [image.image_id for image in read.images] == ["a"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "malformed JSON (Expecting value: line 1 column 1 (char 0)); not used, export it again"),
        ("{", "malformed JSON ("),
        ("[]", "is not a COCO detection file (its 'images' is not a list of objects); not used, export it again"),
        (
            '{"images": [], "annotations": {}}',
            "is not a COCO detection file (its 'annotations' is not a list of objects); not used, export it again",
        ),
    ],
)
def test_invalid_coco_files(tmp_path: Path, text: str, line: str) -> None:
    file = write_coco(tmp_path / "set", [])
    file.write_text(text)
    expected = f"{tmp_path}/set: no annotated image could be used; first problem: {file}: {line}"
    assert refusal(tmp_path / "set").startswith(expected)


def test_a_coco_file_without_images(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"images": [], "annotations": [], "categories": []}')
    assert refusal(file) == f"{file}: no annotated image could be used; it lists no image, export it again"


# Nine lists; each contains the previous list nine times. Their text has gigabytes.
BOMB_OF_ALIASES = "x0: &x0 [a]\n" + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 10))
NO_NAMES = "`names` is not a list of names or a table from number to name; correct it"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is not a YOLO data.yaml (it has no `names:`); use another file"),
        ("train: images\nnc: 2", "no class names; add `names:` to data.yaml or a classes.txt"),
        ("train: images\nnames: 3", NO_NAMES),
        ("train: images\nnames: {.inf: a}", NO_NAMES),
        (f"{BOMB_OF_ALIASES}train: images\nnames: *x9", NO_NAMES),
        (f"{BOMB_OF_ALIASES}train: *x9\nnames: [a]", "`train` or `path` is not a path; correct it"),
        (f"{BOMB_OF_ALIASES}path: *x9\ntrain: images\nnames: [a]", "`train` or `path` is not a path; correct it"),
        (
            "names: [a",
            'malformed YAML (while parsing a flow sequence in "<unicode string>", line 1, column 8: names: [a ^ '
            "expected ',' or ']', but got '<stream end>' in \"<unicode string>\", line 1, column 10: names: [a ^); "
            "correct it",
        ),
    ],
    ids=str,
)
def test_invalid_yolo_configs(tmp_path: Path, text: str, line: str) -> None:
    write_yolo(tmp_path / "set", "")
    (tmp_path / "set/data.yaml").write_text(text)
    assert refusal(tmp_path / "set") == f"{tmp_path}/set/data.yaml: {line}"


def test_a_yolo_path_that_does_not_exist(tmp_path: Path) -> None:
    write_yolo(tmp_path / "set", "")
    (tmp_path / "set/data.yaml").write_text("train: nowhere\nnames: [a]")
    config = tmp_path / "set/data.yaml"
    problem = f"{config}: train: nowhere does not exist; not used, tried {tmp_path}/set/nowhere"
    expected = f"{config}: its train, val and test folders hold no image; first problem: {problem}"
    assert refusal(tmp_path / "set") == expected


def test_a_yolo_label_file_that_is_not_text(tmp_path: Path) -> None:
    file = write_yolo(tmp_path / "set", "")
    file.write_bytes(b"0 0.5 0.5 \xff 0.5")
    read = read_dataset(tmp_path / "set")
    (problem,) = read.problems
    assert problem.file == file and problem.reason.startswith("is not UTF-8 text; it looks like")
    assert [image.image_id for image in read.images] == ["a"]


def test_folders_and_files_that_are_not_datasets(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    for path in (tmp_path / "empty", tmp_path / "a.txt"):
        message = refusal(path)
        assert message.startswith(f"{path}: no annotated dataset; looked for Pascal VOC")
        assert "COCO" in message and "YOLO (data.yaml" in message
    missing = tmp_path / "nowhere"
    assert refusal(missing) == f"{missing}: not found; give the folder of an annotated dataset"


def test_datasets_without_photos_or_labels(tmp_path: Path) -> None:
    root = tmp_path / "photoless"
    write_voc(root, voc_object())
    for photo in (root / "images").iterdir():
        photo.unlink()
    problem = f"{root}/annotations/a.xml: no image a.* in {root}/images; not used"
    assert refusal(root) == f"{root}: no annotated image could be used; 2 problems, the first: {problem}"
    root = tmp_path / "labelless"
    write_yolo(root, "")
    for file in (root / "labels").iterdir():
        file.unlink()
    assert (
        refusal(root)
        == f"{root}: no label file for any of its 2 images (labels/NAME.txt); add them, or correct the paths"
    )


def test_ids_of_names_that_are_not_utf8(tmp_path: Path) -> None:
    names = [os.fsdecode(name) for name in (b"caf\xe9.png", b"caf\xe8.png", "café.png".encode())]
    assert image_ids([tmp_path / name for name in names]) == ["caf\\xe9", "caf\\xe8", "café"]
    folder = os.fsdecode(b"caf\xe9")
    assert image_ids([tmp_path / folder / "a.png", tmp_path / "a.png"]) == ["caf\\xe9/a", "a"]
