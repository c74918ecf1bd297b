"""The true faces of a video: where each one is in each frame, and when it is in sight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 16.0  # px of a face's shorter side in the frame, from which the face counts
MIN_VISIBLE = 0.5  # a face counts when more than this share of its box is in the frame
SAME_APPEARANCE = 1.0  # seconds: a face out of sight for no longer must not be reported again
NEW_APPEARANCE = 3.0  # seconds: a face out of sight for longer must be reported again; between both, it may be
MIN_APPEARANCE = 1.0  # seconds in sight, from which a face must be reported; a shorter one may be


@dataclass(frozen=True)
class Appearance:
    """One face in sight, from the first to the last frame in which the face counts."""

    face: int  # index of the face
    start: float  # seconds
    end: float  # seconds
    tellings: int  # how often `entered` is right at most
    required: bool  # whether `entered` must come


@dataclass(frozen=True)
class ClipTruth:
    """The T frames and F faces of one video."""

    times: NDArray[np.float64]  # (T,) seconds from the start, rising
    boxes: NDArray[np.float64]  # (T, F, 4) xyxy pixels of the frame; they may reach out of the frame
    labels: tuple[str, ...]  # (F,) the class of each face
    size: tuple[int, int]  # width and height of the frames in pixels

    def clipped(self) -> NDArray[np.float64]:
        """Return (T, F, 4) the visible parts of the boxes; a box outside of the frame has no area."""
        return np.clip(self.boxes, 0, np.array([*self.size, *self.size], np.float64))

    def visible(self) -> NDArray[np.float64]:
        """Return (T, F) the share of each box that is in the frame."""
        return np.asarray(_area(self.clipped()) / np.maximum(_area(self.boxes), 1e-9))

    def counted(self) -> NDArray[np.bool_]:
        """Return (T, F) whether a face counts: more than half visible, and at least MIN_SIDE px wide and high."""
        sides = np.minimum(self.boxes[..., 2] - self.boxes[..., 0], self.boxes[..., 3] - self.boxes[..., 1])
        return np.asarray((self.visible() > MIN_VISIBLE) & (sides >= MIN_SIDE))

    def appearances(self) -> list[Appearance]:
        """Return when each face is in sight.

        Gaps of up to NEW_APPEARANCE seconds do not end an appearance. Each gap longer than SAME_APPEARANCE allows
        one more `entered` event.
        """
        found = []
        counted = self.counted()
        for face in range(len(self.labels)):
            times = self.times[counted[:, face]]
            if not len(times):
                continue
            for part in np.split(times, np.flatnonzero(np.diff(times) > NEW_APPEARANCE) + 1):
                gaps = np.diff(part)
                in_sight = float(gaps[gaps <= SAME_APPEARANCE].sum())
                tellings = 1 + int((gaps > SAME_APPEARANCE).sum())
                found.append(
                    Appearance(face, float(part[0]), float(part[-1]), tellings, required=in_sight >= MIN_APPEARANCE)
                )
        return found


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))
