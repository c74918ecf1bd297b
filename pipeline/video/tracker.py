"""Follows faces from frame to frame, each with a number of its own and its label smoothed over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, iou
from pipeline.inference.detections import Detections

# A face is sought again within its box made larger by this share of its sides: small and fast ones do not overlap
# themselves from frame to frame (buffered IoU: Yang et al. 2023, "Hard to Track Objects with Irregular Motions").
IOU_BUFFER = 0.4
REFERENCE_STEP, MAX_BUFFER_SCALE = (
    0.1,
    4.0,
)  # seconds between frames for which that is meant; where they are more, up to so many times
MIN_IOU = 0.1  # buffered IoU of a face with itself in the next frame
LOW_THRESHOLD_RATIO = (
    0.25  # of the least score reported: what continues a track, but starts none (Zhang et al. 2022, "ByteTrack")
)
LOST_TRACK_BUFFER = (
    1.0  # seconds that a face may be out of sight and is still the same; where frames are few, KEEP_FRAMES of them
)
LOST_TRACK_FRAMES = 2.5
SMOOTHING_TIME = 0.7  # seconds over which class probabilities are averaged
CONFIRM_SECONDS, CONFIRM_HITS = 0.5, 5  # seconds in sight, or times seen, after which a face counts as there


@dataclass
class Track:
    """One face over time.

    number: from 1 on. box: (4,) xyxy pixels where last seen; landmarks: (5, 2). face_score, probs (C,): smoothed.
    first, last: seconds when it was first and last seen. speed: (2,) pixels a second. hits: how often it was seen.
    sure: whether it counts as a face that is there, not as one frame's mistake.
    """

    track_id: int
    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    face_score: float
    probs: NDArray[np.float32]
    first_time: float
    last_time: float
    velocity: NDArray[np.float32]
    hits: int = 1
    confirmed: bool = False

    def predict(self, time: float) -> NDArray[np.float32]:
        """Where its box is expected at `time`: moved on at its speed."""
        moved = np.tile(self.velocity, 2) * (time - self.last_time)
        return np.asarray(self.box + moved, np.float32)

    def update(self, detections: Detections, i: int, time: float) -> None:
        """Takes in the detection `i` of `found` as this face at `time`, seconds."""
        box, face = detections.boxes[i], float(detections.face_scores[i])
        passed = time - self.last_time
        # The first frames count alike; a class seen surely counts for more than one seen at a doubtful face.
        share = max(1 - math.exp(-passed / SMOOTHING_TIME), 1 / (self.hits + 1))
        if passed > 0:
            moved = np.asarray((_centre(box) - _centre(self.box)) / passed, np.float32)
            # Half of each: a detector's boxes jitter, and speeds drawn from two of them even more.
            self.velocity = moved if self.hits == 1 else np.asarray((self.velocity + moved) / 2, np.float32)
        self.face_score += share * (face - self.face_score)
        weight = np.float32(share * face / max(face, self.face_score, 1e-6))
        self.probs = self.probs + weight * (detections.class_probs[i] - self.probs)
        self.box, self.landmarks, self.last_time = box, detections.landmarks[i], time
        self.hits += 1
        self.confirmed = self.confirmed or time - self.first_time >= CONFIRM_SECONDS or self.hits >= CONFIRM_HITS


class Tracker:
    """Gives each detection of each frame its track.

    score: least score that starts a track; detections down to `weakest` continue one.
    """

    def __init__(self, high_threshold: float) -> None:
        self._high_threshold = high_threshold
        self.low_threshold = high_threshold * LOW_THRESHOLD_RATIO
        self._tracks: list[Track] = []
        self._last_id = 0
        self._time: float | None = None
        self._step = 0.0  # seconds from the frame before to this one

    def update(self, detections: Detections, time: float) -> tuple[list[Track], list[Track]]:
        """Takes in a frame's detections (scores from `weakest` on) at `time` seconds, which must not fall.

        Returns the tracks seen in this frame, best score first, and those that have ended since the last one. A weak
        detection is seen only where its track is sure.
        """
        self._step, self._time = time - (time if self._time is None else self._time), time
        scores = detections.scores
        strong = np.flatnonzero(scores >= self._high_threshold)
        weak = np.flatnonzero((scores < self._high_threshold) & (scores >= self.low_threshold))
        seen: dict[int, int] = {}  # detection -> place in self._tracks
        open_tracks = list(range(len(self._tracks)))
        for group in (strong, weak):
            for track, detection in self._match(open_tracks, detections.boxes, group, time):
                seen[detection] = track
                open_tracks.remove(track)
        for detection, place in seen.items():
            self._tracks[place].update(detections, detection, time)
        for detection in strong.tolist():
            if detection not in seen:
                seen[detection] = len(self._tracks)
                self._tracks.append(self._start_track(detections, detection, time))
        shown = [
            self._tracks[place]
            for detection, place in sorted(seen.items())
            if scores[detection] >= self._high_threshold or self._tracks[place].confirmed
        ]
        return shown, self._remove_lost(time)

    def lost_boxes(self, time: float) -> Boxes:
        """Where faces that are there, but were not seen at `time`, are expected: boxes (N, 4)."""
        boxes = [track.predict(time) for track in self._tracks if track.confirmed and track.last_time < time]
        return np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)

    def end(self) -> list[Track]:
        """Ends every track, at the end of the video; returns them."""
        ended, self._tracks = self._tracks, []
        return ended

    def _match(
        self, tracks: list[int], boxes: Boxes, detections: NDArray[np.intp], time: float
    ) -> list[tuple[int, int]]:
        """Pairs of a track's place and a detection, nearest first, each taken once."""
        if not tracks or not len(detections):
            return []
        expected = np.stack([self._tracks[place].predict(time) for place in tracks])
        by = IOU_BUFFER * min(max(self._step / REFERENCE_STEP, 1.0), MAX_BUFFER_SCALE)
        overlap = iou(_expand(expected, by), _expand(boxes[detections], by))
        pairs = []
        for flat in np.argsort(-overlap, axis=None, kind="stable"):
            row, column = divmod(int(flat), overlap.shape[1])
            if overlap[row, column] < MIN_IOU:
                break
            pairs.append((row, column))
        rows: set[int] = set()
        columns: set[int] = set()
        taken = []
        for row, column in pairs:
            if row not in rows and column not in columns:
                rows.add(row)
                columns.add(column)
                taken.append((tracks[row], int(detections[column])))
        return taken

    def _start_track(self, detections: Detections, detection: int, time: float) -> Track:
        self._last_id += 1
        face = float(detections.face_scores[detection])
        values = (detections.boxes[detection], detections.landmarks[detection], face, detections.class_probs[detection])
        return Track(self._last_id, *values, first_time=time, last_time=time, velocity=np.zeros(2, np.float32))

    def _remove_lost(self, time: float) -> list[Track]:
        keep = max(LOST_TRACK_BUFFER, LOST_TRACK_FRAMES * self._step)
        ended = [track for track in self._tracks if time - track.last_time > keep]
        self._tracks = [track for track in self._tracks if time - track.last_time <= keep]
        return ended


def to_detections(tracks: list[Track], template: Detections) -> Detections:
    """What was seen of `tracks`, with their smoothed scores and labels, in their order."""
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


def _centre(box: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((box[:2] + box[2:]) / 2, np.float32)


def _expand(boxes: Boxes, share: float) -> Boxes:
    by = (boxes[:, 2:] - boxes[:, :2]) * np.float32(share)
    return np.concatenate([boxes[:, :2] - by, boxes[:, 2:] + by], axis=1)
