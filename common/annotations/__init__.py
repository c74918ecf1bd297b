"""Read annotated faces from Pascal VOC, COCO and YOLO datasets into one type."""

from common.annotations.coco import read_coco
from common.annotations.reader import read_dataset
from common.annotations.types import MASK_CLASSES, AnnotatedImage, Annotations, Problem, ordered_classes
from common.annotations.voc import read_voc
from common.annotations.yolo import read_yolo

__all__ = [
    "MASK_CLASSES",
    "AnnotatedImage",
    "Annotations",
    "Problem",
    "ordered_classes",
    "read_coco",
    "read_dataset",
    "read_voc",
    "read_yolo",
]
