"""Faces are followed over frames: tracks are kept, labels do not flicker."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.video.tracker import (
    IOU_BUFFER,
    MAX_BUFFER_SCALE,
    MIN_IOU,
    REFERENCE_STEP,
    Track,
    Tracker,
    to_detections,
)
from pipeline.video.tracking_settings import DEFAULT_TRACKING
from tests.helpers.video.tracks import BARE, MASK, box_at, make_detections

CONFIRM_HITS = DEFAULT_TRACKING.confirm_hits
LOST_TRACK_BUFFER, SMOOTHING_TIME = DEFAULT_TRACKING.lost_track_buffer, DEFAULT_TRACKING.smoothing_time


def run_without_faces(tracker: Tracker, start: float, end: float) -> list[Track]:
    """Add frames without a face, ten per second, and return the tracks that end."""
    ended = []
    for time in np.arange(start + 0.1, end, 0.1):
        ended += tracker.update(make_detections(), float(time))[1]
    return ended


def test_two_faces_that_pass_each_other_keep_their_tracks() -> None:
    tracker = Tracker(0.4)
    for i in range(40):
        one, other = (box_at(10 + 5 * i, 50), MASK, 0.9), (box_at(210 - 5 * i, 62), BARE, 0.8)
        tracks, ended = tracker.update(make_detections(one, other), i / 25)
        assert not ended
        seen = to_detections(tracks, make_detections(one, other))
        numbers = {label: track.track_id for label, track in zip(seen.labels, tracks, strict=True)}
        assert numbers == {"with_mask": 1, "without_mask": 2}


def test_a_small_fast_face_that_never_overlaps_itself_is_followed() -> None:
    tracker = Tracker(0.4)
    for i in range(20):
        tracks, _ = tracker.update(make_detections((box_at(10 * i, side=8), MASK, 0.9)), i / 10)
        assert [track.track_id for track in tracks] == [1]


def test_a_face_lost_for_less_than_the_buffer_keeps_its_track() -> None:
    tracker = Tracker(0.4)
    tracker.update(make_detections((box_at(10), MASK, 0.9)), 0.0)
    tracker.update(make_detections((box_at(12), MASK, 0.9)), 0.1)
    assert not run_without_faces(tracker, 0.1, LOST_TRACK_BUFFER)
    tracks, _ = tracker.update(
        make_detections((box_at(12 + 20 * 0.9), MASK, 0.9)), LOST_TRACK_BUFFER
    )  # it moved at its velocity
    assert [track.track_id for track in tracks] == [1]
    assert [
        track.track_id for track in run_without_faces(tracker, LOST_TRACK_BUFFER, 2 * LOST_TRACK_BUFFER + 0.15)
    ] == [1]
    tracks, _ = tracker.update(make_detections((box_at(30), MASK, 0.9)), 2 * LOST_TRACK_BUFFER + 0.2)
    assert [track.track_id for track in tracks] == [2]


def test_a_face_seen_once_a_second_is_followed() -> None:
    tracker = Tracker(0.4)
    for i in range(6):
        tracks, ended = tracker.update(make_detections((box_at(10 + 60 * i, side=40), MASK, 0.9)), 1.2 * i)
        assert [track.track_id for track in tracks] == [1] and not ended
    assert tracks[0].confirmed
    assert tracker.update(make_detections(), 1.2 * 6) == ([], [])
    assert tracker.update(make_detections(), 1.2 * 7) == ([], [])
    _, ended = tracker.update(make_detections(), 1.2 * 8)
    assert len(ended) == 1


def test_nobody_is_taken_for_who_was_there_before_a_long_gap() -> None:
    tracker = Tracker(0.4)
    for i in range(10):
        tracker.update(make_detections((box_at(50), MASK, 0.9)), i / 10)
    tracks, ended = tracker.update(make_detections((box_at(52), BARE, 0.9)), 3600)
    assert [track.track_id for track in ended] == [1] and [track.track_id for track in tracks] == [2]
    # The gap is no usual step: who leaves now is lost after a second.
    assert not tracker.update(make_detections(), 3600.9)[1]
    assert [track.track_id for track in tracker.update(make_detections(), 3601.1)[1]] == [2]


def test_two_frames_at_one_time_keep_the_track() -> None:
    tracker = Tracker(0.4)
    for time, x in ((0.0, 10), (0.04, 12), (0.04, 14), (0.08, 16), (0.12, 18)):
        tracks, _ = tracker.update(make_detections((box_at(x), MASK, 0.9)), time)
        assert [track.track_id for track in tracks] == [1]


def test_a_face_of_score_zero_is_tracked() -> None:
    tracker = Tracker(0.0)
    for i in range(3):
        tracks, _ = tracker.update(make_detections((box_at(10), MASK, 0.0)), i / 10)
        assert len(tracks) == 1


def test_hidden_tells_where_a_sure_face_is_expected() -> None:
    tracker = Tracker(0.4)
    for i in range(CONFIRM_HITS):
        tracker.update(make_detections((box_at(10 + i), MASK, 0.9)), i / 10)
        assert len(tracker.lost_boxes(i / 10)) == 0
    tracker.update(make_detections(), CONFIRM_HITS / 10)
    np.testing.assert_allclose(tracker.lost_boxes(CONFIRM_HITS / 10), [box_at(10 + CONFIRM_HITS)], atol=0.01)


def test_a_weak_detection_continues_a_sure_track_and_starts_none() -> None:
    tracker = Tracker(0.4)
    weak = (box_at(10), MASK, 0.2)
    assert tracker.update(make_detections(weak), 0.0) == ([], [])
    for i in range(CONFIRM_HITS):
        tracker.update(make_detections((box_at(10), MASK, 0.9)), 1 + i / 10)
    tracks, _ = tracker.update(make_detections(weak), 2.0)
    assert [track.track_id for track in tracks] == [1]
    assert tracks[0].last_time == 2.0


def test_a_false_alarm_of_one_frame_is_not_confirmed() -> None:
    tracker = Tracker(0.4)
    tracks, _ = tracker.update(make_detections((box_at(10), MASK, 0.9)), 0.0)
    assert not tracks[0].confirmed
    (ended,) = run_without_faces(tracker, 0, LOST_TRACK_BUFFER + 0.25)
    assert not ended.confirmed


@pytest.mark.parametrize("fps", [2, 25])
def test_one_wrong_frame_does_not_change_the_label_and_a_lasting_change_does(fps: int) -> None:
    tracker = Tracker(0.4)
    time, labels = 0.0, []
    for probs in [MASK] * 2 * fps + [BARE] + [MASK] * fps + [BARE] * 2 * fps:
        tracks, _ = tracker.update(make_detections((box_at(10), probs, 0.9)), time)
        labels.append(to_detections(tracks, make_detections()).labels[0])
        time += 1 / fps
    before, after = labels[: 3 * fps + 1], labels[3 * fps + 1 :]
    if fps == 25:  # at 2 frames per second one frame is half of the average
        assert set(before) == {"with_mask"}
    assert after[-1] == "without_mask"
    changed = after.index("without_mask") / fps
    assert changed <= 1.5 * SMOOTHING_TIME


def test_smoothed_probabilities_stay_probabilities_within_the_detections() -> None:
    tracker = Tracker(0.1)
    rng = np.random.default_rng(0)
    for i in range(100):
        probs = rng.dirichlet([1, 1, 1])
        tracks, _ = tracker.update(make_detections((box_at(10), probs, rng.uniform(0.5, 1))), i / 10)
        (track,) = tracks
        assert track.probs.sum() == pytest.approx(1, abs=1e-5)
        assert track.probs.min() >= 0
        assert 0.5 <= track.face_score <= 1


def test_tracks_keep_the_order_of_scores() -> None:
    tracker = Tracker(0.4)
    tracks, _ = tracker.update(make_detections((box_at(10), MASK, 0.6), (box_at(100), BARE, 0.95)), 0.0)
    seen = to_detections(tracks, make_detections())
    assert seen.labels == ("without_mask", "with_mask")
    assert [track.track_id for track in tracks] == [1, 2]
    assert len(to_detections([], make_detections())) == 0


@pytest.mark.parametrize(
    ("recover", "found_x", "side", "track_id"), [(0, 70, 20, 2), (2.0, 70, 20, 1), (2.0, 70, 40, 2)]
)
def test_a_lost_face_is_found_again_where_it_was_last_seen(
    recover: float, found_x: float, side: float, track_id: int
) -> None:
    tracker = Tracker(0.4, replace(DEFAULT_TRACKING, recover_buffer=recover))
    for i in range(6):  # it moves by 60 px per second to x = 40, and is lost
        tracker.update(make_detections((box_at(10 + 6 * i), MASK, 0.9)), i / 10)
    # Its velocity would have taken it to x = 94. A face of twice the size is another one.
    for time in (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3):
        tracker.update(make_detections(), time)
    tracks, _ = tracker.update(make_detections((box_at(40, side=side), MASK, 0.9)), 1.4)
    assert [track.track_id for track in tracks] == [track_id]


def test_a_track_is_confirmed_by_its_best_score_and_its_number_of_detections() -> None:
    settings = replace(DEFAULT_TRACKING, confirm_gain=0.5, min_hits=4)
    weak, strong = (box_at(10), MASK, 0.7), (box_at(10), MASK, 0.9)  # scores 0.63 and 0.81; 0.7 is needed
    tracker = Tracker(0.4, settings)
    for i in range(10):
        tracks, _ = tracker.update(make_detections(weak), i / 10)
        assert not tracks[0].confirmed
    tracks, _ = tracker.update(make_detections(strong), 1.0)
    assert tracks[0].confirmed
    tracker = Tracker(0.4, settings)
    confirmed = [tracker.update(make_detections(strong), float(i))[0][0].confirmed for i in range(5)]
    assert confirmed == [False, False, False, True, True]


def test_end_returns_every_track_once() -> None:
    tracker = Tracker(0.4)
    tracker.update(make_detections((box_at(10), MASK, 0.9), (box_at(100), BARE, 0.9)), 0.0)
    assert len(tracker.end()) == 2
    assert tracker.end() == []


spots = st.tuples(st.integers(0, 12), st.integers(0, 8), st.integers(0, 6), st.integers(0, 6)).map(
    lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3])
)


def slow_buffered_iou(one: tuple[int, ...], other: tuple[int, ...], by: float) -> float:
    """Return the IoU of two boxes, each enlarged by a share of its sides."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (
        (x1 - by * (x2 - x1), y1 - by * (y2 - y1), x2 + by * (x2 - x1), y2 + by * (y2 - y1))
        for x1, y1, x2, y2 in (one, other)
    )
    shared = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    whole = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    return shared / whole if whole > 0 else 0.0


@given(st.lists(spots, max_size=6), st.lists(spots, max_size=6), st.sampled_from([0.0, 0.1, 0.2, 3.0]))
def test_faces_are_matched_as_a_slow_version_does(
    before: list[tuple[int, ...]], after: list[tuple[int, ...]], step: float
) -> None:
    tracker = Tracker(0.1)
    tracker.update(make_detections(*((box, MASK, 0.9) for box in before)), 0.0)
    by = IOU_BUFFER * min(max(step / REFERENCE_STEP, 1), MAX_BUFFER_SCALE)
    overlaps = {
        (i, k): slow_buffered_iou(one, other, by) for i, one in enumerate(before) for k, other in enumerate(after)
    }
    # Float32 rounding decides between pairs that overlap alike, except pairs of the same boxes.
    distinct = {(before[i], after[k]): overlap for (i, k), overlap in overlaps.items() if overlap > MIN_IOU / 2}
    assume(all(b - a > 1e-5 for a, b in pairwise(sorted([*distinct.values(), MIN_IOU]))))
    expected: dict[int, int] = {}  # detection -> track id
    while overlaps:
        (i, k), best = max(overlaps.items(), key=lambda item: (item[1], -item[0][0], -item[0][1]))
        if best < MIN_IOU:
            break
        expected[k] = i + 1
        overlaps = {pair: value for pair, value in overlaps.items() if pair[0] != i and pair[1] != k}
    new = len(before)
    for k in range(len(after)):
        if k not in expected:
            new += 1
            expected[k] = new
    tracks, _ = tracker.update(make_detections(*((box, MASK, 0.9) for box in after)), step)
    assert [track.track_id for track in tracks] == [expected[k] for k in range(len(after))]
    assert [track.box.tolist() for track in tracks] == [list(box) for box in after]
    assert len({track.track_id for track in tracks}) == len(after)
