"""Reports each event of a video once: a face entered, its label changed, it left."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from common.display import path_text
from common.errors import UserError
from common.files import atomic_text, streaming_text
from pipeline.inference.detections import Detections
from pipeline.video.reader import Frame
from pipeline.video.tracker import Track
from pipeline.video.tracking_settings import DEFAULT_TRACKING, TrackingSettings

EventKind = Literal["entered", "changed", "left", "stayed"]
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Event:
    """One event, JSON-ready."""

    event: EventKind  # "stayed" is reported at the end of a video, for faces that are still in sight
    text: str  # the event in words
    source: str  # name of the video or camera
    time: float  # seconds from the start
    clock: str | None  # date and time in ISO 8601; None for a file
    frame: int  # number of the frame
    track: int  # number of the face's track
    label: str  # the class, smoothed over time, as are unsure and score
    unsure: bool  # whether another class is nearly as probable
    score: float  # from 0 to 1
    previous: str | None  # the label before a change; None for other events
    seconds: float  # time in sight so far
    x1: float  # the box in pixels
    y1: float
    x2: float
    y2: float


class EventDetector:
    """Turns tracks into events: a track once it is confirmed, a changed label once it holds and is not unsure."""

    def __init__(self, source: str, settings: TrackingSettings = DEFAULT_TRACKING) -> None:
        self._source, self._settings = path_text(source), settings
        self._new_labels: dict[int, tuple[str, float]] = {}  # track id -> a label not yet reported, and since when
        self._reported_labels: dict[int, str] = {}  # track id -> the label last reported
        self._last_frames: dict[int, Frame] = {}  # track id -> frame of the last detection, without pixels

    def update(
        self, frame: Frame, tracks: Sequence[Track], faces: Detections, ended: Sequence[Track], ended_faces: Detections
    ) -> list[Event]:
        """Return the events of a frame; `faces` and `ended_faces` are `tracks` and `ended` as detections."""
        events = []
        for i, track in enumerate(ended):
            if track.track_id in self._reported_labels:
                events.append(self._make_event("left", frame, track, ended_faces, i))
                del self._reported_labels[track.track_id]
            self._last_frames.pop(track.track_id, None)
            self._new_labels.pop(track.track_id, None)
        for i, track in enumerate(tracks):
            self._last_frames[track.track_id] = replace(frame, pixels=_NO_PIXELS)
            label, previous = faces.labels[i], self._reported_labels.get(track.track_id)
            if not track.confirmed or not self._is_due(frame.time, track, label, previous, bool(faces.unsure[i])):
                continue
            events.append(self._make_event("entered" if previous is None else "changed", frame, track, faces, i))
            self._reported_labels[track.track_id] = label
        return events

    def _is_due(self, time: float, track: Track, label: str, previous: str | None, unsure: bool) -> bool:
        """Return whether a label is to be reported now; `previous` is the one last reported."""
        if previous is None:
            return not unsure or time - track.first_time >= self._settings.unsure_wait
        if label == previous or unsure:
            self._new_labels.pop(track.track_id, None)
            return False
        new, since = self._new_labels.get(track.track_id, ("", time))
        if new != label:
            new, since = self._new_labels[track.track_id] = (label, time)
        return time - since >= self._settings.change_seconds

    def finish(self, frame: Frame, tracks: Sequence[Track], faces: Detections) -> list[Event]:
        """Return the events of a video's end: `tracks` are still in sight."""
        reported = ((i, track) for i, track in enumerate(tracks) if track.track_id in self._reported_labels)
        return [self._make_event("stayed", frame, track, faces, i) for i, track in reported]

    def _make_event(self, kind: EventKind, frame: Frame, track: Track, faces: Detections, i: int) -> Event:
        label = faces.labels[i]
        previous = self._reported_labels[track.track_id] if kind == "changed" else None
        at = self._last_frames[track.track_id] if kind == "left" else frame  # "left" is known later
        words = {"changed": f"changed from {_class_words(previous or '')} to", "stayed": "still there"}.get(kind, kind)
        return Event(
            event=kind,
            text=f"{words} {_class_words(label)}",
            source=self._source,
            time=round(at.time, 3),
            clock=at.clock.isoformat(timespec="milliseconds") if at.clock else None,
            frame=at.index,
            track=track.track_id,
            label=label,
            unsure=bool(faces.unsure[i]),
            score=round(float(faces.scores[i]), 6),
            previous=previous,
            seconds=round(track.last_time - track.first_time, 3),
            **dict(zip(("x1", "y1", "x2", "y2"), (round(float(v), 2) for v in faces.boxes[i]), strict=True)),
        )


def _class_words(label: str) -> str:
    return label.replace("_", " ")


class EventWriter:
    """Writes events as CSV rows or JSON lines, and flushes each."""

    def __init__(self, file: TextIO, as_csv: bool, header: bool = True) -> None:
        self._file = file
        self._csv = csv.DictWriter(file, [field.name for field in fields(Event)]) if as_csv else None
        if self._csv and header:
            self._csv.writeheader()

    def add(self, event: Event) -> None:
        if self._csv:
            self._csv.writerow({**asdict(event), "unsure": json.dumps(event.unsure)})
        else:
            self._file.write(json.dumps(asdict(event), ensure_ascii=False) + "\n")
        self._file.flush()


def check_event_file(path: Path) -> None:
    """Raise UserError when the file's suffix is neither .csv nor .jsonl."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"{path}: has no suffix for events; use a name that ends with .csv or .jsonl")


@contextmanager
def event_writer(path: Path, live: bool) -> Iterator[EventWriter]:
    """Open an EventWriter for CSV or JSON lines, by the file's suffix.

    The file is put in place when the block ends without an error. A live one is written in place from the start, so
    that other programs can follow it, and after the events that it already has.
    """
    with (streaming_text if live else atomic_text)(path, newline="") as file:
        is_continued = live and path.stat().st_size > 0
        yield EventWriter(file, path.suffix.lower() == ".csv", header=not is_continued)
