"""Training photos: size and boxes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from common.annotations import AnnotatedImage, read_dataset
from stage1_faces.training.photos import MAX_PHOTO_SIDE, load_photo


def test_large_photos_are_shrunk_with_their_boxes(tmp_path: Path) -> None:
    size = (2 * MAX_PHOTO_SIDE, 100)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[20:60, 1000:1100] = 255
    cv2.imwrite(str(tmp_path / "large.png"), picture)
    boxes = np.float32([[1000, 20, 1100, 60]])
    photo = load_photo(AnnotatedImage(tmp_path / "large.png", "large", size, boxes, ("face",)))
    assert photo.maps.size == (MAX_PHOTO_SIDE, 50)
    assert photo.boxes.tolist() == [[500, 10, 550, 30]]
    assert (photo.maps.image[10:30, 500:550] == 255).all() and photo.maps.image.sum() == 20 * 50 * 3 * 255
    assert np.isnan(photo.landmarks).all() and photo.landmarks.shape == (1, 5, 2)


def test_small_photos_stay_as_they_are(data: Path) -> None:
    image = next(i for i in read_dataset(data).images if i.image_id == "p0")
    photo = load_photo(image)
    assert photo.maps.size == (160, 120) and photo.boxes.tolist() == image.boxes.tolist()
    assert photo.labels == ("with_mask", "without_mask") * 2
