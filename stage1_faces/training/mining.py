"""Collects windows for R-Net and O-Net: what the nets before them propose on the training photos, right and wrong."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, iou
from stage1_faces.detector import CascadeConfig, FaceDetector, Proposals
from stage1_faces.faces import Pixels
from stage1_faces.roi_crop import Mipmaps
from stage1_faces.training.samples import TrainingPhoto

# A photo is also searched at other sizes and mirrored, for more and other mistakes.
SCALES = (-1.2, 0.5)  # of log2 of its size
SMALLEST = 16  # px a side
SEARCH = CascadeConfig(pnet_threshold=0.02, rnet_threshold=0.01, max_pnet=150, max_rnet=80, nms_pnet=0.6, nms_rnet=0.6)


@dataclass(frozen=True)
class MinedWindows:
    """N candidates from all photos: photo (N,) index; boxes (N, 4) pixels of that photo; scores (N,) by the last net.

    face (N,): index of the annotated face that overlaps most, -1 in a photo without faces; overlap (N,): its IoU.
    """

    photo: NDArray[np.int64]
    boxes: Boxes
    scores: NDArray[np.float32]
    face: NDArray[np.int64]
    overlap: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """As a file that `from_bytes` reads."""
        buffer = io.BytesIO()
        np.savez(buffer, **{f.name: getattr(self, f.name) for f in fields(self)})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> MinedWindows:
        """Raises ValueError or KeyError when the bytes are damaged."""
        arrays = arrays_in(data)
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def arrays_in(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file, by name. Raises ValueError when it is damaged."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # damaged files raise many kinds
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def mine(
    detector: FaceDetector,
    photos: Sequence[TrainingPhoto],
    after: str,
    passes: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> MinedWindows:
    """The candidates that `after` ("pnet" or "rnet") gives on each photo, searched `passes` times; at least one is.

    The first pass takes the photo as it is. advance: called after each photo.
    """
    found: list[MinedWindows] = []
    for i, photo in enumerate(photos):
        for k in range(passes):
            rng = np.random.default_rng((seed, i, k))
            image, mirrored = photo.maps.image, k % 2 == 1
            if k:
                image = _resized(image, 2 ** rng.uniform(*SCALES))
            if mirrored:
                image = np.ascontiguousarray(image[:, ::-1])
            candidates = _candidates(detector, Mipmaps(image), after)
            boxes = candidates.boxes.copy()
            if mirrored:
                boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
            boxes *= np.tile(np.array(photo.maps.size) / (image.shape[1], image.shape[0]), 2).astype(np.float32)
            found.append(_matched(i, boxes, candidates.scores, photo.boxes))
        advance()
    return MinedWindows(*(np.concatenate([getattr(part, f.name) for part in found]) for f in fields(MinedWindows)))


def _candidates(detector: FaceDetector, maps: Mipmaps, after: str) -> Proposals:
    proposed = detector.propose([maps], SEARCH)
    return proposed[0] if after == "pnet" else detector.refine([maps], proposed, SEARCH)[0]


def _resized(image: Pixels, scale: float) -> Pixels:
    size = (max(round(image.shape[1] * scale), SMALLEST), max(round(image.shape[0] * scale), SMALLEST))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)


def _matched(photo: int, boxes: Boxes, scores: NDArray[np.float32], faces: Boxes) -> MinedWindows:
    count = len(boxes)
    face, overlap = np.full(count, -1), np.zeros(count, np.float32)
    if len(faces) and count:
        overlaps = iou(boxes, faces)
        face, overlap = overlaps.argmax(axis=1), overlaps.max(axis=1)
    return MinedWindows(np.full(count, photo), boxes, scores, face.astype(np.int64), overlap)
