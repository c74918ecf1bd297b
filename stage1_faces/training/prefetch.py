"""Makes the batches of an epoch while the net learns: in a thread, or in processes for a GPU that waits for them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.processes import turn_off_opencv_threads
from stage1_faces.training.batches import Batches

PREFETCH_FACTOR = 4  # batches that each process makes ahead


class EpochBatches(Dataset[tuple[Tensor, ...]]):
    """The batches of one epoch, by step."""

    def __init__(self, batches: Batches, epoch: int, steps: int) -> None:
        self._batches, self._epoch, self._steps = batches, epoch, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array) for array in self._batches.batch(self._epoch, step))


def prefetch_batches(batches: Batches, epoch: int, steps: int, workers: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches of an epoch that was started, in order of their steps; `workers` does not change them.

    Args:
        batches: makes the batches.
        epoch: number of the epoch, from 0.
        steps: number of batches.
        workers: processes; 0: a thread. Each epoch starts new processes, which must see the epoch's draws.

    Yields:
        pixels and targets, as in `Batches.batch`.
    """
    epoch_batches = EpochBatches(batches, epoch, steps)
    if workers:
        # A fork shares the photos; other ways to start a process would copy them.
        context = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
        yield from DataLoader(
            epoch_batches,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=PREFETCH_FACTOR,
            multiprocessing_context=context,
            worker_init_fn=turn_off_opencv_threads,
            collate_fn=tuple,
            generator=torch.Generator(),  # its own: the loader draws a number, and dropout has torch's generator
        )
        return
    # OpenCV releases the interpreter's lock.
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(epoch_batches.__getitem__, step) for step in range(min(1, steps))]
        for step in range(steps):
            arrays = pending.pop().result()
            if step + 1 < steps:
                pending.append(pool.submit(epoch_batches.__getitem__, step + 1))
            yield arrays
