"""Writers of detections: JSON, CSV and a competition's submission; each streams, and is a whole file or none."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from common.display import as_text
from common.errors import MediaError, UserError
from common.files import replaced_text
from common.paths import FoundImage, location
from pipeline.inference.results import ImageResult

if TYPE_CHECKING:
    pass


class DetectionWriter(Protocol):
    """Takes each image in turn, and each failure."""

    def add(self, result: ImageResult) -> None: ...
    def add_failure(self, image: FoundImage, error: MediaError) -> None: ...


class JsonWriter:
    """One object: "bundle", "images" as they come, "errors" at the end."""

    def __init__(self, file: TextIO, bundle: dict[str, Any]) -> None:
        self._file = file
        self._errors: list[dict[str, str]] = []
        self._separator = "\n"
        file.write(f'{{"bundle": {_json(bundle)},\n"images": [')

    def add(self, result: ImageResult) -> None:
        self._file.write(self._separator + _json(result.record()))
        self._separator = ",\n"

    def add_failure(self, image: FoundImage, error: MediaError) -> None:
        self.add_error(error)

    def add_error(self, error: MediaError) -> None:
        """An error that concerns no image found, such as a path that does not exist."""
        self._errors.append({"file": as_text(error.file), "error": as_text(error.what)})

    def finish(self) -> None:
        self._file.write(f'],\n"errors": {_json(self._errors)}}}\n')


class CsvWriter:
    """One row a face; an image without faces has none."""

    def __init__(self, file: TextIO, class_names: Sequence[str]) -> None:
        self._csv = csv.writer(file)
        self._csv.writerow(
            ["file", "width", "height", "x1", "y1", "x2", "y2", "label", "score", "face_score"]
            + [f"p_{name}" for name in class_names]
            + ["unsure"]
        )

    def add(self, result: ImageResult) -> None:
        file = as_text(result.image.path)
        for face in result.faces:
            scores = (face["label"], face["score"], face["face_score"], *face["probs"].values())
            unsure = json.dumps(face["unsure"])  # as in the JSON
            self._csv.writerow((file, result.width, result.height, *face["box"], *scores, unsure))

    def add_failure(self, image: FoundImage, error: MediaError) -> None:
        pass  # a face table has no place for it


class SubmissionWriter:
    """Kaggle's object detection convention: image_id, and "label score x1 y1 x2 y2" for each face, joined by spaces.

    Every image has a row, also one without faces or one that could not be read. The id is the file's stem, or
    where several share it the relative name, or where that is shared too the path.
    """

    def __init__(self, file: TextIO, images: Sequence[FoundImage]) -> None:
        self._csv = csv.writer(file)
        self._csv.writerow(("image_id", "PredictionString"))
        self._stems = Counter(_stem(image) for image in images)
        self._names = Counter(image.relative for image in images)

    def add(self, result: ImageResult) -> None:
        self._row(result.image, ((face["label"], face["score"], *face["box"]) for face in result.faces))

    def add_failure(self, image: FoundImage, error: MediaError) -> None:
        self._row(image, ())

    def _row(self, image: FoundImage, faces: Any) -> None:
        name = _stem(image)
        if self._stems[name] > 1:
            name = image.relative if self._names[image.relative] == 1 else image.path
        self._csv.writerow((as_text(name), " ".join(str(value) for face in faces for value in face)))


@contextmanager
def json_writer(path: Path, bundle: dict[str, Any]) -> Iterator[JsonWriter]:
    """A JsonWriter whose file takes the place of `path` when the block ends well."""
    with replaced_text(path) as file:
        writer = JsonWriter(file, bundle)
        yield writer
        writer.finish()


@contextmanager
def csv_writer(path: Path, class_names: Sequence[str]) -> Iterator[CsvWriter]:
    """A CsvWriter whose file takes the place of `path` when the block ends well."""
    with replaced_text(path, newline="") as file:
        yield CsvWriter(file, class_names)


@contextmanager
def submission_writer(
    path: Path, images: Sequence[FoundImage], class_names: Sequence[str]
) -> Iterator[SubmissionWriter]:
    """A SubmissionWriter whose file takes the place of `path` when the block ends well.

    Raises UserError when a class name holds a space, which the format cannot carry.
    """
    spaced = [name for name in class_names if len(name.split()) != 1]
    if spaced:
        raise UserError(f"{path}: a submission cannot hold class {spaced[0]!r}; use --json or --csv")
    with replaced_text(path, newline="") as file:
        yield SubmissionWriter(file, images)


class PictureNames:
    """Gives each image a name of its own for its annotated picture below `folder`.

    The relative name is kept; a suffix other than JPEG's or PNG's gets ".jpg" behind it. A name in use, by
    another picture or by one of `reserved` (files that must not be overwritten), gets a number.
    """

    def __init__(self, folder: Path, reserved: Sequence[str | Path]) -> None:
        self._folder = folder
        self._used = {location(path).casefold() for path in reserved}  # many file systems ignore case

    def name(self, image: FoundImage) -> Path:
        path = self._folder / image.relative
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            path = path.with_name(path.name + ".jpg")
        free, number = path, 2
        while location(free).casefold() in self._used:
            free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
        self._used.add(location(free).casefold())
        return free


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _stem(image: FoundImage) -> str:
    return Path(image.relative).stem
