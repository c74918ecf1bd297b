"""Training photos: boxes follow their faces, and random draws depend on seed, epoch and photo alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.annotations import AnnotatedImage
from pipeline.baseline.data import TrainPhotos, train_loader

BOXES = np.float32([(10, 8, 30, 32), (40, 20, 60, 44)])


@pytest.fixture
def images(tmp_path: Path) -> list[AnnotatedImage]:
    """A photo of a red and a blue patch on black, a photo without faces, and the first photo again."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "empty.png")
    for box, colour in zip(BOXES.astype(int), [(250, 0, 0), (0, 0, 250)], strict=True):
        pixels[box[1] : box[3], box[0] : box[2]] = colour
    Image.fromarray(pixels).save(tmp_path / "full.png")
    full = AnnotatedImage(tmp_path / "full.png", "full", (80, 60), BOXES, ("covered", "bare"))
    empty = AnnotatedImage(tmp_path / "empty.png", "empty", (80, 60), BOXES[:0], ())
    return [full, empty, full]


def test_boxes_and_labels_follow_the_faces(images: list[AnnotatedImage]) -> None:
    shapes, mirrored, checked = set(), set(), 0
    for epoch in range(40):
        photo, target = TrainPhotos(images, ("bare", "covered"), 0, epoch)[0]
        assert photo.dtype == torch.float32
        assert photo.min() >= 0
        assert photo.max() <= 1
        shapes.add(tuple(photo.shape))
        boxes = target["boxes"].tolist()
        for x1, y1, x2, y2 in boxes:
            # The face has the colour at the middle of the box.
            middle = photo[:, int((y1 + y2) / 2), int((x1 + x2) / 2)]
            ys, xs = torch.where(((photo - middle[:, None, None]).abs() < 0.02).all(dim=0))
            edges = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
            assert edges == pytest.approx([x1, y1, x2, y2], abs=1)
            checked += 1
        if target["labels"].tolist() == [2, 1]:
            mirrored.add(boxes[0][0] > boxes[1][0])
    assert checked > 40
    assert len(shapes) > 10  # crops and margins
    assert mirrored == {True, False}


def test_a_photo_without_faces_is_also_a_sample(images: list[AnnotatedImage]) -> None:
    _, target = TrainPhotos(images, ("bare", "covered"), 0, 0)[1]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)


def test_draws_depend_on_seed_epoch_and_index_alone(images: list[AnnotatedImage]) -> None:
    def photo(seed: int, epoch: int, index: int) -> torch.Tensor:
        return TrainPhotos(images, ("bare", "covered"), seed, epoch)[index][0]

    torch.manual_seed(1)
    first = photo(0, 0, 0)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(first, photo(0, 0, 0))
    for other in (photo(1, 0, 0), photo(0, 1, 0), photo(0, 0, 2)):
        assert other.shape != first.shape or not torch.equal(other, first)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_the_same_with_and_without_workers(images: list[AnnotatedImage], workers: int) -> None:
    photos = TrainPhotos(images, ("bare", "covered"), 0, 0)
    batches = list(train_loader(photos, 2, np.array([2, 0, 1]), workers))
    assert len(batches) == 1  # the last photo alone is left out
    assert [torch.equal(a, photos[k][0]) for a, k in zip(batches[0][0], (2, 0), strict=True)] == [True, True]
    assert len(list(train_loader(photos, 8, np.array([2, 0, 1]), 0))) == 1  # fewer photos than a batch are one batch
