"""Read annotated faces from Pascal VOC, COCO and YOLO datasets into one type."""

from common.annotations.loading import count_line, load_dataset, require_faces
from common.annotations.options import ReadingArgs
from common.annotations.reader import read_dataset
from common.annotations.types import MASK_CLASSES, AnnotatedImage, Annotations, Problem

__all__ = [
    "MASK_CLASSES",
    "AnnotatedImage",
    "Annotations",
    "Problem",
    "ReadingArgs",
    "count_line",
    "load_dataset",
    "read_dataset",
    "require_faces",
]
