"""Pascal VOC files: encodings, rotated boxes and polygons, and photos that are turned by EXIF."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from common.annotations import read_dataset
from common.annotations.loading import load_dataset
from common.errors import UserError
from tests.common.annotations.test_voc import save_photo, save_xml

OBJECT = "<object><name>{}</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>50</ymax></bndbox></object>"


def write_raw(root: Path, data: bytes, stem: str = "a") -> Path:
    """Write a dataset of one photo with the bytes of its XML."""
    save_photo(root / f"images/{stem}.png")
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/{stem}.xml").write_bytes(data)
    return root


def labels(root: Path) -> list[str]:
    """Return the classes of all faces, in the order of the images."""
    return [label for image in read_dataset(root).images for label in image.labels]


DECLARED = {
    "EUC-KR": ("euc-kr", "얼굴"),
    "euc_kr": ("cp949", "똠방"),  # a character that only the superset has
    "KS_C_5601-1987": ("cp949", "얼굴"),
    "GB2312": ("gb2312", "口罩"),
    "gb2312": ("gbk", "囧"),
    "GBK": ("gbk", "口罩"),
    "GB18030": ("gb18030", "口罩"),
    "Shift_JIS": ("shift_jis", "マスク"),
    "shift-jis": ("cp932", "①"),
    "EUC-JP": ("euc-jp", "マスク"),
    "ISO-2022-JP": ("iso-2022-jp", "マスク"),
    "Big5": ("big5", "口罩"),
    "windows-1251": ("cp1251", "маска"),
    "KOI8-R": ("koi8-r", "маска"),
    "ISO-8859-1": ("cp1252", "masqué “x”"),
    "ISO-8859-9": ("iso8859-9", "yüzü ş"),
    "windows-1252": ("cp1252", "masqué"),
    "UTF-8": ("utf-8", "얼굴"),
    "utf8": ("utf-8-sig", "얼굴"),
    "UTF-16": ("utf-16", "얼굴"),
    "utf-16": ("utf-16-le", "얼굴"),  # without a byte order mark
    "UTF-16LE": ("utf-16-le", "얼굴"),
    "UTF-16BE": ("utf-16-be", "얼굴"),
    "UTF-32": ("utf-32", "얼굴"),
    "utf-16 ": ("utf-8", "얼굴"),  # what .NET writes into a file of UTF-8
    "us-ascii": ("utf-8", "얼굴"),
    "euc-kr": ("utf-8", "얼굴"),  # converted by iconv, which leaves the declaration
    "gb18030": ("utf-8", "口罩"),
}


@pytest.mark.parametrize("declared", DECLARED)
def test_a_declared_encoding_is_used(tmp_path: Path, declared: str) -> None:
    codec, label = DECLARED[declared]
    text = (
        f'<?xml version="1.0" encoding="{declared}" standalone="yes"?>\n<annotation>{OBJECT.format(label)}</annotation>'
    )
    assert labels(write_raw(tmp_path, text.encode(codec))) == [label]


@pytest.mark.parametrize(
    "start",
    ["", "\n\n", " ", "<?xml version='1.0'?>", "\n\t<?xml encoding='utf-8'?>\n", "<!-- <b> -->\n"],
)
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_comes_before_the_root(tmp_path: Path, start: str, codec: str) -> None:
    text = f"{start}<annotation>{OBJECT.format('얼굴')}</annotation>"
    assert labels(write_raw(tmp_path, text.encode(codec))) == ["얼굴"]


BAD = {
    "undeclared": (OBJECT.format("얼굴").encode("cp949"), "", "is not UTF-8 text; it looks like CP949 (Korean)"),
    "unknown": (b"<x/>", "klingon-1", "declares the unknown encoding klingon-1; save it as UTF-8"),
    "not text": (b"<x/>", "hex", "declares the unknown encoding hex"),
    "wrong": (b"<object>\xff\xff</object>", "euc-kr", "declares the encoding euc-kr, but is not such text"),
    "wrong UTF-8": (b"<object>\xb1\xb2</object>", "utf-8", "is not UTF-8 text"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_encodings_are_refused_with_the_way_out(tmp_path: Path, case: str) -> None:
    body, declared, line = BAD[case]
    start = f'<?xml version="1.0" encoding="{declared}"?>'.encode() if declared else b""
    write_raw(tmp_path, f"<annotation>{OBJECT.format('zebra')}</annotation>".encode())
    write_raw(tmp_path, start + b"<annotation>" + body + b"</annotation>", "b")
    read = read_dataset(tmp_path)
    assert [image.image_id for image in read.images] == ["a"]
    (problem,) = read.problems
    assert str(problem).startswith(f"{tmp_path}/annotations/b.xml: {line}") and problem.reason.endswith("; not used")


@pytest.mark.parametrize("encoding", ["utf-8", "euc-kr", "utf-16"])
def test_entities_are_expanded_in_no_encoding(tmp_path: Path, encoding: str) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation><filename>&y;</filename></annotation>'
    write_raw(tmp_path, f'<?xml version="1.0" encoding="{encoding}"?>{bomb}'.encode(encoding))
    with pytest.raises(UserError, match=r"declares XML entities \(EntitiesForbidden\)"):
        read_dataset(tmp_path)


def rotated(cx: float, cy: float, w: float, h: float, angle: float | str) -> str:
    """Return an <object> as roLabelImg writes it."""
    values = f"<cx>{cx}</cx><cy>{cy}</cy><w>{w}</w><h>{h}</h><angle>{angle}</angle>"
    return f"<object><type>robndbox</type><name>with_mask</name><robndbox>{values}</robndbox></object>"


def test_a_rotated_box_becomes_its_upright_hull(tmp_path: Path) -> None:
    page = rotated(50, 40, 20, 10, math.pi / 2) + rotated(50, 40, 20, 10, 0) + rotated(10, 40, 30, 30, math.pi / 4)
    write_raw(tmp_path, f"<annotation>{page}{OBJECT.format('zebra')}</annotation>".encode())
    read = read_dataset(tmp_path)
    assert not read.problems and read.clipped_boxes == 1 and read.images[0].complete
    side = 15 * math.sqrt(2)
    expected = [[45, 30, 55, 50], [40, 35, 60, 45], [0, 40 - side, 10 + side, 40 + side], [10, 20, 30, 50]]
    assert [[round(v, 3) for v in box] for box in read.images[0].boxes.tolist()] == [
        [round(v, 3) for v in box] for box in expected
    ]


@pytest.mark.parametrize(
    "page", [rotated(50, 40, 20, 10, "x"), rotated(50, 40, 0, 10, 1), "<object><name>a</name><robndbox/></object>"]
)
def test_an_invalid_rotated_box_leaves_its_photo_incomplete(tmp_path: Path, page: str) -> None:
    write_raw(tmp_path, f"<annotation>{OBJECT.format('zebra')}{page}</annotation>".encode())
    read = read_dataset(tmp_path)
    assert read.refused_count == 1 and read.incomplete == ("a",) and len(read.images[0].boxes) == 1


def test_outlines_are_read_where_there_is_no_box(tmp_path: Path) -> None:
    corners = "<x1>10</x1><y1>21</y1><x2>30</x2><y2>21</y2><x3>30</x3><y3>50</y3>"
    page = OBJECT.format("box").replace("</object>", "<polygon><x1>1</x1><y1>1</y1></polygon></object>")
    page += f"<object><name>polygon</name><polygon>{corners}</polygon></object>"
    page += "<object><name>numbers</name><segmentation>12 21, 30 21, 30 50</segmentation></object>"
    page += "<object><name>odd</name><polygon><x1>1</x1><y1>2</y1><x2>3</x2></polygon></object>"
    page += "<object><name>empty</name><polygon/></object>"
    write_raw(tmp_path, f"<annotation>{page}</annotation>".encode())
    read = read_dataset(tmp_path)
    assert read.images[0].labels == ("box", "polygon", "numbers") and not read.images[0].complete
    assert read.images[0].boxes[:, 0].tolist() == [10, 9, 11]
    assert [problem.reason.split(" has ")[0] for problem in read.problems] == ["object 4", "object 5"]


def test_each_box_of_an_object_is_a_face(tmp_path: Path) -> None:
    second = "<bndbox><xmin>40</xmin><ymin>21</ymin><xmax>60</xmax><ymax>50</ymax></bndbox>"
    page = OBJECT.format("zebra").replace("</object>", f"{second}</object>")
    write_raw(tmp_path, f"<annotation>{page}</annotation>".encode())
    assert read_dataset(tmp_path).images[0].boxes[:, 0].tolist() == [10, 39]


def test_deleted_objects_are_not_faces(tmp_path: Path) -> None:
    page = OBJECT.format("gone").replace("</name>", "</name><deleted>1</deleted>") + OBJECT.format("zebra")
    write_raw(tmp_path, f"<annotation>{page}</annotation>".encode())
    assert labels(tmp_path) == ["zebra"] and not read_dataset(tmp_path).problems


TURNED_BOX = ("with_mask", 11, 21, 30, 50)


def turn_notes(root: Path) -> list[str]:
    """Return the notes of a dataset on photos that are turned by EXIF."""
    return [note for note in read_dataset(root).notes if "turned by EXIF" in note]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize(
    ("size", "orientation", "annotated", "unsure"),
    [
        ((100, 80), 1, (100, 80), False),
        ((100, 80), 6, (80, 100), False),  # of the upright picture
        ((100, 80), 8, (160, 200), False),  # of a larger copy of it
        ((100, 80), 6, (0, 0), True),  # without a size
        ((80, 80), 6, (80, 80), True),
        ((100, 80), 3, (100, 80), True),
        ((100, 80), 2, (100, 80), True),
        ((100, 80), 4, (200, 160), True),
        ((100, 80), 5, (300, 90), True),  # of another picture
        ((100, 80), 9, (100, 80), False),  # no orientation
    ],
)
def test_turns_that_sizes_do_not_decide_are_counted(
    tmp_path: Path, suffix: str, size: tuple[int, int], orientation: int, annotated: tuple[int, int], unsure: bool
) -> None:
    save_photo(tmp_path / f"images/a.{suffix}", size, orientation)
    save_xml(tmp_path / "annotations/a.xml", TURNED_BOX, size=annotated)
    save_photo(tmp_path / "images/b.png", size)
    save_xml(tmp_path / "annotations/b.xml", TURNED_BOX, size=size)
    notes = turn_notes(tmp_path)
    assert len(read_dataset(tmp_path).images) == 2
    assert len(notes) == unsure and all(note.startswith("1 photos are turned by EXIF") for note in notes)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("annotated", [(100, 80), (200, 160)])
def test_boxes_of_the_unturned_picture_or_a_copy_of_it_are_refused(
    tmp_path: Path, suffix: str, annotated: tuple[int, int]
) -> None:
    save_photo(tmp_path / f"images/a.{suffix}", (100, 80), 6)
    save_xml(tmp_path / "annotations/a.xml", TURNED_BOX, ("with_mask", 1, 2, 3, 4), size=annotated)
    save_photo(tmp_path / "images/b.png")
    save_xml(tmp_path / "annotations/b.xml", TURNED_BOX)
    read = read_dataset(tmp_path)
    (problem,) = read.problems
    assert "after its EXIF rotation; not used, rotate the image" in problem.reason and problem.objects == 2


def test_a_turned_photo_without_a_face_is_not_counted_and_the_note_is_shown(tmp_path: Path) -> None:
    for stem, faces in (("a", [TURNED_BOX]), ("b", [])):
        save_photo(tmp_path / f"images/{stem}.jpg", (80, 80), 3)
        save_xml(tmp_path / f"annotations/{stem}.xml", *faces, size=(80, 80))
    lines: list[str] = []
    load_dataset(tmp_path, log=lines.append)
    what = "1 photos are turned by EXIF, and sizes do not tell whether their boxes are, too: taken as of the upright"
    assert [line for line in lines if line.startswith(f"note: {what}")] and len(lines) == 1


def test_normalised_boxes_are_refused_and_do_not_shift_the_others(tmp_path: Path) -> None:
    box = "<xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.4</xmax><ymax>0.6</ymax>"
    part = f"<object><name>mask</name><bndbox>{box}</bndbox></object>"
    write_raw(tmp_path, f"<annotation>{part}{OBJECT.format('mask')}</annotation>".encode())
    read = read_dataset(tmp_path)
    assert read.images[0].boxes.tolist() == [[10, 20, 30, 50]] and not read.images[0].complete
    reason = "object 1 has a box within the first pixel, as normalised boxes are (0.1, 0.2, 0.4, 0.6)"
    assert [problem.reason for problem in read.problems] == [f"{reason}; export it again in pixels; left out"]
