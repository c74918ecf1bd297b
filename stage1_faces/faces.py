"""Faces, the result of every face detector, and Detector, the base class of both cascades."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, as_boxes
from common.images import Pixels

# A net maps float32 (N, 3, H, W) pixels of 0..255 to a tuple of float32 arrays, on any runtime.
Net = Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]]


@dataclass(frozen=True)
class Faces:
    """Faces found in one image, best score first. Raise ValueError for shapes that do not fit or wrong scores."""

    boxes: Boxes  # (N, 4) xyxy, pixels of the image, inside it
    scores: NDArray[np.float32]  # (N,) in 0..1
    # (N, 5, 2) pixels: the eye left in the picture, the other eye, nose tip, the mouth's left and right corner
    landmarks: NDArray[np.float32]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", as_boxes(self.boxes))
        n = len(self.boxes)
        if self.scores.shape != (n,) or self.landmarks.shape != (n, 5, 2):
            raise ValueError(f"{n} boxes, but scores {self.scores.shape} and landmarks {self.landmarks.shape}")
        if n and not (self.scores.min() >= 0 and self.scores.max() <= 1):
            raise ValueError("a face score is outside 0..1")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls) -> Faces:
        """Return the result for an image without a face."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))


class Detector(ABC):
    """A face detector with any nets and any search. Images are uint8 (H, W, 3) RGB."""

    def detect(self, image: Pixels, *, min_face: float | None = None, min_score: float | None = None) -> Faces:
        """Return the faces in one image; see `detect_batch`."""
        return self.detect_batch([image], min_face=min_face, min_score=min_score)[0]

    def detect_batch(
        self, images: Sequence[Pixels], *, min_face: float | None = None, min_score: float | None = None
    ) -> list[Faces]:
        """Return the faces in each image; one result does not depend on the other images, up to float rounding.

        Args:
            images: uint8 (H, W, 3) RGB of any sizes.
            min_face: overrides the configured smallest face (pixels); a configured `max_side` has no effect then.
            min_score: overrides the configured smallest score; 0 keeps every box of O-Net's last pass that NMS leaves.

        Raises:
            ValueError: an image is not uint8 (H, W, 3) with at least one pixel.
        """
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                raise ValueError(f"an image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
        return self._search(images, min_face, min_score) if len(images) else []

    @abstractmethod
    def _search(self, images: Sequence[Pixels], min_face: float | None, min_score: float | None) -> list[Faces]:
        """Return the faces in each of one or more images."""
