"""COCO detection JSON: one file, Roboflow's _annotations.coco.json, or annotations/*.json with images/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from common.annotations.collect import Collector, RawFace, Size, number
from common.annotations.photos import SPLIT_FOLDERS, PhotoIndex, photos_in, split_folders
from common.annotations.types import Annotations
from common.errors import UserError

ROBOFLOW_NAME = "_annotations.coco.json"


def coco_files(root: Path) -> list[tuple[Path, str | None]]:
    """(JSON file, split) of each part of a COCO dataset; empty when it is none."""
    if root.is_file():
        return [(root, None)]
    files: list[tuple[Path, str | None]] = [
        (folder / ROBOFLOW_NAME, split) for folder, split in split_folders(root) if (folder / ROBOFLOW_NAME).is_file()
    ]
    if not files and (root / ROBOFLOW_NAME).is_file():
        files = [(root / ROBOFLOW_NAME, None)]
    if not files and (root / "images").is_dir():
        files = [(file, _split_in_name(file.stem)) for file in sorted((root / "annotations").glob("*.json"))]
    return files


def read_coco(path: Path | str) -> Annotations:
    """Reads a COCO file, or a folder with _annotations.coco.json (or train/valid/test of it) or annotations/*.json.

    Boxes are xywh in 0-based pixels. Crowd regions are skipped. The classes are those that faces have, so
    the unused category that Roboflow puts first is none. An image listed without annotations has no faces;
    one that lies among the listed ones but is not listed is reported and not used. Images are looked for
    beside the JSON, in images/ there, and one folder up, under the stated name or its stem with any usual
    extension.

    Raises UserError when there is no JSON or no usable image.
    """
    root = Path(path)
    files = coco_files(root) if root.exists() else []
    if not files:
        raise UserError(f"{root}: no COCO dataset (a .json file, {ROBOFLOW_NAME}, or annotations/*.json and images/)")
    collector = Collector(root)
    listed: set[Path] = set()
    for file, split in files:
        content = _load(file, collector)
        if content is not None:
            listed |= _read_file(file, content, split, collector)
    for folder in sorted({photo.parent for photo in listed}):
        for photo in photos_in(folder):
            if photo not in listed:
                collector.refuse(photo, "not listed in the COCO file; not used")
    return collector.finish()


def _split_in_name(stem: str) -> str | None:
    """The split that a file name such as instances_train2017 speaks of."""
    words = re.findall(r"[a-z]+", stem.lower())
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), None)


def _load(file: Path, collector: Collector) -> dict[str, list[dict[str, Any]]] | None:
    """The three tables of a COCO file, or None after a problem was kept."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        collector.refuse(file, f"cannot be read ({error.strerror}); not used, check its permissions")
        return None
    except (ValueError, RecursionError) as error:
        collector.refuse(file, f"malformed JSON ({error}); not used, export it anew")
        return None
    tables = {}
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            what = f"is no COCO detection file (its {key!r} is not a list of objects)"
            collector.refuse(file, f"{what}; not used, export it anew")
            return None
        tables[key] = rows
    return tables


def _read_file(
    file: Path, content: dict[str, list[dict[str, Any]]], split: str | None, collector: Collector
) -> set[Path]:
    """Adds the images of one file and returns those it lists."""
    names = {str(row.get("id")): str(row.get("name", "")) for row in content["categories"]}
    faces: dict[str, list[RawFace]] = {str(row.get("id")): [] for row in content["images"]}
    for row in content["annotations"]:
        where = f"annotation {row.get('id')}"
        image_id, category = str(row.get("image_id")), str(row.get("category_id"))
        if row.get("iscrowd"):
            continue
        if image_id not in faces:
            collector.refuse(file, f"{where} is of image {image_id}, which is not listed; left out")
        elif category not in names:
            collector.refuse(file, f"{where} has the unknown category {category}; left out")
        else:
            faces[image_id].append(RawFace(where, names[category], _xyxy(row.get("bbox"))))

    finder = _Finder(file)
    found = set()
    done = set()
    for row in content["images"]:
        image_id, name = str(row.get("id")), str(row.get("file_name", ""))
        if image_id in done:
            collector.refuse(file, f"image id {image_id} stands twice; {name} not used")
            continue
        done.add(image_id)
        photo = finder.find(name)
        if photo is None:
            collector.refuse(file, f"image {name!r} is missing; not used")
            continue
        found.add(photo)
        collector.add(photo, file, faces[image_id], _size(row), split)
    return found


def _xyxy(bbox: Any) -> tuple[float, float, float, float]:
    values = [number(v) for v in bbox] if isinstance(bbox, list) and len(bbox) == 4 else [number(None)] * 4
    x, y, width, height = values
    return x, y, x + width, y + height


def _size(row: dict[str, Any]) -> Size | None:
    width, height = number(row.get("width")), number(row.get("height"))
    return (int(width), int(height)) if 1 <= width < 1e9 and 1 <= height < 1e9 else None


class _Finder:
    """Resolves the file names of one COCO file."""

    def __init__(self, file: Path) -> None:
        folder = file.parent
        self._bases = (folder, folder / "images", folder.parent / "images", folder.parent)
        self._indexes: dict[Path, PhotoIndex] = {}
        self._nested: PhotoIndex | None = None

    def find(self, name: str) -> Path | None:
        wanted = Path(name.replace("\\", "/"))
        if not wanted.name:
            return None
        for base in self._bases:
            folder = (base / wanted).parent
            if folder not in self._indexes:
                self._indexes[folder] = PhotoIndex(photos_in(folder))
            photo = self._indexes[folder].find(wanted.name)
            if photo is not None:
                return photo
        # COCO's own layout keeps images/train2017/ without saying so in the names.
        if self._nested is None:
            self._nested = PhotoIndex(p for base in self._bases[1:3] for p in photos_in(base, recursive=True))
        return self._nested.find(wanted.name)
