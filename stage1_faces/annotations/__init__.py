"""Reads annotated faces from Pascal VOC, COCO and YOLO datasets into one type."""

from stage1_faces.annotations.coco import read_coco
from stage1_faces.annotations.reader import read_dataset
from stage1_faces.annotations.types import MASK_CLASSES, AnnotatedImage, Annotations, Problem, ordered_classes
from stage1_faces.annotations.voc import read_voc
from stage1_faces.annotations.yolo import read_yolo

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
