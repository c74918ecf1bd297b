"""A Pascal VOC dataset in which some faces are refused: their objects have no box, which no reader can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from tests.helpers.drawn_photos import draw

Box = tuple[float, float, float, float]
Face = tuple[str, Box]
SIZE = (160, 120)
LEFT, RIGHT = (10.0, 20.0, 42.0, 60.0), (100.0, 50.0, 132.0, 90.0)


def write_incomplete(
    root: Path, photos: Mapping[str, Sequence[Face]], refused: Mapping[str, Sequence[Face]], splits: Mapping[str, str]
) -> Path:
    """Write photos of drawn faces, and splits.csv in their folder; return the folder.

    Args:
        root: the folder.
        photos: the annotated faces, by the photo's name.
        refused: faces that are drawn, but whose objects have no box.
        splits: the split of each photo.
    """
    for name in ("images", "annotations"):
        (root / name).mkdir(parents=True)
    for seed, (name, faces) in enumerate(photos.items()):
        others = refused.get(name, ())
        pixels = draw(SIZE, [box for _, box in (*faces, *others)], seed)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        objects = "".join(_object(label, box) for label, box in faces)
        objects += "".join(f"<object><name>{label}</name></object>" for label, _ in others)
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        xml = f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"
        (root / "annotations" / f"{name}.xml").write_text(xml)
    rows = "".join(f"{name},{split}\n" for name, split in splits.items())
    (root / "splits.csv").write_text("image_id,split\n" + rows)
    return root


def _object(label: str, box: Box) -> str:
    """Return an object of VOC, whose pixels count from 1 and include the last."""
    x1, y1, x2, y2 = box
    corners = f"<xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin><xmax>{x2:g}</xmax><ymax>{y2:g}</ymax>"
    return f"<object><name>{label}</name><bndbox>{corners}</bndbox></object>"


BOTH = (("with_mask", LEFT), ("without_mask", RIGHT))


def write_half_refused(root: Path, splits: Sequence[str] = ("train", "train", "val", "test")) -> Path:
    """Write photos of two faces each, p0, p1 and so on; the right face of every second photo is refused."""
    names = [f"p{i}" for i in range(len(splits))]
    photos = {name: BOTH[: 2 - i % 2] for i, name in enumerate(names)}
    refused = {name: BOTH[2 - i % 2 :] for i, name in enumerate(names)}
    return write_incomplete(root, photos, refused, dict(zip(names, splits, strict=True)))
