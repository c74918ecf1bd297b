"""Constants of tracks and events; `python -m pipeline.evaluate.videos` measures what they do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackingSettings:
    """When a face becomes a track, when the track is reported, and when it ends."""

    # Share of the score that starts a track; a lower score only continues one (Zhang et al. 2022, "ByteTrack").
    low_threshold_ratio: float = 0.25
    lost_track_buffer: float = 1.0  # seconds that a face may be out of sight and stay the same track
    smoothing_time: float = 0.7  # seconds over which class probabilities are averaged
    # A track is confirmed after this time in sight, or this number of detections.
    confirm_seconds: float = 0.5
    confirm_hits: int = 5
    min_hits: int = 2  # detections that a confirmed track has at least
    # Share of the way from the score that starts a track to 1, which the best score of a confirmed track has reached.
    confirm_gain: float = 0.0
    # A lost face is also looked for where it was last seen: its box, enlarged by this share of its sides, overlaps the
    # new one. 0 is only where its velocity has taken it.
    recover_buffer: float = 0.0
    change_seconds: float = 0.0  # time that a changed label must hold until it is reported
    unsure_wait: float = 0.0  # seconds that `entered` waits for a label that is not unsure


DEFAULT_TRACKING = TrackingSettings()
