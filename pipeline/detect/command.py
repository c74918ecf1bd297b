"""Command: detects faces in photos, videos and cameras and classifies each face's mask."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields

import cv2
import tyro

from common.cli import console, program_name, refuse_renamed, run_cli
from common.display import display_name
from common.errors import UserError
from common.memory import limit_malloc_arenas
from common.paths import FoundImage, find_images, is_address, is_video
from pipeline.detect.args import DetectArgs
from pipeline.detect.photos import detect_images, warn
from pipeline.detect.summary import show_summary
from pipeline.inference.device import default_workers
from pipeline.inference.lazy import load_predictor
from pipeline.video.options import VideoConfig, VideoOptions

RENAMED_FLAGS = {"--every": "--frame-stride"}  # the earlier flag -> the present one


def run(args: DetectArgs) -> int:
    """Run the command and return its exit code: 0, or 1 when an input failed."""
    _check_args(args)
    if args.video.camera is not None or any(is_video(path) for path in args.paths):
        return _run_videos(args)
    return _run_photos(args)


def _run_photos(args: DetectArgs) -> int:
    _refuse_video_flags(args.video)
    images, errors = find_images(args.paths, skip=args.out)
    for error in errors:
        warn(error)
    if not images:
        return 1
    _check_outputs(args, images)
    limit_malloc_arenas()
    if args.photo_workers(len(images)) > 1:
        cv2.setNumThreads(1)  # the workers use the cores
    predictor = load_predictor(args.bundle, args.threads, args.device)
    summary = detect_images(args, images, errors, predictor)
    screen = console()
    show_summary(screen, summary, predictor.bundle.meta.class_names)
    files = {flag.removeprefix("--"): path for flag, path in args.output_files().items()}
    if summary.last_picture:
        files = {"pictures": summary.last_picture if summary.pictures == 1 else args.out} | files
    for name, path in files.items():
        screen.print(f"{name + ':':<12}{display_name(path)}", markup=False, highlight=False)
    return 1 if summary.failed else 0


def _run_videos(args: DetectArgs) -> int:
    from pipeline.video.checks import check_config
    from pipeline.video.process import process_videos

    for flag, path in (("--csv", args.csv), ("--submission", args.submission)):
        if path is not None:
            raise UserError(f"{flag} is for pictures; use --json and --events for a video's results")
    live = args.video.camera is not None or any(is_address(path) for path in args.paths)
    config = VideoConfig(
        paths=args.paths,
        options=args.video,
        out=args.out,
        json=args.json,
        pictures=args.pictures,
        boxes=args.boxes,
        blur=args.blur,
        min_score=args.min_score,
        min_face=args.min_face,
        workers=args.workers or (1 if live else default_workers(args.device)),
    )
    check_config(config)
    limit_malloc_arenas()
    if config.workers > 1:
        cv2.setNumThreads(1)  # the workers use the cores
    return process_videos(config, load_predictor(args.bundle, args.threads, args.device))


def _check_args(args: DetectArgs) -> None:
    """Raise UserError for values that fit neither photos nor videos."""
    if not args.paths and args.video.camera is None:
        raise UserError("no pictures named; use photos, folders or patterns, as in `detect photo.jpg`")
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise UserError(f"--min-score is {args.min_score:g}; use a number from 0 to 1")
    if args.min_face is not None and not 1 <= args.min_face < float("inf"):
        raise UserError(f"--min-face is {args.min_face:g}; use 1 pixel or more")
    for flag, value in (("--threads", args.threads), ("--workers", args.workers)):
        if value is not None and value < 1:
            raise UserError(f"{flag} is {value}; use 1 or more")


def _refuse_video_flags(options: VideoOptions) -> None:
    for field in fields(VideoOptions):
        if getattr(options, field.name) != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            raise UserError(f"{flag} is for videos, but no video is named; remove {flag}")


def _check_outputs(args: DetectArgs, images: Sequence[FoundImage]) -> None:
    """Raise UserError for outputs that would overwrite an input, one another, or a folder or device."""
    out = os.path.realpath(args.out)
    if args.pictures and args.out.is_dir() and any(os.path.realpath(path) == out for path in args.paths):
        raise UserError(f"{display_name(args.out)}: is both --out and a folder of pictures; use another --out")
    inputs = {os.path.realpath(image.path) for image in images}
    flags: dict[str, str] = {}  # real path -> flag
    for flag, path in args.output_files().items():
        real = os.path.realpath(path)
        if real in inputs:
            raise UserError(f"{display_name(path)}: is one of the pictures; name another file with {flag}")
        if path.exists() and not path.is_file():
            raise UserError(f"{display_name(path)}: is a folder or device; name a file with {flag}")
        if real in flags:
            raise UserError(f"{display_name(path)}: is named by both {flags[real]} and {flag}; use one file for each")
        flags[real] = flag


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the command, and return its exit code."""

    def command() -> int:
        refuse_renamed(argv, RENAMED_FLAGS)
        return run(tyro.cli(DetectArgs, args=argv, prog=program_name("pipeline.detect")))

    return run_cli(command)
