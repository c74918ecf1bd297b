"""Which photos and faces the page shows, and their pictures; the numbers are limited, so that the page stays small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from common.annotations import AnnotatedImage
from pipeline.check.box_findings import BOX_FINDINGS
from pipeline.check.dataset_check import DatasetCheck
from pipeline.check.photo_reading import InspectedPhoto, Thumbnail

MAX_SHEET_PHOTOS = 24
MAX_CLASSES = 12  # with a sheet of crops: those with the most faces
MAX_CLASS_CROPS = 24  # of each class
MAX_FINDING_CROPS = 12  # of each kind
MAX_DUPLICATE_PHOTOS = 120  # in all groups
MAX_GROUP_PHOTOS = 6  # of each group

Face = tuple[AnnotatedImage, int]  # an image, and the index of a face in it


@dataclass
class Selection:
    """What the page shows."""

    sheet: list[AnnotatedImage] = field(default_factory=list)  # a sample of all photos
    class_faces: dict[str, list[Face]] = field(default_factory=dict)  # a sample of the faces of each class
    photos: set[str] = field(default_factory=set)  # ids of all images that are shown whole
    faces: dict[str, set[int]] = field(default_factory=dict)  # the faces that are shown, by the image's id
    whole_pictures: dict[str, Thumbnail] = field(default_factory=dict)
    face_pictures: dict[tuple[str, int], Thumbnail] = field(default_factory=dict)

    def add_pictures(self, image_id: str, result: InspectedPhoto) -> None:
        """Add the pictures of one photo."""
        if result.whole is not None:
            self.whole_pictures[image_id] = result.whole
        self.face_pictures |= {(image_id, face): picture for face, picture in result.faces}


def select(check: DatasetCheck, random: Random) -> Selection:
    """Return what the page shows of a dataset, without pictures; `random` draws the samples."""
    images = check.annotations.images
    sheet = random.sample(images, min(MAX_SHEET_PHOTOS, len(images)))
    sheet.sort(key=lambda image: image.image_id)
    selection = Selection(sheet, _class_faces(images, check, random))
    shown = [
        *(face for faces in selection.class_faces.values() for face in faces),
        *((each.image, each.face) for kind in BOX_FINDINGS for each in check.findings_of(kind)[:MAX_FINDING_CROPS]),
    ]
    for image, face in shown:
        selection.faces.setdefault(image.image_id, set()).add(face)
    similar = [image for group in check.near_duplicates or () for image in group[:MAX_GROUP_PHOTOS]]
    selection.photos = {image.image_id for image in [*sheet, *similar[:MAX_DUPLICATE_PHOTOS]]}
    return selection


def _class_faces(images: Sequence[AnnotatedImage], check: DatasetCheck, random: Random) -> dict[str, list[Face]]:
    """Return a sample of the faces of each class, for the classes with the most faces."""
    largest = sorted(check.statistics.classes, key=lambda each: -each.faces)[:MAX_CLASSES]
    names = {each.name for each in largest if each.faces}
    faces: dict[str, list[Face]] = {each.name: [] for each in check.statistics.classes if each.name in names}
    for image in images:
        for i, label in enumerate(image.labels):
            if label in names:
                faces[label].append((image, i))
    return {name: random.sample(found, min(MAX_CLASS_CROPS, len(found))) for name, found in faces.items()}
