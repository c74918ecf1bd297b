"""Writes the results of one video: annotated video, JSON lines, events, webhook, window."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TextIO

from common.boxes import Boxes
from common.cli import console
from common.display import path_text
from common.errors import MediaError
from common.files import atomic_text, streaming_text
from common.images import Pixels
from common.paths import FoundImage
from pipeline.inference.blur import blur_faces
from pipeline.inference.detections import Detections
from pipeline.inference.draw import draw
from pipeline.inference.results import image_result
from pipeline.video.camera import LiveStream, Source
from pipeline.video.events import Event, EventWriter, event_writer
from pipeline.video.options import VideoConfig
from pipeline.video.output_paths import OutputPaths
from pipeline.video.reader import MIN_RATE, Frame
from pipeline.video.tracker import Track
from pipeline.video.webhook import Webhook
from pipeline.video.window import Window
from pipeline.video.writer import VideoWriter, growing_video, video_writer


@dataclass(frozen=True)
class FrameResult:
    """Results of one frame."""

    frame: Frame
    detections: Detections  # all, weak ones included
    tracks: Sequence[Track]  # the N tracks seen in the frame
    faces: Detections  # the N tracks as detections with smoothed scores, in the same order
    lost_boxes: Boxes  # (M, 4): where confirmed faces that were not seen are expected
    events: Sequence[Event]


class VideoOutputs:
    """All outputs of one video; `stack` closes each file."""

    def __init__(
        self, stack: ExitStack, source: Source, paths: OutputPaths, config: VideoConfig, webhook: Webhook | None
    ) -> None:
        live = isinstance(source, LiveStream)
        self._config, self._webhook, self._screen, self._name = config, webhook, console(), source.name
        self._video: VideoWriter | None = None
        if paths.video:
            writer = (growing_video if live else video_writer)(paths.video, _output_rate(source, config))
            self._video = stack.enter_context(writer)
        self._lines: TextIO = stack.enter_context((streaming_text if live else atomic_text)(paths.lines, newline=""))
        self._events: EventWriter = stack.enter_context(event_writer(paths.events, live))
        self._window = stack.enter_context(Window(source.name)) if config.options.show else None

    @property
    def closed(self) -> bool:
        """Whether the user closed the window."""
        return self._window is not None and not self._window.open

    def add(self, result: FrameResult) -> None:
        """Write the results of one frame."""
        self._write(self._line(result))
        self.add_events(result.events)
        if self._video or self._window:
            pixels = self._picture(result)
            if self._video:
                self._video.add(pixels, result.frame.time)
            if self._window:
                self._window.show(pixels)

    def add_events(self, events: Sequence[Event]) -> None:
        """Write, post and print events."""
        for event in events:
            self._events.add(event)
            if self._webhook:
                self._webhook.add(event)
            what = f"face {event.track} {event.text}{'?' if event.unsure else ''} ({event.score:.2f})"
            self._screen.print(f"{clock(event.time)}  {what}", markup=False, highlight=False)

    def add_error(self, error: MediaError) -> None:
        """Write an error among the JSON lines, for readers of that file alone."""
        self._write({"file": path_text(self._name), "error": error.reason})

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._lines.flush()

    def _line(self, result: FrameResult) -> dict[str, Any]:
        """Return the JSON object of one frame."""
        frame = result.frame
        height, width = frame.pixels.shape[:2]
        faces = image_result(FoundImage(self._name, self._name), (width, height), result.faces).faces
        return {
            "file": path_text(self._name),
            "frame": frame.index,
            "time": round(frame.time, 3),
            **({"clock": frame.clock.isoformat(timespec="milliseconds")} if frame.clock else {}),
            "width": width,
            "height": height,
            **({} if frame.action == "detect" else {"look": frame.action}),  # the key of the first version
            "faces": [{"track": track.track_id, **face} for track, face in zip(result.tracks, faces, strict=True)],
        }

    def _picture(self, result: FrameResult) -> Pixels:
        """Return the annotated frame, (H, W, 3) uint8 RGB."""
        pixels, blur = result.frame.pixels, self._config.blur
        if blur:
            for boxes in (result.detections.boxes, result.lost_boxes):
                pixels = blur_faces(pixels, boxes)
        if self._config.boxes:
            pixels = draw(pixels, result.faces, [track.track_id for track in result.tracks], landmarks=not blur)
        return pixels


def _output_rate(source: Source, config: VideoConfig) -> Fraction:
    """Return the frame rate of the annotated video, in frames per second."""
    rate = Fraction(source.rate) / (1 if config.options.follow else config.options.frame_stride)
    max_fps = config.options.max_fps
    return min(rate, max(Fraction(max_fps).limit_denominator(1000), MIN_RATE)) if max_fps else rate


def clock(seconds: float) -> str:
    """Return seconds as h:mm:ss.s."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes // 60)}:{int(minutes % 60):02}:{rest:04.1f}"
