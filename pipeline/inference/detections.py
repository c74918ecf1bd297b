"""Detections: the faces of one image with their classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, as_boxes
from common.cli import requires_package

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv


@dataclass(frozen=True)
class Detections:
    """Faces of one image with their classes, best score first.

    boxes: float32 (N, 4) xyxy pixels. face_scores: (N,) probability of being a face. class_probs: (N, C), each row
    sums to 1. landmarks: (N, 5, 2) pixels. class_names: the C classes. unsure_margin: see `unsure`.
    Raises ValueError on shapes that do not fit.
    """

    boxes: Boxes
    face_scores: NDArray[np.float32]
    class_probs: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    class_names: tuple[str, ...]
    unsure_margin: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", as_boxes(self.boxes))
        n = len(self.boxes)
        shapes = (self.face_scores.shape, self.class_probs.shape, self.landmarks.shape)
        if shapes != ((n,), (n, len(self.class_names)), (n, 5, 2)):
            raise ValueError(f"{n} boxes of {len(self.class_names)} classes do not fit arrays of shapes {shapes}")
        if n and not np.allclose(self.class_probs.sum(axis=1), 1, atol=1e-3):
            raise ValueError("class probabilities do not sum to 1")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls, class_names: tuple[str, ...]) -> Detections:
        """No face found."""
        none = np.zeros(0, np.float32)
        shape = (0, len(class_names))
        return cls(np.zeros((0, 4), np.float32), none, none.reshape(shape), none.reshape(0, 5, 2), class_names)

    @property
    def label_ids(self) -> NDArray[np.intp]:
        """(N,) index of each face's most probable class."""
        return self.class_probs.argmax(axis=1) if len(self) else np.zeros(0, np.intp)

    @property
    def labels(self) -> tuple[str, ...]:
        """Each face's most probable class."""
        return tuple(self.class_names[i] for i in self.label_ids)

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,) face score times the label's probability: how likely this is a face of that class."""
        best = self.class_probs.max(axis=1) if len(self) else np.zeros(0, np.float32)
        return np.asarray(self.face_scores * best, dtype=np.float32)

    @property
    def unsure(self) -> NDArray[np.bool_]:
        """(N,) whether the two best classes are closer than the bundle's margin; the label is the best one still."""
        if len(self.class_names) < 2:
            return np.zeros(len(self), bool)
        best = np.sort(self.class_probs, axis=1)
        return best[:, -1] - best[:, -2] < self.unsure_margin

    def rescale(self, sx: float, sy: float) -> Detections:
        """The same faces in an image so many times as wide and high."""
        if sx == 1 and sy == 1:
            return self
        stretch = np.array([sx, sy], np.float32)
        return replace(self, boxes=self.boxes * np.tile(stretch, 2), landmarks=self.landmarks * stretch)

    def to_supervision(self) -> sv.Detections:
        """supervision.Detections: xyxy, confidence = score, class_id; data has class_name, face_score and unsure.

        Raises UserError when supervision is not installed.
        """
        with requires_package("supervision"):
            import supervision as sv
        return sv.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores,
            class_id=self.label_ids.astype(int),
            data={
                "class_name": _array(self.labels),
                "face_score": self.face_scores.copy(),
                "unsure": self.unsure,
            },
        )

    def to_pandas(self) -> pd.DataFrame:
        """A row a face: x1, y1, x2, y2, label, score, face_score, p_<class> for each class, unsure.

        Raises UserError when pandas is not installed.
        """
        with requires_package("pandas"):
            import pandas as pd
        columns: dict[str, Any] = dict(zip(("x1", "y1", "x2", "y2"), self.boxes.T.copy(), strict=True))
        columns |= {"label": _array(self.labels), "score": self.scores, "face_score": self.face_scores.copy()}
        columns |= {f"p_{name}": self.class_probs[:, k].copy() for k, name in enumerate(self.class_names)}
        return pd.DataFrame(columns | {"unsure": self.unsure})

    def to_coco(self, image_id: int | str, category_ids: dict[str, int] | None = None) -> list[dict[str, Any]]:
        """COCO's results format: a dict a face with image_id, category_id, bbox [x, y, width, height] and score.

        category_ids: those of your annotations by class name; 1, 2, ... in class_names' order when not given.
        Raises KeyError for a label that it lacks.
        """
        ids = category_ids or {name: k + 1 for k, name in enumerate(self.class_names)}
        results = []
        for (x1, y1, x2, y2), label, score in zip(self.boxes.tolist(), self.labels, self.scores.tolist(), strict=True):
            box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
            results.append({"image_id": image_id, "category_id": ids[label], "bbox": box, "score": round(score, 6)})
        return results

    def __getitem__(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Detections:
        return Detections(
            self.boxes[index],
            self.face_scores[index],
            self.class_probs[index],
            self.landmarks[index],
            self.class_names,
            self.unsure_margin,
        )


def _array(labels: tuple[str, ...]) -> NDArray[np.str_]:
    return np.array(labels, dtype=str)
