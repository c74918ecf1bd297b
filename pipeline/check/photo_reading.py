"""Decodes each photo once, in processes: which photos can be used, and small pictures of some photos and faces."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.annotations import AnnotatedImage
from common.cli import progress
from common.errors import MediaError
from common.images import read_image
from common.processes import map_jobs
from pipeline.data.checks import size_mismatch
from pipeline.data.duplicates import PARALLEL_FROM

PHOTO_SIDE = 280  # px of the longer side of a photo's picture
CROP_SIDE = 112  # px of the longer side of a face's picture
CROP_CONTEXT = 0.6  # on each side of the box, as a share of its longer side
MIN_CROP_SIDE = 24  # px of the photo; a smaller crop shows nothing that can be recognised
JPEG_QUALITY = 80

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the photo; right and bottom edge exclusive


@dataclass(frozen=True)
class PhotoJob:
    """A photo, and which pictures of it are wanted."""

    image: AnnotatedImage
    whole: bool = False
    faces: tuple[int, ...] = ()  # indices of the faces


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a photo, or of a part of it."""

    uri: str  # a JPEG as data URI
    size: tuple[int, int]  # (width, height) of the JPEG
    window: Window  # what it shows of the photo


@dataclass(frozen=True)
class InspectedPhoto:
    """What came of a job."""

    fault: str = ""  # why the photo cannot be used
    whole: Thumbnail | None = None
    faces: tuple[tuple[int, Thumbnail], ...] = ()  # (index of the face, its picture)


def read_photos(jobs: Sequence[PhotoJob], workers: int) -> list[InspectedPhoto]:
    """Decode the photos of all jobs, and return the results in their order; `workers` is a number of processes."""
    workers = workers if len(jobs) >= PARALLEL_FROM else 1
    with progress() as bar:
        work = map_jobs(read_one, jobs, workers, chunksize=8)
        return list(bar.track(work, len(jobs), description="reading photos"))


def read_one(job: PhotoJob) -> InspectedPhoto:
    """Decode one photo, and make its pictures."""
    image = job.image
    try:
        pixels = read_image(image.path)
    except MediaError as error:
        return InspectedPhoto(error.reason)
    if mismatch := size_mismatch(pixels, image.size):
        return InspectedPhoto(f"is {mismatch}")
    width, height = image.size
    whole = thumbnail(pixels, (0, 0, width, height), PHOTO_SIDE) if job.whole else None
    faces = ((face, thumbnail(pixels, face_window(image, face), CROP_SIDE)) for face in job.faces)
    return InspectedPhoto(whole=whole, faces=tuple(faces))


def face_window(image: AnnotatedImage, face: int) -> Window:
    """Return the part of a photo that shows one face and its surroundings."""
    box = image.boxes[face].astype(np.float64)
    centre, longer = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max()
    half = max(longer * (0.5 + CROP_CONTEXT), MIN_CROP_SIDE / 2)
    low = np.maximum(np.floor(centre - half), 0).astype(int)
    high = np.minimum(np.ceil(centre + half), image.size).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def thumbnail(pixels: NDArray[np.uint8], window: Window, side: int) -> Thumbnail:
    """Return a part of a photo as a picture whose longer side is `side`.

    Args:
        pixels: the photo, uint8 (H, W, 3) RGB.
        window: the part.
        side: pixels. Only crops of faces are enlarged.
    """
    x1, y1, x2, y2 = window
    width, height = x2 - x1, y2 - y1
    scale = side / max(width, height)
    if side == PHOTO_SIDE:
        scale = min(scale, 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    part = Image.fromarray(pixels[y1:y2, x1:x2])
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    buffer = io.BytesIO()
    part.resize(size, method).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Thumbnail("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), size, window)
