"""Recognise the annotation format of a dataset, and read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.annotations.coco import coco_files, read_coco
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.types import Annotations
from common.annotations.voc import read_voc, voc_folders
from common.annotations.yolo import is_yolo_folder, read_yolo, yolo_config
from common.errors import UserError

Reader = Callable[[Path, ReadingArgs], Annotations]
# (name, whether a folder has this format, its reader). The first format found is read.
FOLDER_READERS: tuple[tuple[str, Callable[[Path], bool], Reader], ...] = (
    ("YOLO", lambda folder: yolo_config(folder) is not None, read_yolo),
    ("Pascal VOC", lambda folder: bool(voc_folders(folder)), read_voc),
    ("COCO", lambda folder: bool(coco_files(folder)), read_coco),
    ("YOLO", is_yolo_folder, read_yolo),
)
FILE_READERS: dict[str, Reader] = {".json": read_coco, ".yaml": read_yolo, ".yml": read_yolo, ".data": read_yolo}
MAX_DEPTH = 3  # folders with nothing but one folder, as archives make them


def read_dataset(root: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
    """Read a dataset of any known format.

    Args:
        root: a folder, a COCO .json file, or a YOLO data.yaml. A folder that holds only the dataset's folder will do.
        options: how to read it.

    Raises:
        UserError: the dataset has none of the formats, no usable image, or no face.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"{root}: not found; give the folder of an annotated dataset")
    if root.is_file() and root.suffix.lower() in FILE_READERS:
        return FILE_READERS[root.suffix.lower()](root, options)
    if root.is_dir() and (folder := find_dataset(root)) is not None:
        return next(read for _, fits, read in FOLDER_READERS if fits(folder))(folder, options)
    raise UserError(
        f"{root}: no annotated dataset; looked for Pascal VOC (images/ with annotations/*.xml, or *.xml "
        "next to the images), COCO (a .json file, _annotations.coco.json, annotations/*.json with images/) and YOLO "
        "(data.yaml, or images/ with labels/), also in train/, valid/ and test/"
    )


def find_dataset(root: Path, depth: int = MAX_DEPTH) -> Path | None:
    """Return the folder of the dataset: `root`, or a folder in it; None without one.

    Raises UserError when several folders in `root` are datasets.
    """
    if any(fits(root) for _, fits, _ in FOLDER_READERS):
        return root
    if depth == 0:
        return None
    inner = sorted(p for p in root.iterdir() if p.is_dir() and p.name[0] not in "._")
    found = [folder for folder in (find_dataset(p, depth - 1) for p in inner) if folder is not None]
    if len(found) > 1:
        names = ", ".join(str(folder.relative_to(root)) for folder in found[:3])
        raise UserError(f"{root}: holds {len(found)} datasets ({names}); name one of them")
    return found[0] if found else None
