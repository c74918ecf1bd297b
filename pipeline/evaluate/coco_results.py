"""COCO JSON of detections, read and written, so that any detector can be scored in the same way.

Accepted: COCO's results list [{image_id, category_id, bbox: [x, y, w, h], score}], or a dictionary with that list under
"annotations" and optionally "images" and "categories" (the export of many tools).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.annotations.class_names import suggest_renames
from common.annotations.types import AnnotatedImage
from common.boxes import as_boxes
from common.errors import UserError
from common.files import write_text
from pipeline.evaluate.metrics import Sample, coco_detections, make_sample

Corners = tuple[float, ...]  # of a box, xyxy
ROUNDING = 1e-4  # how far a score of half precision may be outside 0 to 1
MAX_EDGE = 1e9  # px: what float32 holds, and more than any picture


@dataclass(frozen=True)
class CocoNames:
    """The meaning of the ids in a results file, where the file itself does not give it."""

    gt_file: Path | None = None  # COCO ground truth whose "images" and "categories" name the ids
    categories: tuple[str, ...] = ()  # class names in the order of the ids
    first_category: int | None = None  # id of the first of `categories`, 0 or 1; None derives it from the ids
    # {name in the file: class name}. Where several names of one box become one class, their scores are added.
    rename: Mapping[str, str] | None = None


@dataclass(frozen=True)
class CocoResults:
    """Detections of one file."""

    # {image_id: [(box xyxy, score, class index), ...]}; images without detections are absent.
    by_image: dict[str, list[tuple[Corners, float, int]]]

    def sample(self, image: AnnotatedImage, class_names: Sequence[str], match_iou: float = 0.5) -> Sample:
        """Return one image's faces and the file's detections; `class_names` are those that the file was read with."""
        rows = self.by_image.get(image.image_id, [])
        boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
        found = (as_boxes(boxes), np.array(scores, np.float64), np.array(labels, np.intp))
        return make_sample(image, class_names, *found, match_iou=match_iou)


def read_results(
    path: Path, images: Sequence[AnnotatedImage], class_names: Sequence[str], names: CocoNames | None = None
) -> CocoResults:
    """Read a results file.

    The file names an image by its id, its file name or its stem. A number is looked up in "images", and otherwise
    compared with numeric stems ("000123" is 123).

    Args:
        path: the results file.
        images: all images of the dataset, of any split.
        class_names: in the order of the class indices.
        names: meaning of the ids in the file.

    Raises:
        UserError: an image or class is unknown, or an entry is not a detection; names the file and the entry.
    """
    names, data = names or CocoNames(), _load(path)
    entries = data.get("annotations", data.get("predictions")) if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise UserError(f'{path}: not COCO results; use a list, or a dictionary with one under "annotations"')
    headers = [d for d in (_load(names.gt_file) if names.gt_file else None, data) if isinstance(d, dict)]
    try:
        files = {i["id"]: str(i["file_name"]) for d in headers for i in d.get("images", ())}
        categories = {c["id"]: str(c["name"]) for d in headers for c in d.get("categories", ())}
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: an entry of images or categories lacks {error}") from error
    if names.categories:
        categories = _numbered(entries, names, path)
    image_keys = _image_keys(images)
    rename, index_of = names.rename or {}, {name: k for k, name in enumerate(class_names)}
    by_image: dict[str, dict[tuple[Corners, int], list[tuple[float, str]]]] = {}
    for position, entry in enumerate(entries):
        where = f"{path}, detection {position + 1}"
        box, score = _box_and_score(entry, where)
        found = by_image.setdefault(_image_id(entry.get("image_id"), files, image_keys, where), {})
        name = _category(entry.get("category_id"), categories, where)
        label = rename.get(name, name)
        if label not in index_of:
            fix = f"--merge {shlex.quote(label)}={suggest_renames([label], class_names).get(label, 'NAME')}"
            raise UserError(f"{where}: class {label!r} is not one of {', '.join(class_names)}; map it with {fix}")
        found.setdefault((box, index_of[label]), []).append((score, name))
    return CocoResults(
        {
            image_id: [(box, score, label) for (box, label), rows in found.items() for score in _merged(rows)]
            for image_id, found in by_image.items()
        }
    )


def write_results(
    path: Path | str, samples: Sequence[Sample], images: Sequence[AnnotatedImage], class_names: Sequence[str]
) -> None:
    """Write detections as a COCO dictionary that `read_results` and other tools can read.

    Args:
        path: the file to write.
        samples: one per image. Those of `metrics.every_class` give one row per class of a box, as COCO's tools expect.
        images: the annotated images, in the order of the samples.
        class_names: in the order of the label indices.
    """
    coco = {
        "images": [
            {"id": i, "file_name": _file_name(image), "width": image.size[0], "height": image.size[1]}
            for i, image in enumerate(images, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(class_names, start=1)],
        "annotations": coco_detections(samples),
    }
    write_text(path, json.dumps(coco) + "\n")


def _merged(rows: Sequence[tuple[float, str]]) -> list[float]:
    """Return the scores of one class of a box, from scores and the file's names of the class; add up those of names."""
    best = {name: score for score, name in sorted(rows, key=lambda row: row[0])}
    # The sum of one sigmoid per class may exceed 1.
    return [min(sum(best.values()), 1.0)] if len(best) > 1 else [score for score, _ in rows]


def _file_name(image: AnnotatedImage) -> str:
    """Return the file name, with the folders of an id such as "train/a": there, file names alone are not unique."""
    folders = image.image_id.rpartition("/")[0]
    return f"{folders}/{image.path.name}" if folders else image.path.name


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: not found")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error


def _numbered(entries: list[Any], names: CocoNames, path: Path) -> dict[Any, str]:
    """Return the class names by id, counted from the first id."""
    ids = {e.get("category_id") for e in entries if isinstance(e, dict)}
    first = names.first_category
    if first is None:
        if 0 in ids:
            first = 0
        elif len(names.categories) in ids:
            first = 1
        elif ids:
            raise UserError(f"{path}: category ids may start at 0 or 1 here; say which with --first-category")
    return dict(enumerate(names.categories, start=first or 0))


def _image_keys(images: Sequence[AnnotatedImage]) -> dict[str | int, str | None]:
    """Return the image id by every name of an image; None where two images share the name."""
    keys: dict[str | int, str | None] = {}
    for image in images:
        names: set[str | int] = {image.path.name, image.path.stem}
        if image.path.stem.isascii() and image.path.stem.isdigit():
            names.add(int(image.path.stem))
        for name in names:
            keys[name] = None if name in keys else image.image_id
    return keys | {image.image_id: image.image_id for image in images}


def _image_id(given: Any, files: Mapping[Any, str], image_keys: Mapping[str | int, str | None], where: str) -> str:
    given = _whole(given)
    name = files.get(given, given) if isinstance(given, str | int) else None
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise UserError(f"{where}: image_id is {given!r}; use a name or a number")
    candidates = [name]
    if isinstance(name, str):
        name = name.replace("\\", "/")
        file = name.rpartition("/")[2]
        candidates += [name, name.rpartition(".")[0], file, file.rpartition(".")[0]]
    for candidate in candidates:
        if candidate in image_keys:
            image_id = image_keys[candidate]
            if image_id is None:
                raise UserError(f"{where}: two images of the data are called {candidate!r}; use their image ids")
            return image_id
    hint = "" if isinstance(name, str) else "; give the file that numbers the images with --coco-truth"
    raise UserError(f"{where}: image {name!r} is not in the data{hint}")


def _category(given: Any, categories: Mapping[Any, str], where: str) -> str:
    given = _whole(given)
    if isinstance(given, str | int) and given in categories:
        return categories[given]
    if isinstance(given, str):
        return given
    raise UserError(
        f"{where}: category_id {given!r} has no name in the file; give --categories NAME NAME ... or --coco-truth FILE"
    )


def _whole(given: Any) -> Any:
    """Return an id of 1.0 as 1, as tables that had gaps write it."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _box_and_score(entry: Any, where: str) -> tuple[tuple[float, ...], float]:
    try:
        x, y, width, height = (float(v) for v in entry["bbox"])
        score = float(entry["score"])
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{where}: needs a bbox [x, y, w, h] and a score ({error!r})") from error
    corners = (x, y, x + width, y + height)
    if not all(abs(v) < MAX_EDGE for v in corners) or min(width, height) < 0:  # not for NaN, either
        raise UserError(f"{where}: bbox {entry['bbox']} is not usable; use pixels [x, y, width, height]")
    if not -ROUNDING <= score <= 1 + ROUNDING:
        raise UserError(f"{where}: score is {score!r}; use probabilities from 0 to 1 (divide percentages by 100)")
    return corners, min(max(score, 0.0), 1.0)
