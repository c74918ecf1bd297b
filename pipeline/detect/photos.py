"""Detects the faces of photos and writes what the arguments ask for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.boxes import Boxes
from common.cli import progress
from common.display import display_name
from common.errors import MediaError, UserError
from common.files import check_writable_folder, is_of_one_name
from common.images import Photo, read_image
from common.memory import OUT_OF_MEMORY, is_out_of_memory
from common.parallel import map_ordered
from common.paths import FoundImage
from pipeline.detect.args import DetectArgs
from pipeline.detect.summary import MAX_FACE_TABLES, DetectSummary
from pipeline.detect.writers import JsonWriter, PictureNames, TableWriter, csv_writer, json_writer, submission_writer
from pipeline.inference.blur import MIN_BLUR_SCORE, blur_faces
from pipeline.inference.draw import draw
from pipeline.inference.image_writer import write_image
from pipeline.inference.results import ImageResult, image_result

if TYPE_CHECKING:
    from pipeline.inference.detections import Detections
    from pipeline.inference.predictor import Predictor


def detect_images(
    args: DetectArgs, images: Sequence[FoundImage], errors: Sequence[MediaError], predictor: Predictor
) -> DetectSummary:
    """Detect faces in each image and write the outputs in order; memory does not grow with the number of images.

    An image that cannot be read or drawn is reported on standard error and counted as failed.

    Args:
        args: arguments of the command.
        images: the images to process.
        errors: errors of paths without an image, recorded in the JSON.
        predictor: detects the faces.

    Raises:
        UserError: an output cannot be written.
    """
    summary = DetectSummary(failed=len(errors))
    names = _picture_names(args, images) if args.pictures else None
    with ExitStack() as stack:
        to_json, tables = _open_writers(stack, args, images, predictor)
        for error in errors:
            to_json.add_error(error)
        jobs = ((image, names.name(image) if names else None) for image in images)
        workers = args.photo_workers(len(images))
        results = map_ordered(lambda job: _detect_photo(args, predictor, *job), jobs, workers)
        stack.enter_context(closing(results))
        bar = stack.enter_context(progress()) if len(images) > MAX_FACE_TABLES else None
        for result in bar.track(results, len(images), description="detecting") if bar else results:
            _record(result, summary, to_json, tables)
    return summary


def _picture_names(args: DetectArgs, images: Sequence[FoundImage]) -> PictureNames:
    return PictureNames(args.out, [*(image.path for image in images), *args.output_files().values()])


def _open_writers(
    stack: ExitStack, args: DetectArgs, images: Sequence[FoundImage], predictor: Predictor
) -> tuple[JsonWriter, list[TableWriter]]:
    """Return the writer of the JSON and the writers of the tables; `stack` closes their files."""
    class_names = predictor.bundle.meta.class_names
    if args.pictures:
        with _naming_flag("--out", args.out):
            check_writable_folder(args.out)
    with _naming_flag("--json", args.json_file):
        to_json = stack.enter_context(json_writer(args.json_file, predictor.bundle.describe()))
    tables: list[TableWriter] = []
    if args.csv:
        with _naming_flag("--csv", args.csv):
            tables.append(stack.enter_context(csv_writer(args.csv, class_names)))
    if args.submission:
        with _naming_flag("--submission", args.submission):
            tables.append(stack.enter_context(submission_writer(args.submission, images, class_names)))
    return to_json, tables


@contextmanager
def _naming_flag(flag: str, path: Path) -> Iterator[None]:
    """Turn an OSError at opening an output into one line with the flag that fixes it."""
    try:
        yield
    except OSError as error:
        reason = f"cannot be written ({error.strerror}); name another place with {flag}"
        raise UserError(f"{display_name(path)}: {reason}") from error


@dataclass(frozen=True)
class PhotoResult:
    """Result of one photo."""

    image: FoundImage
    result: ImageResult | None  # None where the photo cannot be read
    picture: Path | None = None  # the annotated picture, where one was written
    error: MediaError | None = None  # why the photo cannot be read, or its annotated picture cannot be written


def _detect_photo(args: DetectArgs, predictor: Predictor, image: FoundImage, picture: Path | None) -> PhotoResult:
    """Read a photo, detect its faces, and write the annotated `picture`, if any."""
    try:
        photo = predictor.read(image.path, args.min_face)
        detections, blur_boxes = _detect_faces(args, predictor, photo)
    except Exception as error:
        return PhotoResult(image, None, error=_own_error(image, error))
    result = image_result(image, photo.size, detections, photo.note)
    if picture is None:
        return PhotoResult(image, result)
    try:
        # Detection runs on the reduced photo, with pictures and without, so that both give the same faces.
        pixels = photo.pixels if photo.scale == (1, 1) else read_image(image.path)
        if args.blur:
            pixels = blur_faces(pixels, blur_boxes)
        write_image(picture, draw(pixels, detections, landmarks=not args.blur) if args.boxes else pixels)
    except Exception as error:
        return PhotoResult(image, result, error=_own_error(image, error, picture))
    return PhotoResult(image, result, picture)


def _own_error(image: FoundImage, error: Exception, picture: Path | None = None) -> MediaError:
    """Return why this photo or its annotated picture failed; raise errors that concern all photos again."""
    if isinstance(error, MediaError):
        return error
    if is_out_of_memory(error):
        return MediaError(image.path, OUT_OF_MEMORY)
    if picture is not None and isinstance(error, OSError) and is_of_one_name(error, picture):
        reason = f"the annotated picture {display_name(picture)} cannot be written ({error.strerror})"
        return MediaError(image.path, f"{reason}; rename the photo, or name another folder with --out")
    raise error


def _detect_faces(args: DetectArgs, predictor: Predictor, photo: Photo) -> tuple[Detections, Boxes]:
    """Return the faces to report, and (N, 4) boxes of all possible faces where faces are blurred."""
    if not (args.blur and args.pictures):
        detections = predictor.detect(photo, args.min_score, args.min_face)
        return detections, detections.boxes
    min_score = predictor.bundle.meta.score_threshold if args.min_score is None else args.min_score
    detections = predictor.detect(photo, min(min_score, MIN_BLUR_SCORE), args.min_face)
    return detections[detections.scores >= min_score], detections.boxes


def _record(photo: PhotoResult, summary: DetectSummary, to_json: JsonWriter, tables: Sequence[TableWriter]) -> None:
    """Count one photo and write its rows."""
    if photo.error is not None:
        warn(photo.error)
        summary.failed += 1
        to_json.add_error(photo.error)
    if photo.result is not None:
        if photo.result.note:
            _warn_of_note(photo.result)
        summary.add(photo.result)
        to_json.add(photo.result)
    for table in tables:
        table.add(photo.image, photo.result)
    if photo.picture is not None:
        summary.last_picture = photo.picture
        summary.pictures += 1


def _warn_of_note(result: ImageResult) -> None:
    """Print what to know of a photo that was read all the same."""
    fix = "; add --animations for all" if "animation" in result.note else ""
    print(f"warning: {display_name(result.image.path)}: {result.note}{fix}", file=sys.stderr)


def warn(error: MediaError) -> None:
    """Print an error that does not stop the run."""
    print(f"error: {error}", file=sys.stderr)
