"""Read YOLO datasets."""

from common.annotations.yolo.config import yolo_config
from common.annotations.yolo.labels import label_file
from common.annotations.yolo.layout import is_yolo_folder, photo_folders
from common.annotations.yolo.reader import read_yolo

__all__ = ["is_yolo_folder", "label_file", "photo_folders", "read_yolo", "yolo_config"]
