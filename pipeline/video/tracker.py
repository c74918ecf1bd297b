"""Follows faces from frame to frame; each gets a number and a label smoothed over time."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, iou
from pipeline.inference.detections import Detections
from pipeline.video.tracking_settings import DEFAULT_TRACKING, TrackingSettings

# Boxes are matched after each is enlarged by this share of its sides, on each side. Small and fast faces do not overlap
# themselves from frame to frame (buffered IoU: Yang et al. 2023, "Hard to Track Objects with Irregular Motions").
IOU_BUFFER = 0.4
REFERENCE_STEP = 0.1  # seconds between frames that IOU_BUFFER is meant for; a longer step scales the buffer
MAX_BUFFER_SCALE = 4.0
MIN_IOU = 0.1  # smallest buffered IoU of a face with itself in the next frame
STEPS_KEPT = 5  # frames, of whose steps the median is the usual one
LOST_TRACK_FRAMES = 2.5  # a lost track stays for this many frames, where that is longer than its time
MAX_RECOVERED_SCALE = 1.6  # largest ratio of the sides of a lost face and of the face found in its last place


@dataclass
class Track:
    """One face over time."""

    track_id: int  # number of the track, from 1
    box: NDArray[np.float32]  # (4,) xyxy pixels at the last detection
    landmarks: NDArray[np.float32]  # (5, 2) xy pixels at the last detection
    face_score: float  # smoothed score of the face
    probs: NDArray[np.float32]  # (C,) smoothed class probabilities
    first_time: float  # seconds of the first detection
    last_time: float  # seconds of the last detection
    velocity: NDArray[np.float32]  # (2,) xy pixels per second
    best_score: float  # largest score of a detection
    hits: int = 1  # number of detections
    confirmed: bool = False  # whether the face is real, not one frame's false alarm

    def predict(self, time: float) -> NDArray[np.float32]:
        """Return the box (4,) expected at `time` seconds, moved by the velocity."""
        moved = np.tile(self.velocity, 2) * (time - self.last_time)
        return np.asarray(self.box + moved, np.float32)

    def update(self, detections: Detections, i: int, time: float, smoothing_time: float) -> None:
        """Add detection `i` as this face at `time` seconds; smooth the scores over `smoothing_time` seconds."""
        box, face = detections.boxes[i], float(detections.face_scores[i])
        elapsed = time - self.last_time
        # The first frames count alike. The class at a high face score counts for more than at a low one.
        share = max(1 - math.exp(-elapsed / smoothing_time), 1 / (self.hits + 1))
        if elapsed > 0:
            moved = np.asarray((_center(box) - _center(self.box)) / elapsed, np.float32)
            # Half of each: a detector's boxes jitter, and velocities from two of them jitter more.
            self.velocity = moved if self.hits == 1 else np.asarray((self.velocity + moved) / 2, np.float32)
        self.face_score += share * (face - self.face_score)
        weight = np.float32(share * face / max(face, self.face_score, 1e-6))
        self.probs = self.probs + weight * (detections.class_probs[i] - self.probs)
        self.box, self.landmarks, self.last_time = box, detections.landmarks[i], time
        self.best_score = max(self.best_score, float(detections.scores[i]))
        self.hits += 1


class Tracker:
    """Assigns detections to tracks: a score of `high_threshold` starts a track, one of `low_threshold` continues it."""

    def __init__(self, high_threshold: float, settings: TrackingSettings = DEFAULT_TRACKING) -> None:
        self._high_threshold, self._settings = high_threshold, settings
        self.low_threshold = high_threshold * settings.low_threshold_ratio
        self._confirm_score = high_threshold + settings.confirm_gain * (1 - high_threshold)
        self._tracks: list[Track] = []
        self._last_id = 0
        self._time: float | None = None
        self._step = 0.0  # seconds since the previous frame
        self._steps: deque[float] = deque(maxlen=STEPS_KEPT)  # the last ones

    def update(self, detections: Detections, time: float) -> tuple[list[Track], list[Track]]:
        """Add a frame's detections (scores from `low_threshold` on) at `time` seconds, which must not fall.

        Return the tracks seen in this frame, best score first, and the tracks that ended since the last frame. A
        detection below `high_threshold` is seen only where its track is confirmed.
        """
        if self._time is not None:
            self._step = time - self._time
            self._steps.append(self._step)
        self._time = time
        before = self.end() if self._step > self._lost_after() else []  # a stream that was lost for long shows others
        scores = detections.scores
        high = np.flatnonzero(scores >= self._high_threshold)
        low = np.flatnonzero((scores < self._high_threshold) & (scores >= self.low_threshold))
        seen: dict[int, int] = {}  # index of a detection -> index in self._tracks
        unmatched = list(range(len(self._tracks)))
        for group in (high, low):
            for track, detection in self._match(unmatched, detections.boxes, group, time):
                seen[detection] = track
                unmatched.remove(track)
        if self._settings.recover_buffer:
            free = [detection for detection in high.tolist() if detection not in seen]
            pairs = self._recover(unmatched, detections.boxes, free)
            seen.update((detection, track) for track, detection in pairs)
        for detection, track in seen.items():
            self._tracks[track].update(detections, detection, time, self._settings.smoothing_time)
            self._confirm(self._tracks[track], time)
        for detection in high.tolist():
            if detection not in seen:
                seen[detection] = len(self._tracks)
                self._tracks.append(self._start_track(detections, detection, time))
        shown = [
            self._tracks[track]
            for detection, track in sorted(seen.items())
            if scores[detection] >= self._high_threshold or self._tracks[track].confirmed
        ]
        return shown, [*before, *self._remove_lost(time)]

    def lost_boxes(self, time: float) -> Boxes:
        """Return (N, 4) boxes where confirmed faces that were not seen at `time` are expected."""
        boxes = [track.predict(time) for track in self._tracks if track.confirmed and track.last_time < time]
        return np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)

    def end(self) -> list[Track]:
        """End and return all tracks."""
        ended, self._tracks = self._tracks, []
        return ended

    def _match(
        self, tracks: list[int], boxes: Boxes, detections: NDArray[np.intp], time: float
    ) -> list[tuple[int, int]]:
        """Return (track, detection) index pairs by falling overlap, each index once."""
        if not tracks or not len(detections):
            return []
        predicted = np.stack([self._tracks[track].predict(time) for track in tracks])
        buffer = IOU_BUFFER * min(max(self._step / REFERENCE_STEP, 1.0), MAX_BUFFER_SCALE)
        overlap = iou(_expand(predicted, buffer), _expand(boxes[detections], buffer))
        return [(tracks[row], int(detections[column])) for row, column in _pairs(overlap)]

    def _recover(self, tracks: list[int], boxes: Boxes, detections: list[int]) -> list[tuple[int, int]]:
        """Return (track, detection) index pairs of confirmed lost faces that are where they were last seen."""
        tracks = [track for track in tracks if self._tracks[track].confirmed]
        if not tracks or not detections:
            return []
        last, found = np.stack([self._tracks[track].box for track in tracks]), boxes[detections]
        buffer = self._settings.recover_buffer
        overlap = iou(_expand(last, buffer), _expand(found, buffer))
        scale = _side(found)[None] / np.maximum(_side(last)[:, None], 1e-6)
        overlap[(scale > MAX_RECOVERED_SCALE) | (scale < 1 / MAX_RECOVERED_SCALE)] = 0
        return [(tracks[row], detections[column]) for row, column in _pairs(overlap)]

    def _confirm(self, track: Track, time: float) -> None:
        settings = self._settings
        lasted = time - track.first_time >= settings.confirm_seconds or track.hits >= settings.confirm_hits
        strong = track.best_score >= self._confirm_score
        track.confirmed = track.confirmed or (lasted and strong and track.hits >= settings.min_hits)

    def _start_track(self, detections: Detections, detection: int, time: float) -> Track:
        self._last_id += 1
        face = float(detections.face_scores[detection])
        values = (detections.boxes[detection], detections.landmarks[detection], face, detections.class_probs[detection])
        still, score = np.zeros(2, np.float32), float(detections.scores[detection])
        return Track(self._last_id, *values, first_time=time, last_time=time, velocity=still, best_score=score)

    def _lost_after(self) -> float:
        """Return after how many seconds out of sight a track ends; a long gap, as of a lost stream, does not count."""
        patience = self._settings.lost_track_buffer
        usual = median_low(self._steps) if self._steps else 0.0
        return max(patience, LOST_TRACK_FRAMES * max(usual, min(self._step, patience)))

    def _remove_lost(self, time: float) -> list[Track]:
        lost_after = self._lost_after()
        ended = [track for track in self._tracks if time - track.last_time > lost_after]
        self._tracks = [track for track in self._tracks if time - track.last_time <= lost_after]
        return ended


def to_detections(tracks: list[Track], template: Detections) -> Detections:
    """Return the tracks as detections with smoothed scores, in the same order; class names come from `template`."""
    if not tracks:
        return Detections.empty(template.class_names)
    return Detections(
        np.stack([track.box for track in tracks]),
        np.array([track.face_score for track in tracks], np.float32),
        np.stack([track.probs for track in tracks]),
        np.stack([track.landmarks for track in tracks]),
        template.class_names,
        template.unsure_margin,
    )


def _pairs(overlap: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return (row, column) pairs by falling overlap, from MIN_IOU on, each row and column once."""
    rows: set[int] = set()
    columns: set[int] = set()
    pairs = []
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        row, column = divmod(int(flat), overlap.shape[1])
        if overlap[row, column] < MIN_IOU:
            break
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            pairs.append((row, column))
    return pairs


def _side(boxes: Boxes) -> NDArray[np.float32]:
    """Return (N,) the square roots of the boxes' areas."""
    return np.asarray(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])), np.float32)


def _center(box: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((box[:2] + box[2:]) / 2, np.float32)


def _expand(boxes: Boxes, share: float) -> Boxes:
    margin = (boxes[:, 2:] - boxes[:, :2]) * np.float32(share)
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
