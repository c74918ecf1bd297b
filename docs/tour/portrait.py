"""The face that the tour shows: Grace Hopper's public-domain portrait as a small annotated dataset."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from common.annotations.types import MASK_CLASSES
from common.files import write_text
from pipeline.detect.demo.command import portrait, tiled_photo
from pipeline.inference.image_writer import write_image
from pipeline.inference.predictor import Predictor

FOLDER, PHOTO = "portrait", "portrait.jpg"
MASKED, BARE, INCORRECT = MASK_CLASSES
# The tiles of the demo's photo from left to right: file name and class.
TILES = (("bare", BARE), ("masked", MASKED), ("nose_out", INCORRECT))


def write_portraits(work: Path) -> None:
    """Write portrait.jpg with three faces in a row, and the folder portrait with the same faces as Pascal VOC.

    The box of every face is that of the default bundle on the bare face. The folder has a split, too.

    Raises:
        UserError: matplotlib is not installed.
    """
    predictor, bare = Predictor.default(), portrait()
    photo = tiled_photo(predictor, bare)
    box = predictor.detect(bare, min_score=0.3).boxes[0].round().astype(int)
    write_image(work / PHOTO, photo)
    folder = work / FOLDER
    for (name, label), tile in zip(TILES, np.split(photo, len(TILES), axis=1), strict=True):
        write_image(folder / "images" / f"{name}.png", np.ascontiguousarray(tile))
        write_text(folder / "annotations" / f"{name}.xml", _voc(f"{name}.png", tile.shape, label, box))
    rows = [f"{name},train" for name, _ in TILES]
    write_text(folder / "splits.csv", "\n".join(["image_id,split", *rows, ""]))


def _voc(file: str, shape: tuple[int, ...], label: str, box: NDArray[np.int_]) -> str:
    """Return one face as Pascal VOC XML, whose pixels count from 1 and whose last pixel is inside the box."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = file
    size, face = ElementTree.SubElement(root, "size"), ElementTree.SubElement(root, "object")
    for name, length in (("width", shape[1]), ("height", shape[0])):
        ElementTree.SubElement(size, name).text = str(length)
    ElementTree.SubElement(face, "name").text = label
    edges = ElementTree.SubElement(face, "bndbox")
    x1, y1, x2, y2 = (int(v) for v in box)
    for name, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
        ElementTree.SubElement(edges, name).text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
