"""Face crops as PyTorch training data: the dataset, a class-balanced sampler and the loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from stage2_classifier.cut import crop_window, cut_crop
from stage2_classifier.errors import ClassifierError
from stage2_classifier.records import CropRecord, CropSet, read_crop_set, write_crop_set

__all__ = [
    "BalancedSampler",
    "CropDataset",
    "CropRecord",
    "CropSet",
    "CropTransform",
    "build_loader",
    "crop_window",
    "cut_crop",
    "read_crop_set",
    "write_crop_set",
]

# (crop uint8 (H, W, 3) RGB, seed) -> float32 tensor (3, S, S); see stage2_classifier.transforms
CropTransform = Callable[[NDArray[np.uint8], int], torch.Tensor]


class CropDataset(Dataset[tuple[torch.Tensor, int]]):
    """One split of a crop set, decoded once and kept in memory.

    `ds[i]` is (float32 tensor (3, S, S), class index). `ds[draw, i]` is the same crop as the draw-th one of
    the epoch: the transform's seed comes from (seed, epoch, draw) alone, so that an augmentation depends
    neither on the number of workers nor on a resumed run, and a crop drawn twice in an epoch looks different
    each time.

    Raises ClassifierError when the split is empty, or, on access, when a crop's file cannot be read.
    """

    def __init__(self, crop_set: CropSet, split: str, transform: CropTransform, seed: int = 0) -> None:
        self.records = crop_set.split(split)
        self.class_names = crop_set.class_names
        index = {name: i for i, name in enumerate(crop_set.class_names)}
        self.labels: NDArray[np.int64] = np.array([index[r.label] for r in self.records], dtype=np.int64)
        self.transform = transform
        self.seed = seed
        self.epoch = 0
        self._root = crop_set.root
        self._pixels: list[NDArray[np.uint8] | None] = [None] * len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """Moves the augmentation on to another epoch; with worker processes, call it before iterating."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, int]:
        draw, i = key if isinstance(key, tuple) else (key, key)
        state = np.random.SeedSequence((self.seed, self.epoch, draw)).generate_state(1)
        return self.transform(self.pixels(i), int(state[0])), int(self.labels[i])

    def pixels(self, i: int) -> NDArray[np.uint8]:
        """The i-th crop as it was cut, uint8 (H, W, 3) RGB, read-only."""
        pixels = self._pixels[i]
        if pixels is None:
            file = self._root / self.records[i].path
            try:
                with Image.open(file) as image:
                    pixels = np.array(image.convert("RGB"))
            # Pillow reports broken files as OSError, SyntaxError (PNG chunks) or ValueError.
            except (OSError, SyntaxError, ValueError) as error:
                what = "not found" if isinstance(error, FileNotFoundError) else "cannot be read as an image"
                raise ClassifierError(f"{file}: {what}; build the crops anew") from error
            pixels.setflags(write=False)
            self._pixels[i] = pixels
        return pixels

    def preload(self) -> None:
        """Decodes every crop now, so that worker processes started later share them."""
        for i in range(len(self)):
            self.pixels(i)


class BalancedSampler(Sampler[tuple[int, int]]):
    """Draws (draw, index) pairs with each class's share proportional to count ** (1 - power).

    power=0 keeps the natural frequencies (with num_samples=None every index comes exactly once, shuffled),
    power=1 makes the classes equal (0.5 is square-root sampling, Mahajan et al. 2018,
    "Exploring the Limits of Weakly Supervised Pretraining"). A class's share is rounded by the largest
    remainder; within a class, shuffled members are cycled through: none comes again before all others have
    come. The order depends on (seed, epoch) alone.

    Raises ValueError when labels are empty, num_samples is not positive, or power is outside 0..1.
    """

    def __init__(
        self,
        labels: NDArray[np.int64] | Sequence[int],
        num_samples: int | None = None,
        power: float = 1.0,
        seed: int = 0,
    ) -> None:
        labels = np.asarray(labels, dtype=np.int64)
        self.num_samples = len(labels) if num_samples is None else num_samples
        if self.num_samples < 1 or not len(labels):
            raise ValueError("nothing to sample: labels are empty or num_samples is not positive")
        if not 0 <= power <= 1:
            raise ValueError(f"power {power} is outside 0..1")
        self.seed = seed
        self.epoch = 0
        self._members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        weights = np.array([len(members) for members in self._members], dtype=np.float64) ** (1 - power)
        self._quotas = _largest_remainder(weights, self.num_samples)

    def set_epoch(self, epoch: int) -> None:
        """Moves on to another epoch's order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        drawn = []
        for members, quota in zip(self._members, self._quotas, strict=True):
            rounds = -(-int(quota) // len(members))
            cycled = [rng.permutation(members) for _ in range(rounds)]
            drawn.append(np.concatenate([members[:0], *cycled])[:quota])
        order = rng.permutation(np.concatenate(drawn))
        for draw, index in enumerate(order):
            yield draw, int(index)


def _largest_remainder(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers proportional to `weights` that sum to `total`."""
    # Rounding undoes the division's last-bit error, so that whole shares stay whole.
    shares = np.round(weights / weights.sum() * total, 9)
    quotas = np.floor(shares).astype(np.int64)
    left = total - int(quotas.sum())
    quotas[np.argsort(quotas - shares, kind="stable")[:left]] += 1
    return quotas


def build_loader(
    dataset: CropDataset,
    batch_size: int,
    sampler: Sampler[Any] | None = None,
    workers: int = 0,
    drop_last: bool = False,
) -> DataLoader[Any]:
    """Batches of (float32 (B, 3, S, S), int64 (B,)); without a sampler in the dataset's order.

    With workers, all crops are decoded first: the processes are started anew for each epoch (they must see
    `set_epoch`) and share the decoded crops instead of reading them again.
    """
    if workers:
        dataset.preload()
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_single_thread if workers else None,
    )


def _single_thread(_worker: int) -> None:
    # One process per core is enough; OpenCV's own threads would fight over the cores.
    cv2.setNumThreads(0)
