"""Read Pascal VOC XML in the layouts of Kaggle, VOC, CVAT and LabelImg, and of Roboflow (XML next to the images)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from common.annotations.collect import Collector, RawFace, looks_normalised, parse_number, parse_size
from common.annotations.layouts import (
    FileKind,
    Part,
    RawImage,
    add_image,
    find_parts,
    note_unread_files,
    parse_or_report,
    read_parts,
)
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.photos import AmbiguousNameError, PhotoIndex, entries_in
from common.annotations.shapes import NO_BOX, Box, hull, rotated_box_hull
from common.annotations.text import EncodingError, read_text
from common.annotations.types import Annotations
from common.annotations.xml_text import read_xml, xml_root_tag
from common.errors import UserError
from common.paths import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

EDGES = ("xmin", "ymin", "xmax", "ymax")
ROTATED = ("cx", "cy", "w", "h", "angle")  # of roLabelImg's <robndbox>; the angle is in radians
# <ImageSets/Main> lists; "trainval" is the training part of a dataset that has no other.
SPLIT_LISTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LABEL_MAPS = ("labelmap.txt", "label_map.txt")
MIN_ZERO_SHARE = 0.001  # of the boxes start in pixel 0, where a dataset counts from 0; in real ones 0.003 and more do


@dataclass(frozen=True)
class RotatedFace(RawFace):
    """A face with a rotated box. Its hull is in 0-based pixels in every dataset."""


def _is_voc_file(file: Path) -> bool:
    """Return whether an XML file may be of Pascal VOC; a broken one may, another format's may not."""
    return xml_root_tag(file) in ("annotation", None)


XML = FileKind(".xml", _is_voc_file)


def is_voc_folder(folder: Path) -> bool:
    """Return whether a folder is a Pascal VOC dataset."""
    return bool(find_parts(folder, XML))


def read_voc(root: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
    """Read a folder of images with a folder of XML, or XML files next to the images (also in train/, valid/, test/).

    VOC counts pixels from 1 and includes the last pixel: a box becomes (xmin - 1, ymin - 1, xmax, ymax). The
    Kaggle "Face Mask Detection" dataset does so: of 3,235 faces in 674 photos no edge is 0. 27 have xmin = 1, 18
    ymin = 1, 35 xmax = width, 20 ymax = height; 11 end at width + 1 (clipped), and none ends later. Roboflow writes
    0-based edges. So a dataset where boxes start in pixel 0 is read as 0-based with exclusive ends (`_first_pixel`).
    So is one with the labelmap.txt of Datumaro and CVAT: they write x, y, x + width, y + height (datumaro's
    `_write_xml_bbox`).

    Rotated boxes (roLabelImg's <robndbox>) and polygons become their upright hulls. A rotated box is in 0-based pixels.
    An image is found by the stem of the XML, else by <filename>, with any usual extension. An image without XML is
    reported and not used. The lists in ImageSets/Main, else the folders' names, give the splits. Raises UserError when
    there is no XML or no usable image.
    """
    root = Path(root)
    parts = find_parts(root, XML) if root.is_dir() else []
    if not parts:
        raise UserError(f"{root}: no Pascal VOC dataset (images/ and annotations/*.xml, or *.xml next to the images)")
    collector = Collector(root, options.rename)
    found = read_parts(root, parts, collector, lambda file: _parse_file(file, collector))
    boxes = [(file, face.box) for _, file, image, _ in found for face in image.faces if _counts_pixels(face)]
    first = _first_pixel(root, boxes, collector)
    listed = _listed_splits(root, parts, collector)
    for photo, file, image, split in found:
        faces = [
            replace(face, box=[edge - first for edge in face.box[:2]] + [*face.box[2:]])
            if _counts_pixels(face)
            else face
            for face in image.faces
        ]
        add_image(collector, photo, file, replace(image, faces=faces), listed.get(photo, split))
    note_unread_files(root, XML, parts, collector)
    return collector.finish("Pascal VOC")


def _first_pixel(root: Path, boxes: Sequence[tuple[Path, Sequence[float]]], collector: Collector) -> int:
    """Return the number of a dataset's first pixel, 0 or 1; note why it is 0, or that some boxes contradict.

    Boxes of faces that the image cuts off start in the first pixel. So more boxes start there than in the second one:
    45 and 14 in the Kaggle set. One box at 0 in a 1-based dataset, drawn by another tool, must not move all others.

    Args:
        root: the dataset's folder.
        boxes: (annotation file, xyxy) of each face.
        collector: gets the note.
    """
    if label_map := _datumaro_label_map(root):
        collector.add_note(f"pixels are counted from 0, because {label_map.name} is of CVAT or Datumaro, which do so")
        return 0
    zeros, ones = (
        [file for file, box in boxes if any(pixel <= edge < pixel + 1 for edge in box[:2])] for pixel in (0, 1)
    )
    if not zeros:
        return 1
    found = f"{len(zeros)} of {len(boxes)} boxes start in pixel 0, such as in {zeros[0].name}"
    found = f"{found}, and {len(ones)} in pixel 1"
    if len(zeros) >= len(ones) and len(zeros) >= MIN_ZERO_SHARE * len(boxes):
        collector.add_note(f"pixels are counted from 0, because {found}")
        return 0
    collector.add_note(f"pixels are counted from 1, as in Pascal VOC, but {found}; correct the boxes at 0")
    return 1


def _counts_pixels(face: RawFace) -> bool:
    """Return whether the box counts pixels, from 0 or from 1, as all boxes but rotated and normalised ones do."""
    return not isinstance(face, RotatedFace) and not looks_normalised(face.box)


def _parse_file(file: Path, collector: Collector) -> RawImage | None:
    """Return the content of an XML file, or None after a problem."""
    tree = parse_or_report(file, collector, read_xml)
    if tree is None:
        return None
    if tree.tag != "annotation":
        collector.add_problem(file, f"is not a Pascal VOC file (its root is <{tree.tag}>); not used, export it again")
        return None
    size = parse_size(tree.findtext("size/width"), tree.findtext("size/height"))
    objects = [(number, node) for number, node in enumerate(tree.iter("object"), start=1) if not _is_deleted(node)]
    faces = [face for number, node in objects for face in _faces_of(number, node)]
    return RawImage((tree.findtext("filename") or "").strip(), size, faces)


def _is_deleted(node: Element) -> bool:
    """Return whether an <object> was deleted in LabelMe's web tool, which keeps such objects in the file."""
    return (node.findtext("deleted") or "").strip() == "1"


def _faces_of(number: int, node: Element) -> Iterable[RawFace]:
    """Yield the face of an <object>; one for each <bndbox> where it has several."""
    label = (node.findtext("name") or "").strip()
    boxes = node.findall("bndbox")
    for box in boxes:
        yield RawFace(f"object {number}", label, [parse_number(box.findtext(edge)) for edge in EDGES])
    if boxes:
        return
    rotated = node.find("robndbox")
    if rotated is not None and rotated.find("angle") is not None:
        values = [parse_number(rotated.findtext(name)) for name in ROTATED]
        yield RotatedFace(f"object {number}", label, rotated_box_hull(*values))
        return
    outlines = [inner for name in ("robndbox", "polygon", "segmentation") for inner in node.findall(name)]
    yield RawFace(f"object {number}", label, _outline_hull(outlines))


def _outline_hull(outlines: Iterable[Element]) -> Box:
    """Return the box around the points below some elements; NO_BOX without points.

    Tools write <x1>..</x1><y1>..</y1> (Roboflow, supervision), <pt><x>..</x><y>..</y></pt> (LabelMe's web tool),
    <x_left_top> or a list of numbers.
    """
    points: list[tuple[float, float]] = []
    for outline in outlines:
        leaves = [(inner.tag.lower(), inner.text or "") for inner in outline.iter() if len(inner) == 0]
        xs = [parse_number(text) for tag, text in leaves if re.match("x(_|\\d|$)", tag)]
        ys = [parse_number(text) for tag, text in leaves if re.match("y(_|\\d|$)", tag)]
        if not xs and not ys:
            values = [parse_number(word) for _, text in leaves for word in re.split("[\\s,;]+", text.strip())]
            xs, ys = values[::2], values[1::2]
        points += zip_longest(xs, ys, fillvalue=float("nan"))
    return hull(points) if len(points) >= 2 else NO_BOX


def _datumaro_label_map(root: Path) -> Path | None:
    """Return the list of colours that Datumaro and CVAT write with Pascal VOC, if a dataset has it."""
    files = [root / name for name in LABEL_MAPS if (root / name).is_file()]
    return next((file for file in files if b"color_rgb" in file.read_bytes().partition(b"\n")[0]), None)


def _listed_splits(root: Path, parts: Iterable[Part], collector: Collector) -> dict[Path, str]:
    """Return the split of each image in a list of ImageSets/Main (VOC's and torchvision's convention)."""
    folders = [inner for p in entries_in(root) if p.name.lower() == "imagesets" for inner in (p / "Main", p / "main")]
    lists = {file.stem.lower(): file for folder in folders for file in sorted(folder.glob("*.txt"))}
    wanted = [(file, SPLIT_LISTS[stem]) for stem, file in lists.items() if stem in SPLIT_LISTS]
    if "trainval" in lists and not {split for _, split in wanted} & {"train", "val"}:
        wanted.append((lists["trainval"], "train"))
    index = PhotoIndex([photo for part in parts for photo in part.photos], root)
    splits: dict[Path, str] = {}
    for file, split in wanted:
        try:
            lines = read_text(file).splitlines()
        except (OSError, EncodingError) as error:
            collector.add_problem(file, f"cannot be read ({error}); the split was not used")
            continue
        missing = []
        for line in filter(None, map(str.strip, lines)):
            try:  # VOC's lists for a class have 1, 0 or -1 after the name
                photo = _listed_photo(index, line) or _listed_photo(index, re.sub(r"\s+-?[01]$", "", line))
            except AmbiguousNameError as error:
                collector.add_problem(file, f"{error}; the split was not used")
                continue
            if photo is None:
                missing.append(line)
            elif splits.setdefault(photo, split) != split:
                what = f"{photo.name} is also in the list of {splits[photo]}; kept in {splits[photo]}"
                collector.add_problem(file, what, "changed")
        if missing:
            what = f"{len(missing)} names have no image, such as {missing[0]!r}; not used"
            collector.add_problem(file, what, "unmatched")
    return splits


def _listed_photo(index: PhotoIndex, text: str) -> Path | None:
    """Return the image of a name in a list, which has no suffix, or one of an image."""
    name = text.strip('"')
    return index.find(name if Path(name).suffix.lower() in IMAGE_SUFFIXES else f"{name}.jpg")
