"""Reads training photos into memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from common.annotations import AnnotatedImage
from common.errors import MediaError
from common.images import read_image
from stage1_faces.roi_crop import Mipmaps
from stage1_faces.training.samples import TrainingPhoto

MAX_PHOTO_SIDE = 1600  # px: larger photos are shrunk to it for training, which bounds the memory for each


def load_photos(images: Iterable[AnnotatedImage], on_photo: Callable[[], None]) -> dict[str, TrainingPhoto]:
    """Return the photos that can be read, by image_id; print a warning for each of the others."""
    photos = {}
    for image in images:
        try:
            photos[image.image_id] = load_photo(image)
        except MediaError as error:
            print(f"warning: {error}; left out", file=sys.stderr)
        on_photo()
    return photos


def load_photo(image: AnnotatedImage) -> TrainingPhoto:
    """Return a photo with its boxes, shrunk to MAX_PHOTO_SIDE. Raise MediaError when it cannot be read."""
    pixels, boxes = read_image(image.path), image.boxes
    scale = MAX_PHOTO_SIDE / max(image.size)
    if scale < 1:
        size = (max(round(image.size[0] * scale), 1), max(round(image.size[1] * scale), 1))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        boxes = boxes * np.tile(np.array(size) / image.size, 2).astype(np.float32)
    return TrainingPhoto(Mipmaps(pixels), boxes, image.labels, np.full((len(boxes), 5, 2), np.nan, np.float32))
