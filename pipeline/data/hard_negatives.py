"""What the fine-tuned cascade tells stage 2's training: its false alarms to refuse, and the landmarks of faces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from common.annotations import AnnotatedImage
from common.boxes import Boxes, iou
from common.cli import requires_extra
from common.errors import MediaError
from common.images import read_image
from stage1_faces.detector import FaceDetector
from stage1_faces.faces import Detector, Faces

# Below this the cascade itself is sure; most of its candidates lie there and teach nothing.
FLOOR = 0.01
SAME = 0.5  # a candidate that overlaps a face as much has its landmarks
APART = 0.3  # a candidate that overlaps a face more may be that face, boxed loosely


def tuned_detector(run: Path) -> FaceDetector:
    """The cascade of a run of stage1_faces.finetune at its default settings.

    Raises UserError, or UserError without PyTorch.
    """
    with requires_extra("train"):
        from stage1_faces.training.export import FINE_TUNED, export_cascade, runtime
        from stage1_faces.training.nets import ExportWrapper
        from stage1_faces.training.run_folder import load_net
    graphs = export_cascade({name: ExportWrapper(load_net(run, name)) for name in FINE_TUNED}, FINE_TUNED)
    pnet, rnet, onet = (runtime(graphs[name]) for name in ("pnet", "rnet", "onet"))
    return FaceDetector(pnet, rnet, onet)


@dataclass(frozen=True)
class MinedFaces:
    """What the detector says of one photo.

    rejects: float32 (N, 4), its false alarms, best first. landmarks: of each annotated face the five points, x and y
    one after the other, or nothing where the detector does not find it.
    """

    hard_negatives: Boxes
    landmarks: tuple[tuple[float, ...], ...]


def mine(
    detector: Detector, images: Iterable[AnnotatedImage], advance: Callable[[], None] = lambda: None
) -> dict[str, MinedFaces]:
    """{image_id: what the detector says of it}; photos that cannot be read are left out."""
    found = {}
    for image in images:
        try:
            faces = detector.detect(read_image(image.path), min_score=FLOOR)
            found[image.image_id] = _compared(faces, image.boxes)
        except MediaError:
            pass  # build_crops says so itself
        advance()
    return found


def _compared(faces: Faces, truths: Boxes) -> MinedFaces:
    if not len(faces) or not len(truths):
        return MinedFaces(faces.boxes, tuple(() for _ in truths))
    overlaps = iou(faces.boxes, truths)  # (N, M)
    landmarks = tuple(
        tuple(float(v) for v in faces.landmarks[k].ravel()) if overlaps[k, i] >= SAME else ()
        for i, k in enumerate(overlaps.argmax(axis=0))
    )
    return MinedFaces(faces.boxes[overlaps.max(axis=1) < APART], landmarks)
