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
    """The N faces of one image with their C class probabilities, best score first.

    Raises:
        ValueError: the shapes do not match, or the probabilities of a face do not sum to 1.
    """

    boxes: Boxes  # float32 (N, 4): x1, y1, x2, y2 in pixels of the image; right and bottom edge exclusive
    face_scores: NDArray[np.float32]  # float32 (N,): the probability, 0 to 1, that the box holds a face
    class_probs: NDArray[np.float32]  # float32 (N, C): the probability of each class; each row sums to 1
    landmarks: NDArray[np.float32]  # float32 (N, 5, 2): x, y in pixels of both eyes, nose, both mouth corners
    class_names: tuple[str, ...]  # the names of the C classes
    unsure_margin: float = 0.0  # a face is `unsure` when its two best class probabilities differ by less than this

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
        """Return the detections of an image without a face."""
        none = np.zeros(0, np.float32)
        shape = (0, len(class_names))
        return cls(np.zeros((0, 4), np.float32), none, none.reshape(shape), none.reshape(0, 5, 2), class_names)

    @property
    def label_ids(self) -> NDArray[np.intp]:
        """The index of each face's most probable class, intp (N,)."""
        return self.class_probs.argmax(axis=1) if len(self) else np.zeros(0, np.intp)

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each face's most probable class."""
        return tuple(self.class_names[i] for i in self.label_ids)

    @property
    def scores(self) -> NDArray[np.float32]:
        """The probability that the box holds a face of its label's class, float32 (N,): face score times class."""
        best = self.class_probs.max(axis=1) if len(self) else np.zeros(0, np.float32)
        return np.asarray(self.face_scores * best, dtype=np.float32)

    @property
    def unsure(self) -> NDArray[np.bool_]:
        """Whether the two best classes differ by less than `unsure_margin`, bool (N,); the label is still the best."""
        if len(self.class_names) < 2:
            return np.zeros(len(self), bool)
        best = np.sort(self.class_probs, axis=1)
        return best[:, -1] - best[:, -2] < self.unsure_margin

    def rescale(self, sx: float, sy: float) -> Detections:
        """Return the same faces in a resized image; sx is new width / old width, sy the same of the heights."""
        if sx == 1 and sy == 1:
            return self
        factors = np.array([sx, sy], np.float32)
        return replace(self, boxes=self.boxes * np.tile(factors, 2), landmarks=self.landmarks * factors)

    def to_supervision(self) -> sv.Detections:
        """Return supervision.Detections: confidence is `scores`; data has class_name, face_score and unsure.

        Raises:
            UserError: supervision is not installed.
        """
        with requires_package("supervision"):
            import supervision as sv
        names, ids = np.array(self.labels, str), self.label_ids.astype(int)
        data: dict[str, Any] = {"class_name": names, "face_score": self.face_scores.copy(), "unsure": self.unsure}
        return sv.Detections(xyxy=self.boxes.copy(), confidence=self.scores, class_id=ids, data=data)

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per face: x1, y1, x2, y2, label, score, face_score, p_<class>, unsure.

        Raises:
            UserError: pandas is not installed.
        """
        with requires_package("pandas"):
            import pandas as pd
        columns: dict[str, Any] = dict(zip(("x1", "y1", "x2", "y2"), self.boxes.T.copy(), strict=True))
        columns |= {"label": np.array(self.labels, str), "score": self.scores, "face_score": self.face_scores.copy()}
        columns |= {f"p_{name}": self.class_probs[:, k].copy() for k, name in enumerate(self.class_names)}
        return pd.DataFrame(columns | {"unsure": self.unsure})

    def to_coco(self, image_id: int | str, category_ids: dict[str, int] | None = None) -> list[dict[str, Any]]:
        """Return the faces in COCO's results format.

        Args:
            image_id: the image's id in your annotations.
            category_ids: the id of each class name in your annotations; 1, 2, 3 in the classes' order when None.

        Returns:
            One dict per face: image_id, category_id, bbox (x, y, width, height in pixels) and score.

        Raises:
            KeyError: `category_ids` lacks a label.
        """
        ids = category_ids or {name: k + 1 for k, name in enumerate(self.class_names)}
        results = []
        for (x1, y1, x2, y2), label, score in zip(self.boxes.tolist(), self.labels, self.scores.tolist(), strict=True):
            box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
            results.append({"image_id": image_id, "category_id": ids[label], "bbox": box, "score": round(score, 6)})
        return results

    def __getitem__(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Detections:
        arrays = ("boxes", "face_scores", "class_probs", "landmarks")
        return replace(self, **{name: getattr(self, name)[index] for name in arrays})
