"""Random COCO datasets with odd things mixed in: each face is read as written, or refused by name."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.annotations import read_dataset
from common.annotations.collect import DatasetError
from tests.helpers.coco_sets import SIZE, save_photo

CLASSES = ("with_mask", "without_mask", "zebra")
# Where the annotation file and the photos of a split are.
LAYOUTS: dict[str, Callable[[str], tuple[str, str]]] = {
    "official": lambda split: (f"annotations/instances_{split}2017.json", f"{split}2017"),
    "images": lambda split: (f"annotations/{split}.json", f"images/{split}"),
    "roboflow": lambda split: (f"{split}/_annotations.coco.json", split),
    "split folders": lambda split: (f"{split}/annotations/labels.json", f"{split}/images"),
    "one root": lambda split: (f"{split}.json", f"images/{split}"),
}
NAMES: dict[str, Callable[[str, str], str]] = {
    "plain": lambda folder, name: name,
    "folder": lambda folder, name: f"{folder}/{name}",
    "windows": lambda folder, name: rf"..\{folder}\{name}".replace("/", "\\"),
    "absolute": lambda folder, name: f"/home/me/set/{folder}/{name}",
    "escaped": lambda folder, name: f"/data/local-files/?d={folder}/{name.replace(' ', '%20')}",
    "decomposed": lambda folder, name: unicodedata.normalize("NFD", name),
    "other suffix": lambda folder, name: f"{Path(name).stem}.bmp",
}
IDS: tuple[Callable[[int], Any], ...] = (int, float, str, "{}.0".format)
GOOD = ("bbox", "polygon", "flat polygon", "empty bbox", "mask", "float", "clipped")
BAD = ("crowd", "no image", "no class", "no box", "NaN", "swapped", "outside", "repeated", "normalised")  # refused
STATES = ("there", "there", "there", "missing", "broken", "unlisted")  # of a photo
Faces = list[tuple[list[float], str]]  # box and class


@dataclass
class Written:
    """A dataset as written: the number of annotations, and (path, split) -> faces that must come back."""

    objects: int = 0
    photos: dict[tuple[str, str], Faces] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)


def annotation(kind: str, number: int) -> tuple[dict[str, Any], list[float] | None]:
    """Return a face's fields of one kind, and the box that must be read, or None for a refused face."""
    x, y = 4 + 9 * (number % 9), 5 + 6 * (number % 11)
    box = [x, y, x + 8 + number % 3, y + 7 + number % 5]
    if kind == "float":
        box = [v + 0.25 for v in box]
    bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    outline = [box[0], box[1], box[2], box[1], box[2], box[3]]
    fields: dict[str, dict[str, Any]] = {
        "polygon": {"segmentation": [outline]},
        "flat polygon": {"segmentation": outline, "bbox": None},
        "empty bbox": {"segmentation": [outline], "bbox": [0, 0, 0, 0]},
        "crowd": {"bbox": bbox, "iscrowd": 1},
        "no box": {"bbox": []},
        "NaN": {"bbox": [*bbox[:3], float("nan")]},
        "swapped": {"bbox": [*bbox[:3], -bbox[3]]},
        "outside": {"bbox": [SIZE[0] + 5, *bbox[1:]]},
        "normalised": {"bbox": [0.2, 0.3, 0.4, 0.5]},
    }
    if kind == "clipped":
        return {"bbox": [SIZE[0] - 9, y, 30, 7 + number % 5]}, [SIZE[0] - 9, y, SIZE[0], y + 7 + number % 5]
    if kind == "mask":
        mask = np.zeros(SIZE, bool)  # (x, y): columns first
        mask[box[0] : box[2], box[1] : box[3]] = True
        ends = np.flatnonzero(np.diff(np.concatenate([[False], mask.ravel(), [False]])))
        return {"segmentation": {"counts": np.diff(ends, prepend=0).tolist(), "size": [SIZE[1], SIZE[0]]}}, box
    return fields.get(kind, {"bbox": bbox}), box if kind in (*GOOD, "repeated") else None


def write(root: Path, draw: Any) -> Written:
    """Write a random dataset, and return what must be read."""
    written = Written()
    layout = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    spell = NAMES[draw(st.sampled_from(sorted(NAMES)))]
    image_key, row_key = draw(st.sampled_from(IDS)), draw(st.sampled_from(IDS))
    for split in draw(st.sampled_from((("train",), ("train", "val"), ("train", "val", "test")))):
        file, folder = layout(split)
        images: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        for i in range(draw(st.integers(1, 4))):
            key, path = i + 50 * (split == "val"), f"{folder}/사 {i}.png"
            state = (
                draw(st.sampled_from(("there", "there", "there", "missing", "broken", "unlisted"))) if i else "there"
            )
            save_photo(root / path)
            if state == "missing":
                (root / path).unlink()
            elif state == "broken":
                (root / path).write_bytes(b"no image")
            if state != "unlisted":
                size = {"width": SIZE[0], "height": SIZE[1]} if draw(st.booleans()) else {}
                images.append({"id": image_key(key), "file_name": spell(folder, f"사 {i}.png")} | size)
            faces = written.photos.setdefault((path, split), []) if state == "there" else []
            kinds = draw(st.lists(st.sampled_from(GOOD * 2 + BAD), max_size=6))
            for kind in kinds if i else ["bbox", *kinds]:
                rows += write_face(kind, row_key, key, path, faces, written)
        listed_ids = {f"{float(image['id'])}" for image in images}
        if any(f"{float(row['image_id'])}" not in listed_ids for row in rows):  # of any photo without a face
            written.incomplete |= {path for (path, own), faces in written.photos.items() if own == split and not faces}
        content = {
            "images": images,
            "annotations": draw(st.permutations(rows)) if len(rows) < 8 else rows,
            "categories": [{"id": image_key(i), "name": f" {name}"} for i, name in enumerate(CLASSES, start=1)],
        }
        encoding = draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-16-le")))
        save_json(root / file, content, draw(st.booleans()), encoding)
        if draw(st.booleans()):
            other = {"images": images, "annotations": [], "categories": []}
            save_json(root / f"annotations/image_info_{split}.json", other)
    return written


def write_face(
    kind: str,
    row_key: Callable[[int], Any],
    image: int,
    path: str,
    faces: list[tuple[list[float], str]],
    written: Written,
) -> list[dict[str, Any]]:
    """Return the annotations of one kind of face, and record what must be read of them."""
    number = written.objects
    fields, box = annotation(kind, number)
    label = number % len(CLASSES)
    row = {"id": number, "image_id": row_key(image), "category_id": row_key(label + 1)} | fields
    if kind == "no image":
        row["image_id"] = row_key(900)
    elif kind == "no class":
        row["category_id"] = row_key(901)
    if box is not None:
        faces.append((box, CLASSES[label]))
    elif kind != "no image":
        written.incomplete.add(path)
    rows = [row, row | {"id": 1000 + number}] if kind == "repeated" else [row]
    written.objects += len(rows)
    return rows


def save_json(file: Path, content: dict[str, Any], ascii_only: bool = True, encoding: str = "utf-8") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=ascii_only), encoding=encoding)


def check(root: Path, written: Written) -> None:
    """Read a dataset, and compare each face with what was written."""
    try:
        read = read_dataset(root)
    except DatasetError as error:
        raise AssertionError(f"{error}: {error.problems}") from error
    assert read.face_count + read.refused_count == written.objects
    assert read.format_name == "COCO"
    found = {(i.path.relative_to(root).as_posix(), i.split): i for i in read.images}
    assert found.keys() == written.photos.keys()
    for key, faces in written.photos.items():
        expected = sorted((np.round(box, 2).tolist(), label) for box, label in faces)
        image = found[key]
        assert sorted(zip(np.round(image.boxes, 2).tolist(), image.labels, strict=True)) == expected
        assert image.complete == (key[0] not in written.incomplete)
    for problem in read.problems:
        assert len(str(problem).splitlines()) == 1 and problem.reason


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_each_face_is_read_or_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), write(Path(folder), data.draw))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.data())
def test_each_face_of_many_datasets_is_read_or_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), write(Path(folder), data.draw))
