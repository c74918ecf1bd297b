"""ImageResult: what is written of one image, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.display import as_text
from common.paths import FoundImage

if TYPE_CHECKING:
    from pipeline.inference.detections import Detections


@dataclass(frozen=True)
class ImageResult:
    """What is written of one image: its size in upright pixels, and its faces as JSON-ready dicts, best first."""

    image: FoundImage
    width: int
    height: int
    faces: list[dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """The photo's entry in JSON."""
        return {"file": as_text(self.image.path), "width": self.width, "height": self.height, "faces": self.faces}


def image_result(image: FoundImage, size: tuple[int, int], detections: Detections) -> ImageResult:
    """Plain numbers for `detections` in an image of `size` (width, height): pixels to 2 decimals, scores to 6.

    A score is the product of the rounded face score and label probability, so that a reader can check it. unsure:
    whether another class is nearly as probable as the label.
    """
    faces: list[dict[str, Any]] = []
    unsure = detections.unsure
    for i, label in enumerate(detections.labels):
        face_score = round(float(detections.face_scores[i]), 6)
        probs = [round(float(p), 6) for p in detections.class_probs[i]]
        faces.append(
            {
                "box": [round(float(v), 2) for v in detections.boxes[i]],
                "label": label,
                "score": round(face_score * probs[int(detections.label_ids[i])], 6),
                "face_score": face_score,
                "probs": dict(zip(detections.class_names, probs, strict=True)),
                "unsure": bool(unsure[i]),
                "landmarks": [[round(float(v), 2) for v in point] for point in detections.landmarks[i]],
            }
        )
    return ImageResult(image, *size, faces)
