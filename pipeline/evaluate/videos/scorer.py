"""Scores the events of a video against its true faces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from common.boxes import Boxes, iou
from pipeline.evaluate.videos.truth import SAME_APPEARANCE, Appearance, ClipTruth
from pipeline.video.events import Event

MIN_IOU = 0.3  # between an event's box and a face's visible part; boxes lag a little in a shaken picture
DELAY_COST = 0.1  # mistakes that a second of delay counts as


@dataclass(frozen=True)
class EventScores:
    """Counts over one video or several."""

    faces: int = 0  # appearances that must be reported
    once: int = 0  # of these, reported as often as is right
    missing: int = 0  # of these, never reported
    unseen: int = 0  # of the missing ones, those without a detection that could start a track, in any frame
    duplicates: int = 0  # `entered` events of a face that was reported before, in the same appearance
    wrong: int = 0  # first `entered` events with a wrong label
    wrong_at_end: int = 0  # faces whose last reported label is wrong
    false: int = 0  # `entered` events where no face is annotated
    changes: int = 0  # `changed` events; no face in these videos changes its class
    wrong_changes: int = 0  # of these, to a wrong label
    unsure: int = 0  # first `entered` events that are unsure
    unsure_wrong: int = 0  # of these, with a wrong label
    delay: float = 0.0  # seconds from the start of an appearance until it is reported, summed
    reported: int = 0  # appearances that were reported

    def __add__(self, other: EventScores) -> EventScores:
        return EventScores(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def mean_delay(self) -> float:
        """Return the mean delay in seconds; NaN where nothing was reported."""
        return self.delay / self.reported if self.reported else float("nan")

    @property
    def cost(self) -> float:
        """Return the number of mistakes, and DELAY_COST for each second of delay.

        A wrong label at first counts once, and once more where it is never put right. A change to the right label
        therefore costs nothing.
        """
        mistakes = self.missing + self.duplicates + self.false + self.wrong + self.wrong_at_end + self.wrong_changes
        return mistakes + DELAY_COST * self.delay


def total(scores: Iterable[EventScores]) -> EventScores:
    """Return the sum over videos."""
    return sum(scores, EventScores())


def score_events(truth: ClipTruth, events: Sequence[Event], found: Sequence[Boxes] | None = None) -> EventScores:
    """Compare the `entered` and `changed` events of a video with its truth.

    An event belongs to the face that its box overlaps most, from MIN_IOU on. An event at a face that never counts
    (too small, or mostly out of the frame) is neither right nor wrong. An event at a face before or after it counts
    tells its nearest appearance, but is never a duplicate.

    Args:
        truth: the true faces.
        events: in order; `Event.frame` is the index of the frame in `truth`.
        found: (N, 4) boxes of each frame that could start a track; without them no face counts as unseen.
    """
    appearances = truth.appearances()
    by_appearance: dict[int, list[Event]] = {i: [] for i in range(len(appearances))}
    false = 0
    for event in events:
        if event.event not in ("entered", "changed"):
            continue
        face = _find_face(truth, event)
        if face is None:
            false += event.event == "entered"
            continue
        nearest = [(_distance(a, event.time), i) for i, a in enumerate(appearances) if a.face == face]
        if nearest:
            by_appearance[min(nearest)[1]].append(event)
    scores = EventScores(false=false)
    for i, a in enumerate(appearances):
        scored = _score_appearance(a, by_appearance[i], truth.labels[a.face])
        unseen = scored.missing and found is not None and not _is_seen(truth, a, found)
        scores += replace(scored, unseen=int(unseen))
    return scores


def _is_seen(truth: ClipTruth, appearance: Appearance, found: Sequence[Boxes]) -> bool:
    """Return whether a box is on a face in some frame of its appearance."""
    faces = truth.clipped()[:, appearance.face].astype(np.float32)
    frames = np.flatnonzero((truth.times >= appearance.start) & (truth.times <= appearance.end))
    return any(len(found[t]) and iou(faces[t : t + 1], found[t]).max() >= MIN_IOU for t in frames.tolist())


def _find_face(truth: ClipTruth, event: Event) -> int | None:
    """Return the index of the face that an event's box is on; None where no face is annotated."""
    if not truth.labels:
        return None
    faces = truth.clipped()[event.frame].astype(np.float32)
    overlap = iou(np.array([[event.x1, event.y1, event.x2, event.y2]], np.float32), faces)[0]
    best = int(overlap.argmax())
    return best if overlap[best] >= MIN_IOU else None


def _distance(appearance: Appearance, time: float) -> float:
    """Return the seconds from a time to an appearance; 0 within it."""
    return max(appearance.start - time, time - appearance.end, 0.0)


def _score_appearance(appearance: Appearance, events: Sequence[Event], label: str) -> EventScores:
    entered = [event for event in events if event.event == "entered"]
    changed = [event for event in events if event.event == "changed"]
    inside = [e for e in entered if appearance.start <= e.time <= appearance.end + SAME_APPEARANCE]
    if not entered:
        missing = int(appearance.required)
        return EventScores(faces=missing, missing=missing)
    first, duplicates = entered[0], max(len(inside) - appearance.tellings, 0)
    wrong = first.label != label
    return EventScores(
        faces=int(appearance.required),
        once=int(appearance.required and not duplicates),
        duplicates=duplicates,
        wrong=int(wrong),
        wrong_at_end=int(events[-1].label != label),
        changes=len(changed),
        wrong_changes=sum(event.label != label for event in changed),
        unsure=int(first.unsure),
        unsure_wrong=int(first.unsure and wrong),
        delay=max(first.time - appearance.start, 0.0),
        reported=1,
    )
