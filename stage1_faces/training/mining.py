"""Mines windows for R-Net and O-Net: what the nets before them propose on the training photos, right and wrong."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, iou, over_ignored
from common.parallel import map_ordered
from stage1_faces.cascade import BoxTable
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import FaceDetector
from stage1_faces.proposals import Proposals
from stage1_faces.roi_crop import Mipmaps
from stage1_faces.training.samples import TrainingPhoto

# A photo is also searched at other sizes and mirrored, to find more of the detector's mistakes.
LOG2_SCALES = (-1.2, 0.5)  # range of log2 of the scale
MIN_SIDE = 16  # px, side of a resized photo
MINING_CONFIG = CascadeConfig(
    pnet_threshold=0.02, rnet_threshold=0.01, max_pnet=150, max_rnet=80, nms_pnet=0.6, nms_rnet=0.6
)


@dataclass(frozen=True)
class MinedWindows(BoxTable):
    """N proposals from all photos."""

    photo: NDArray[np.int64]  # (N,) index of the photo
    boxes: Boxes  # (N, 4) xyxy, pixels of that photo
    scores: NDArray[np.float32]  # (N,) face probability by the last net
    face: NDArray[np.int64]  # (N,) index of the annotated face with the largest IoU; -1 in a photo without faces
    overlap: NDArray[np.float32]  # (N,) that IoU

    def to_bytes(self) -> bytes:
        """Return the bytes of a .npz file that `from_bytes` reads."""
        return npz_bytes(**{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> MinedWindows:
        """Return the windows of a file's bytes. Raise ValueError or KeyError when they are damaged."""
        arrays = read_npz(data)
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def npz_bytes(**arrays: NDArray[Any]) -> bytes:
    """Return the bytes of a .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_npz(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .npz file, by name. Raise ValueError when it is damaged."""
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
    on_photo: Callable[[], None] = lambda: None,
    further_passes: int | None = None,
    workers: int = 1,
) -> MinedWindows:
    """Return the proposals of one net on each photo.

    The first pass takes the photo unchanged. A pass depends on seed, photo index and pass index alone.

    Args:
        detector: the cascade.
        photos: the photos.
        after: the net, "pnet" or "rnet".
        passes: how often a photo is searched.
        seed: of the passes.
        on_photo: called after each photo.
        further_passes: how often a photo of a further source is searched; None: as often as others.
        workers: threads that search photos at a time.
    """

    def search(i: int) -> list[MinedWindows]:
        photo = photos[i]
        count = passes if photo.main or further_passes is None else further_passes
        return [_search(detector, photo, i, k, after, np.random.default_rng((seed, i, k))) for k in range(count)]

    found: list[MinedWindows] = []
    for of_photo in map_ordered(search, range(len(photos)), workers):
        found += of_photo
        on_photo()
    return MinedWindows.concatenated(found)


def _search(
    detector: FaceDetector, photo: TrainingPhoto, i: int, k: int, after: str, rng: np.random.Generator
) -> MinedWindows:
    """Return the proposals of pass k on photo i."""
    image, mirrored = photo.maps.image, k % 2 == 1
    if k:
        scale = 2 ** rng.uniform(*LOG2_SCALES)
        size = [max(round(side * scale), MIN_SIDE) for side in photo.maps.size]
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)
    if mirrored:
        image = np.ascontiguousarray(image[:, ::-1])
    proposals = propose(detector, Mipmaps(image), after, MINING_CONFIG)
    boxes = proposals.boxes.copy()
    if mirrored:
        boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
    boxes *= np.tile(np.array(photo.maps.size) / (image.shape[1], image.shape[0]), 2).astype(np.float32)
    return _match_faces(i, boxes, proposals.scores, photo.boxes)


def propose(detector: FaceDetector, maps: Mipmaps, after: str, config: CascadeConfig) -> Proposals:
    """Return one image's proposals by the net `after` ("pnet" or "rnet"), best first."""
    proposals = detector.run_pnet([maps], config)
    return proposals[0] if after == "pnet" else detector.run_rnet([maps], proposals, config)[0]


def _match_faces(photo: int, boxes: Boxes, scores: NDArray[np.float32], gt_boxes: Boxes) -> MinedWindows:
    """Return one photo's proposals, each with its best annotated face."""
    count = len(boxes)
    face, overlap = np.full(count, -1), np.zeros(count, np.float32)
    if len(gt_boxes) and count:
        overlaps = iou(boxes, gt_boxes)
        face, overlap = overlaps.argmax(axis=1), overlaps.max(axis=1)
    return MinedWindows(np.full(count, photo), boxes, scores, face.astype(np.int64), overlap)


def windows_over_ignored(mined: MinedWindows, photos: Sequence[TrainingPhoto]) -> NDArray[np.bool_]:
    """Return (N,) which windows may show an ignored place of their photo (common.boxes.over_ignored)."""
    over = np.zeros(len(mined.boxes), bool)
    for i, photo in enumerate(photos):
        if len(photo.ignored):
            (of_photo,) = np.nonzero(mined.photo == i)
            over[of_photo] = over_ignored(mined.boxes[of_photo], photo.ignored)
    return over
