"""The reader of VIA 2: shapes, the attribute with the class, projects and exports; every face is accounted for."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.annotations import read_dataset
from common.annotations.tools.via import read_via
from common.errors import UserError
from tests.helpers.per_image_sets import Corners, SetFace, SetPhoto, check_read, photos, write_image

RECT = {"name": "rect", "x": 10, "y": 20, "width": 20, "height": 30}


def save_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80), (90, 120, 150)).save(path)


def region(shape: Any, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes or {"class": "with_mask"}}


def save(file: Path, images: dict[str, Any]) -> Path:
    """Write {file name: regions} as a project, as exported JSON or CSV, by the name of the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {
        f"{name}-1": {"filename": name, "size": -1, "regions": r, "file_attributes": {}} for name, r in images.items()
    }
    if file.suffix == ".json":
        content = {"_via_settings": {}, "_via_img_metadata": rows} if "project" in file.stem else rows
        file.write_text(json.dumps(content))
        return file
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        shapes = ["region_count", "region_id", "region_shape_attributes", "region_attributes"]
        writer.writerow(["filename", "file_size", "file_attributes", *shapes])
        for name, regions in images.items():
            for number, each in enumerate(regions):
                texts = [json.dumps(each["shape_attributes"]), json.dumps(each["region_attributes"])]
                writer.writerow([name, 1, "{}", len(regions), number, *texts])
            if not regions:
                writer.writerow([name, 1, "{}", 0, 0, "{}", "{}"])
    return file


FILES = ("via_project.json", "via_region_data.json", "via_export.csv")
BOXES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "rect": (RECT, [10, 20, 30, 50]),
    "circle": ({"name": "circle", "cx": 40, "cy": 40, "r": 5.5}, [34.5, 34.5, 45.5, 45.5]),
    "ellipse": ({"name": "ellipse", "cx": 40, "cy": 40, "rx": 10, "ry": 20}, [30, 20, 50, 60]),
    "turned ellipse": (
        {"name": "ellipse", "cx": 40, "cy": 40, "rx": 10, "ry": 20, "theta": 1.5707963},
        [20, 30, 60, 50],
    ),
    "polygon": ({"name": "polygon", "all_points_x": [20, 30, 10], "all_points_y": [20, 35, 50]}, [10, 20, 30, 50]),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", BOXES)
def test_the_box_around_a_shape(tmp_path: Path, kind: str, name: str) -> None:
    shape, box = BOXES[kind]
    save_photo(tmp_path / "images/a.png")
    save(tmp_path / name, {"a.png": [region(shape)]})
    read = read_dataset(tmp_path)
    assert read.format_name == "VIA" and not read.problems and not read.notes
    assert [round(edge, 3) for edge in read.images[0].boxes[0].tolist()] == box
    assert read.images[0].labels == ("with_mask",)
    assert read_dataset(tmp_path / name).face_count == 1


NO_BOX = "region 2 has a box edge that is missing or not a number"
REFUSED = {
    "point": ({"name": "point", "cx": 1, "cy": 2}, "region 2 (with_mask) is a point, which gives no box"),
    "polyline": ({"name": "polyline", "all_points_x": [1], "all_points_y": [2]}, "region 2 (with_mask) is a polyline"),
    "no edge": ({"name": "rect", "x": 1, "y": 2, "width": 3}, NO_BOX),
    "text": ({**RECT, "x": "left"}, NO_BOX),
    "empty": ({**RECT, "width": 0}, "region 2 has an empty or inverted box"),
    "unequal polygon": ({"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}, NO_BOX),
    "polygon without lists": ({"name": "polygon", "all_points_x": 3, "all_points_y": "x"}, NO_BOX),
    "unknown": ({"name": "star", "x": 1}, NO_BOX),
    "nothing": ([], NO_BOX),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", REFUSED)
def test_a_region_without_a_box_is_refused_and_its_photo_incomplete(tmp_path: Path, fault: str, name: str) -> None:
    shape, line = REFUSED[fault]
    save_photo(tmp_path / "images/a.png")
    file = save(tmp_path / name, {"a.png": [region(RECT), region(shape)]})
    read = read_dataset(tmp_path)
    (problem,) = read.problems
    assert str(problem).startswith(f"{file}: image 'a.png': {line}") and str(problem).endswith("; left out")
    assert read.refused_count == 1 and not read.images[0].complete and len(read.images[0].boxes) == 1


@pytest.mark.parametrize(
    ("attributes", "label"),
    [
        ({"wearing": "zebra"}, "zebra"),  # the only one
        ({"note": "blurred", "Class": "zebra"}, "zebra"),
        ({"label": "zebra", "type": "adult"}, "zebra"),
        ({"mask": {"zebra": True}, "quality": {"good": True, "frontal": True}}, "zebra"),  # boxes to check
        ({"note": "", "wearing": "zebra"}, "zebra"),
    ],
)
def test_the_attribute_with_the_class(tmp_path: Path, attributes: dict[str, Any], label: str) -> None:
    save_photo(tmp_path / "a.png")
    save(tmp_path / "via.json", {"a.png": [region(RECT, **attributes)]})
    assert read_dataset(tmp_path).images[0].labels == (label,)


def test_several_attributes_are_refused(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.png")
    save(tmp_path / "via.json", {"a.png": [region(RECT, wearing="x", age="y")]})
    with pytest.raises(UserError, match=r"several attributes \(age, wearing\); name the one with the class `class`"):
        read_dataset(tmp_path)


def test_a_region_without_a_class_is_refused(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.png")
    other = region({**RECT, "x": 40}, age="y")
    save(tmp_path / "via.json", {"a.png": [region(RECT), other]})
    read = read_dataset(tmp_path)
    assert [problem.reason for problem in read.problems] == ["image 'a.png': region 2 has no class name; left out"]


def test_regions_of_via_1_and_split_folders(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        save_photo(tmp_path / folder / "a.png")
        save(tmp_path / folder / "via_region_data.json", {"a.png": {"0": region(RECT)}})
    read = read_dataset(tmp_path)
    assert not read.problems and [(i.image_id, i.split) for i in read.images] == [
        ("train/a", "train"),
        ("val/a", "val"),
    ]


def test_a_csv_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("image_id,split\n")
    with pytest.raises(UserError, match=r"splits\.csv: malformed CSV \(it is not of VIA: it lacks region_shape_attr"):
        read_dataset(tmp_path / "splits.csv")


def test_a_project_and_its_export_are_read_once(tmp_path: Path) -> None:
    for name in "ab":
        save_photo(tmp_path / f"{name}.png")
    other = region({**RECT, "x": 40})
    save(tmp_path / "via_a_project.json", {"a.png": [region(RECT)], "b.png": [region(RECT)]})
    save(tmp_path / "via_export.json", {"a.png": [region(RECT)], "b.png": [region(RECT), other]})
    save(tmp_path / "via_export.csv", {"a.png": [region(RECT)]})  # not read: there is JSON
    read = read_dataset(tmp_path)
    assert read.notes == ("1 images are in several VIA files with the same regions: read once",)
    assert [(i.image_id, len(i.labels), i.complete) for i in read.images] == [("a", 1, True), ("b", 1, False)]
    assert [problem.objects for problem in read.problems] == [2]


def test_images_that_are_not_listed_missing_ambiguous_or_empty(tmp_path: Path) -> None:
    for name in ("images/a.png", "images/b.png", "images/c.png", "images/x/d.png", "images/y/d.png"):
        save_photo(tmp_path / name)
    regions = [region(RECT), region({"name": "point"})]
    save(tmp_path / "via.json", {"a.png": [region(RECT)], "b.png": [], "gone.png": regions, "d.png": regions})
    read = read_dataset(tmp_path)
    assert [(i.image_id, i.complete) for i in read.images] == [("a", True), ("b", True)]
    assert [(p.file.name, p.kind, p.objects) for p in read.problems] == [
        ("via.json", "unmatched", 2),
        ("via.json", "refused", 2),
        ("c.png", "unmatched", 0),
    ]
    assert read.notes == ("1 of 2 images in the VIA file have no region: face-free",)


@pytest.mark.parametrize("name", ["x.json", "x.csv"])
@pytest.mark.parametrize("data", [b"", b"[", b"{}", b"[[1]]", b"[" * 100_000, b"filename,region\na,b\n", b"\xff\xff"])
def test_other_files(tmp_path: Path, name: str, data: bytes) -> None:
    save_photo(tmp_path / "a.png")
    (tmp_path / name).write_bytes(data)
    for read in (read_via, read_dataset):
        with pytest.raises(UserError) as raised:
            read(tmp_path / name)
        assert len(str(raised.value).splitlines()) == 1 and name in str(raised.value)
    with pytest.raises(UserError, match="no annotated dataset"):
        read_dataset(tmp_path)


FORMS = ("box", "box", "box", "circle", "polygon", "point", "text", "unknown")


def written_region(face: SetFace) -> dict[str, Any]:
    """Return a face as a VIA region."""
    x1, y1, x2, y2 = face.box
    radius = (x2 - x1) / 2
    shape = {
        "circle": {"name": "circle", "cx": x1 + radius, "cy": y1 + radius, "r": radius},
        "polygon": {"name": "polygon", "all_points_x": [x1, x2, x1], "all_points_y": [y1, y1, y2]},
        "point": {"name": "point", "cx": x1, "cy": y1},
        "text": {"name": "rect", "x": "x", "y": y1, "width": 3, "height": 4},
        "unknown": {"name": "star", "x": x1},
    }.get(face.form, {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1})
    return region(shape, label=face.label)


def expected_box(face: SetFace) -> Corners | None:
    """Return the box that must be read, or None."""
    x1, y1, x2, _ = face.box
    if face.form == "circle":
        return (x1, y1, x2, y1 + x2 - x1)
    return None if face.form in ("point", "text", "unknown") else face.box


@pytest.mark.parametrize("name", [*FILES, "annotations/via.json"])
@settings(max_examples=8, derandomize=True)
@given(data=st.data(), found=photos(FORMS))
def test_every_face_of_a_via_set_is_accounted_for(name: str, data: st.DataObject, found: list[SetPhoto]) -> None:
    with TemporaryDirectory() as folder:
        root, written, images = Path(folder), {}, {}
        image_folder = data.draw(st.sampled_from(["images", ".", "photos/day 1"]))
        for photo in found:
            written[write_image(root / image_folder, photo, data.draw(st.booleans()))] = photo
            images[f"{photo.stem}{photo.suffix}"] = [written_region(face) for face in photo.faces]
        save(root / name, images)
        check_read(read_dataset(root), written, expected_box, splits=False)
