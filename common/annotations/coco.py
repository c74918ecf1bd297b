"""Read COCO detection JSON: one file, Roboflow's _annotations.coco.json, or annotations/*.json with images/."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from common.annotations.collect import Collector, RawFace, parse_number, parse_size
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.photos import PhotoIndex, annotated_folders, photos_in, split_of_name
from common.annotations.types import Annotations
from common.errors import UserError

ROBOFLOW_NAME = "_annotations.coco.json"
Tables = dict[str, list[dict[str, Any]]]  # the images, annotations and categories of a COCO file


def coco_files(root: Path) -> list[tuple[Path, str | None]]:
    """Return (JSON file, split) for each part of a COCO dataset; empty for other datasets."""
    if root.is_file():
        return [(root, None)]
    folders = annotated_folders(root, lambda folder: (folder / ROBOFLOW_NAME).is_file())
    if folders or not (root / "images").is_dir():
        return [(folder / ROBOFLOW_NAME, split) for folder, split in folders]
    return [(file, split_of_name(file.stem)) for file in sorted((root / "annotations").glob("*.json"))]


def read_coco(path: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
    """Read a JSON file, or a folder with _annotations.coco.json (also in train/, valid/, test/) or annotations/*.json.

    Boxes are xywh in 0-based pixels. Crowd regions are skipped. Only categories that faces use become classes:
    Roboflow lists an unused one first. An image without annotations has no faces. An unlisted image in a folder of
    listed images is reported and not used. Images are searched in the JSON's folder, its images/, and one folder up;
    the extension may differ. Raises UserError when there is no JSON or no usable image.
    """
    root = Path(path)
    files = coco_files(root) if root.exists() else []
    if not files:
        raise UserError(f"{root}: no COCO dataset (a .json file, {ROBOFLOW_NAME}, or annotations/*.json and images/)")
    collector = Collector(root, options.rename)
    listed: set[Path] = set()
    for file, split in files:
        content = _load_json(file, collector)
        if content is not None:
            listed |= _add_images(file, content, split, collector)
    for folder in sorted({photo.parent for photo in listed}):
        for photo in photos_in(folder):
            if photo not in listed:
                collector.add_problem(photo, "not listed in the COCO file; not used")
    return collector.finish("COCO")


def _load_json(file: Path, collector: Collector) -> Tables | None:
    """Return the three tables of a COCO file, or None after a problem."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        collector.add_problem(file, f"cannot be read ({error.strerror}); not used, check its permissions")
        return None
    except (ValueError, RecursionError) as error:
        collector.add_problem(file, f"malformed JSON ({error}); not used, export it again")
        return None
    tables = {}
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            what = f"is not a COCO detection file (its {key!r} is not a list of objects)"
            collector.add_problem(file, f"{what}; not used, export it again")
            return None
        tables[key] = rows
    return tables


def _add_images(file: Path, content: Tables, split: str | None, collector: Collector) -> set[Path]:
    """Add the images of one file, and return those that were found."""
    names = {str(row.get("id")): str(row.get("name", "")) for row in content["categories"]}
    faces: dict[str, list[RawFace]] = {str(row.get("id")): [] for row in content["images"]}
    for row in content["annotations"]:
        location = f"annotation {row.get('id')}"
        image_id, category = str(row.get("image_id")), str(row.get("category_id"))
        if row.get("iscrowd"):
            continue
        if image_id not in faces:
            collector.add_problem(file, f"{location} is of image {image_id}, which is not listed; left out")
        elif category not in names:
            collector.add_problem(file, f"{location} has the unknown category {category}; left out")
        else:
            faces[image_id].append(RawFace(location, names[category], _to_xyxy(row.get("bbox"))))

    finder = _PhotoFinder(file)
    found = set()
    for row in content["images"]:
        image_id, name = str(row.get("id")), str(row.get("file_name", ""))
        own_faces = faces.pop(image_id, None)
        if own_faces is None:
            collector.add_problem(file, f"image id {image_id} is listed twice; {name} not used")
        elif (photo := finder.find(name)) is None:
            collector.add_problem(file, f"image {name!r} is missing; not used")
        else:
            found.add(photo)
            collector.add(photo, file, own_faces, parse_size(row.get("width"), row.get("height")), split)
    return found


def _to_xyxy(bbox: Any) -> tuple[float, float, float, float]:
    """Return an xywh list as xyxy; NaN for a missing or malformed list."""
    x, y, width, height = map(parse_number, bbox if isinstance(bbox, list) and len(bbox) == 4 else [None] * 4)
    return x, y, x + width, y + height


class _PhotoFinder:
    """Finds the images that one COCO file names."""

    def __init__(self, file: Path) -> None:
        folder = file.parent
        self._bases = (folder, folder / "images", folder.parent / "images", folder.parent)
        self._index = cache(lambda folder: PhotoIndex(photos_in(folder), folder))
        # COCO's layout: images/train2017/, a folder that the names do not contain.
        self._subfolders = cache(
            lambda: PhotoIndex((p for base in self._bases[1:3] for p in photos_in(base, True)), folder.parent)
        )

    def find(self, name: str) -> Path | None:
        """Return the image with this name, else with its stem, or None."""
        wanted = Path(name.replace("\\", "/"))
        if not wanted.name:
            return None
        found = (self._index((base / wanted).parent).find(wanted.name) for base in self._bases)
        return next(filter(None, found), None) or self._subfolders().find(wanted.name)
