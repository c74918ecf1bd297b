"""What happens in a video, told once each: a face entered, its label changed, it left."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from common.display import as_text
from common.errors import UserError
from common.files import growing_text, replaced_text
from pipeline.inference.detections import Detections
from pipeline.video.reader import Frame
from pipeline.video.tracker import Track

EventKind = Literal["entered", "changed", "left", "stayed"]
SUFFIXES = (".csv", ".jsonl")
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Event:
    """One thing that happened, JSON-ready.

    text: the event in words. source: the video or camera. time: seconds from its start; clock: ISO 8601, for live ones.
    frame: the frame's number. track: the face's. label, unsure, score, box: what was seen of it then (smoothed).
    previous: the label before, of a change. seconds: how long it was in sight so far.
    "stayed" is told at the end of a video, of faces that were there still.
    """

    event: EventKind
    text: str
    source: str
    time: float
    clock: str | None
    frame: int
    track: int
    label: str
    unsure: bool
    score: float
    previous: str | None
    seconds: float
    x1: float
    y1: float
    x2: float
    y2: float


class EventDetector:
    """Turns tracks into events. A track is told of once it is sure, a changed label once it is not unsure."""

    def __init__(self, source: str) -> None:
        self._source = as_text(source)
        self._reported_labels: dict[int, str] = {}  # track -> the label last told
        self._last_frames: dict[int, Frame] = {}  # track -> the frame in which it was last seen, without its pixels

    def update(
        self, frame: Frame, tracks: Sequence[Track], seen: Detections, ended: Sequence[Track], gone: Detections
    ) -> list[Event]:
        """The events of a frame.

        seen: what `tracks`, those seen in it, are in the same order; gone: the same of `ended` ones.
        """
        events = []
        for i, track in enumerate(ended):
            if track.track_id in self._reported_labels:
                events.append(self._make_event("left", frame, track, gone, i))
                del self._reported_labels[track.track_id]
            self._last_frames.pop(track.track_id, None)
        for i, track in enumerate(tracks):
            self._last_frames[track.track_id] = replace(frame, pixels=_NO_PIXELS)
            label, before = seen.labels[i], self._reported_labels.get(track.track_id)
            if not track.confirmed or label == before or (before is not None and seen.unsure[i]):
                continue
            events.append(self._make_event("entered" if before is None else "changed", frame, track, seen, i))
            self._reported_labels[track.track_id] = label
        return events

    def finish(self, frame: Frame, tracks: Sequence[Track], seen: Detections) -> list[Event]:
        """The events of a video's end: of `tracks`, those in sight still."""
        there = ((i, track) for i, track in enumerate(tracks) if track.track_id in self._reported_labels)
        return [self._make_event("stayed", frame, track, seen, i) for i, track in there]

    def _make_event(self, kind: EventKind, frame: Frame, track: Track, seen: Detections, i: int) -> Event:
        label = seen.labels[i]
        previous = self._reported_labels[track.track_id] if kind == "changed" else None
        at = self._last_frames[track.track_id] if kind == "left" else frame  # it was waited for, whether it comes back
        words = {
            "entered": f"entered {class_words(label)}",
            "changed": f"changed from {class_words(previous or '')} to {class_words(label)}",
            "left": f"left {class_words(label)}",
            "stayed": f"still there {class_words(label)}",
        }
        return Event(
            event=kind,
            text=words[kind],
            source=self._source,
            time=round(at.time, 3),
            clock=at.clock.isoformat(timespec="milliseconds") if at.clock else None,
            frame=at.index,
            track=track.track_id,
            label=label,
            unsure=bool(seen.unsure[i]),
            score=round(float(seen.scores[i]), 6),
            previous=previous,
            seconds=round(track.last_time - track.first_time, 3),
            **dict(zip(("x1", "y1", "x2", "y2"), (round(float(v), 2) for v in seen.boxes[i]), strict=True)),
        )


def class_words(label: str) -> str:
    """A class's name as words."""
    return label.replace("_", " ")


class EventWriter:
    """Events as CSV rows or JSON lines, each written out at once."""

    def __init__(self, file: TextIO, as_csv: bool) -> None:
        self._file = file
        self._csv = csv.DictWriter(file, [field.name for field in fields(Event)]) if as_csv else None
        if self._csv:
            self._csv.writeheader()

    def add(self, event: Event) -> None:
        if self._csv:
            self._csv.writerow({**asdict(event), "unsure": json.dumps(event.unsure)})
        else:
            self._file.write(json.dumps(asdict(event), ensure_ascii=False) + "\n")
        self._file.flush()


def check_event_file(path: Path) -> None:
    """Raises UserError when the file's suffix does not say how events are written."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: does not say how to write events; end its name with .csv or .jsonl")


@contextmanager
def event_writer(path: Path, live: bool) -> Iterator[EventWriter]:
    """An EventWriter by the file's suffix; its file takes the place of `path` when the block ends well.

    live: it is written at its place from the start, so that others can follow it.
    """
    as_csv = path.suffix.lower() == ".csv"
    with (growing_text if live else replaced_text)(path, newline="") as file:
        yield EventWriter(file, as_csv)
