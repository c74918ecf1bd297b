"""Follows faces from frame to frame; each gets a number and a label smoothed over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, iou
from pipeline.inference.detections import Detections

# Boxes are matched after each is enlarged by this share of its sides, on each side. Small and fast faces do not overlap
# themselves from frame to frame (buffered IoU: Yang et al. 2023, "Hard to Track Objects with Irregular Motions").
IOU_BUFFER = 0.4
REFERENCE_STEP = 0.1  # seconds between frames that IOU_BUFFER is meant for; a longer step scales the buffer
MAX_BUFFER_SCALE = 4.0
MIN_IOU = 0.1  # smallest buffered IoU of a face with itself in the next frame
# Share of the score that starts a track; a lower score only continues one (Zhang et al. 2022, "ByteTrack").
LOW_THRESHOLD_RATIO = 0.25
LOST_TRACK_BUFFER = 1.0  # seconds that a face may be out of sight and stay the same track
LOST_TRACK_FRAMES = 2.5  # or this many frames, where that is longer
SMOOTHING_TIME = 0.7  # seconds over which class probabilities are averaged
CONFIRM_SECONDS, CONFIRM_HITS = 0.5, 5  # time in sight, or detections, after which a track is confirmed


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
    hits: int = 1  # number of detections
    confirmed: bool = False  # whether the face is real, not one frame's false alarm

    def predict(self, time: float) -> NDArray[np.float32]:
        """Return the box (4,) expected at `time` seconds, moved by the velocity."""
        moved = np.tile(self.velocity, 2) * (time - self.last_time)
        return np.asarray(self.box + moved, np.float32)

    def update(self, detections: Detections, i: int, time: float) -> None:
        """Add detection `i` as this face at `time` seconds."""
        box, face = detections.boxes[i], float(detections.face_scores[i])
        elapsed = time - self.last_time
        # The first frames count alike. The class at a high face score counts for more than at a low one.
        share = max(1 - math.exp(-elapsed / SMOOTHING_TIME), 1 / (self.hits + 1))
        if elapsed > 0:
            moved = np.asarray((_center(box) - _center(self.box)) / elapsed, np.float32)
            # Half of each: a detector's boxes jitter, and velocities from two of them jitter more.
            self.velocity = moved if self.hits == 1 else np.asarray((self.velocity + moved) / 2, np.float32)
        self.face_score += share * (face - self.face_score)
        weight = np.float32(share * face / max(face, self.face_score, 1e-6))
        self.probs = self.probs + weight * (detections.class_probs[i] - self.probs)
        self.box, self.landmarks, self.last_time = box, detections.landmarks[i], time
        self.hits += 1
        self.confirmed = self.confirmed or time - self.first_time >= CONFIRM_SECONDS or self.hits >= CONFIRM_HITS


class Tracker:
    """Assigns detections to tracks: a score of `high_threshold` starts a track, one of `low_threshold` continues it."""

    def __init__(self, high_threshold: float) -> None:
        self._high_threshold = high_threshold
        self.low_threshold = high_threshold * LOW_THRESHOLD_RATIO
        self._tracks: list[Track] = []
        self._last_id = 0
        self._time: float | None = None
        self._step = 0.0  # seconds since the previous frame

    def update(self, detections: Detections, time: float) -> tuple[list[Track], list[Track]]:
        """Add a frame's detections (scores from `low_threshold` on) at `time` seconds, which must not fall.

        Return the tracks seen in this frame, best score first, and the tracks that ended since the last frame. A
        detection below `high_threshold` is seen only where its track is confirmed.
        """
        self._step, self._time = time - (time if self._time is None else self._time), time
        scores = detections.scores
        high = np.flatnonzero(scores >= self._high_threshold)
        low = np.flatnonzero((scores < self._high_threshold) & (scores >= self.low_threshold))
        seen: dict[int, int] = {}  # index of a detection -> index in self._tracks
        unmatched = list(range(len(self._tracks)))
        for group in (high, low):
            for track, detection in self._match(unmatched, detections.boxes, group, time):
                seen[detection] = track
                unmatched.remove(track)
        for detection, track in seen.items():
            self._tracks[track].update(detections, detection, time)
        for detection in high.tolist():
            if detection not in seen:
                seen[detection] = len(self._tracks)
                self._tracks.append(self._start_track(detections, detection, time))
        shown = [
            self._tracks[track]
            for detection, track in sorted(seen.items())
            if scores[detection] >= self._high_threshold or self._tracks[track].confirmed
        ]
        return shown, self._remove_lost(time)

    def lost_boxes(self, time: float) -> Boxes:
        """Return (N, 4) boxes where confirmed faces that were not seen at `time` are expected."""
        boxes = [track.predict(time) for track in self._tracks if track.confirmed and track.last_time < time]
        return np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)

    def end(self) -> list[Track]:
        """End and return all tracks, at the end of the video."""
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
                pairs.append((tracks[row], int(detections[column])))
        return pairs

    def _start_track(self, detections: Detections, detection: int, time: float) -> Track:
        self._last_id += 1
        face = float(detections.face_scores[detection])
        values = (detections.boxes[detection], detections.landmarks[detection], face, detections.class_probs[detection])
        return Track(self._last_id, *values, first_time=time, last_time=time, velocity=np.zeros(2, np.float32))

    def _remove_lost(self, time: float) -> list[Track]:
        lost_after = max(LOST_TRACK_BUFFER, LOST_TRACK_FRAMES * self._step)
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


def _center(box: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((box[:2] + box[2:]) / 2, np.float32)


def _expand(boxes: Boxes, share: float) -> Boxes:
    margin = (boxes[:, 2:] - boxes[:, :2]) * np.float32(share)
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
