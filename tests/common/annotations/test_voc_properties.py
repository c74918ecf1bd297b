"""Random Pascal VOC datasets in many layouts and encodings: every face is read, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.annotations import read_dataset
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
REFUSED = ("no box", "inverted", "outside", "text", "no name")
FORMS = ("box", "box", "box", "float box", "rotated", "corners", "polygon", "web polygon", *REFUSED)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "euc-kr", "EUC-KR", "ks_c_5601-1987", "none")
FILENAMES = ("own", "windows", "wrong", "missing", "folders")


def diamond(box: Corners) -> list[tuple[float, float]]:
    """Return a polygon whose hull is the box."""
    x1, y1, x2, y2 = box
    return [((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2), (x1, (y1 + y2) / 2)]


def shape_text(face: SetFace) -> str:
    """Return the geometry of an <object>; edges count pixels from 1, those of rotated boxes do not."""
    x1, y1, x2, y2 = face.box
    edges = (x1 + 1, y1 + 1, x2, y2)
    outline = [(x + (x < (x1 + x2) / 2), y + (y < (y1 + y2) / 2)) for x, y in diamond(face.box)]
    match face.form:
        case "rotated":
            centre = f"<cx>{(x1 + x2) / 2}</cx><cy>{(y1 + y2) / 2}</cy><w>{x2 - x1}</w><h>{y2 - y1}</h>"
            return f"<type>robndbox</type><robndbox>{centre}<angle>{ANGLE}</angle></robndbox>"
        case "corners":
            names = ("left_top", "right_top", "right_bottom", "left_bottom")
            corners = zip(names, ((edges[0], edges[1]), (x2, edges[1]), (x2, y2), (edges[0], y2)), strict=True)
            return (
                "<robndbox>" + "".join(f"<x_{n}>{x}</x_{n}><y_{n}>{y}</y_{n}>" for n, (x, y) in corners) + "</robndbox>"
            )
        case "polygon":
            points = "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(outline, 1))
            return f"<polygon>{points}</polygon>"
        case "web polygon":
            points = "".join(f"<pt><x>{x}</x><y>{y}</y><time>3</time></pt>" for x, y in outline)
            return f"<polygon><username>anonymous</username>{points}</polygon>"
        case "no box":
            return "<pose>Unspecified</pose>"
        case "float box":
            edges = tuple(map(float, edges))  # type: ignore[assignment]
        case "inverted":
            edges = (edges[2] + 1, *edges[1:2], edges[0], edges[3])
        case "outside":
            edges = (edges[0] + 500, edges[1], edges[2] + 500, edges[3])
        case "text":
            edges = ("here", *edges[1:])  # type: ignore[assignment]
    values = "".join(
        f"<{name}>{value}</{name}>" for name, value in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    )
    return f"<difficult>1</difficult><bndbox>{values}</bndbox><part><name>head</name><bndbox/></part>"


def page(photo: SetPhoto, filename: str, faces: Sequence[SetFace]) -> str:
    """Return a VOC file without its declaration."""
    objects = "".join(
        f"<object>{'' if face.form == 'no name' else f'<name>{escape(face.label)}</name>'}{shape_text(face)}</object>"
        for face in faces
    )
    name = escape(f"{photo.stem}{photo.suffix}")
    shown = {"own": name, "windows": f"C:\\Users\\me\\{name}", "wrong": "zzz.png", "folders": f"data/old/{name}"}
    return (
        f"<annotation><folder>x</folder><filename>{shown.get(filename, '')}</filename>"
        f"<size><width>100</width><height>80</height><depth>3</depth></size>{objects}</annotation>"
    )


def expected_box(face: SetFace) -> Corners | None:
    """Return the box that must be read, or None."""
    if face.form in REFUSED:
        return None
    return hull_of(rotated_corners(face.box, ANGLE)) if face.form == "rotated" else face.box


def encode(text: str, encoding: str) -> bytes:
    """Return XML with a declaration of the encoding, as bytes; blank lines come before some declarations."""
    if encoding == "none":
        return text.encode()
    codec = {"ks_c_5601-1987": "cp949"}.get(encoding, encoding)
    blank = "\n\n" if encoding == "euc-kr" else ""
    declared = encoding.removesuffix("-sig")
    return f'{blank}<?xml version="1.0" encoding="{declared}"?>\n{text}'.encode(codec, "xmlcharrefreplace")


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=6, derandomize=True)
@given(data=st.data(), found=photos(FORMS))
def test_every_face_of_a_voc_dataset_is_accounted_for(layout: str, data: st.DataObject, found: list[SetPhoto]) -> None:
    with TemporaryDirectory() as folder:
        root, written = Path(folder), {}
        for photo in found:
            image_folder, xml_folder = LAYOUTS[layout](photo)
            written[write_image(root / image_folder, photo, data.draw(st.booleans()))] = photo
            file = root / xml_folder / f"{photo.stem}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            text = page(photo, data.draw(st.sampled_from(FILENAMES)), photo.faces)
            file.write_bytes(encode(text, data.draw(st.sampled_from(ENCODINGS))))
        check_read(read_dataset(root), written, expected_box, layout in WITH_SPLITS)
