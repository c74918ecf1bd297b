"""Writes detections as JSON, CSV or a competition's submission: one image at a time, never half a file."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from common.display import path_text
from common.errors import MediaError, UserError
from common.files import atomic_text
from common.paths import FoundImage, compared_names
from pipeline.inference.results import ImageResult


class TableWriter(Protocol):
    """Writes one image after another."""

    def add(self, image: FoundImage, result: ImageResult | None) -> None:
        """Write the faces of an image; None: it could not be read."""


class JsonWriter:
    """Writes one object: "bundle", "images" in order, "errors" at the end."""

    def __init__(self, file: TextIO, bundle: dict[str, Any]) -> None:
        self._file = file
        self._errors: list[dict[str, str]] = []
        self._separator = "\n"
        file.write(f'{{"bundle": {_json(bundle)},\n"images": [')

    def add(self, result: ImageResult) -> None:
        """Write the faces of an image."""
        self._file.write(self._separator + _json(result.record()))
        self._separator = ",\n"

    def add_error(self, error: MediaError) -> None:
        """Record an error of an image or of a path without an image."""
        self._errors.append({"file": path_text(error.file), "error": path_text(error.reason)})

    def finish(self) -> None:
        """Write the errors and the end of the object."""
        self._file.write(f'],\n"errors": {_json(self._errors)}}}\n')


class CsvWriter:
    """Writes one row per face."""

    def __init__(self, file: TextIO, class_names: Sequence[str]) -> None:
        self._csv = csv.writer(file)
        columns = ("file", "width", "height", "x1", "y1", "x2", "y2", "label", "score", "face_score")
        self._csv.writerow((*columns, *(f"p_{name}" for name in class_names), "unsure"))

    def add(self, image: FoundImage, result: ImageResult | None) -> None:
        if result is None:
            return  # the table has rows for faces only
        for face in result.faces:
            place = (path_text(image.path), result.width, result.height, *face["box"])
            scores = (face["label"], face["score"], face["face_score"], *face["probs"].values())
            self._csv.writerow((*place, *scores, json.dumps(face["unsure"])))  # true or false, as in the JSON


class SubmissionWriter:
    """Writes Kaggle's object detection format: image_id, and "label score x1 y1 x2 y2" of each face, joined by spaces.

    Every image has a row, also without faces or where it could not be read. The id is the first of these that no other
    image has: the file's stem, the relative name, the path.
    """

    def __init__(self, file: TextIO, images: Sequence[FoundImage]) -> None:
        self._csv = csv.writer(file)
        self._csv.writerow(("image_id", "PredictionString"))
        self._stems = Counter(Path(image.relative).stem for image in images)
        self._names = Counter(image.relative for image in images)

    def add(self, image: FoundImage, result: ImageResult | None) -> None:
        name = Path(image.relative).stem
        if self._stems[name] > 1:
            name = image.relative if self._names[image.relative] == 1 else image.path
        faces = [(face["label"], face["score"], *face["box"]) for face in result.faces] if result else []
        self._csv.writerow((path_text(name), " ".join(str(value) for face in faces for value in face)))


@contextmanager
def json_writer(path: Path, bundle: dict[str, Any]) -> Iterator[JsonWriter]:
    """Open a JsonWriter; its file is put in place when the block ends without an error."""
    with atomic_text(path) as file:
        writer = JsonWriter(file, bundle)
        yield writer
        writer.finish()


@contextmanager
def csv_writer(path: Path, class_names: Sequence[str]) -> Iterator[CsvWriter]:
    """Open a CsvWriter; its file is put in place when the block ends without an error."""
    with atomic_text(path, newline="") as file:
        yield CsvWriter(file, class_names)


@contextmanager
def submission_writer(path: Path, images: Sequence[FoundImage], names: Sequence[str]) -> Iterator[SubmissionWriter]:
    """Open a SubmissionWriter as `csv_writer`; raise UserError for a class name with a space, the separator."""
    spaced = [name for name in names if len(name.split()) != 1]
    if spaced:
        raise UserError(f"{path}: a submission cannot hold class {spaced[0]!r}; use --json or --csv")
    with atomic_text(path, newline="") as file:
        yield SubmissionWriter(file, images)


class PictureNames:
    """Gives each image a unique name for its annotated picture below `folder`.

    The relative name is kept; ".jpg" follows a suffix other than JPEG's or PNG's. A name gets a number when another
    picture or one of `reserved` (files that must not be overwritten) has it.
    """

    def __init__(self, folder: Path, reserved: Sequence[str | Path]) -> None:
        self._folder = folder
        self._used = {name for path in reserved for name in compared_names(path)}

    def name(self, image: FoundImage) -> Path:
        """Return the path of the annotated picture."""
        path = self._folder / image.relative
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            path = path.with_name(path.name + ".jpg")
        free, number = path, 2
        while self._used & (names := compared_names(free)):
            free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
        self._used |= names
        return free


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
