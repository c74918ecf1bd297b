"""Each event of a video is reported once; the expected events are worked by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from pipeline.inference.detections import Detections
from pipeline.video.events import Event, EventDetector, check_event_file, event_writer
from pipeline.video.reader import Frame
from pipeline.video.tracker import Tracker, to_detections
from pipeline.video.tracking_settings import DEFAULT_TRACKING, TrackingSettings
from tests.helpers.video.tracks import BARE, MASK, box_at, make_detections

FPS = 10
PIXELS = np.zeros((4, 4, 3), np.uint8)


def detect_events(
    *frames: Detections, clock: datetime | None = None, settings: TrackingSettings = DEFAULT_TRACKING
) -> list[Event]:
    """Return the events of a video with these detections, ten per second."""
    tracker, detector, events = Tracker(0.4, settings), EventDetector("door.mp4", settings), []
    for i, found in enumerate(frames):
        frame = Frame(i, i / FPS, PIXELS, clock)
        tracks, ended = tracker.update(found, frame.time)
        events += detector.update(frame, tracks, to_detections(tracks, found), ended, to_detections(ended, found))
    left = tracker.end()
    return events + detector.finish(frame, left, to_detections(left, make_detections()))


def masked_face(x: float = 10) -> Detections:
    return make_detections((box_at(x), MASK, 0.9))


def bare_face() -> Detections:
    return make_detections((box_at(10), BARE, 0.9))


def test_a_face_that_comes_and_goes() -> None:
    events = detect_events(*[make_detections()] * 5, *[bare_face()] * 10, *[make_detections()] * 15)
    assert [(event.event, event.track, event.label) for event in events] == [
        ("entered", 1, "without_mask"),
        ("left", 1, "without_mask"),
    ]
    entered, left = events
    assert entered.text == "entered without mask"
    assert (entered.time, entered.frame) == (0.9, 9)  # the fifth detection
    assert left.text == "left without mask"
    assert (left.time, left.frame) == (1.4, 14)  # of the last detection, not of the frame that ended the track
    assert left.seconds == pytest.approx(0.9)
    assert entered.source == "door.mp4"
    assert (entered.x1, entered.y1, entered.x2, entered.y2) == box_at(10)
    assert entered.score == pytest.approx(0.81, abs=1e-5)
    assert entered.clock is None


def test_a_removed_mask_is_a_change_and_one_frame_is_not() -> None:
    events = detect_events(*[masked_face()] * 10, bare_face(), *[masked_face()] * 10, *[bare_face()] * 15)
    assert [(event.event, event.label, event.previous) for event in events] == [
        ("entered", "with_mask", None),
        ("changed", "without_mask", "with_mask"),
        ("stayed", "without_mask", None),
    ]
    assert events[1].text == "changed from with mask to without mask"
    assert events[2].text == "still there without mask"


def test_a_false_alarm_in_two_frames_is_not_an_event() -> None:
    assert detect_events(*[make_detections()] * 3, *[masked_face()] * 2, *[make_detections()] * 20) == []


def test_an_unsure_label_is_reported_as_unsure_and_not_as_a_change() -> None:
    doubt = make_detections((box_at(10), (0.45, 0.5, 0.05), 0.9))
    events = detect_events(*[doubt] * 10)
    assert (events[0].event, events[0].label, events[0].unsure) == ("entered", "without_mask", True)
    events = detect_events(*[masked_face()] * 10, *[doubt] * 30)
    assert [event.event for event in events] == ["entered", "stayed"]


def test_a_changed_label_must_hold() -> None:
    # A second without a mask, averaged over 0.2 s: the label changes for about a second, and back.
    frames = [*[masked_face()] * 10, *[bare_face()] * 10, *[masked_face()] * 10]
    quick = replace(DEFAULT_TRACKING, smoothing_time=0.2, change_seconds=0.0)
    assert [event.event for event in detect_events(*frames, settings=quick)] == [
        "entered",
        "changed",
        "changed",
        "stayed",
    ]
    held = replace(quick, change_seconds=1.5)
    assert [event.event for event in detect_events(*frames, settings=held)] == ["entered", "stayed"]
    lasting = detect_events(*frames[:10], *[bare_face()] * 30, settings=held)
    assert [event.event for event in lasting] == ["entered", "changed", "stayed"]
    first = detect_events(*frames[:10], *[bare_face()] * 30, settings=quick)
    assert lasting[1].time == pytest.approx(first[1].time + 1.5)


def test_entered_waits_for_a_sure_label_for_a_while_only() -> None:
    doubt = make_detections((box_at(10), (0.45, 0.5, 0.05), 0.9))
    waiting = replace(DEFAULT_TRACKING, unsure_wait=1.2)
    assert detect_events(*[doubt] * 10, settings=waiting) == []
    late = detect_events(*[doubt] * 20, settings=waiting)
    assert (late[0].event, late[0].time, late[0].unsure) == ("entered", 1.2, True)
    sure = detect_events(*[doubt] * 7, *[masked_face()] * 20, settings=waiting)
    assert (sure[0].event, sure[0].label, sure[0].unsure) == ("entered", "with_mask", False)


def test_live_events_carry_the_clock() -> None:
    noon = datetime(2026, 5, 1, 12, 0, 0, 250000, tzinfo=UTC)
    events = detect_events(*[masked_face()] * 6, clock=noon)
    assert events[0].clock == "2026-05-01T12:00:00.250+00:00"


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl"])
def test_a_camera_that_is_started_again_keeps_the_earlier_events(tmp_path: Path, name: str) -> None:
    (event,) = (e for e in detect_events(*[make_detections((box_at(50), MASK, 0.9))] * 9) if e.event == "entered")
    for _ in range(2):
        with event_writer(tmp_path / name, live=True) as writer:
            writer.add(event)
    lines = (tmp_path / name).read_text().splitlines()
    first, second = lines[-2:]
    assert first == second and len(lines) == 2 + name.endswith(".csv")


@pytest.mark.parametrize("live", [False, True])
def test_csv_and_json_lines_hold_the_same(tmp_path: Path, live: bool) -> None:
    events = detect_events(*[masked_face()] * 10, *[bare_face()] * 15)
    for name in ("e.csv", "deep/e.JSONL"):
        with event_writer(tmp_path / name, live) as writer:
            for event in events:
                writer.add(event)
            assert (tmp_path / name).exists() == live
    with (tmp_path / "e.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "deep" / "e.JSONL").read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in lines] == ["entered", "changed", "stayed"]
    assert len(rows) == len(lines) == len(events)
    for row, line in zip(rows, lines, strict=True):
        assert list(row) == list(line)
        as_text = {key: "" if value is None else str(value) for key, value in line.items()}
        assert row == {**as_text, "unsure": json.dumps(line["unsure"])}


def test_a_live_file_is_there_line_by_line(tmp_path: Path) -> None:
    events = detect_events(*[masked_face()] * 10)
    with event_writer(tmp_path / "e.jsonl", live=True) as writer:
        writer.add(events[0])
        assert len((tmp_path / "e.jsonl").read_text().splitlines()) == 1


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), event_writer(tmp_path / "e.csv", live=False):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_refused() -> None:
    with pytest.raises(UserError, match=r"^events\.txt: .*\.csv or \.jsonl"):
        check_event_file(Path("events.txt"))
    check_event_file(Path("events.CSV"))
