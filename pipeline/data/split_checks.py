"""Checks of a split: each part has faces, faces of each class, and about its share of the photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from common.annotations import AnnotatedImage
from common.errors import UserError
from common.splits import SPLITS

# A part is small below this fraction of its share, and when it lacks at least this number of photos.
SMALL_PART, SMALL_PART_PHOTOS = 0.5, 2


def check_faces(images: Sequence[AnnotatedImage], splits: Sequence[str], fix: str, may_lack_parts: bool) -> None:
    """Refuse a split with a part that has no face.

    Args:
        images: the dataset's images.
        splits: the split of each image.
        fix: what to do, for the message.
        may_lack_parts: val and test may have no photo at all.

    Raises:
        UserError: a part has no face.
    """
    photos = Counter(splits)
    faces = Counter[str]()
    for image, split in zip(images, splits, strict=True):
        faces[split] += len(image.labels)
    if not faces.total():
        raise UserError(f"none of the {len(images)} photos has an annotated face; give photos with faces")
    counts = ", ".join(f"{split} {photos[split]} photos with {faces[split]} faces" for split in SPLITS)
    for split in SPLITS:
        if faces[split] == 0 and (photos[split] or split == "train" or not may_lack_parts):
            raise UserError(f"no face in part {split} ({counts}); {fix}")


def missing_parts(splits: Sequence[str]) -> list[str]:
    """Return a warning for each part without photos."""
    return [f"no photos for {split}: the data has no folder for it" for split in SPLITS if split not in splits]


def missing_classes(
    images: Sequence[AnnotatedImage], splits: Sequence[str], class_names: Sequence[str], parts: Sequence[str] = SPLITS
) -> list[str]:
    """Return a warning for each of the `parts` with faces that lacks a class which other parts have."""
    faces: dict[str, Counter[str]] = {split: Counter() for split in (*SPLITS, "all")}
    for image, split in zip(images, splits, strict=True):
        faces[split].update(image.labels)
        faces["all"].update(image.labels)
    warnings = []
    for split in parts:
        absent = [name for name in class_names if faces["all"][name] and not faces[split][name]]
        if absent and faces[split]:
            held = ", ".join(f"{faces['all'][name]} of {name} in all" for name in absent)
            effect = "the classifier cannot learn it" if split == "train" else "scores will not cover it"
            warnings.append(f"part {split} has no face of class {', '.join(absent)} ({held}); {effect}")
    return warnings


def single_class(images: Sequence[AnnotatedImage]) -> list[str]:
    """Return a warning where all faces are of one class."""
    faces = Counter(label for image in images for label in image.labels)
    if len(faces) != 1:
        return []
    [(name, count)] = faces.items()
    return [
        f"all {count} faces are of class {name}: a classifier cannot be learned from one class, the face detector can"
    ]


def small_parts(splits: Sequence[str], groups: Sequence[int], ratios: Sequence[float], ways: str) -> list[str]:
    """Return a warning where a large group leaves less than half of its share to a part."""
    photos, largest = Counter(splits), max(Counter(groups).values())
    small = []
    for split, ratio in zip(SPLITS, ratios, strict=True):
        wanted = ratio * len(splits)
        if photos[split] < SMALL_PART * wanted and wanted - photos[split] >= SMALL_PART_PHOTOS:
            small.append(f"part {split} has {photos[split]} photos instead of {wanted:.0f}")
    if not small:
        return []
    return [f"{', '.join(small)}: the largest group has {largest} of {len(splits)} photos; for other parts use {ways}"]
