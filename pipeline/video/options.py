"""Options of videos and cameras; imports nothing of the video code, so that a command starts fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

# tyro checks `X | None` with typeguard, whose import takes 0.1 s; it does not check `Optional[X]`.
# ruff: noqa: UP045

RtspTransport = Literal["tcp", "udp"]


@dataclass(frozen=True)
class VideoOptions:
    """Flags for videos, streams and cameras only."""

    camera: Optional[int] = None
    """Number of the camera to watch until Ctrl-C; 0 is the first."""
    frame_stride: int = 1
    """Process every Nth frame of a video."""
    follow: bool = False
    """With --frame-stride: also write the frames between, in which the boxes move along with the picture."""
    motion: bool = False
    """Detect only in frames that differ from the last such frame, and once a second: for cameras that stand still."""
    max_fps: Optional[float] = None
    """Largest number of frames processed per second of video. A picture's address is fetched so often (else 2)."""
    rtsp_transport: RtspTransport = "tcp"
    """How an rtsp:// camera sends its pictures; udp is for cameras that refuse tcp."""
    seconds: Optional[float] = None
    """Stop after this many seconds of a video or camera."""
    events: Optional[Path] = None
    """File of a video's events, .csv or .jsonl; NAME.events.csv in the --out folder when not given."""
    webhook: Optional[str] = None
    """Post each event of a video as JSON to this address."""
    show: bool = False
    """Show the annotated video in a window while it is processed."""


@dataclass(frozen=True)
class VideoConfig:
    """Settings of one run over videos."""

    paths: tuple[str | Path, ...]  # names of video files and addresses of streams; empty for a camera
    options: VideoOptions
    out: Path  # folder of the results
    json: Path | None  # file of one video's JSON lines; None is NAME.jsonl in `out`
    pictures: bool  # whether annotated videos are written
    boxes: bool  # whether boxes and labels are drawn
    blur: bool  # whether faces are made unrecognisable
    min_score: float | None  # smallest score reported, 0 to 1; None is the bundle's
    min_face: float | None  # smallest face to detect in pixels; None is the bundle's
    workers: int  # number of frames processed at a time
    stems: Mapping[str, str] = field(default_factory=dict)  # video -> name of its outputs, where not its own stem
    other_outputs: tuple[Path, ...] = ()  # files that the same run wrote for photos, which no video's output replaces
