"""Arguments of the command pipeline.detect."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from common.arguments import LazyTyro
from pipeline.inference.device import Device, default_workers
from pipeline.video.options import VideoOptions

if TYPE_CHECKING:
    import tyro
else:
    tyro = LazyTyro()

# tyro checks `X | None` and `tuple[str, ...]` with typeguard, whose import takes 0.1 s; it does not check these types.
# ruff: noqa: UP045


@dataclass(frozen=True)
class DetectArgs:
    """Find the faces in photos or videos, and report whether each wears a mask, no mask, or wears it wrongly."""

    paths: tyro.conf.Positional[tuple] = ()
    """Photos, videos, folders (with all folders below), glob patterns, and addresses of streams (rtsp://...)."""
    bundle: Optional[Path] = None
    """Bundle directory, or a bundle of the project by name; the default bundle when not given."""
    min_score: Optional[float] = None
    """Smallest score reported, 0 to 1 (the bundle's when not given); 0 keeps every candidate."""
    min_face: Optional[float] = None
    """Smallest face to detect, in pixels (the bundle's when not given); larger is faster."""
    out: Path = Path("detections")
    """Folder of the annotated pictures and videos."""
    json: Optional[Path] = None
    """JSON file of photos; detections.json in the --out folder when not given. A video has one line per frame,
    in NAME.jsonl."""
    csv: Optional[Path] = None
    """Also write one row per face to this file (photos)."""
    submission: Optional[Path] = None
    """Also write image_id,PredictionString rows to this file, the format of detection competitions."""
    pictures: bool = True
    """Write annotated pictures and videos."""
    boxes: bool = True
    """Draw boxes and labels into the pictures."""
    blur: bool = False
    """Make every face in the pictures unrecognisable."""
    animations: Annotated[bool, tyro.conf.arg(aliases=["--video"])] = False  # the earlier flag still works
    """Process animated GIF, WebP, PNG and AVIF files as videos; without it, their first frame is a photo."""
    skip_videos: bool = False
    """Leave out the videos of folders and patterns."""
    # This help text is not a docstring, because tyro would parse all docstrings for it, even without --help.
    video: tyro.conf.OmitArgPrefixes[VideoOptions] = field(
        default_factory=VideoOptions, metadata={"help": "For videos, streams and cameras only."}
    )
    workers: Optional[int] = None
    """Photos or frames processed at a time; if not given, one per core (8 at most), one with cuda or a live source."""
    threads: int = 1
    """Threads of each network; more workers are faster."""
    device: Device = "cpu"
    """Device of the networks; cuda needs the package onnxruntime-gpu."""

    @property
    def json_file(self) -> Path:
        """Path of the JSON file for photos."""
        return self.json or self.out / "detections.json"

    def output_files(self) -> dict[str, Path]:
        """Return the files to be written for photos, by flag."""
        files = {"--json": self.json_file, "--csv": self.csv, "--submission": self.submission}
        return {flag: path for flag, path in files.items() if path is not None}

    def photo_workers(self, images: int) -> int:
        """Return the number of photos processed at a time, of `images` in all."""
        return min(self.workers or default_workers(self.device), images)
