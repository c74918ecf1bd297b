"""Face crops as PyTorch training data: the dataset, a class-balanced sampler and the loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from common.errors import UserError
from stage2_classifier.cropping import crop_window, cut_crop, cut_window
from stage2_classifier.data.box_jitter import Box, Jitter, jittered_view, plain_numbers
from stage2_classifier.data.crop_manifest import BACKGROUND, CropRecord, CropSet, read_crop_set, write_crop_set
from stage2_classifier.data.mask_transfer import Way, face_frame, splice

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

# The classes of the Kaggle set, which say who wears a mask: splicing needs to know.
MASKED, BARE, INCORRECT = "with_mask", "without_mask", "mask_weared_incorrect"
LEAST_DONOR = 14  # px: smaller masks are a few grey pixels
NOSE_OUT = 0.65  # share of wrongly worn masks that show the nose alone; the others lie on the chin
RIGHTLY = 0.2  # how much more seldom a mask is put on rightly, lest a seam tell that it is worn wrongly
# (crop uint8 (H, W, 3) RGB, seed) -> float32 tensor (3, S, S); see stage2_classifier.transforms
CropTransform = Callable[[NDArray[np.uint8], int], torch.Tensor]


class CropDataset(Dataset[tuple[torch.Tensor, int, torch.Tensor]]):
    """One split of a crop set, decoded once and kept in memory.

    `ds[i]` is (float32 tensor (3, S, S), class index, float32 box numbers (4,)). `ds[draw, i]` is the same crop as the
    draw-th one of the epoch: the transform's seed comes from (seed, epoch, draw) alone, so that an augmentation
    depends neither on the number of workers nor on a resumed run, and a crop drawn twice in an epoch looks different
    each time.

    margin: context around the face that the network sees, at most that of the crops; None: all of it. jitter: how far
    the view strays from the face; None: not at all. rejects: take the set's rejects in, too, with the class index
    len(class_names). spliced: with this probability a crop of the rare class is a bare face with another one's mask
    worn wrongly (stage2_classifier.data.mask_transfer), and, a fifth as often, a masked one such a face with it worn rightly.

    Raises UserError when the split is empty, the margin is larger than the crops', or, on access, when a crop's
    file cannot be read.
    """

    def __init__(
        self,
        crop_set: CropSet,
        split: str,
        transform: CropTransform,
        seed: int = 0,
        *,
        margin: float | None = None,
        jitter: Jitter | None = None,
        rejects: bool = False,
        spliced: float = 0.0,
    ) -> None:
        faces = crop_set.split(split)
        self.records = (*faces, *(r for r in crop_set.hard_negatives if rejects and r.split == split))
        self.class_names = crop_set.class_names
        index = {name: i for i, name in enumerate(crop_set.class_names)}
        index[BACKGROUND] = len(index)
        self.labels: NDArray[np.int64] = np.array([index[r.label] for r in self.records], dtype=np.int64)
        self.transform = transform
        self.seed = seed
        self.epoch = 0
        self.margin = crop_set.margin if margin is None else margin
        check_margin(crop_set, self.margin)
        self._jitter = jitter
        self._spliced = spliced
        self._donors = _donors(crop_set, self.records) if spliced else {}
        self._cut_margin = crop_set.margin
        self._root = crop_set.root
        self._pixels: list[NDArray[np.uint8] | None] = [None] * len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """Moves the augmentation on to another epoch; with worker processes, call it before iterating."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, int, torch.Tensor]:
        draw, i = key if isinstance(key, tuple) else (key, key)
        seed = int(np.random.SeedSequence((self.seed, self.epoch, draw)).generate_state(1)[0])
        label = int(self.labels[i])
        made = self._splice(i, seed) if self._spliced else None
        if made is not None:
            i, wide = made
            jitter = self._jitter or Jitter(0.0, 0.0, 0.0, 0.0, 0.0)
            view, numbers = jittered_view(wide, self.box(i), self.margin, seed, jitter)
        elif self._jitter is None:
            view, numbers = self.pixels(i), plain_numbers(self.records[i].box, self.margin)
        else:
            view, numbers = jittered_view(self._wide(i), self.box(i), self.margin, seed, self._jitter)
        return self.transform(view, seed), label, torch.from_numpy(numbers)

    def _splice(self, i: int, seed: int) -> tuple[int, NDArray[np.uint8]] | None:
        """The bare face that takes the i-th crop's place, with a mask on; None when the crop stays what it is."""
        name = self.records[i].label
        chance = {INCORRECT: self._spliced, MASKED: RIGHTLY * self._spliced}.get(name, 0.0)
        rng = np.random.default_rng((seed, 2))
        if rng.random() >= chance:
            return None
        way: Way = "right" if name == MASKED else "nose_out" if rng.random() < NOSE_OUT else "chin"
        bare, masked = (int(rng.choice(self._donors[kind])) for kind in (BARE, MASKED))
        return bare, splice(
            self._wide(bare), self._landmarks(bare), self._wide(masked), self._landmarks(masked), way, rng
        )

    def _landmarks(self, i: int) -> NDArray[np.float64]:
        """(5, 2) landmarks in pixels of the i-th crop file."""
        left, top, _, _ = crop_window(self.records[i].box, self._cut_margin)
        return np.array(self.records[i].landmarks).reshape(5, 2) - (left, top)

    def box(self, i: int) -> Box:
        """The i-th face in pixels of its crop file, xyxy."""
        x1, y1, x2, y2 = self.records[i].box
        left, top, _, _ = crop_window(self.records[i].box, self._cut_margin)
        return x1 - left, y1 - top, x2 - left, y2 - top

    def pixels(self, i: int) -> NDArray[np.uint8]:
        """The i-th crop with the dataset's margin, as inference would cut it: uint8 (H, W, 3) RGB."""
        wide = self._wide(i)
        if self.margin == self._cut_margin:
            return wide
        # Windows are rounded to the photo's pixels, so they are found in the photo, not in the crop.
        box = self.records[i].box
        left, top, _, _ = crop_window(box, self._cut_margin)
        x1, y1, x2, y2 = crop_window(box, self.margin)
        return cut_window(wide, (x1 - left, y1 - top, x2 - left, y2 - top))

    def _wide(self, i: int) -> NDArray[np.uint8]:
        """The i-th crop as its file holds it, uint8 (H, W, 3) RGB, read-only."""
        pixels = self._pixels[i]
        if pixels is None:
            file = self._root / self.records[i].path
            try:
                with Image.open(file) as image:
                    pixels = np.array(image.convert("RGB"))
            # Pillow reports broken files as OSError, SyntaxError (PNG chunks) or ValueError.
            except (OSError, SyntaxError, ValueError) as error:
                what = "not found" if isinstance(error, FileNotFoundError) else "cannot be read as an image"
                raise UserError(f"{file}: {what}; build the crops anew") from error
            pixels.setflags(write=False)
            self._pixels[i] = pixels
        return pixels

    def preload(self) -> None:
        """Decodes every crop now, so that worker processes started later share them."""
        for i in range(len(self)):
            self._wide(i)


def _donors(crop_set: CropSet, records: Sequence[CropRecord]) -> dict[str, list[int]]:
    """Which records may give a face, and which a mask: large enough to see it, and with landmarks.

    Raises UserError when the classes have other names, or there are none.
    """
    missing = [name for name in (MASKED, BARE, INCORRECT) if name not in crop_set.class_names]
    if missing:
        raise UserError(f"spliced: the crops have no class {missing[0]!r}, by which faces are known; set it to 0")
    donors: dict[str, list[int]] = {MASKED: [], BARE: []}
    for i, r in enumerate(records):
        x1, y1, x2, y2 = r.box
        large = r.label in donors and r.landmarks and max(x2 - x1, y2 - y1) >= LEAST_DONOR
        if large and face_frame(np.array(r.landmarks).reshape(5, 2)) is not None:
            donors[r.label].append(i)
    empty = [name for name, own in donors.items() if not own]
    if empty:
        raise UserError(
            f"spliced: {crop_set.root} has no {empty[0]} faces of {LEAST_DONOR} px with landmarks; build crops with "
            "`pipeline.build_crops --cascade RUN`, or set it to 0"
        )
    return donors


def check_margin(crop_set: CropSet, margin: float) -> None:
    """Raises UserError when crops were cut with less context than `margin`."""
    if margin > crop_set.margin:
        raise UserError(
            f"margin: {margin:g} is more than the {crop_set.margin:g} that {crop_set.root} was cut with; "
            f"lower it, or build crops with `pipeline.build_crops --margin {margin:g}`"
        )


class BalancedSampler(Sampler[tuple[int, int]]):
    """Draws (draw, index) pairs with each class's share proportional to count ** (1 - power).

    power=0 keeps the natural frequencies (with num_samples=None every index comes exactly once, shuffled),
    power=1 makes the classes equal (0.5 is square-root sampling, Mahajan et al. 2018,
    "Exploring the Limits of Weakly Supervised Pretraining"). A class's share is rounded by the largest
    remainder; within a class, shuffled members are cycled through: none comes again before all others have
    come. The order depends on (seed, epoch) alone.

    fixed: {label: share} of labels that take that share of all draws, whatever their count.

    Raises ValueError when labels are empty, num_samples is not positive, power is outside 0..1, or `fixed` leaves
    nothing for the others.
    """

    def __init__(
        self,
        labels: NDArray[np.int64] | Sequence[int],
        num_samples: int | None = None,
        power: float = 1.0,
        seed: int = 0,
        fixed: Mapping[int, float] | None = None,
    ) -> None:
        labels = np.asarray(labels, dtype=np.int64)
        self.num_samples = len(labels) if num_samples is None else num_samples
        if self.num_samples < 1 or not len(labels):
            raise ValueError("nothing to sample: labels are empty or num_samples is not positive")
        if not 0 <= power <= 1:
            raise ValueError(f"power {power} is outside 0..1")
        self.seed = seed
        self.epoch = 0
        present = np.unique(labels)
        self._members = [np.flatnonzero(labels == label) for label in present]
        weights = np.array([len(members) for members in self._members], dtype=np.float64) ** (1 - power)
        given = np.array([(fixed or {}).get(int(label), np.nan) for label in present])
        kept, free = np.nansum(given), np.isnan(given)
        if not 0 <= kept < 1 or not free.any():
            raise ValueError(f"fixed shares {fixed} leave nothing for the other labels")
        weights = np.where(free, (1 - kept) * weights / weights[free].sum(), given)
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
    """Batches of (float32 (B, 3, S, S), int64 (B,), float32 (B, 4)); without a sampler in the dataset's order.

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
