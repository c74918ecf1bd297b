"""Command: detects faces in photos, videos and cameras and classifies each face's mask."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.display import display_name
from common.errors import UserError
from common.memory import limit_malloc_arenas
from common.paths import FoundMedia, find_media, is_address
from pipeline.detect.args import DetectArgs
from pipeline.detect.photos import detect_images, warn
from pipeline.detect.summary import show_summary
from pipeline.inference.device import default_workers
from pipeline.inference.lazy import load_predictor
from pipeline.video.options import VideoConfig, VideoOptions

if TYPE_CHECKING:
    from pipeline.inference.predictor import Predictor

RENAMED_FLAGS = {"--every": "--frame-stride"}  # the earlier flag -> the present one


def run(args: DetectArgs) -> int:
    """Run the command and return its exit code: 0, or 1 when an input failed."""
    _check_args(args)
    found = FoundMedia([], [], []) if args.video.camera is not None else _find_inputs(args)
    images, videos = found.images, None
    if args.video.camera is not None or found.videos:
        from pipeline.video.checks import check_config

        videos = _video_config(args, found)
        check_config(videos)
    else:
        _refuse_video_flags(args.video)
    _check_folder(args)
    _check_no_bundle_files(args)
    for error in found.errors:
        warn(error)
    if not images and videos is None:
        if not found.errors:
            raise UserError("there are only videos, and --skip-videos leaves them out; remove it or name photos")
        return 1
    if images:
        _check_outputs(args, found)
    limit_malloc_arenas()
    if max(args.photo_workers(len(images)), videos.workers if videos else 1) > 1:
        cv2.setNumThreads(1)  # the workers use the cores
    predictor = load_predictor(args.bundle, args.threads, args.device)
    failed = bool(found.errors)
    if images:
        failed |= _run_photos(args, found, predictor)
    if videos is not None:
        failed |= _run_videos(videos, predictor, after_photos=bool(images))
    return int(failed)


def _find_inputs(args: DetectArgs) -> FoundMedia:
    """Return the photos and videos that the arguments name."""
    found = find_media(args.paths, skip=args.out)
    if args.animations:
        from pipeline.video.formats.animation import is_animation

        animations = [image for image in found.images if is_animation(image.path)]
        photos = [image for image in found.images if image not in set(animations)]
        found = FoundMedia(photos, [*found.videos, *animations], found.errors)
    if args.skip_videos:
        named = set(map(os.fspath, args.paths))
        found = replace(found, videos=[video for video in found.videos if video.path in named])
    return found


def _run_photos(args: DetectArgs, found: FoundMedia, predictor: Predictor) -> bool:
    """Process the photos, and print their results; return whether one failed."""
    summary = detect_images(args, found.images, found.errors, predictor)
    screen = console()
    show_summary(screen, summary, predictor.bundle.meta.class_names)
    files = {flag.removeprefix("--"): path for flag, path in args.output_files().items()}
    if summary.last_picture:
        files = {"pictures": summary.last_picture if summary.pictures == 1 else args.out} | files
    for name, path in files.items():
        screen.print(f"{name + ':':<12}{display_name(path)}", markup=False, highlight=False)
    return summary.failed > 0


def _video_config(args: DetectArgs, found: FoundMedia) -> VideoConfig:
    """Return the settings of the videos; raise UserError for flags that fit photos only."""
    for flag, path in (("--csv", args.csv), ("--submission", args.submission)):
        if path is not None and not found.images:
            raise UserError(f"{flag} is for pictures; use --json and --events for a video's results")
    camera = args.video.camera is not None
    live = camera or any(is_address(path) for path in args.paths)
    return VideoConfig(
        paths=args.paths if camera else tuple(video.path for video in found.videos),
        options=args.video,
        out=args.out,
        json=None if found.images else args.json,
        pictures=args.pictures,
        boxes=args.boxes,
        blur=args.blur,
        min_score=args.min_score,
        min_face=args.min_face,
        workers=args.workers or (1 if live else default_workers(args.device)),
        stems={v.path: str(Path(v.relative).with_suffix("")) for v in found.videos if "/" in v.relative},
        other_outputs=tuple(args.output_files().values()) if found.images else (),
    )


def _run_videos(config: VideoConfig, predictor: Predictor, after_photos: bool) -> bool:
    """Process the videos; return whether one failed. Raises UserError where the video extra is not installed."""
    from pipeline.video.process import process_videos

    if after_photos:
        try:
            with requires_extra("video"):
                import av  # noqa: F401  # report a missing package once, with what was left out
        except UserError as error:
            more = f" and {len(config.paths) - 1} more" if len(config.paths) > 1 else ""
            raise UserError(f"{display_name(config.paths[0])}{more}: not processed, {error}") from error
    return process_videos(config, predictor) != 0


def _check_args(args: DetectArgs) -> None:
    """Raise UserError for values that fit neither photos nor videos."""
    if not args.paths and args.video.camera is None:
        raise UserError("no pictures named; use photos, folders or patterns, as in `detect photo.jpg`")
    if args.animations and args.video.camera is not None:
        raise UserError("--animations is for animated pictures, but --camera is given; remove one of the two")
    if args.animations and args.skip_videos:
        raise UserError("--animations asks for videos, and --skip-videos leaves them out; remove one of the two")
    if args.blur and not args.pictures and not args.video.show:
        raise UserError("--blur changes pictures, and --no-pictures writes none; remove one of the two")
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


def _check_folder(args: DetectArgs) -> None:
    """Raise UserError where the annotated pictures and videos would be inputs of the next run."""
    out = os.path.realpath(args.out)
    if args.pictures and args.out.is_dir() and any(os.path.realpath(path) == out for path in args.paths):
        raise UserError(f"{display_name(args.out)}: is both --out and a folder of pictures; use another --out")


def _check_no_bundle_files(args: DetectArgs) -> None:
    """Raise UserError for an output that would replace a file of a bundle."""
    for flag, path in {**args.output_files(), "--events": args.video.events}.items():
        if path is not None and path.exists():
            from pipeline.inference.bundle import check_no_bundle_file

            check_no_bundle_file(flag, path)


def _check_outputs(args: DetectArgs, found: FoundMedia) -> None:
    """Raise UserError for outputs that would overwrite an input, one another, or a folder or device."""
    videos = [video.path for video in found.videos if not is_address(video.path)]
    inputs = set(map(os.path.realpath, (*(image.path for image in found.images), *videos)))
    flags: dict[str, str] = {}  # real path -> flag
    outputs = {**args.output_files(), **({"--events": args.video.events} if args.video.events else {})}
    for flag, path in outputs.items():
        real = os.path.realpath(path)
        if real in inputs:
            raise UserError(f"{display_name(path)}: is one of the inputs; name another file with {flag}")
        if path.exists() and not path.is_file():
            raise UserError(f"{display_name(path)}: is a folder or device; name a file with {flag}")
        if real in flags:
            raise UserError(f"{display_name(path)}: is named by both {flags[real]} and {flag}; use one file for each")
        flags[real] = flag


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the command, and return its exit code."""

    def command() -> int:
        return run(parse_args(DetectArgs, argv, "pipeline.detect", RENAMED_FLAGS, positional="paths"))

    return run_cli(command)
