"""A fake of pipeline.inference.predictor that finds a face in each blob of pure red, with predictable results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from common.images import MAX_PIXELS, Photo, decode_photo, read_photo
from stage1_faces.faces import Faces

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
FACE_SCORE = 0.9
PROBS = (0.7, 0.2, 0.1)


@dataclass(frozen=True)
class FakeDetections:
    boxes: np.ndarray
    face_scores: np.ndarray
    class_probs: np.ndarray
    landmarks: np.ndarray
    class_names: tuple[str, ...] = CLASSES
    unsure_margin: float = 0.0

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def label_ids(self) -> np.ndarray:
        return self.class_probs.argmax(axis=1)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.class_names[i] for i in self.label_ids)

    @property
    def scores(self) -> np.ndarray:
        return self.face_scores * self.class_probs.max(axis=1, initial=0)

    @property
    def unsure(self) -> np.ndarray:
        best = np.sort(self.class_probs, axis=1)
        return best[:, -1] - best[:, -2] < self.unsure_margin


def fake_detections(boxes: Any, probs: Any = None, face_scores: Any = None, unsure_margin: float = 0) -> FakeDetections:
    """Return detections with these boxes, and with landmarks at fixed places in each box."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    probs = np.tile(np.float32(PROBS), (n, 1)) if probs is None else np.asarray(probs, np.float32)
    face_scores = np.full(n, FACE_SCORE, np.float32) if face_scores is None else np.float32(face_scores)
    at = np.float32([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    landmarks = boxes[:, None, :2] + at * (boxes[:, None, 2:] - boxes[:, None, :2])
    return FakeDetections(boxes, face_scores, probs, landmarks.astype(np.float32), unsure_margin=unsure_margin)


@dataclass(frozen=True)
class FakeMeta:
    class_names: tuple[str, ...] = CLASSES
    score_threshold: float = 0.5


class FakeBundle:
    meta = FakeMeta()

    def describe(self) -> dict[str, Any]:
        return {"path": "fake", "class_names": list(CLASSES), "thresholds": {"score": 0.5}}


class FakePredictor:
    """Finds a face in each red blob; `calls` has the (min_score, min_face) of each call."""

    def __init__(self) -> None:
        self.unsure_margin = 0.0
        self.bundle = FakeBundle()
        self.calls: list[tuple[float | None, float | None]] = []

    def read(self, path: str, min_face: float | None = None) -> Photo:
        return read_photo(path)

    def read_from(
        self, file: BinaryIO, name: str, min_face: float | None = None, max_pixels: int = MAX_PIXELS
    ) -> Photo:
        return decode_photo(file, name, max_pixels=max_pixels)

    def detect(
        self, image: np.ndarray | Photo, min_score: float | None = None, min_face: float | None = None
    ) -> FakeDetections:
        self.calls.append((min_score, min_face))
        if isinstance(image, Photo):
            image = image.pixels
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        red = (image[..., 0] > 200) & (image[..., 1] < 60) & (image[..., 2] < 60)
        _, _, stats, _ = cv2.connectedComponentsWithStats(red.astype(np.uint8))
        boxes = [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:]]
        return fake_detections(boxes, unsure_margin=self.unsure_margin)


def write_picture(path: Path, boxes: Any = ((8, 6, 20, 24),), size: tuple[int, int] = (48, 32)) -> Path:
    """Write a grey picture of `size` (width, height) with a red blob in each box."""
    image = np.full((size[1], size[0], 3), 128, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = (255, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])
    return path


class ScriptedDetector:
    """A detector that returns the given faces, one item per photo."""

    def __init__(self, *found: Faces) -> None:
        self.left = list(found)
        self.asked: list[float | None] = []

    def detect(self, image: np.ndarray, *, min_score: float | None = None) -> Faces:
        assert image.ndim == 3 and image.dtype == np.uint8
        self.asked.append(min_score)
        return self.left.pop(0)
