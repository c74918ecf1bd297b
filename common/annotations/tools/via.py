"""Read VGG Image Annotator 2 (VIA): a project, or its annotations exported as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.annotations.collect import Collector, RawFace, parse_number
from common.annotations.layouts import (
    FileKind,
    Listing,
    RawImage,
    add_image,
    find_listings,
    listed_photos,
    note_unlisted_photos,
    parse_or_report,
)
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.photos import AmbiguousNameError, PhotoIndex, split_of_folders
from common.annotations.shapes import NO_BOX, Box, ellipse_hull, hull
from common.annotations.text import read_text
from common.annotations.types import Annotations
from common.errors import UserError

SUFFIXES = (".json", ".csv")
# Names of the attribute with the class, in lower case, where regions have several attributes.
CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type", "mask", "object", "face")
SHAPES_WITHOUT_BOX = ("point", "polyline")
_HEAD_BYTES = 65536
_HINTS = (b'"_via_img_metadata"', b'"shape_attributes"', b'"regions"', b"region_shape_attributes")
_CSV_FIELDS = ("region_shape_attributes", "region_attributes")


@dataclass(frozen=True)
class _Region:
    """A region as written."""

    location: str
    shape: dict[str, Any]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class _ViaImage:
    """An image of a VIA file."""

    name: str
    regions: list[_Region]


_Content = tuple[Listing, list[_ViaImage]]


def is_via_file(file: Path) -> bool:
    """Return whether a JSON or CSV file is VIA's."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES).replace(b"\0", b"")  # UTF-16, too
        return any(hint in head for hint in _HINTS) and bool(_parse_file(file))
    except (OSError, ValueError, RecursionError):
        return False


KINDS = tuple(FileKind(suffix, is_via_file) for suffix in SUFFIXES)


def is_via_folder(folder: Path) -> bool:
    """Return whether a folder is a dataset of VIA."""
    return any(find_listings(folder, kind) for kind in KINDS)


def read_via(root: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
    """Read a VIA project, or an export as JSON or CSV, with the images in the same folder or in images/.

    Rectangles, circles, ellipses and polygons become boxes, in 0-based pixels. Points and polylines give no box, and
    are refused. The class is the region attribute that the file has; of several, the one named `class`, `label` and so
    on. An image without a region has no faces. Where a folder has JSON, CSV is not read. Raises UserError when there is
    no VIA file, no usable image, or no attribute with the class.
    """
    root = Path(root)
    found = (find_listings(root, kind) for kind in KINDS) if root.exists() else iter(())
    listings = next((each for each in found if each), [])
    if not listings:
        raise UserError(f"{root}: no VIA dataset (a VIA 2 project, or its annotations as JSON or CSV, with the images)")
    collector = Collector(root, options.rename)
    contents = [(each, parse_or_report(each.file, collector, _parse_file) or []) for each in listings]
    regions = (region for _, images in contents for each in images for region in each.regions)
    attribute = _class_attribute(root, regions, collector)
    indexes = {each.folder: PhotoIndex(listed_photos(each.folder), each.folder) for each in listings}
    listed: set[Path] = set()
    total = empty = 0
    for listing, images in _without_copies(contents, collector):
        for raw in images:
            image = _to_raw_image(raw, attribute)
            try:
                photo = indexes[listing.folder].find(image.name, listing.split, listing.file.parent)
            except AmbiguousNameError as error:
                collector.add_problem(listing.file, f"{error}; not used", objects=image.objects)
                continue
            if photo is None:
                what = f"image {image.name!r} is missing; not used, copy it to images/"
                collector.add_problem(listing.file, what, "unmatched", image.objects)
                continue
            listed.add(photo)
            total, empty = total + 1, empty + (not image.objects)
            split = listing.split or split_of_folders(photo.relative_to(listing.folder).parts[:-1])
            add_image(collector, photo, listing.file, image, split)
    note_unlisted_photos(listed, collector, "the VIA file")
    if empty:
        collector.add_note(f"{empty} of {total} images in the VIA file have no region: face-free")
    return collector.finish("VIA")


def _without_copies(contents: Iterable[_Content], collector: Collector) -> list[_Content]:
    """Return the files without the images that an earlier file has with the same regions, such as an export's."""
    seen: dict[tuple[Path, str], list[_Region]] = {}
    kept, copies = [], 0
    for listing, images in contents:
        own = [image for image in images if seen.get((listing.folder, image.name)) != image.regions]
        seen = {(listing.folder, image.name): image.regions for image in own} | seen
        kept.append((listing, own))
        copies += len(images) - len(own)
    if copies:
        collector.add_note(f"{copies} images are in several VIA files with the same regions: read once")
    return kept


def _parse_file(file: Path) -> list[_ViaImage]:
    """Return the images of a VIA file; raise ValueError for another file."""
    text = read_text(file)
    return _parse_csv(text) if file.suffix.lower() == ".csv" else _parse_json(text)


def _parse_json(text: str) -> list[_ViaImage]:
    """Return the images of a project or of exported annotations."""
    content = json.loads(text)
    rows = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if isinstance(rows, dict):
        rows = list(rows.values())
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "filename" in row for row in rows):
        raise ValueError("it is no table of images with `filename` and `regions`")
    images = []
    for row in rows:
        regions = row.get("regions") or []  # a table in VIA 1
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        found = [
            _region(str(row["filename"]), number, region) for number, region in enumerate(_as_list(regions), start=1)
        ]
        images.append(_ViaImage(str(row["filename"]), found))
    return images


def _parse_csv(text: str) -> list[_ViaImage]:
    """Return the images of annotations exported as CSV: one row per region, or one for an image without any."""
    images: dict[str, _ViaImage] = {}
    try:
        reader = csv.DictReader(io.StringIO(text))
        rows, fields = list(reader), reader.fieldnames or ()
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if not all(field in fields for field in _CSV_FIELDS):
        raise ValueError(f"it is not of VIA: it lacks {' and '.join(_CSV_FIELDS)}")
    for row in rows:
        name = row.get("filename") or row.get("#filename")
        if not name:
            raise ValueError("a row lacks its filename")
        image = images.setdefault(name, _ViaImage(name, []))
        shape, attributes = (_loads(row[field]) for field in _CSV_FIELDS)
        if shape != {}:  # an image without a region
            region = {"shape_attributes": shape, "region_attributes": attributes}
            image.regions.append(_region(name, len(image.regions) + 1, region))
    return list(images.values())


def _loads(text: str | None) -> Any:
    """Return JSON text as its value; None where it is not JSON."""
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None


def _as_list(value: Any) -> list[Any]:
    """Return a list as it is, and any other value as one faulty region."""
    return value if isinstance(value, list) else [value]


def _as_table(value: Any) -> dict[str, Any]:
    """Return a table as it is, and any other value as an empty one."""
    return value if isinstance(value, dict) else {}


def _region(image: str, number: int, value: Any) -> _Region:
    """Return a region, whose faults are found when its box is made."""
    fields = _as_table(value)
    shape, attributes = (_as_table(fields.get(key)) for key in ("shape_attributes", "region_attributes"))
    return _Region(f"image {image!r}: region {number}", shape, attributes)


def _class_attribute(root: Path, regions: Iterable[_Region], collector: Collector) -> str:
    """Return the name of the attribute with the class; "" where no region has an attribute."""
    counts = Counter(name for region in regions for name, value in region.attributes.items() if _class_name(value))
    if len(counts) <= 1:
        return next(iter(counts), "")
    by_rank = sorted(name for name in counts if name.strip().lower() in CLASS_ATTRIBUTES)
    if by_rank:
        return min(by_rank, key=lambda name: CLASS_ATTRIBUTES.index(name.strip().lower()))
    names = ", ".join(sorted(counts))
    what = f"{root}: VIA regions have several attributes ({names})"
    raise collector.error(f"{what}; name the one with the class `class`")


def _class_name(value: Any) -> str:
    """Return the class that an attribute's value names: a text, or the one checked box of a group."""
    if isinstance(value, dict):
        checked = [name for name, is_checked in value.items() if is_checked is True]
        return checked[0] if len(checked) == 1 else ""
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _to_raw_image(image: _ViaImage, attribute: str) -> RawImage:
    """Return an image with the boxes of its regions."""
    faces, refused = [], []
    for region in image.regions:
        label, kind = _class_name(region.attributes.get(attribute)), str(region.shape.get("name"))
        if kind in SHAPES_WITHOUT_BOX:
            refused.append(f"{region.location} ({label}) is a {kind}, which gives no box; draw a rectangle instead")
        else:
            faces.append(RawFace(region.location, label, _box_of(region.shape, kind)))
    return RawImage(image.name, None, faces, refused)


def _box_of(shape: dict[str, Any], kind: str) -> Box:
    """Return the box around a shape; NO_BOX where its values are missing or not numbers, or its kind is unknown."""

    def numbers(*names: str) -> Iterator[float]:
        return (parse_number(shape.get(name)) for name in names)

    match kind:
        case "rect":
            left, top, width, height = numbers("x", "y", "width", "height")
            return (left, top, left + width, top + height)
        case "circle":
            cx, cy, radius = numbers("cx", "cy", "r")
            return ellipse_hull(cx, cy, radius, radius, 0)
        case "ellipse":
            cx, cy, rx, ry = numbers("cx", "cy", "rx", "ry")
            return ellipse_hull(cx, cy, rx, ry, parse_number(shape.get("theta", 0)))  # radians
        case "polygon":
            xs, ys = (_as_list(shape.get(name)) for name in ("all_points_x", "all_points_y"))
            if 3 <= len(xs) == len(ys):
                return hull((parse_number(x), parse_number(y)) for x, y in zip(xs, ys, strict=True))
    return NO_BOX
