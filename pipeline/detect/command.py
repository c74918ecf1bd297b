"""Finds the faces in photos and videos and names how each wears its mask: annotated pictures, a table, JSON, CSV."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import cv2
import tyro

from common.boxes import Boxes
from common.cli import console, program_name, progress, refuse_renamed, run_cli
from common.display import shown
from common.errors import MediaError, UserError
from common.files import check_folder
from common.images import Photo, read_image
from common.memory import limit_malloc_arenas
from common.parallel import map_ordered, usable_cores
from common.paths import FoundImage, find_images, is_address, is_video
from pipeline.detect.summary import MAX_FACE_TABLES, DetectSummary, show_summary
from pipeline.detect.writers import DetectionWriter, PictureNames, csv_writer, json_writer, submission_writer
from pipeline.inference.blur import LEAST_SCORE, blur_faces
from pipeline.inference.device import Device
from pipeline.inference.draw import draw
from pipeline.inference.image_writer import write_image
from pipeline.inference.results import ImageResult, image_result

if TYPE_CHECKING:
    from pipeline.inference.detections import Detections
    from pipeline.inference.predictor import Predictor

MOST_WORKERS = 8  # unless told: each may hold a photo of 89 million pixels


# tyro checks `X | None` and `tuple[str, ...]` with typeguard, whose import takes 0.1 s; not so these.
# ruff: noqa: UP045
# The present flag by its name in earlier versions.
RENAMED_FLAGS = {"--every": "--frame-stride"}


@dataclass(frozen=True)
class DetectArgs:
    """Finds the faces in photos or videos and says of each whether it wears a mask, none, or wears it wrongly."""

    paths: tyro.conf.Positional[tuple] = ()
    """Photos, folders (searched to the bottom) and glob patterns; or videos and addresses of streams (rtsp://...)."""
    camera: Optional[int] = None
    """Watch this camera, 0 for the first, until Ctrl-C."""
    bundle: Optional[Path] = None
    """The bundle directory to use; the one that comes with the project when none is named."""
    min_score: Optional[float] = None
    """Smallest score reported, 0 to 1 (the bundle's when not given); 0 keeps every candidate."""
    min_face: Optional[float] = None
    """Smallest face looked for, in pixels (the bundle's when not given); larger is faster."""
    out: Path = Path("detections")
    """Folder of the annotated pictures and videos."""
    json: Optional[Path] = None
    """The JSON file; detections.json in the --out folder when not given. Of a video one line a frame, in NAME.jsonl."""
    csv: Optional[Path] = None
    """Also write one row a face to this file (photos)."""
    submission: Optional[Path] = None
    """Also write image_id,PredictionString rows to this file, as detection competitions take them."""
    pictures: bool = True
    """Write annotated pictures and videos."""
    boxes: bool = True
    """Draw boxes and labels into them."""
    blur: bool = False
    """Make every face in them unrecognisable."""
    frame_stride: int = 1
    """Look at every Nth frame of a video."""
    max_fps: Optional[float] = None
    """Look at no more frames of a video a second than this."""
    seconds: Optional[float] = None
    """Stop after so many seconds of a video or camera."""
    events: Optional[Path] = None
    """File of a video's events, .csv or .jsonl; NAME.events.csv in the --out folder when not given."""
    webhook: Optional[str] = None
    """Post each event of a video as JSON to this address."""
    show: bool = False
    """Show a video while it is watched, in a window."""
    workers: Optional[int] = None
    """Photos or frames under way at a time; if not given, one a core (8 at most), with cuda or a camera one."""
    threads: int = 1
    """Threads of each net; more workers bring more."""
    device: Device = "cpu"
    """What the nets run on; cuda needs the package onnxruntime-gpu."""

    @property
    def json_file(self) -> Path:
        """Where the JSON goes."""
        return self.json or self.out / "detections.json"

    def files(self) -> dict[str, Path]:
        """The files to be written, by the flag that names each."""
        named = {"--json": self.json_file, "--csv": self.csv, "--submission": self.submission}
        return {flag: path for flag, path in named.items() if path is not None}


def load_predictor(bundle: Path | None, threads: int, device: Device) -> Predictor:
    """The predictor of a bundle, the default one when none is named; imported late, after bad input was seen."""
    from pipeline.inference.predictor import Predictor

    return Predictor.load(bundle, threads, device)


@dataclass(frozen=True)
class _DetectResult:
    """A photo gone through, or why not. picture: its annotated picture, where one was written; drawing: why not."""

    image: FoundImage
    result: ImageResult | None = None
    error: MediaError | None = None
    picture: Path | None = None
    drawing: MediaError | None = None


def _detect_one(args: DetectArgs, predictor: Predictor, image: FoundImage, picture: Path | None) -> _DetectResult:
    """Reads a photo, detects, and writes its annotated picture to `picture`, if any."""
    try:
        photo = predictor.read(image.path, args.min_face)
    except MediaError as error:
        return _DetectResult(image, error=error)
    found, hidden = _find(args, predictor, photo)
    result = image_result(image, photo.size, found)
    if picture is None:
        return _DetectResult(image, result)
    try:
        # Detected on the smaller picture with pictures and without, so that both give the same faces.
        whole = photo.pixels if photo.scale == (1, 1) else read_image(image.path)
        if args.blur:
            whole = blur_faces(whole, hidden)
        write_image(picture, draw(whole, found, landmarks=not args.blur) if args.boxes else whole)
    except MediaError as error:
        return _DetectResult(image, result, drawing=error)
    return _DetectResult(image, result, picture=picture)


def _find(args: DetectArgs, predictor: Predictor, photo: Photo) -> tuple[Detections, Boxes]:
    """The faces to be reported, and boxes (N, 4) of all that may be one where faces are to be blurred."""
    if not (args.blur and args.pictures):
        found = predictor.detect(photo, args.min_score, args.min_face)
        return found, found.boxes
    least = predictor.bundle.meta.score_threshold if args.min_score is None else args.min_score
    found = predictor.detect(photo, min(least, LEAST_SCORE), args.min_face)
    return found[found.scores >= least], found.boxes


def detect_images(
    args: DetectArgs, images: Sequence[FoundImage], problems: Sequence[MediaError], predictor: Predictor
) -> DetectSummary:
    """Detects in each image and writes what `args` ask for, in order; memory does not grow with their number.

    problems: paths that gave no image, recorded among the JSON's errors. A picture that cannot be read or drawn
    is named on standard error and counted as failed. Raises UserError when an output cannot be written.
    """
    summary = DetectSummary(failed=len(problems))
    bundle = predictor.bundle
    class_names = bundle.meta.class_names
    names = _picture_names(args, images) if args.pictures else None
    with ExitStack() as stack:
        if args.pictures:
            with _naming("--out", args.out):
                check_folder(args.out)
        with _naming("--json", args.json_file):
            to_json = stack.enter_context(json_writer(args.json_file, bundle.describe()))
        writers: list[DetectionWriter] = [to_json]
        if args.csv:
            with _naming("--csv", args.csv):
                writers.append(stack.enter_context(csv_writer(args.csv, class_names)))
        if args.submission:
            with _naming("--submission", args.submission):
                writers.append(stack.enter_context(submission_writer(args.submission, images, class_names)))
        for problem in problems:
            to_json.add_error(problem)

        jobs = ((image, names.name(image) if names else None) for image in images)
        done = map_ordered(lambda job: _detect_one(args, predictor, *job), jobs, _workers(args, len(images)))
        stack.enter_context(closing(done))
        bar = stack.enter_context(progress()) if len(images) > MAX_FACE_TABLES else None
        for one in bar.track(done, len(images), description="detecting") if bar else done:
            if one.result is None:
                assert one.error is not None
                _complain(one.error)
                summary.failed += 1
                for writer in writers:
                    writer.add_failure(one.image, one.error)
                continue
            summary.add(one.result)
            for writer in writers:
                writer.add(one.result)
            if one.drawing is not None:
                _complain(one.drawing)
                summary.failed += 1
                to_json.add_error(one.drawing)
            elif one.picture is not None:
                summary.last_picture = one.picture
                summary.pictures += 1
    return summary


def _picture_names(args: DetectArgs, images: Sequence[FoundImage]) -> PictureNames:
    # An input that is a link is kept whole together with what it points to.
    inputs = {name for image in images for name in (image.path, os.path.realpath(image.path))}
    return PictureNames(args.out, [*inputs, *args.files().values()])


def _workers(args: DetectArgs, images: int) -> int:
    usual = 1 if args.device == "cuda" else min(usable_cores(), MOST_WORKERS)
    return min(args.workers or usual, images)


def run(args: DetectArgs) -> int:
    """The whole command; returns its exit code."""
    _check(args)
    if args.camera is not None or any(is_video(path) for path in args.paths):
        return _watch(args)
    _check_photos(args)
    images, problems = find_images(args.paths, skip=args.out)
    for problem in problems:
        _complain(problem)
    if not images:
        return 1
    _check_outputs(args, images)
    limit_malloc_arenas()
    if _workers(args, len(images)) > 1:
        cv2.setNumThreads(1)  # the cores are taken
    predictor = load_predictor(args.bundle, args.threads, args.device)
    summary = detect_images(args, images, problems, predictor)
    screen = console()
    show_summary(screen, summary, predictor.bundle.meta.class_names)
    places = {flag.removeprefix("--"): path for flag, path in args.files().items()}
    if summary.last_picture:
        places = {"pictures": summary.last_picture if summary.pictures == 1 else args.out} | places
    for name, path in places.items():
        screen.print(f"{name + ':':<12}{shown(path)}", markup=False, highlight=False)
    return 1 if summary.failed else 0


def _watch(args: DetectArgs) -> int:
    """Videos, streams or a camera instead of photos."""
    from pipeline.video.process import check, watch_all

    check(args)
    limit_malloc_arenas()
    live = args.camera is not None or any(is_address(path) for path in args.paths)
    workers = args.workers or (1 if live or args.device == "cuda" else min(usable_cores(), MOST_WORKERS))
    if workers > 1:
        cv2.setNumThreads(1)
    return watch_all(args, load_predictor(args.bundle, args.threads, args.device), workers)


def _check(args: DetectArgs) -> None:
    if not args.paths and args.camera is None:
        raise UserError("no pictures named; give photos, folders or patterns, as in `detect photo.jpg`")
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise UserError(f"--min-score is {args.min_score:g}; give a number from 0 to 1")
    if args.min_face is not None and not 1 <= args.min_face < float("inf"):
        raise UserError(f"--min-face is {args.min_face:g}; give 1 pixel or more")
    for flag, value in (("--threads", args.threads), ("--workers", args.workers)):
        if value is not None and value < 1:
            raise UserError(f"{flag} is {value}; give 1 or more")


def _check_photos(args: DetectArgs) -> None:
    """Refuses what only videos know."""
    usual = DetectArgs()
    for name in ("frame_stride", "max_fps", "seconds", "events", "webhook", "show"):
        if getattr(args, name) != getattr(usual, name):
            raise UserError(f"--{name.replace('_', '-')} is for videos, and none is named; leave it out")


def _check_outputs(args: DetectArgs, images: Sequence[FoundImage]) -> None:
    """Refuses outputs that would overwrite an input, one another, or something that is no file."""
    out = os.path.realpath(args.out)
    if args.pictures and args.out.is_dir() and any(os.path.realpath(path) == out for path in args.paths):
        raise UserError(f"{shown(args.out)}: is both --out and a folder of pictures; give another --out")
    inputs = {os.path.realpath(image.path) for image in images}
    seen: dict[str, str] = {}
    for flag, path in args.files().items():
        real = os.path.realpath(path)
        if real in inputs:
            raise UserError(f"{shown(path)}: is one of the pictures; name another file with {flag}")
        if path.exists() and not path.is_file():
            raise UserError(f"{shown(path)}: is a folder or device; name a file with {flag}")
        if real in seen:
            raise UserError(f"{shown(path)}: is named by both {seen[real]} and {flag}; give each its own file")
        seen[real] = flag


@contextmanager
def _naming(flag: str, path: Path) -> Iterator[None]:
    """Turns an OSError on opening an output into one line with the flag that can mend it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{shown(path)}: cannot be written ({error.strerror}); name another place with {flag}"
        ) from error


def _complain(error: MediaError) -> None:
    print(f"error: {error}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""

    def command() -> int:
        refuse_renamed(argv, RENAMED_FLAGS)
        return run(tyro.cli(DetectArgs, args=argv, prog=program_name("pipeline.detect")))

    return run_cli(command)
