"""Read Pascal VOC XML in the layouts of Kaggle, of VOC, and of Roboflow (XML next to the images)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from common.annotations.collect import Collector, RawFace, Size, parse_number, parse_size
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.photos import AmbiguousNameError, PhotoIndex, annotated_folders, photos_in
from common.annotations.types import Annotations
from common.errors import UserError

EDGES = ("xmin", "ymin", "xmax", "ymax")
VocContent = tuple[str, Size | None, list[RawFace]]  # <filename>, image size, and faces with boxes as written


def voc_folders(root: Path) -> list[tuple[Path, Path, str | None]]:
    """Return (XML folder, image folder, split) for each part of a VOC dataset; empty for other datasets."""
    for xml_name in ("annotations", "Annotations"):
        for image_name in ("images", "JPEGImages"):
            if _has_xml(root / xml_name) and (root / image_name).is_dir():
                return [(root / xml_name, root / image_name, None)]
    return [(folder, folder, split) for folder, split in annotated_folders(root, _has_xml)]


def read_voc(root: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
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
    collector = Collector(root, options.rename)
    found: list[tuple[Path, Path, VocContent, str | None]] = []  # photo, XML file, its content, split
    for xml_folder, image_folder, split in parts:
        photos = photos_in(image_folder)
        index = PhotoIndex(photos, root)
        claimed = set()
        for file in sorted(p for p in xml_folder.iterdir() if p.suffix.lower() == ".xml" and p.name[0] != "."):
            try:
                named = index.find(file.name)
            except AmbiguousNameError:
                named = None  # <filename> decides
            content = _parse_file(file, collector)
            if content is None:
                claimed.add(named)  # one problem is enough: its annotation is broken, not missing
                continue
            same = Path(content[0].replace("\\", "/")).stem == file.stem
            photo = index.find(content[0]) if same or named is None else named
            if photo is None:
                collector.add_problem(file, f"no image {file.stem}.* in {image_folder}; not used")
                continue
            claimed.add(photo)
            found.append((photo, file, content, split))
        for photo in photos:
            if photo not in claimed:
                collector.add_problem(photo, "no annotation; not used")

    starts = (edge for _, _, (_, _, faces), _ in found for face in faces for edge in face.box[:2])
    origin = 0 if any(0 <= edge < 1 for edge in starts) else 1
    for photo, file, (_, size, faces), split in found:
        shifted = [replace(face, box=[edge - origin for edge in face.box[:2]] + [*face.box[2:]]) for face in faces]
        collector.add(photo, file, shifted, size, split)
    return collector.finish("Pascal VOC")


def _has_xml(folder: Path) -> bool:
    """Return whether a folder has XML files."""
    return folder.is_dir() and any(p.suffix.lower() == ".xml" for p in folder.iterdir())


def _parse_file(file: Path, collector: Collector) -> VocContent | None:
    """Return the file's content, or None after a problem."""
    try:
        tree = fromstring(file.read_bytes())
    except OSError as error:
        collector.add_problem(file, f"cannot be read ({error.strerror}); not used, check its permissions")
        return None
    except (ParseError, ValueError, LookupError) as error:
        what = f"malformed XML ({error})"
        if isinstance(error, DefusedXmlException):
            what = f"declares XML entities ({type(error).__name__}), which are not expanded"
        collector.add_problem(file, f"{what}; not used, export it again")
        return None
    if tree.tag != "annotation":
        collector.add_problem(file, f"is not a Pascal VOC file (its root is <{tree.tag}>); not used, export it again")
        return None
    size = parse_size(tree.findtext("size/width"), tree.findtext("size/height"))
    faces = []
    for number, node in enumerate(tree.iterfind("object"), start=1):
        box = [parse_number(node.findtext(f"bndbox/{edge}")) for edge in EDGES]
        faces.append(RawFace(f"object {number}", (node.findtext("name") or "").strip(), box))
    return (tree.findtext("filename") or "").strip(), size, faces
