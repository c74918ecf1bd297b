"""Checks the options of videos before a predictor is loaded."""

from __future__ import annotations

import os

from common.display import display_name
from common.errors import UserError
from common.paths import canonical_path, compared_names
from pipeline.video.events import check_event_file
from pipeline.video.options import VideoConfig
from pipeline.video.webhook import check_webhook_address


def check_config(config: VideoConfig) -> None:
    """Raise UserError for options that do not fit videos or one another."""
    options = config.options
    _check_sources(config)
    if options.frame_stride < 1:
        raise UserError(f"--frame-stride is {options.frame_stride}; use 1 or more")
    if options.follow and options.frame_stride == 1:
        raise UserError("--follow is for the frames that --frame-stride leaves out; set --frame-stride to 2 or more")
    for flag, given in (("--follow", options.follow), ("--motion", options.motion)):
        if given and config.blur:
            raise UserError(
                f"--blur covers only faces that are looked for, and {flag} skips frames; remove one of them"
            )
    for flag, value in (("--max-fps", options.max_fps), ("--seconds", options.seconds)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{flag} is {value:g}; use a number above 0")
    if options.rtsp_transport != "tcp" and not any(os.fspath(p).lower().startswith("rtsp") for p in config.paths):
        raise UserError("--rtsp-transport is for rtsp:// addresses; remove --rtsp-transport")
    if options.events:
        check_event_file(options.events)
    if options.webhook:
        check_webhook_address(options.webhook)
    _check_output_files(config)


def _check_sources(config: VideoConfig) -> None:
    camera = config.options.camera
    if camera is None:
        return
    if config.paths:
        raise UserError("--camera and file names are given; use one or the other")
    if camera < 0:
        raise UserError(f"--camera is {camera}; use a camera's number, 0 for the first")


def _check_output_files(config: VideoConfig) -> None:
    flags = (("--json", config.json), ("--events", config.options.events))
    files = {flag: path for flag, path in flags if path is not None}
    for flag, path in files.items():
        if len(config.paths) > 1:
            raise UserError(f"{display_name(path)}: {flag} names one file for several videos; remove {flag}")
        if path.exists() and not path.is_file():
            raise UserError(f"{display_name(path)}: is a folder or device; name a file with {flag}")
        if compared_names(path) & {name for video in config.paths for name in compared_names(video)}:
            raise UserError(f"{display_name(path)}: is the video; name another file with {flag}")
        if compared_names(path) & {name for output in config.other_outputs for name in compared_names(output)}:
            raise UserError(f"{display_name(path)}: is the file of the photos' results; name another file with {flag}")
    if len({canonical_path(file).casefold() for file in files.values()}) < len(files):
        raise UserError(f"{display_name(files['--json'])}: is named by both --json and --events; use one file for each")
