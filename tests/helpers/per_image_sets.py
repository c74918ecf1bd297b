"""Random datasets with annotated photos for the property tests of annotation readers, and their layouts.

A test writes them in a format, and compares what the reader returns with `check_read`.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from common.annotations import Annotations

WIDTH, HEIGHT = 100, 80
LABELS = ("with_mask", "without_mask", "zebra", "얼굴")
SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".JPG", ".jfif", ".webp")
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class SetFace:
    """A face of a written dataset; the form says how it is written: as a box, a polygon, or with a fault."""

    label: str
    box: Corners  # xyxy, 0-based, whole pixels
    form: str


@dataclass(frozen=True)
class SetPhoto:
    """A photo of a written dataset."""

    stem: str
    suffix: str
    split: str
    faces: tuple[SetFace, ...]
    fault: str  # "" or "missing": the image file is not written


def boxes() -> st.SearchStrategy[Corners]:
    """Boxes with whole edges, at least 6 pixels from the edges, so that rotated forms stay inside."""
    left, top = st.integers(20, WIDTH - 50), st.integers(20, HEIGHT - 45)
    return st.builds(lambda x, y, w, h: (x, y, x + w, y + h), left, top, st.integers(4, 24), st.integers(4, 20))


def photos(forms: Sequence[str]) -> st.SearchStrategy[list[SetPhoto]]:
    """Lists of photos with other stems; names have spaces, dots and other scripts."""
    face = st.builds(SetFace, st.sampled_from(LABELS), boxes(), st.sampled_from(forms))
    stem = st.sampled_from([*(f"p{i}" for i in range(6)), "a b", "a.b", "a", "얼굴 사진", "café", "100%"])
    photo = st.builds(
        SetPhoto,
        stem,
        st.sampled_from(IMAGE_SUFFIXES),
        st.sampled_from(SPLITS),
        st.lists(face, max_size=4, unique_by=lambda face: face.box).map(tuple),
        st.sampled_from(["", "", "", "missing"]),
    )
    return st.lists(photo, min_size=1, max_size=5, unique_by=lambda photo: photo.stem).filter(_has_a_face)


def _has_a_face(found: list[SetPhoto]) -> bool:
    """Return whether a face with its image is written as a box: readers refuse datasets without a face."""
    return any(face.form == "box" for photo in found if not photo.fault for face in photo.faces)


# Each returns where the image and the annotation of a photo are, with a stem; the suffix of the annotation is added.
Layout = Callable[[SetPhoto], tuple[str, str]]
SPLIT_DIR = {"train": "train", "val": "valid", "test": "test"}
PLAIN: dict[str, Layout] = {
    "images, annotations": lambda p: ("images", "annotations"),
    "Images, Annotations": lambda p: ("Images", "Annotations"),
    "JPEGImages, Annotations": lambda p: ("JPEGImages", "Annotations"),
    "images, labels": lambda p: ("images", "labels"),
    "images, deeper": lambda p: ("images/images", "annotations/files"),
    "in one folder": lambda p: (".", "."),
    "photos in the root": lambda p: (".", "Annotation"),
    "one folder too high": lambda p: ("archive/set/images", "archive/set/annotations"),
}
WITH_SPLITS: dict[str, Layout] = {
    "split folders": lambda p: (SPLIT_DIR[p.split], SPLIT_DIR[p.split]),
    "split folders, images": lambda p: (f"{SPLIT_DIR[p.split]}/images", f"{SPLIT_DIR[p.split]}/annotations"),
    "split folders, in images": lambda p: (f"{SPLIT_DIR[p.split]}/images", f"{SPLIT_DIR[p.split]}/images"),
    "images/train, annotations/train": lambda p: (f"images/{SPLIT_DIR[p.split]}", f"annotations/{SPLIT_DIR[p.split]}"),
    "train, annotations/train": lambda p: (SPLIT_DIR[p.split], f"annotations/{SPLIT_DIR[p.split]}"),
    "images/train, annotations": lambda p: (f"images/{SPLIT_DIR[p.split]}", "annotations"),
}
LAYOUTS = PLAIN | WITH_SPLITS


def write_image(folder: Path, photo: SetPhoto, decomposed: bool = False) -> Path:
    """Write the image file of a photo, and return its path."""
    stem = unicodedata.normalize("NFD" if decomposed else "NFC", photo.stem)
    path = folder / f"{stem}{photo.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not photo.fault:
        path.write_bytes(_encoded(photo.suffix.lower()))
    return path


_ENCODED: dict[str, bytes] = {}


def _encoded(suffix: str) -> bytes:
    """Return a small picture in the format of a suffix."""
    if suffix not in _ENCODED:
        file = io.BytesIO()
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 150)).save(
            file, {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")
        )
        _ENCODED[suffix] = file.getvalue()
    return _ENCODED[suffix]


def rotated_corners(box: Corners, angle: float) -> np.ndarray:
    """Return the corners (4, 2) of a box that is rotated by `angle` radians about its centre."""
    x1, y1, x2, y2 = box
    centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) - centre
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(corners @ turn.T + centre)


def hull_of(points: np.ndarray) -> Corners:
    """Return the box around points (N, 2)."""
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    return (float(x1), float(y1), float(x2), float(y2))


def check_read(
    read: Annotations,
    written: dict[Path, SetPhoto],
    expected: Callable[[SetFace], Corners | None],
    splits: bool | None = None,
) -> None:
    """Assert that each face of a written dataset was read, or refused by name.

    Args:
        read: what the reader returned.
        written: the photos by their image files.
        expected: returns the box of a face, or None for one that must be refused.
        splits: whether the layout gives the splits; None leaves them unchecked.
    """
    objects = sum(len(photo.faces) for photo in written.values())
    assert read.face_count + read.refused_count == objects, read.problems
    by_path = {image.path: image for image in read.images}
    assert set(by_path) == {path for path, photo in written.items() if not photo.fault}
    for path, image in by_path.items():
        photo = written[path]
        known = [(face.label, box) for face in photo.faces if (box := expected(face)) is not None]
        assert image.labels == tuple(label for label, _ in known), path
        np.testing.assert_allclose(image.boxes, np.array([box for _, box in known]).reshape(-1, 4), atol=0.02)
        assert image.complete == (len(known) == len(photo.faces)), path
        if splits is not None:
            assert image.split == (photo.split if splits else None), path
    for problem in read.problems:
        assert len(str(problem).splitlines()) == 1
