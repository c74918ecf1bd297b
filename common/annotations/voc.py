"""Pascal VOC XML: the Kaggle layout, VOC's own, and Roboflow's export (XML beside the images)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from common.annotations.collect import Collector, RawFace, Size, number
from common.annotations.photos import PhotoIndex, photos_in, split_folders
from common.annotations.types import Annotations
from common.errors import UserError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _Page:
    """One parsed XML file: the image name and size it states, its objects with boxes as written."""

    filename: str
    size: Size | None
    faces: tuple[RawFace, ...]


def voc_folders(root: Path) -> list[tuple[Path, Path, str | None]]:
    """(folder of XML, folder of images, split) of each part of a VOC dataset; empty when it is none."""
    for xml_name in ("annotations", "Annotations"):
        for image_name in ("images", "JPEGImages"):
            if _has_xml(root / xml_name) and (root / image_name).is_dir():
                return [(root / xml_name, root / image_name, None)]
    parts: list[tuple[Path, Path, str | None]] = [(f, f, split) for f, split in split_folders(root) if _has_xml(f)]
    if not parts and _has_xml(root):
        parts = [(root, root, None)]
    return parts


def read_voc(root: Path | str) -> Annotations:
    """Reads images/ with annotations/*.xml, or XML beside the images (also in train/valid/test).

    Box edges. VOC counts pixels from 1 and its last pixel is inside the box, so a box as written becomes
    (xmin - 1, ymin - 1, xmax, ymax). The Kaggle "Face Mask Detection" set follows this: of 3,235 faces in
    674 of its photos none has an edge at 0, 27 have xmin = 1 and 18 ymin = 1; 35 have xmax = width and 20
    ymax = height; 11 end at width + 1 and are clipped, and none goes further. Roboflow writes 0-based edges
    into VOC files. So a dataset in which some xmin or ymin lies in [0, 1) is taken as 0-based with
    exclusive ends, as a whole.

    An image is found by the XML's stem, else by its <filename>, with any usual extension. An image without
    XML is reported and not used. Raises UserError when there is no XML or no usable image.
    """
    root = Path(root)
    parts = voc_folders(root) if root.is_dir() else []
    if not parts:
        raise UserError(f"{root}: no Pascal VOC dataset (images/ and annotations/*.xml, or *.xml beside the images)")
    collector = Collector(root)
    found: list[tuple[Path, Path, _Page, str | None]] = []
    for xml_folder, image_folder, split in parts:
        photos = photos_in(image_folder)
        index = PhotoIndex(photos)
        claimed = set()
        for file in sorted(p for p in xml_folder.iterdir() if p.suffix.lower() == ".xml" and p.name[0] != "."):
            named = index.find(file.name)
            page = _parse(file, collector)
            if page is None:
                claimed.add(named)  # its annotation is there, though broken: one problem is enough
                continue
            # The stated name settles which of a.jpg and a.png is meant.
            same = Path(page.filename.replace("\\", "/")).stem == file.stem
            photo = index.find(page.filename) if same or named is None else named
            if photo is None:
                collector.refuse(file, f"no image {file.stem}.* in {image_folder}; not used")
                continue
            claimed.add(photo)
            found.append((photo, file, page, split))
        for photo in photos:
            if photo not in claimed:
                collector.refuse(photo, "no annotation; not used")

    starts = [edge for *_, page, _ in found for face in page.faces for edge in face.box[:2]]
    shift = 0 if any(0 <= edge < 1 for edge in starts) else 1
    for photo, file, page, split in found:
        faces = [_shifted(face, shift) for face in page.faces]
        collector.add(photo, file, faces, page.size, split)
    return collector.finish()


def _shifted(face: RawFace, shift: int) -> RawFace:
    x1, y1, x2, y2 = face.box
    return RawFace(face.where, face.label, (x1 - shift, y1 - shift, x2, y2))


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and any(p.suffix.lower() == ".xml" for p in folder.iterdir())


def _parse(file: Path, collector: Collector) -> _Page | None:
    """The file's content, or None after a problem was kept."""
    try:
        tree = fromstring(file.read_bytes())
    except OSError as error:
        collector.refuse(file, f"cannot be read ({error.strerror}); not used, check its permissions")
        return None
    except DefusedXmlException as error:
        what = f"declares XML entities ({type(error).__name__}), which are not expanded"
        collector.refuse(file, f"{what}; not used, export it anew")
        return None
    except (ParseError, ValueError, LookupError) as error:
        collector.refuse(file, f"malformed XML ({error}); not used, export it anew")
        return None
    if tree.tag != "annotation":
        collector.refuse(file, f"is no Pascal VOC file (its root is <{tree.tag}>); not used, export it anew")
        return None
    width, height = number(tree.findtext("size/width")), number(tree.findtext("size/height"))
    size = (int(width), int(height)) if 1 <= width < 1e9 and 1 <= height < 1e9 else None
    faces = tuple(_face(node, f"object {i}") for i, node in enumerate(tree.iterfind("object"), start=1))
    return _Page((tree.findtext("filename") or "").strip(), size, faces)


def _face(node: Element, where: str) -> RawFace:
    box = [number(node.findtext(f"bndbox/{edge}")) for edge in EDGES]
    return RawFace(where, (node.findtext("name") or "").strip(), box)
