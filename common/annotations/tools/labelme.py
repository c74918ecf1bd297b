"""Read LabelMe JSON: one file per image, next to it, or in a folder of annotations; also X-AnyLabeling's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from common.annotations.collect import Collector, RawFace, parse_number, parse_size
from common.annotations.layouts import (
    FileKind,
    RawImage,
    add_image,
    find_parts,
    note_unread_files,
    parse_or_report,
    read_parts,
)
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.shapes import NO_BOX, Box, hull
from common.annotations.text import read_text
from common.annotations.types import Annotations
from common.errors import UserError

_HEAD_BYTES = 65536
_HINTS = (b'"shapes"', b'"imagePath"', b'"imageData"', b'"imageHeight"')
MIN_POINTS = {"rectangle": 2, "polygon": 3, "rotation": 3, "oriented_rectangle": 3, "quadrilateral": 3}


def is_labelme_file(file: Path) -> bool:
    """Return whether a JSON file is LabelMe's: a table with a list of `shapes`."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES).replace(b"\0", b"")  # UTF-16, too
        if not any(hint in head for hint in _HINTS):  # large files of other formats are not read whole
            return False
        content = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


JSON = FileKind(".json", is_labelme_file)


def is_labelme_folder(folder: Path) -> bool:
    """Return whether a folder is a dataset of LabelMe files."""
    return bool(find_parts(folder, JSON))


def read_labelme(root: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
    """Read LabelMe files next to the images, or images/ with annotations/*.json (also in train/, valid/, test/).

    Points are in 0-based pixels. A rectangle has two corners in any order; polygons, circles, masks and rotated boxes
    become their upright hulls. Lines and points give no box, and are refused. Flags and groups are not used. An image
    is found by the stem of the JSON, else by `imagePath`. One without JSON is reported and not used. Raises UserError
    when there is no LabelMe file or no usable image.
    """
    root = Path(root)
    parts = find_parts(root, JSON) if root.is_dir() else []
    if not parts:
        raise UserError(f"{root}: no LabelMe dataset (*.json next to the images, or in annotations/ with images/)")
    collector = Collector(root, options.rename)
    for photo, file, image, split in read_parts(root, parts, collector, lambda file: _parse_file(file, collector)):
        add_image(collector, photo, file, image, split)
    note_unread_files(root, JSON, parts, collector)
    return collector.finish("LabelMe")


def _parse_file(file: Path, collector: Collector) -> RawImage | None:
    """Return the content of a LabelMe file, or None after a problem."""
    content = parse_or_report(file, collector, lambda file: json.loads(read_text(file)) or {})
    if content is None:
        return None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        collector.add_problem(file, "is not a LabelMe file (it has no list of `shapes`); not used")
        return None
    faces, refused = [], []
    for number, shape in enumerate(shapes, start=1):
        fields = shape if isinstance(shape, dict) else {}
        label = _text(fields.get("label"))
        kind = _text(fields.get("shape_type")) or "polygon"  # files of old versions name no type
        box = _box_of(kind, fields.get("points"))
        if box is None:
            refused.append(f"shape {number} ({label}) is a {kind}, which gives no box; draw a rectangle instead")
        else:
            faces.append(RawFace(f"shape {number}", label, box))
    size = parse_size(content.get("imageWidth"), content.get("imageHeight"))
    fix = "its image is inside the JSON (imageData), save it as a file next to it" if content.get("imageData") else ""
    return RawImage(_text(content.get("imagePath")), size, faces, refused, fix)


def _text(value: Any) -> str:
    """Return a JSON text or number as text; other values become an empty text."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _box_of(kind: str, values: Any) -> Box | None:
    """Return the box around a shape; NO_BOX for points that do not fit its kind, None for a kind without a box."""
    if kind not in (*MIN_POINTS, "circle", "mask"):
        return None
    rows = values if isinstance(values, list) else []
    if not all(isinstance(row, list) for row in rows):
        return NO_BOX
    points = [[parse_number(value) for value in row] for row in rows]
    if kind == "circle":  # its centre, and a point on it
        if len(points) != 2 or any(len(point) != 2 for point in points):
            return NO_BOX
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return (x - radius, y - radius, x + radius, y + radius)
    if len(points) < MIN_POINTS.get(kind, 2):
        return NO_BOX
    left, top, right, bottom = hull(points)
    # The corners of a mask are its first and last pixels (labelme/utils/shape.py: mask[y1 : y2 + 1, x1 : x2 + 1]).
    return (left, top, right + 1, bottom + 1) if kind == "mask" else (left, top, right, bottom)
