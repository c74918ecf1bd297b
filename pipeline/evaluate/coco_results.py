"""Reads and writes detections as COCO JSON, so that any detector can be scored as this project's own is.

Accepted: COCO's results list [{image_id, category_id, bbox: [x, y, w, h], score}], or a dictionary with that list under
"annotations" and, when there, "images" and "categories" (what many tools export).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.annotations.types import AnnotatedImage
from common.errors import UserError
from common.files import write_text
from pipeline.evaluate.metrics import Sample


@dataclass(frozen=True)
class CocoNames:
    """How the numbers in a results file are to be read, where the file does not say so itself.

    truth: a COCO ground-truth file whose "images" and "categories" give the ids their names. categories: class names in
    the order of the ids. first: the id of the first of them (0 or 1); None to tell it from the ids in the file.
    rename: {name in the file: class name}; where one box has several that become one class, their scores are added up.
    """

    truth: Path | None = None
    categories: tuple[str, ...] = ()
    first: int | None = None
    rename: Mapping[str, str] | None = None


@dataclass(frozen=True)
class CocoResults:
    """Detections of one file: {image_id: [(box xyxy, score, class index), ...]}; images without any are absent."""

    by_image: dict[str, list[tuple[tuple[float, ...], float, int]]]

    def sample(self, image: AnnotatedImage, class_names: Sequence[str]) -> Sample:
        """One image's truths with this file's detections; class_names are those that the file was read with."""
        rows = self.by_image.get(image.image_id, [])
        boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
        truth_labels = [class_names.index(label) for label in image.labels]
        return Sample(
            image.image_id,
            image.boxes,
            np.array(truth_labels, np.intp),
            np.array(boxes, np.float32),
            np.array(scores, np.float64),
            np.array(labels, np.intp),
        )


def read_results(
    path: Path | str,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    names: CocoNames | None = None,
) -> CocoResults:
    """Reads a results file; `images` are all those of the dataset, of any split.

    An image is named by its id, file name or stem, or by a number that "images" explains or that is its stem
    ("000123" is 123). Raises UserError, naming the file and the entry, on an image or class that is not known and
    on entries that are not detections.
    """
    path, names = Path(path), names or CocoNames()
    data = _load(path)
    entries = data.get("annotations", data.get("predictions")) if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise UserError(f'{path}: not COCO results; expected a list, or a dictionary with one under "annotations"')
    header = [d for d in (_load(names.truth) if names.truth else None, data) if isinstance(d, dict)]
    try:
        files = {i["id"]: str(i["file_name"]) for d in header for i in d.get("images", ())}
        categories = {c["id"]: str(c["name"]) for d in header for c in d.get("categories", ())}
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: an entry of images or categories lacks {error}") from error
    if names.categories:
        categories = _numbered(entries, names, path)
    known = _image_keys(images)
    rename, order = names.rename or {}, {name: k for k, name in enumerate(class_names)}
    found: dict[str, list[_Row]] = {}
    for position, entry in enumerate(entries):
        where = f"{path}, detection {position + 1}"
        box, score = _box_and_score(entry, where)
        image = _image(entry.get("image_id"), files, known, where)
        given = _category(entry.get("category_id"), categories, where)
        label = rename.get(given, given)
        if label not in order:
            raise UserError(
                f"{where}: class {label!r} is none of {', '.join(class_names)}; map it with --merge {label}=NAME"
            )
        found.setdefault(image, []).append(_Row(box, score, order[label], given))
    return CocoResults({image: _merged(rows) for image, rows in found.items()})


def write_results(
    path: Path | str, samples: Sequence[Sample], images: Sequence[AnnotatedImage], class_names: Sequence[str]
) -> None:
    """Writes the samples' detections as a COCO dictionary that `read_results` (and other tools) can read again.

    A row for each class of a box, as COCO's tools expect, is written of the samples of metrics.every_class.
    """
    annotations: list[dict[str, Any]] = []
    for i, s in enumerate(samples, start=1):
        for box, score, label in zip(s.boxes.astype(np.float64).tolist(), s.scores, s.labels, strict=True):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "score": float(score),
                }
            )
    coco = {
        "images": [
            {"id": i, "file_name": _file_name(image), "width": image.size[0], "height": image.size[1]}
            for i, image in enumerate(images, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(class_names, start=1)],
        "annotations": annotations,
    }
    write_text(path, json.dumps(coco) + "\n")


@dataclass(frozen=True)
class _Row:
    """A detection as the file has it; name: what the file calls its class."""

    box: tuple[float, ...]
    score: float
    label: int
    name: str


def _merged(rows: Sequence[_Row]) -> list[tuple[tuple[float, ...], float, int]]:
    """One row for each box and class where the file gives the box several names of it; the others as they are."""
    groups: dict[tuple[tuple[float, ...], int], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row.box, row.label), []).append(row)
    merged = []
    for (box, label), group in groups.items():
        scores = [row.score for row in group]
        best = {row.name: row.score for row in sorted(group, key=lambda row: row.score)}
        if len(best) > 1:
            scores = [min(sum(best.values()), 1.0)]  # sigmoids, one a class, may exceed 1 together
        merged += [(box, score, label) for score in scores]
    return merged


def _file_name(image: AnnotatedImage) -> str:
    """With the folders of an id that has some ("train/a"): there, file names alone are not unique."""
    folders = image.image_id.rpartition("/")[0]
    return f"{folders}/{image.path.name}" if folders else image.path.name


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: not found")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error


def _numbered(entries: list[Any], names: CocoNames, path: Path) -> dict[Any, str]:
    ids = {e.get("category_id") for e in entries if isinstance(e, dict)}
    first = names.first
    if first is None:
        if 0 in ids:
            first = 0
        elif len(names.categories) in ids:
            first = 1
        elif ids:
            raise UserError(f"{path}: category ids may start at 0 or 1 here; say which with --first-category")
    return dict(enumerate(names.categories, start=first or 0))


def _image_keys(images: Sequence[AnnotatedImage]) -> dict[str | int, str | None]:
    """Every way to name an image -> its id; None where two images share the name."""
    keys: dict[str | int, str | None] = {}
    for image in images:
        ways: set[str | int] = {image.path.name, image.path.stem}
        if image.path.stem.isascii() and image.path.stem.isdigit():
            ways.add(int(image.path.stem))
        for way in ways:
            keys[way] = None if way in keys else image.image_id
    return keys | {image.image_id: image.image_id for image in images}


def _image(given: Any, files: Mapping[Any, str], known: Mapping[str | int, str | None], where: str) -> str:
    name = files.get(given, given) if isinstance(given, str | int) else None
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise UserError(f"{where}: image_id is {given!r}, expected a name or a number")
    ways = [name]
    if isinstance(name, str):
        name = name.replace("\\", "/")
        file = name.rpartition("/")[2]
        ways += [name, name.rpartition(".")[0], file, file.rpartition(".")[0]]
    for way in ways:
        if way in known:
            image_id = known[way]
            if image_id is None:
                raise UserError(f"{where}: two images of the data are called {way!r}; use their image ids")
            return image_id
    hint = "" if isinstance(name, str) else "; give the file that numbers the images with --coco-truth"
    raise UserError(f"{where}: image {name!r} is not in the data{hint}")


def _category(given: Any, categories: Mapping[Any, str], where: str) -> str:
    if isinstance(given, str | int) and given in categories:
        return categories[given]
    if isinstance(given, str):
        return given
    raise UserError(
        f"{where}: category_id {given!r} has no name in the file; give --categories NAME NAME ... or --coco-truth FILE"
    )


def _box_and_score(entry: Any, where: str) -> tuple[tuple[float, ...], float]:
    try:
        x, y, width, height = (float(v) for v in entry["bbox"])
        score = float(entry["score"])
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{where}: needs a bbox [x, y, w, h] and a score ({error!r})") from error
    if not all(math.isfinite(v) for v in (x, y, width, height, score)) or min(width, height) < 0:
        raise UserError(f"{where}: bbox {entry['bbox']} or score {score} is not usable")
    return (x, y, x + width, y + height), score
