"""Read Pascal VOC XML in the layouts of Kaggle, of VOC, and of Roboflow (XML next to the images)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from common.annotations.collect import Collector, RawFace, Size, parse_number, parse_size
from common.annotations.photos import PhotoIndex, photos_in, split_folders
from common.annotations.types import Annotations
from common.errors import UserError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _VocFile:
    """One parsed XML file: image name, image size, and objects with boxes as written."""

    filename: str
    size: Size | None
    faces: tuple[RawFace, ...]


def voc_folders(root: Path) -> list[tuple[Path, Path, str | None]]:
    """Return (XML folder, image folder, split) for each part of a VOC dataset; empty for other datasets."""
    for xml_name in ("annotations", "Annotations"):
        for image_name in ("images", "JPEGImages"):
            if _has_xml(root / xml_name) and (root / image_name).is_dir():
                return [(root / xml_name, root / image_name, None)]
    parts: list[tuple[Path, Path, str | None]] = [(f, f, split) for f, split in split_folders(root) if _has_xml(f)]
    if not parts and _has_xml(root):
        parts = [(root, root, None)]
    return parts


def read_voc(root: Path | str) -> Annotations:
    """Read images/ with annotations/*.xml, or XML files next to the images (also in train/, valid/, test/).

    VOC counts pixels from 1 and includes the last pixel: a box becomes (xmin - 1, ymin - 1, xmax, ymax). The
    Kaggle "Face Mask Detection" dataset does so: of 3,235 faces in 674 photos no edge is 0. 27 have xmin = 1, 18
    ymin = 1, 35 xmax = width, 20 ymax = height; 11 end at width + 1 (clipped), and none ends later. Roboflow writes
    0-based edges. So a dataset with any xmin or ymin in [0, 1) is read as 0-based with exclusive ends.

    An image is found by the stem of the XML, else by <filename>, with any usual extension. An image without XML is
    reported and not used. Raises UserError when there is no XML or no usable image.
    """
    root = Path(root)
    parts = voc_folders(root) if root.is_dir() else []
    if not parts:
        raise UserError(f"{root}: no Pascal VOC dataset (images/ and annotations/*.xml, or *.xml next to the images)")
    collector = Collector(root)
    found: list[tuple[Path, Path, _VocFile, str | None]] = []  # photo, XML file, its content, split
    for xml_folder, image_folder, split in parts:
        photos = photos_in(image_folder)
        index = PhotoIndex(photos)
        claimed = set()
        for file in sorted(p for p in xml_folder.iterdir() if p.suffix.lower() == ".xml" and p.name[0] != "."):
            named = index.find(file.name)
            page = _parse_file(file, collector)
            if page is None:
                claimed.add(named)  # one problem is enough: its annotation is broken, not missing
                continue
            # <filename> decides between a.jpg and a.png.
            same = Path(page.filename.replace("\\", "/")).stem == file.stem
            photo = index.find(page.filename) if same or named is None else named
            if photo is None:
                collector.add_problem(file, f"no image {file.stem}.* in {image_folder}; not used")
                continue
            claimed.add(photo)
            found.append((photo, file, page, split))
        for photo in photos:
            if photo not in claimed:
                collector.add_problem(photo, "no annotation; not used")

    starts = [edge for *_, page, _ in found for face in page.faces for edge in face.box[:2]]
    shift = 0 if any(0 <= edge < 1 for edge in starts) else 1
    for photo, file, page, split in found:
        faces = [_shift_box(face, shift) for face in page.faces]
        collector.add(photo, file, faces, page.size, split)
    return collector.finish()


def _shift_box(face: RawFace, shift: int) -> RawFace:
    """Return the face with its left and top edge moved by `shift` pixels."""
    x1, y1, x2, y2 = face.box
    return RawFace(face.location, face.label, (x1 - shift, y1 - shift, x2, y2))


def _has_xml(folder: Path) -> bool:
    """Return whether a folder has XML files."""
    return folder.is_dir() and any(p.suffix.lower() == ".xml" for p in folder.iterdir())


def _parse_file(file: Path, collector: Collector) -> _VocFile | None:
    """Return the file's content, or None after a problem."""
    try:
        tree = fromstring(file.read_bytes())
    except OSError as error:
        collector.add_problem(file, f"cannot be read ({error.strerror}); not used, check its permissions")
        return None
    except DefusedXmlException as error:
        what = f"declares XML entities ({type(error).__name__}), which are not expanded"
        collector.add_problem(file, f"{what}; not used, export it again")
        return None
    except (ParseError, ValueError, LookupError) as error:
        collector.add_problem(file, f"malformed XML ({error}); not used, export it again")
        return None
    if tree.tag != "annotation":
        collector.add_problem(file, f"is not a Pascal VOC file (its root is <{tree.tag}>); not used, export it again")
        return None
    size = parse_size(tree.findtext("size/width"), tree.findtext("size/height"))
    faces = tuple(_parse_object(node, f"object {i}") for i, node in enumerate(tree.iterfind("object"), start=1))
    return _VocFile((tree.findtext("filename") or "").strip(), size, faces)


def _parse_object(node: Element, location: str) -> RawFace:
    """Return the face of an <object>."""
    box = [parse_number(node.findtext(f"bndbox/{edge}")) for edge in EDGES]
    return RawFace(location, (node.findtext("name") or "").strip(), box)
