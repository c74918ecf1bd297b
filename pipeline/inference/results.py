"""ImageResult: what the outputs say of one image, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.display import path_text
from common.paths import FoundImage
from pipeline.inference.detections import Detections


@dataclass(frozen=True)
class ImageResult:
    """The faces of one image as plain numbers."""

    image: FoundImage  # the image's file
    width: int  # width of the upright image, in pixels
    height: int  # height of the upright image, in pixels
    faces: list[dict[str, Any]]  # one JSON-ready dict per face, best score first
    note: str = ""  # what to know of a file that was read all the same

    def record(self) -> dict[str, Any]:
        """Return the image's entry in JSON; it has a note only where there is something to know."""
        note = {"note": self.note} if self.note else {}
        return {
            "file": path_text(self.image.path),
            "width": self.width,
            "height": self.height,
            "faces": self.faces,
            **note,
        }


def image_result(image: FoundImage, size: tuple[int, int], detections: Detections, note: str = "") -> ImageResult:
    """Round detections to plain numbers: pixels to 2 decimals, probabilities to 6.

    A score is the product of the rounded face score and label probability, so that readers can check it.

    Args:
        image: the image's file.
        size: width and height of the upright image, in pixels.
        detections: the faces.
        note: what to know of a file that was read all the same.
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
    return ImageResult(image, *size, faces, note)
