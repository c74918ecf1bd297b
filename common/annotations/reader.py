"""Recognise the annotation format of a dataset, and read it."""

from __future__ import annotations

from pathlib import Path

from common.annotations.coco import coco_files, read_coco
from common.annotations.types import Annotations
from common.annotations.voc import read_voc, voc_folders
from common.annotations.yolo import read_yolo, yolo_config
from common.errors import UserError


def read_dataset(root: Path | str) -> Annotations:
    """Read a Pascal VOC, COCO or YOLO dataset.

    Of several formats in a folder the first is read: YOLO's data.yaml, VOC, COCO, YOLO's images/ with labels/.

    Args:
        root: a folder, a COCO .json file, or a YOLO data.yaml.

    Raises:
        UserError: the dataset has none of these formats or no usable image.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"{root}: not found; give the folder of an annotated dataset")
    if root.is_file():
        if root.suffix.lower() == ".json":
            return read_coco(root)
        if root.suffix.lower() in (".yaml", ".yml"):
            return read_yolo(root)
    else:
        if yolo_config(root) is not None:
            return read_yolo(root)
        if voc_folders(root):
            return read_voc(root)
        if coco_files(root):
            return read_coco(root)
        if (root / "images").is_dir() and (root / "labels").is_dir():
            return read_yolo(root)
    raise UserError(
        f"{root}: no annotated dataset; looked for Pascal VOC (images/ with annotations/*.xml, or *.xml "
        "next to the images), COCO (a .json file, _annotations.coco.json, annotations/*.json with images/) and YOLO "
        "(data.yaml, or images/ with labels/), also in train/, valid/ and test/"
    )
