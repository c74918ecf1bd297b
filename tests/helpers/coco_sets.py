"""Write small COCO datasets: photos of one size, and files of images, annotations and categories."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (100, 80)  # (width, height) of the photos
CATEGORIES = ((0, "masks"), (1, "with_mask"), (2, "without_mask"))  # Roboflow lists an unused one first


def save_photo(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Write an image of any suffix, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {".jfif": "JPEG", ".jpg": "JPEG", ".avif": "AVIF"}.get(path.suffix.lower(), "PNG")
    Image.new("RGB", size, (90, 120, 60)).save(path, form)
    return path


def face(image_id: Any = 1, category_id: Any = 1, bbox: Any = (10, 20, 30, 40), **more: Any) -> dict[str, Any]:
    """Return an annotation; an Ellipsis leaves a field out."""
    row = {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}
    return {name: value for name, value in row.items() if value is not ...}


def write_coco(
    file: Path,
    names: Iterable[str],
    faces: Iterable[dict[str, Any]],
    categories: Sequence[tuple[Any, Any]] = CATEGORIES,
    encoding: str = "utf-8",
) -> Path:
    """Write a COCO file with image ids and annotation ids from 1, and return its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [
            {"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for i, name in enumerate(names, start=1)
        ],
        "annotations": [{"id": i} | row for i, row in enumerate(faces, start=1)],
        "categories": [{"id": key, "name": name} for key, name in categories],
    }
    file.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    return file
