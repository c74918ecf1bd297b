"""Chooses the constants of tracks and events on detections that were made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.evaluate.videos.detecting import DetectedClip
from pipeline.evaluate.videos.scorer import EventScores, score_events, total
from pipeline.inference.detections import Detections
from pipeline.video.events import Event, EventDetector
from pipeline.video.reader import Frame
from pipeline.video.tracker import Tracker, to_detections
from pipeline.video.tracking_settings import TrackingSettings

# What is tried of each constant, one constant after the other, in this order.
GRID: Mapping[str, Sequence[Any]] = {
    "lost_track_buffer": (0.5, 1.0, 1.5, 2.0, 3.0),
    "recover_buffer": (0.0, 0.5, 1.0, 2.0),
    "confirm_gain": (0.0, 0.15, 0.3, 0.45),
    "confirm_hits": (3, 4, 5, 7, 10),
    "confirm_seconds": (0.2, 0.35, 0.5, 0.75, 1.0),
    "min_hits": (2, 3, 4),
    "low_threshold_ratio": (0.25, 0.35, 0.5, 0.75),
    "smoothing_time": (0.4, 0.7, 1.0, 1.5),
    "change_seconds": (0.0, 0.3, 0.6, 1.0, 1.5),
    "unsure_wait": (0.0, 0.5, 1.0, 1.5),
}
LOWEST_RATIO = min(GRID["low_threshold_ratio"])  # of the score that starts a track; detections start there
ROUNDS = 1  # passes over GRID
RESAMPLES = 2000  # of the videos, for the interval
NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class SettingsChoice:
    """Chosen settings, and what the other half of the videos says of them."""

    settings: TrackingSettings
    tried: tuple[tuple[str, float, float], ...]  # constant, value, cost on the half that was chosen on
    difference: float  # chosen minus present, cost per video on the other half
    interval: tuple[float, float]  # 95% interval of the difference, by resampling the videos
    confirmed: bool  # whether the other half costs less, and has not more faces missing, reported again or false


def replay(
    clip: DetectedClip,
    high_threshold: float,
    settings: TrackingSettings,
    unsure_margin: float | None = None,
    stride: int = 1,
) -> list[Event]:
    """Return the events of a video as `detect` reports them.

    Args:
        clip: the video's detections.
        high_threshold: score that starts a track.
        settings: the constants.
        unsure_margin: margin below which a face is unsure; the detections' own when None.
        stride: the detector runs in every `stride`th frame only.
    """
    tracker, detector = Tracker(high_threshold, settings), EventDetector("clip", settings)
    events: list[Event] = []
    for index, (time, found) in enumerate(zip(clip.truth.times.tolist(), clip.detections, strict=True)):
        if index % stride:
            continue
        detections = found if unsure_margin is None else replace(found, unsure_margin=unsure_margin)
        tracks, ended = tracker.update(detections, time)
        faces, ended_faces = to_detections(tracks, detections), to_detections(ended, detections)
        events += detector.update(Frame(index, time, NO_PIXELS), tracks, faces, ended, ended_faces)
    last = tracker.end()
    template = Detections.empty(clip.detections[0].class_names)
    frame = Frame(len(clip.detections) - 1, float(clip.truth.times[-1]), NO_PIXELS)
    return events + detector.finish(frame, last, to_detections(last, template))


def score_clips(
    clips: Sequence[DetectedClip],
    high_threshold: float,
    settings: TrackingSettings,
    unsure_margin: float | None = None,
    stride: int = 1,
) -> list[EventScores]:
    """Return the scores of each video; arguments as for `replay`."""
    scores = []
    for clip in clips:
        found = [faces.boxes[faces.scores >= high_threshold] for faces in clip.detections]
        scores.append(score_events(clip.truth, replay(clip, high_threshold, settings, unsure_margin, stride), found))
    return scores


def choose_settings(
    choosing: Sequence[DetectedClip],
    confirming: Sequence[DetectedClip],
    high_threshold: float,
    present: TrackingSettings,
    grid: Mapping[str, Sequence[Any]] = GRID,
) -> SettingsChoice:
    """Choose each constant in turn by the cost on one half of the videos, and compare on the other half.

    A value replaces the present one only where it costs less. Of values that cost the same, the present one stays.

    Args:
        choosing: the videos to choose on.
        confirming: the videos to compare on.
        high_threshold: score that starts a track.
        present: the constants to begin with.
        grid: the values tried of each constant.
    """
    best, tried = present, []
    cost = total(score_clips(choosing, high_threshold, best)).cost
    for _ in range(ROUNDS):
        before = best
        for name, values in grid.items():
            for value in values:
                candidate = replace(best, **{name: value})
                if candidate == best:
                    continue
                new = total(score_clips(choosing, high_threshold, candidate)).cost
                tried.append((name, float(value), new))
                if new < cost - 1e-9:
                    best, cost = candidate, new
        if best == before:
            break
    old, new_scores = (score_clips(confirming, high_threshold, s) for s in (present, best))
    differences = np.array([b.cost - a.cost for a, b in zip(old, new_scores, strict=True)])
    generator = np.random.default_rng(0)
    means = differences[generator.integers(len(differences), size=(RESAMPLES, len(differences)))].mean(axis=1)
    low, high = (float(v) for v in np.percentile(means, [2.5, 97.5]))
    a, b = total(old), total(new_scores)
    worse = b.missing > a.missing or b.duplicates > a.duplicates or b.false > a.false
    confirmed = bool(differences.mean() < 0) and not worse
    return SettingsChoice(best, tuple(tried), float(differences.mean()), (low, high), confirmed)
