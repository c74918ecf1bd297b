"""Read CVAT's own XML, "CVAT for images 1.1": one file for many images."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from common.annotations.collect import Collector, RawFace, parse_number, parse_size
from common.annotations.layouts import (
    FileKind,
    RawImage,
    add_image,
    find_listings,
    listed_photos,
    note_unlisted_photos,
    parse_or_report,
)
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.photos import AmbiguousNameError, PhotoIndex, split_of_folders
from common.annotations.shapes import NO_BOX, Box, ellipse_hull, hull, rotated_box_hull
from common.annotations.types import Annotations
from common.annotations.xml_text import read_xml, xml_root_tag
from common.errors import UserError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

BOX_EDGES = ("xtl", "ytl", "xbr", "ybr")
CUBOID_CORNERS = [(f"x{corner}{side}", f"y{corner}{side}") for corner in ("tl", "bl", "tr", "br") for side in "12"]
SHAPES_WITHOUT_BOX = ("points", "polyline", "skeleton")
SHAPES = ("box", "polygon", "ellipse", "mask", "cuboid", *SHAPES_WITHOUT_BOX)


def is_cvat_file(file: Path) -> bool:
    """Return whether an XML file is CVAT's own."""
    return xml_root_tag(file) == "annotations"


XML = FileKind(".xml", is_cvat_file)


def is_cvat_folder(folder: Path) -> bool:
    """Return whether a folder is a dataset of CVAT's own XML."""
    return bool(find_listings(folder, XML))


def read_cvat(root: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
    """Read annotations.xml of "CVAT for images 1.1" with images/, also of several tasks or subsets.

    Coordinates are in 0-based pixels. Rotated boxes, polygons, ellipses, cuboids and masks become their upright hulls.
    Points, polylines and skeletons give no box, and are refused. Attributes are not used. A listed image without a
    shape has no faces; with a tag only, it may have some. The subset's name, else that of the image's folder, gives
    the split. Raises UserError when there is no CVAT file or no usable image.
    """
    root = Path(root)
    listings = find_listings(root, XML) if root.exists() else []
    if not listings:
        raise UserError(f"{root}: no CVAT dataset (annotations.xml of `CVAT for images 1.1`, with images/)")
    collector = Collector(root, options.rename)
    indexes = {each.folder: PhotoIndex(listed_photos(each.folder), each.folder) for each in listings}
    listed: set[Path] = set()
    counts = {"images": 0, "empty": 0, "tagged": 0}
    for listing in listings:
        file = listing.file
        for node in _image_nodes(file, collector):
            image = _parse_image(node)
            own_split = split_of_folders([node.get("subset", "")]) or listing.split
            try:
                photo = _find_photo(indexes[listing.folder], node, file, own_split)
            except AmbiguousNameError as error:
                collector.add_problem(file, f"{error}; not used", objects=image.objects)
                continue
            if photo is None:
                what = f"image {image.name!r} is missing; not used, export with images or copy it to images/"
                collector.add_problem(file, what, "unmatched", image.objects)
                continue
            listed.add(photo)
            tagged = not image.objects and node.find("tag") is not None
            counts["images"] += 1
            counts["empty"] += not image.objects and not tagged
            counts["tagged"] += tagged
            split = own_split or split_of_folders(photo.relative_to(listing.folder).parts[:-1])
            add_image(collector, photo, file, image, split, complete=not tagged)
    note_unlisted_photos(listed, collector, "the CVAT file")
    if counts["empty"]:
        collector.add_note(f"{counts['empty']} of {counts['images']} images in the CVAT file have no shape: face-free")
    if counts["tagged"]:
        what = f"{counts['tagged']} images in the CVAT file have a tag but no box"
        collector.add_note(f"{what}: they may show faces; draw boxes for them")
    return collector.finish("CVAT")


def _image_nodes(file: Path, collector: Collector) -> list[Element]:
    """Return the <image> elements of a CVAT file, or none after a problem with the whole file."""
    tree = parse_or_report(file, collector, read_xml)
    if tree is None:
        return []
    if tree.tag != "annotations":
        collector.add_problem(file, f"is not a CVAT file (its root is <{tree.tag}>); not used, export it again")
        return []
    tracks, images = tree.findall("track"), tree.findall("image")
    if tracks:
        what = f"holds {len(tracks)} tracks, which have no image files (`CVAT for video 1.1`)"
        objects = sum(len(_shapes_of(node)) for node in (*tracks, *images))
        collector.add_problem(file, f"{what}; not used, export it as `CVAT for images 1.1`", objects=objects)
        return []
    return images


def _find_photo(index: PhotoIndex, node: Element, file: Path, split: str | None) -> Path | None:
    """Return the image file of an <image>, in the folder of its subset or without such a folder."""
    name, subset = node.get("name", ""), node.get("subset", "")
    names = [f"{subset}/{name}", name] if name and subset else [name]
    return next(filter(None, (index.find(each, split, file.parent) for each in names)), None)


def _shapes_of(node: Element) -> list[Element]:
    """Return the shapes of an <image> or a <track>; the points of a skeleton are a part of it."""
    return [shape for shape in node if shape.tag in SHAPES]


def _parse_image(node: Element) -> RawImage:
    """Return the content of an <image>."""
    faces, refused = [], []
    for number, shape in enumerate(_shapes_of(node), start=1):
        label = shape.get("label", "")
        location = f"image {node.get('name', '')!r}: {shape.tag} {number}"
        if shape.tag in SHAPES_WITHOUT_BOX:
            refused.append(f"{location} ({label}) gives no box; draw a rectangle instead")
        else:
            faces.append(RawFace(location, label, _box_of(shape)))
    return RawImage(node.get("name", ""), parse_size(node.get("width"), node.get("height")), faces, refused)


def _box_of(shape: Element) -> Box:
    """Return the box around a shape; NO_BOX where its attributes are missing or not numbers."""

    def numbers(names: Iterable[str]) -> list[float]:
        return [parse_number(shape.get(name)) for name in names]

    angle = math.radians(parse_number(shape.get("rotation", "0")))  # clockwise, about the centre
    match shape.tag:
        case "box":
            left, top, right, bottom = numbers(BOX_EDGES)
            if angle == 0:
                return (left, top, right, bottom)
            return rotated_box_hull((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, angle)
        case "ellipse":
            cx, cy, rx, ry = numbers(("cx", "cy", "rx", "ry"))
            return ellipse_hull(cx, cy, rx, ry, angle)
        case "mask":
            left, top, width, height = numbers(("left", "top", "width", "height"))
            return (left, top, left + width, top + height)
        case "cuboid":
            return hull(numbers(corner) for corner in CUBOID_CORNERS)
    pairs = [pair.split(",") for pair in re.split(r"[;\s]+", shape.get("points", "").strip(" ;"))]
    return hull([parse_number(value) for value in pair] for pair in pairs) if len(pairs) >= 3 else NO_BOX
