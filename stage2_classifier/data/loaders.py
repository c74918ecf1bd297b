"""The sampler that balances classes, and the loader that makes batches of crops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from common.processes import turn_off_opencv_threads
from stage2_classifier.data.crop_dataset import CropDataset


class BalancedSampler(Sampler[tuple[int, int]]):
    """Draws (draw, index) pairs; each class's share is proportional to count ** (1 - power).

    A class's share is rounded by the largest remainder. Within a class the shuffled members are cycled through: no
    member is drawn again before all others of its weight were drawn. The order depends on (seed, epoch) alone.

    Args:
        labels: (N,) the class index of each crop.
        num_samples: draws per epoch; None: N.
        power: 0 keeps the natural frequencies (with num_samples=None every index comes exactly once), 1 draws the
            classes equally often. 0.5 is square-root sampling (Mahajan et al. 2018, "Exploring the Limits of Weakly
            Supervised Pretraining").
        seed: of the order.
        fixed: {label: share} of labels with a fixed share of all draws, whatever their count.
        weights: (N,) how often each crop is drawn, compared with others of its class; a class's count is the sum of its
            weights, and a crop of weight 0 is never drawn. None: all alike.

    Raises:
        ValueError: labels are empty, num_samples is not positive, power is outside 0..1, or `fixed` or `weights` leave
            nothing for the other labels.
    """

    def __init__(
        self,
        labels: NDArray[np.int64] | Sequence[int],
        num_samples: int | None = None,
        power: float = 1.0,
        seed: int = 0,
        fixed: Mapping[int, float] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        labels = np.asarray(labels, dtype=np.int64)
        self.num_samples = len(labels) if num_samples is None else num_samples
        if self.num_samples < 1 or not len(labels):
            raise ValueError("nothing to sample: labels are empty or num_samples is not positive")
        if not 0 <= power <= 1:
            raise ValueError(f"power {power} is outside 0..1")
        self.seed, self.epoch = seed, 0
        each = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
        present = np.unique(labels[each > 0])
        counts = np.array([each[labels == label].sum() for label in present], dtype=np.float64)
        shares = np.array([(fixed or {}).get(int(label), np.nan) for label in present])
        taken, free = np.nansum(shares), np.isnan(shares)
        if not 0 <= taken < 1 or not free.any():
            raise ValueError(f"fixed shares {fixed} leave nothing for the other labels")
        natural = counts ** (1 - power)
        quotas = _largest_remainder(
            np.where(free, (1 - taken) * natural / natural[free].sum(), shares), self.num_samples
        )
        self._members: list[NDArray[np.int64]] = []
        self._quotas: list[int] = []
        for label, quota in zip(present, quotas, strict=True):
            groups = [
                np.flatnonzero((labels == label) & (each == w)) for w in np.unique(each[labels == label]) if w > 0
            ]
            parts = _largest_remainder(np.array([each[group].sum() for group in groups]), int(quota))
            self._members += groups
            self._quotas += parts.tolist()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        drawn = []
        for members, quota in zip(self._members, self._quotas, strict=True):
            cycled = [rng.permutation(members) for _ in range(-(-quota // len(members)))]
            drawn.append(np.concatenate([members[:0], *cycled])[:quota])
        for draw, index in enumerate(rng.permutation(np.concatenate(drawn))):
            yield draw, int(index)


def _largest_remainder(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Return whole numbers proportional to `weights` that sum to `total`."""
    # Rounding removes the division's last-bit error, so that whole shares stay whole.
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
    """Return a loader of batches: CropView of float32 (B, 3, S, S), int64 (B,), float32 (B, 4), int64 (B,), and more.

    With workers, all crops are decoded first. Each epoch starts new processes, which must see `set_epoch`. They share
    the decoded crops.

    Args:
        dataset: the crops.
        batch_size: crops per batch.
        sampler: order of the draws; None: the dataset's order.
        workers: processes that read crops.
        drop_last: drop a last batch that is smaller.
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
        worker_init_fn=turn_off_opencv_threads if workers else None,
    )
