"""Annotated photos as training data of a detector: augmented, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.annotations import AnnotatedImage
from common.images import read_image

FILL_COLOUR = (123, 117, 104)  # ImageNet's mean colour, around a shrunk photo
DetectionTarget = dict[str, Tensor]  # boxes float32 (N, 4) xyxy in the photo's pixels, labels int64 (N,) from 1 on


# SSD's augmentation (Liu et al. 2016): colours, shrinking, crops around faces that magnify, mirroring.
TRAIN_TRANSFORM = v2.Compose(
    [
        v2.RandomPhotometricDistort(p=0.5),
        # SSD shrinks up to 4 times. That would lose faces that are already small.
        v2.RandomZoomOut(fill={tv_tensors.Image: FILL_COLOUR, "others": 0}, side_range=(1.0, 1.5), p=0.3),
        v2.RandomIoUCrop(min_scale=0.3),
        v2.RandomHorizontalFlip(),
        v2.SanitizeBoundingBoxes(),
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.ToPureTensor(),
    ]
)


def image_to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Convert uint8 (H, W, 3) RGB to uint8 (3, H, W)."""
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class TrainPhotos(Dataset[tuple[Tensor, DetectionTarget]]):
    """Augmented training photos, float32 (3, H, W) in 0..1 of various sizes, and their targets.

    Each access reads the photo again, so that memory does not grow with the set. The random draws for a photo depend on
    seed, epoch and index alone: not on the number of workers, and not on a resumed run.
    """

    def __init__(self, images: Sequence[AnnotatedImage], class_names: Sequence[str], seed: int, epoch: int) -> None:
        self.images, self.seed, self.epoch = images, seed, epoch
        self._labels = {name: k for k, name in enumerate(class_names, start=1)}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, DetectionTarget]:
        image = self.images[index]
        photo = tv_tensors.Image(image_to_tensor(read_image(image.path)))
        boxes = tv_tensors.BoundingBoxes(image.boxes.copy(), format="XYXY", canvas_size=photo.shape[-2:])
        target = {"boxes": boxes, "labels": torch.tensor([self._labels[n] for n in image.labels], dtype=torch.int64)}
        seed = int(np.random.SeedSequence((self.seed, self.epoch, index)).generate_state(1)[0])
        with torch.random.fork_rng(devices=[]):  # the draws here do not change the network's draws
            torch.manual_seed(seed)
            photo, target = TRAIN_TRANSFORM(photo, target)
        return photo, target


def train_loader(photos: TrainPhotos, batch_size: int, order: NDArray[np.intp], workers: int) -> DataLoader[Any]:
    """Return batches (photos, targets) in `order`; an incomplete last batch is left out unless it is the only one."""
    return DataLoader(
        photos,
        batch_size=batch_size,
        sampler=order.tolist(),
        num_workers=workers,
        collate_fn=_photos_and_targets,
        drop_last=len(order) >= batch_size,  # a batch of one photo would spoil batch norm
        pin_memory=torch.cuda.is_available(),
    )


def _photos_and_targets(items: Sequence[tuple[Any, Any]]) -> tuple[Any, ...]:
    return tuple(zip(*items, strict=True))
