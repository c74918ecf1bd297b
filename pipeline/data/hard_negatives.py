"""What the fine-tuned cascade gives to stage 2's training: false alarms as hard negatives, and landmarks of faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.annotations import AnnotatedImage
from common.boxes import Boxes, iou, over_ignored
from common.cli import progress, requires_extra
from common.errors import MediaError
from common.images import read_image
from common.parallel import map_ordered
from stage1_faces.detector import FaceDetector
from stage1_faces.faces import Detector, Faces

# Most candidates score less; the cascade itself refuses them, so they teach nothing.
MIN_SCORE = 0.01
SAME_FACE_IOU = 0.5  # a face takes the landmarks of a candidate from this overlap on
MAX_BACKGROUND_IOU = 0.3  # a candidate with more overlap may be that face in a loose box


def load_detector(run: Path) -> FaceDetector:
    """Return the cascade of a run of stage1_faces.finetune at its default settings; UserError if it cannot be read."""
    with requires_extra("train"):
        from stage1_faces.training.export import FINE_TUNED, export_cascade, onnx_function
        from stage1_faces.training.nets import ExportWrapper
        from stage1_faces.training.run_folder import load_net
    graphs = export_cascade({name: ExportWrapper(load_net(run, name)) for name in FINE_TUNED}, FINE_TUNED)
    pnet, rnet, onet = (onnx_function(graphs[name]) for name in ("pnet", "rnet", "onet"))
    return FaceDetector(pnet, rnet, onet)


@dataclass(frozen=True)
class MinedFaces:
    """What the cascade finds in one photo."""

    hard_negatives: Boxes  # float32 (N, 4), the false alarms, best first
    landmarks: tuple[tuple[float, ...], ...]  # per annotated face its five points (x1, y1, x2, ...), empty if missed


def mine_faces(detector: Detector, images: Sequence[AnnotatedImage], workers: int = 1) -> dict[str, MinedFaces]:
    """Return {image_id: hard negatives and landmarks}, without the photos that cannot be read.

    A photo that may show a face without a box (`complete` is False) gives no hard negatives: one may be that face.
    Other photos give none over their `ignored` places. `workers` threads search photos at a time.
    """

    def search(image: AnnotatedImage) -> MinedFaces | None:
        try:
            faces = detector.detect(read_image(image.path), min_score=MIN_SCORE)
        except MediaError:
            return None  # build_crops reports the photo
        compared = _compare(faces, image.boxes)
        alarms = compared.hard_negatives
        background = alarms[~over_ignored(alarms, image.ignored)] if image.complete else alarms[:0]
        return replace(compared, hard_negatives=background)

    with progress() as bar:
        found = bar.track(map_ordered(search, images, workers), len(images), description="finding false alarms")
        return {image.image_id: faces for image, faces in zip(images, found, strict=True) if faces is not None}


def _compare(faces: Faces, gt_boxes: Boxes) -> MinedFaces:
    """Compare one photo's candidates with its annotated faces."""
    if not len(faces) or not len(gt_boxes):
        return MinedFaces(faces.boxes, tuple(() for _ in gt_boxes))
    overlaps = iou(faces.boxes, gt_boxes)  # (N, M)
    landmarks = tuple(
        tuple(float(v) for v in faces.landmarks[k].ravel()) if overlaps[k, i] >= SAME_FACE_IOU else ()
        for i, k in enumerate(overlaps.argmax(axis=0))
    )
    return MinedFaces(faces.boxes[overlaps.max(axis=1) < MAX_BACKGROUND_IOU], landmarks)
