"""The LabelMe reader: shapes, layouts, odd files; random datasets come back with every face accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.annotations import read_dataset
from common.annotations.tools.labelme import read_labelme
from common.errors import UserError
from tests.helpers.per_image_sets import (
    LAYOUTS,
    WITH_SPLITS,
    Corners,
    SetFace,
    SetPhoto,
    check_read,
    hull_of,
    photos,
    rotated_corners,
    write_image,
)

ANGLE = 0.4  # radians


def save_photo(path: Path, size: tuple[int, int] = (100, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path)


def shape(points: Any, kind: Any = "rectangle", label: Any = "with_mask") -> dict[str, Any]:
    """Return a shape as LabelMe writes it; an Ellipsis leaves the type out."""
    row = {"label": label, "points": points, "group_id": 1, "description": "", "flags": {"blurred": True}}
    return row if kind is ... else {**row, "shape_type": kind}


def save_json(file: Path, shapes: Any, image_path: str | None = None, **fields: Any) -> Path:
    """Write a LabelMe file of a 100x80 image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        **{"version": "5.5.0", "flags": {"outdoor": False}, "shapes": shapes, "imageData": None},
        **{"imagePath": image_path or f"{file.stem}.png", "imageHeight": 80, "imageWidth": 100, **fields},
    }
    file.write_text(json.dumps(content))
    return file


BOXES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "rectangle": (shape([[10, 20], [30, 50]]), [10, 20, 30, 50]),
    "corners in another order": (shape([[30.5, 20], [10, 50.25]]), [10, 20, 30.5, 50.25]),
    "rectangle of four points": (shape([[10, 20], [30, 20], [30, 50], [10, 50]]), [10, 20, 30, 50]),
    "polygon": (shape([[20, 20], [30, 35], [20, 50], [10, 35]], "polygon"), [10, 20, 30, 50]),
    "no type": (shape([[20, 20], [30, 35], [20, 50], [10, 35]], ...), [10, 20, 30, 50]),
    "null type": (shape([[20, 20], [30, 35], [20, 50], [10, 35]], None), [10, 20, 30, 50]),
    "rotation": (shape([[20, 20], [30, 35], [20, 50], [10, 35]], "rotation"), [10, 20, 30, 50]),
    "circle": (shape([[40, 40], [43, 44]], "circle"), [35, 35, 45, 45]),
    "mask": (shape([[10, 20], [29, 49]], "mask"), [10, 20, 30, 50]),  # of the first and the last pixels
    "past the edge": (shape([[-3, -2], [30, 50]]), [0, 0, 30, 50]),
}


@pytest.mark.parametrize("kind", BOXES)
def test_the_box_around_a_shape(tmp_path: Path, kind: str) -> None:
    row, box = BOXES[kind]
    save_photo(tmp_path / "a.png")
    save_json(tmp_path / "a.json", [row])
    read = read_dataset(tmp_path)
    assert read.format_name == "LabelMe" and not read.problems
    assert read.images[0].boxes.tolist() == [box] and read.images[0].labels == ("with_mask",)
    assert read.images[0].size == (100, 80)


NO_BOX = "has a box edge that is missing or not a number"
REFUSED: dict[str, tuple[Any, str]] = {
    "point": (shape([[1, 2]], "point"), "shape 2 (with_mask) is a point, which gives no box; draw a rectangle instead"),
    "line": (shape([[1, 2], [3, 4]], "line"), "shape 2 (with_mask) is a line, which gives no box"),
    "linestrip": (shape([[1, 2], [3, 4], [5, 9]], "linestrip"), "shape 2 (with_mask) is a linestrip"),
    "one corner": (shape([[1, 2]]), f"shape 2 {NO_BOX}"),
    "no points": (shape(None), f"shape 2 {NO_BOX}"),
    "text points": (shape([["a", 2], [3, 4]]), f"shape 2 {NO_BOX}"),
    "flat points": (shape([1, 2, 3, 4]), f"shape 2 {NO_BOX}"),
    "points of three numbers": (shape([[1, 2, 3], [3, 4, 5]]), f"shape 2 {NO_BOX}"),
    "infinite": (shape([[1, 2], [float("inf"), 4]]), f"shape 2 {NO_BOX}"),
    "polygon of two points": (shape([[1, 2], [3, 4]], "polygon"), f"shape 2 {NO_BOX}"),
    "circle of one point": (shape([[1, 2]], "circle"), f"shape 2 {NO_BOX}"),
    "empty": (shape([[5, 5], [5, 9]]), "shape 2 has an empty or inverted box (5, 5, 5, 9)"),
    "outside": (shape([[300, 5], [320, 9]]), "shape 2 has a box outside the 100x80 image"),
    "no label": (shape([[1, 2], [3, 4]], label=None), "shape 2 has no class name"),
    "no table": ("face", "shape 2 "),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_shape_without_a_box_is_refused_and_its_photo_incomplete(tmp_path: Path, fault: str) -> None:
    row, line = REFUSED[fault]
    save_photo(tmp_path / "a.png")
    file = save_json(tmp_path / "a.json", [shape([[10, 20], [30, 50]]), row])
    read = read_dataset(tmp_path)
    (problem,) = read.problems
    assert str(problem).startswith(f"{file}: {line}") and str(problem).endswith("; left out")
    assert read.refused_count == 1 and not read.images[0].complete
    assert read.images[0].boxes.tolist() == [[10, 20, 30, 50]]


def test_photos_without_json_and_json_without_a_photo_are_not_used(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.png")
    save_photo(tmp_path / "images/b.png")
    save_json(tmp_path / "annotations/a.json", [shape([[10, 20], [30, 50]])])
    save_json(tmp_path / "annotations/gone.json", [shape([[1, 2], [3, 4]])] * 2, imageData="iVBORw0KGgo=")
    read = read_dataset(tmp_path)
    assert [(p.file.name, p.kind, p.objects) for p in read.problems] == [
        ("gone.json", "unmatched", 2),
        ("b.png", "unmatched", 0),
    ]
    embedded, _ = read.problems
    assert "its image is inside the JSON (imageData)" in embedded.reason and "save it as a file" in embedded.reason


@pytest.mark.parametrize("image_path", ["..\\images\\photo 1.png", "/home/me/photo 1.png", "photo%201.png"])
def test_image_path_decides_where_no_image_has_the_stem(tmp_path: Path, image_path: str) -> None:
    save_photo(tmp_path / "images/photo 1.png")
    save_json(tmp_path / "annotations/0001.json", [shape([[10, 20], [30, 50]])], image_path)
    read = read_dataset(tmp_path)
    assert [image.path.name for image in read.images] == ["photo 1.png"] and not read.problems


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"{", "malformed JSON (Expecting property name"),
        (b"[]", "is not a LabelMe file (it has no list of `shapes`); not used"),
        (b"null", "is not a LabelMe file"),
        (b'{"shapes": 3}', "is not a LabelMe file"),
        (b"[" * 100_000, "malformed JSON ("),
        ('{"shapes": [], "imagePath": "얼굴.png"}'.encode("cp949"), "is not UTF-8 text; it looks like CP949 (Korean)"),
    ],
)
def test_invalid_files_are_refused_and_their_photos_not_used(tmp_path: Path, data: bytes, line: str) -> None:
    for stem in "ab":
        save_photo(tmp_path / f"{stem}.png")
    save_json(tmp_path / "a.json", [shape([[10, 20], [30, 50]])])
    (tmp_path / "b.json").write_bytes(data)
    read = read_dataset(tmp_path)
    (problem,) = read.problems
    assert str(problem).startswith(f"{tmp_path}/b.json: {line}")
    assert [image.image_id for image in read.images] == ["a"]


def test_one_file_is_not_a_dataset(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.png")
    file = save_json(tmp_path / "a.json", [shape([[10, 20], [30, 50]])])
    with pytest.raises(UserError, match=r"a\.json: holds one image's annotation \(LabelMe\); give the folder"):
        read_dataset(file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no LabelMe dataset"):
        read_labelme(tmp_path / "empty")


def test_a_second_file_of_a_photo_is_refused_and_leaves_it_incomplete(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.png")
    save_json(tmp_path / "a.json", [shape([[10, 20], [30, 50]])])
    save_json(tmp_path / "copy.json", [shape([[1, 2]], "point")], "a.png")
    read = read_dataset(tmp_path)
    assert (read.face_count, read.refused_count, read.incomplete) == (1, 1, ("a",))


def test_a_coco_file_in_annotations_is_not_taken_for_labelme(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.png")
    (tmp_path / "annotations").mkdir()
    rows = {"image_id": 1, "category_id": 1, "id": 1, "bbox": [10, 20, 20, 30]}
    tables = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [rows],
        "categories": [{"id": 1, "name": "x"}],
    }
    (tmp_path / "annotations/instances.json").write_text(json.dumps(tables))
    assert read_dataset(tmp_path).format_name == "COCO"


def test_what_supervision_writes_comes_back_equal(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    np = pytest.importorskip("numpy")
    save_photo(tmp_path / "images/a.png")
    boxes = np.array([[0, 0, 20, 30], [10.5, 20.25, 99, 80]], np.float32)
    detections = sv.Detections(xyxy=boxes, class_id=np.array([1, 0]))
    name = str(tmp_path / "images/a.png")
    sv.DetectionDataset(["with_mask", "zebra"], [name], {name: detections}).as_labelme(
        images_directory_path=None, annotations_directory_path=str(tmp_path / "annotations")
    )
    read = read_dataset(tmp_path)
    assert not read.problems and read.images[0].labels == ("zebra", "with_mask")
    np.testing.assert_array_equal(read.images[0].boxes, boxes)


FORMS = ("box", "box", "box", "other corners", "polygon", "rotation", "circle", "point", "line", "no points", "text")


def written_shape(face: SetFace) -> dict[str, Any]:
    """Return a face as a LabelMe shape."""
    x1, y1, x2, y2 = face.box
    radius = (x2 - x1) / 2
    kind, points = {
        "other corners": ("rectangle", [[x2, y1], [x1, y2]]),
        "polygon": ("polygon", [[x1, y2], [(x1 + x2) / 2, y1], [x2, y2]]),
        "rotation": ("rotation", rotated_corners(face.box, ANGLE).tolist()),
        "circle": ("circle", [[x1 + radius, y1 + radius], [x2, y1 + radius]]),
        "point": ("point", [[x1, y1]]),
        "line": ("line", [[x1, y1], [x2, y2]]),
        "no points": ("polygon", []),
        "text": ("rectangle", [["x", y1], [x2, y2]]),
    }.get(face.form, ("rectangle", [[x1, y1], [x2, y2]]))
    return shape(points, kind, face.label)


def expected_box(face: SetFace) -> Corners | None:
    """Return the box that must be read, or None."""
    x1, y1, x2, _ = face.box
    if face.form == "circle":
        return (x1, y1, x2, y1 + x2 - x1)
    if face.form == "rotation":
        return hull_of(rotated_corners(face.box, ANGLE))
    return None if face.form in ("point", "line", "no points", "text") else face.box


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=6, derandomize=True)
@given(data=st.data(), found=photos(FORMS))
def test_every_face_of_a_labelme_set_is_accounted_for(layout: str, data: st.DataObject, found: list[SetPhoto]) -> None:
    with TemporaryDirectory() as folder:
        root, written = Path(folder), {}
        for photo in found:
            image_folder, json_folder = LAYOUTS[layout](photo)
            written[write_image(root / image_folder, photo, data.draw(st.booleans()))] = photo
            path = data.draw(
                st.sampled_from([f"{photo.stem}{photo.suffix}", f"..\\x\\{photo.stem}.png", "zzz.png", ""])
            )
            shapes = [written_shape(face) for face in photo.faces]
            file = save_json(root / json_folder / f"{photo.stem}.json", shapes, path)
            encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
            content = json.loads(file.read_text())
            file.write_bytes(json.dumps(content, ensure_ascii=data.draw(st.booleans())).encode(encoding))
        check_read(read_dataset(root), written, expected_box, layout in WITH_SPLITS)


def test_a_normalised_box_is_refused(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.png")
    content = {"shapes": [shape([[0.1, 0.2], [0.4, 0.6]]), shape([[10, 20], [30, 50]])], "imagePath": "a.png"}
    (tmp_path / "a.json").write_text(json.dumps(content))
    read = read_dataset(tmp_path)
    assert read.images[0].boxes.tolist() == [[10, 20, 30, 50]] and not read.images[0].complete
    assert "as normalised boxes are" in read.problems[0].reason and read.refused_count == 1
