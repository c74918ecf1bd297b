"""The scores of events, worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluate.videos.choice import choose_settings, replay, score_clips
from pipeline.evaluate.videos.clips import ClipRecipe
from pipeline.evaluate.videos.detecting import DetectedClip
from pipeline.evaluate.videos.scorer import DELAY_COST, EventScores, score_events, total
from pipeline.evaluate.videos.truth import ClipTruth
from pipeline.inference.detections import Detections
from pipeline.video.events import Event
from pipeline.video.tracking_settings import DEFAULT_TRACKING
from tests.helpers.video.tracks import BARE, MASK, make_detections

LEFT, RIGHT, EMPTY = (10.0, 10.0, 30.0, 30.0), (60.0, 10.0, 80.0, 30.0), (35.0, 35.0, 55.0, 55.0)
RATE = 10
RECIPE = ClipRecipe("a", "still", (100, 60), RATE, 6.0, 100_000, 0.0, 0.0, 0.3, 0.0, 0)


def truth_of_two(frames: int = 60) -> ClipTruth:
    """Return the truth of two still faces: a masked one on the left, a bare one on the right."""
    boxes = np.tile(np.array([LEFT, RIGHT], np.float64), (frames, 1, 1))
    return ClipTruth(np.arange(frames) / RATE, boxes, ("with_mask", "without_mask"), (100, 60))


def event(
    time: float, box: tuple[float, ...], label: str = "with_mask", kind: str = "entered", unsure: bool = False
) -> Event:
    where = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    frame = round(time * RATE)
    return Event(kind, "", "clip", time, None, frame, 1, label, unsure, 0.9, None, 0.0, **where)  # type: ignore[arg-type]


def test_each_face_told_once_with_its_label_is_right() -> None:
    scores = score_events(truth_of_two(), [event(0.5, LEFT), event(1.5, RIGHT, "without_mask")])
    assert scores == EventScores(faces=2, once=2, reported=2, delay=2.0)
    assert scores.mean_delay == 1.0
    assert scores.cost == pytest.approx(2 * DELAY_COST)


def test_a_face_told_three_times_is_two_duplicates() -> None:
    scores = score_events(truth_of_two(), [event(0.0, LEFT), event(2.0, LEFT), event(4.0, LEFT)])
    assert scores == EventScores(faces=2, missing=1, duplicates=2, reported=1)
    assert scores.cost == 3


def test_an_event_where_no_face_is_annotated_is_false() -> None:
    assert score_events(truth_of_two(), [event(1.0, EMPTY)]) == EventScores(faces=2, missing=2, false=1)
    assert math.isnan(EventScores().mean_delay)


def test_a_wrong_label_that_is_put_right_counts_once_and_one_that_stays_twice() -> None:
    wrong = event(0.0, LEFT, "without_mask", unsure=True)
    right = event(0.0, RIGHT, "without_mask")
    stays = score_events(truth_of_two(), [wrong, right])
    assert stays == EventScores(faces=2, once=2, reported=2, wrong=1, wrong_at_end=1, unsure=1, unsure_wrong=1)
    corrected = score_events(truth_of_two(), [wrong, right, event(3.0, LEFT, "with_mask", "changed")])
    assert (corrected.wrong, corrected.wrong_at_end, corrected.changes, corrected.wrong_changes) == (1, 0, 1, 0)
    assert (stays.cost, corrected.cost) == (2, 1)


def test_a_change_that_did_not_happen_is_counted() -> None:
    events = [event(0.0, LEFT), event(2.0, LEFT, "without_mask", "changed"), event(4.0, LEFT, "with_mask", "changed")]
    scores = score_events(truth_of_two(), events)
    assert (scores.wrong, scores.wrong_at_end, scores.changes, scores.wrong_changes) == (0, 0, 2, 1)


def test_a_missing_face_is_unseen_where_no_box_is_on_it() -> None:
    nothing, left = np.zeros((0, 4), np.float32), np.array([LEFT], np.float32)
    scores = score_events(truth_of_two(), [], [nothing] * 30 + [left] + [nothing] * 29)
    assert scores == EventScores(faces=2, missing=2, unseen=1)


def test_a_face_too_small_to_count_is_neither_right_nor_wrong() -> None:
    boxes = np.tile(np.array([[10.0, 10, 20, 20]]), (60, 1, 1))
    truth = ClipTruth(np.arange(60) / RATE, boxes, ("with_mask",), (100, 60))
    assert score_events(truth, [event(1.0, (10, 10, 20, 20))]) == EventScores()


def test_a_face_told_before_more_than_half_of_it_is_visible_is_told() -> None:
    truth = truth_of_two()
    truth.boxes[:20, 0] += (-23, 0, -23, 0)  # 7 of 20 px visible
    scores = score_events(truth, [event(1.0, (0, 10, 7, 30)), event(0.0, RIGHT, "without_mask")])
    assert scores == EventScores(faces=2, once=2, reported=2)


def clip_of(*found: Detections) -> DetectedClip:
    return DetectedClip(RECIPE, truth_of_two(len(found)), found)


def both(left: tuple[float, ...] = MASK) -> Detections:
    return make_detections((LEFT, left, 0.9), (RIGHT, BARE, 0.9))


def flickering_clip() -> DetectedClip:
    """Return a video whose left face is out of sight for 1.4 s, as in a flickering picture."""
    without = make_detections((RIGHT, BARE, 0.9))
    return clip_of(*[both()] * 20, *[without] * 14, *[both()] * 20)


def test_a_replay_reports_what_detect_reports() -> None:
    events = replay(clip_of(*[both()] * 20), 0.4, DEFAULT_TRACKING)
    assert [(e.event, e.label) for e in events if e.event == "entered"] == [
        ("entered", "with_mask"),
        ("entered", "without_mask"),
    ]
    assert [e.event for e in events[2:]] == ["stayed", "stayed"]
    doubt = clip_of(*[both((0.6, 0.3, 0.1))] * 20)
    assert score_clips([doubt], 0.4, DEFAULT_TRACKING, 0.0)[0].unsure == 0
    assert score_clips([doubt], 0.4, DEFAULT_TRACKING, 0.5)[0].unsure == 1


def test_a_stride_leaves_frames_out() -> None:
    """The face that is there in every second frame alone is not reported when the detector runs in the others."""
    nothing, left = make_detections(), make_detections((LEFT, MASK, 0.9))
    clip = clip_of(*[part for _ in range(20) for part in (nothing, left)])
    assert score_clips([clip], 0.4, DEFAULT_TRACKING)[0].once == 1
    assert score_clips([clip], 0.4, DEFAULT_TRACKING, stride=2)[0].reported == 0
    assert [e.frame % 3 for e in replay(clip_of(*[both()] * 40), 0.4, DEFAULT_TRACKING, stride=3)[:2]] == [0, 0]


def test_with_motion_a_frame_has_the_detections_of_the_last_one_looked_at() -> None:
    found = [both(), make_detections(), make_detections((LEFT, MASK, 0.9)), make_detections()]
    clip = replace(clip_of(*found), moving=(True, False, True, False))
    assert [len(d) for d in clip.with_motion().detections] == [2, 2, 1, 1]


def test_the_choice_is_confirmed_only_where_the_other_half_gets_cheaper() -> None:
    flicker, calm = [flickering_clip()] * 3, [clip_of(*[both()] * 30)] * 3
    present = replace(DEFAULT_TRACKING, lost_track_buffer=1.0)
    assert total(score_clips(flicker, 0.4, present)).duplicates == 3
    choice = choose_settings(flicker, flicker, 0.4, present, {"lost_track_buffer": (1.0, 2.0)})
    assert choice.settings == replace(present, lost_track_buffer=2.0)
    assert choice.confirmed and choice.difference == pytest.approx(-1) and choice.interval == (-1, -1)
    choice = choose_settings(flicker, calm, 0.4, present, {"lost_track_buffer": (1.0, 2.0)})
    assert choice.settings.lost_track_buffer == 2.0 and not choice.confirmed
    choice = choose_settings(calm, flicker, 0.4, present, {"lost_track_buffer": (1.0, 2.0)})
    assert choice.settings == present and not choice.confirmed
