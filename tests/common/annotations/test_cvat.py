"""The reader of CVAT for images: shapes, subsets, several tasks; random datasets come back fully accounted for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.annotations import read_dataset
from common.annotations.tools.cvat import read_cvat
from common.errors import UserError
from tests.helpers.per_image_sets import (
    Corners,
    SetFace,
    SetPhoto,
    check_read,
    hull_of,
    photos,
    rotated_corners,
    write_image,
)

BOX = (
    '<box label="with_mask" source="manual" occluded="0" xtl="10.00" ytl="20.00" xbr="30.00" ybr="50.00" z_order="0"/>'
)
DEGREES = 25.0


def save_photo(path: Path, size: tuple[int, int] = (100, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path)


def image(name: str, *shapes: str, **attributes: str) -> str:
    """Return an <image> of 100x80 pixels."""
    extra = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    return f'<image id="0" name={quoteattr(name)}{extra} width="100" height="80">{"".join(shapes)}</image>'


def save_xml(file: Path, *images: str) -> Path:
    """Write a CVAT file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    meta = "<version>1.1</version><meta><task><name>faces</name><labels/></task><dumped>2026-01-01</dumped></meta>"
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{"".join(images)}</annotations>'
    file.write_text(text, encoding="utf-8")
    return file


SHAPES = {
    "box": (BOX, [10, 20, 30, 50]),
    "box with attributes": (
        BOX.replace("/>", '><attribute name="mask">yes</attribute></box>'),
        [10, 20, 30, 50],
    ),
    "box turned by 90 degrees": (BOX.replace("z_order", 'rotation="90.00" z_order'), [5, 25, 35, 45]),
    "polygon": (
        '<polygon label="with_mask" points="20,20;30.00,35;20,50;10,35"/>',
        [10, 20, 30, 50],
    ),
    "ellipse": ('<ellipse label="with_mask" cx="40" cy="40" rx="10" ry="20"/>', [30, 20, 50, 60]),
    "ellipse turned by 90 degrees": (
        '<ellipse label="with_mask" cx="40" cy="40" rx="10" ry="20" rotation="90"/>',
        [20, 30, 60, 50],
    ),
    "mask": ('<mask label="with_mask" rle="3, 4" left="10" top="20" width="20" height="30"/>', [10, 20, 30, 50]),
    "cuboid": (
        '<cuboid label="with_mask" xtl1="10" ytl1="25" xbl1="10" ybl1="50" xtr1="20" ytr1="25" xbr1="20" ybr1="50" '
        'xtl2="15" ytl2="20" xbl2="15" ybl2="45" xtr2="30" ytr2="20" xbr2="30" ybr2="45"/>',
        [10, 20, 30, 50],
    ),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_the_box_around_a_shape(tmp_path: Path, kind: str) -> None:
    text, box = SHAPES[kind]
    save_photo(tmp_path / "images/a.png")
    save_xml(tmp_path / "annotations.xml", image("a.png", text))
    read = read_dataset(tmp_path)
    assert read.format_name == "CVAT" and not read.problems and not read.notes
    assert read.images[0].labels == ("with_mask",) and read.images[0].complete
    assert [round(edge, 3) for edge in read.images[0].boxes[0].tolist()] == box


NO_BOX = "has a box edge that is missing or not a number"
REFUSED = {
    "points": ('<points label="nose" points="1,2"/>', "points 2 (nose) gives no box; draw a rectangle instead"),
    "polyline": ('<polyline label="x" points="1,2;3,4"/>', "polyline 2 (x) gives no box"),
    "skeleton": (
        '<skeleton label="face"><points label="1" points="1,2"/></skeleton>',
        "skeleton 2 (face) gives no box",
    ),
    "no edge": (BOX.replace("xtl", "xxx"), f"box 2 {NO_BOX}"),
    "text": (BOX.replace("30.00", "wide"), f"box 2 {NO_BOX}"),
    "inverted": (BOX.replace("30.00", "3"), "box 2 has an empty or inverted box (10, 20, 3, 50)"),
    "rotation in words": (BOX.replace("z_order", 'rotation="left" z_order'), f"box 2 {NO_BOX}"),
    "polygon of two points": ('<polygon label="x" points="1,2;3,4"/>', f"polygon 2 {NO_BOX}"),
    "polygon with a gap": ('<polygon label="x" points="1,2;3;5,6"/>', f"polygon 2 {NO_BOX}"),
    "empty polygon": ('<polygon label="x" points=""/>', f"polygon 2 {NO_BOX}"),
    "empty mask": ('<mask label="x" left="1" top="2" width="0" height="3"/>', "mask 2 has an empty or inverted box"),
    "ellipse without radius": ('<ellipse label="x" cx="4" cy="5" rx="0" ry="2"/>', f"ellipse 2 {NO_BOX}"),
    "no label": (BOX.replace('label="with_mask"', "").replace("20.00", "22.00"), "box 2 has no class name"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_shape_without_a_box_is_refused_and_its_photo_incomplete(tmp_path: Path, fault: str) -> None:
    text, line = REFUSED[fault]
    save_photo(tmp_path / "images/a.png")
    file = save_xml(tmp_path / "annotations.xml", image("a.png", BOX, text))
    read = read_dataset(tmp_path)
    (problem,) = read.problems
    assert str(problem).startswith(f"{file}: image 'a.png': {line}") and str(problem).endswith("; left out")
    assert read.refused_count == 1 and not read.images[0].complete and len(read.images[0].boxes) == 1


def test_subsets_give_the_split_and_their_folders_the_image(tmp_path: Path) -> None:
    for folder in ("Train", "Validation"):
        save_photo(tmp_path / f"images/{folder}/day 1/a.png")
    save_xml(
        tmp_path / "annotations.xml",
        image("day 1/a.png", BOX, subset="Train", task_id="1"),
        image("day 1/a.png", BOX.replace("30.00", "40.00"), subset="Validation", task_id="2"),
    )
    read = read_dataset(tmp_path)
    assert not read.problems
    assert [(i.split, i.path.parts[-3], i.boxes[0, 2].item()) for i in read.images] == [
        ("train", "Train", 30),
        ("val", "Validation", 40),
    ]


def test_a_subset_without_its_folder_and_files_of_several_tasks(tmp_path: Path) -> None:
    for name in "abc":
        save_photo(tmp_path / f"images/{name}.png")
    save_xml(tmp_path / "task_1.xml", image("a.png", BOX, subset="test"), image("b.png", BOX, subset="default"))
    save_xml(tmp_path / "task_2.xml", image("c.png", BOX))
    read = read_dataset(tmp_path)
    assert not read.problems and [(i.image_id, i.split) for i in read.images] == [
        ("a", "test"),
        ("b", None),
        ("c", None),
    ]


def test_split_folders_with_a_file_each(tmp_path: Path) -> None:
    for folder in ("train", "valid"):
        save_photo(tmp_path / folder / "images/a.png")
        save_xml(tmp_path / folder / "annotations.xml", image("a.png", BOX))
    assert [(i.image_id, i.split) for i in read_dataset(tmp_path).images] == [
        ("train/images/a", "train"),
        ("valid/images/a", "val"),
    ]


def test_one_name_in_two_folders_is_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        save_photo(tmp_path / f"images/{folder}/a.png")
    save_photo(tmp_path / "images/b.png")
    save_xml(
        tmp_path / "annotations.xml",
        image("a.png", BOX),
        image("b.png", BOX),
        image("gone.png", BOX, SHAPES["mask"][0]),
    )
    read = read_dataset(tmp_path)
    assert [i.image_id for i in read.images] == ["b"]
    assert [(p.kind, p.objects) for p in read.problems] == [("refused", 1), ("unmatched", 2)]
    assert "'a.png' fits 2 images (x/a.png, y/a.png)" in read.problems[0].reason
    assert "image 'gone.png' is missing" in read.problems[1].reason


def test_images_that_are_not_listed_empty_or_only_tagged(tmp_path: Path) -> None:
    for name in "abcd":
        save_photo(tmp_path / f"images/{name}.png")
    tag = '<tag label="with_mask" source="manual"/>'
    save_xml(tmp_path / "annotations.xml", image("a.png", BOX), image("b.png"), image("c.png", tag))
    read = read_dataset(tmp_path)
    assert [(i.image_id, i.complete) for i in read.images] == [("a", True), ("b", True), ("c", False)]
    assert [(p.file.name, p.reason) for p in read.problems] == [("d.png", "not listed in the CVAT file; not used")]
    empty, tagged = read.notes
    assert empty.startswith("1 of 3 images in the CVAT file have no shape")
    assert tagged.startswith("1 images in the CVAT file have a tag but no box")


def test_tracks_are_refused_with_the_right_export(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.png")
    track = f'<track id="0" label="with_mask">{BOX}{BOX}</track>'
    save_xml(tmp_path / "annotations.xml", track)
    with pytest.raises(UserError, match=r"holds 1 tracks.*export it as `CVAT for images 1\.1`"):
        read_dataset(tmp_path)
    save_xml(tmp_path / "more.xml", image("a.png", BOX))
    read = read_dataset(tmp_path)
    assert (read.face_count, read.refused_count) == (1, 2)


@pytest.mark.parametrize("text", ["", "<annotations>", "<annotations><image", "<!-- <a> --><annotations/>"])
def test_broken_files(tmp_path: Path, text: str) -> None:
    save_photo(tmp_path / "images/a.png")
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(UserError) as raised:
        read_cvat(tmp_path / "annotations.xml")
    assert len(str(raised.value).splitlines()) == 1 and "annotations.xml" in str(raised.value)


def test_the_file_itself_can_be_given(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.png")
    for file in ("annotations.xml", "annotations/task.xml"):
        save_xml(tmp_path / file, image("a.png", BOX))
        assert read_dataset(tmp_path / file).face_count == 1
        (tmp_path / file).unlink()


FORMS = ("box", "box", "box", "rotated", "polygon", "ellipse", "mask", "points", "skeleton", "text", "no label")


def shape(face: SetFace) -> str:
    """Return a face as a CVAT shape."""
    x1, y1, x2, y2 = face.box
    label = f"label={quoteattr('' if face.form == 'no label' else face.label)}"
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    rotation = f'rotation="{DEGREES}"' if face.form == "rotated" else ""
    left = "x" if face.form == "text" else x1
    return {
        "polygon": f'<polygon {label} points="{x1},{y2};{cx},{y1};{x2},{y2}"><attribute/></polygon>',
        "ellipse": f'<ellipse {label} cx="{cx}" cy="{cy}" rx="{cx - x1}" ry="{cy - y1}"/>',
        "mask": f'<mask {label} rle="1" left="{x1}" top="{y1}" width="{x2 - x1}" height="{y2 - y1}"/>',
        "points": f'<points {label} points="{x1},{y1}"/>',
        "skeleton": f'<skeleton {label}><points label="1" points="{x1},{y1}"/></skeleton>',
    }.get(face.form, f'<box {label} xtl="{left}" ytl="{y1}" xbr="{x2}" ybr="{y2}" {rotation}/>')


def expected_box(face: SetFace) -> Corners | None:
    """Return the box that must be read, or None."""
    if face.form in ("points", "skeleton", "text", "no label"):
        return None
    return hull_of(rotated_corners(face.box, math.radians(DEGREES))) if face.form == "rotated" else face.box


def folders(layout: str, photo: SetPhoto) -> tuple[str, str, dict[str, str]]:
    """Return the image's folder, the name's prefix in the XML, and the subset's attribute."""
    subset = {"train": "Train", "val": "Validation", "test": "Test"}[photo.split]
    return {
        "images": ("images", "", {}),
        "root": (".", "", {}),
        "names with folders": ("images/cam 1", "cam 1/", {}),
        "subset": (f"images/{subset}", "", {"subset": subset}),
        "subset without folder": ("images", "", {"subset": subset}),
        "subset, names with folders": (f"images/{subset}/cam 1", "cam 1/", {"subset": subset}),
        "split in the name": (f"images/{subset}", f"{subset}/", {}),
    }[layout]


LAYOUTS = ("images", "root", "names with folders", "subset", "subset without folder", "subset, names with folders")


@pytest.mark.parametrize("layout", (*LAYOUTS, "split in the name"))
@settings(max_examples=8, derandomize=True)
@given(data=st.data(), found=photos(FORMS))
def test_every_face_of_a_cvat_dataset_is_accounted_for(
    layout: str, data: st.DataObject, found: Sequence[SetPhoto]
) -> None:
    with TemporaryDirectory() as folder:
        root, written = Path(folder), {}
        pages: dict[str, list[str]] = {"annotations.xml": [], "annotations/second.xml": []}
        for photo in found:
            image_folder, prefix, attributes = folders(layout, photo)
            written[write_image(root / image_folder, photo, data.draw(st.booleans()))] = photo
            text = image(f"{prefix}{photo.stem}{photo.suffix}", *map(shape, photo.faces), **attributes)
            pages[data.draw(st.sampled_from(sorted(pages)))].append(text)
        for name, images in pages.items():
            if images:
                save_xml(root / name, *images)
        check_read(read_dataset(root), written, expected_box, layout.startswith("s"))


def test_images_next_to_the_file_and_in_folders(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.png")
    save_photo(tmp_path / "camera/b.png")
    save_xml(tmp_path / "annotations.xml", image("a.png", BOX), image("camera/b.png", BOX))
    read = read_dataset(tmp_path)
    assert [photo.path.name for photo in read.images] == ["a.png", "b.png"] and not read.problems
