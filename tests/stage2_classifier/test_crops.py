"""The crop dataset, the balanced sampler and the loader."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stage2_classifier.crops import (
    BalancedSampler,
    CropDataset,
    CropRecord,
    CropSet,
    build_loader,
    read_crop_set,
    write_crop_set,
)
from stage2_classifier.errors import ClassifierError

CLASSES = ("with_mask", "without_mask")


def seed_transform(crop: np.ndarray, seed: int) -> torch.Tensor:
    """Shows what it was called with: the crop's first pixel and the seed's two halves."""
    return torch.tensor([float(crop[0, 0, 0]), seed >> 16, seed & 0xFFFF]).reshape(3, 1, 1)


def save(path: Path, level: int, mode: str = "RGB") -> None:
    Image.new("RGB", (6, 6), (level, level, level)).convert(mode).save(path)


@pytest.fixture
def crop_set(tmp_path: Path) -> CropSet:
    records = []
    for i in range(6):
        label = CLASSES[i % 3 == 2]
        save(tmp_path / f"{i}.png", 10 * i, "RGBA" if i == 1 else "RGB")
        records.append(CropRecord(f"{i}.png", label, "val" if i == 5 else "train", f"photo{i}", (0, 0, 6, 6)))
    crops = CropSet(tmp_path, tuple(records), CLASSES, 0.2)
    write_crop_set(crops)
    return crops


def test_crop_set_survives_writing_and_reading(crop_set: CropSet) -> None:
    assert read_crop_set(crop_set.root) == crop_set


def test_items_are_pixels_and_labels_of_the_split(crop_set: CropSet) -> None:
    dataset = CropDataset(crop_set, "train", seed_transform)
    assert len(dataset) == len(dataset.records) == 5
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 0, 1, 0, 0]
    tensor, label = dataset[2]
    assert tensor[0, 0, 0] == 20 and label == 1
    assert dataset.pixels(1).shape == (6, 6, 3)  # the RGBA one


def test_seed_depends_on_seed_epoch_and_draw_only(crop_set: CropSet) -> None:
    def key(seed: int, epoch: int, draw: int, index: int = 0) -> tuple[float, ...]:
        dataset = CropDataset(crop_set, "train", seed_transform, seed)
        dataset.set_epoch(epoch)
        return tuple(dataset[draw, index][0].flatten()[1:].tolist())

    assert key(0, 0, 0) == key(0, 0, 0) == key(0, 0, 0, index=3)
    assert len({key(0, 0, 0), key(1, 0, 0), key(0, 1, 0), key(0, 0, 1), key(0, 1, 1)}) == 5


def test_a_plain_index_is_its_own_draw(crop_set: CropSet) -> None:
    dataset = CropDataset(crop_set, "train", seed_transform)
    assert torch.equal(dataset[3][0], dataset[3, 3][0])


def test_a_crop_is_read_once(crop_set: CropSet) -> None:
    dataset = CropDataset(crop_set, "train", seed_transform)
    first = dataset[0][0]
    (crop_set.root / "0.png").unlink()
    assert torch.equal(dataset[0][0], first)


@pytest.mark.parametrize("damage", ["missing", "truncated", "text"])
def test_a_bad_crop_file_is_named(crop_set: CropSet, damage: str) -> None:
    file = crop_set.root / "0.png"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:45] if damage == "truncated" else b"no picture")
    with pytest.raises(ClassifierError, match=r"0\.png: .*build the crops anew"):
        CropDataset(crop_set, "train", seed_transform)[0]


def test_an_empty_split_is_refused(crop_set: CropSet) -> None:
    with pytest.raises(ClassifierError, match="no crops in split 'test'"):
        CropDataset(crop_set, "test", seed_transform)


def drawn(sampler: BalancedSampler) -> list[int]:
    pairs = list(sampler)
    assert [draw for draw, _ in pairs] == list(range(len(sampler)))
    return [index for _, index in pairs]


def test_power_one_makes_classes_equal_and_cycles_members() -> None:
    labels = [0] * 8 + [1] * 3 + [2]
    count = Counter(drawn(BalancedSampler(labels, num_samples=24)))
    by_class = [sorted(count[i] for i in range(12) if labels[i] == c) for c in range(3)]
    assert by_class == [[1] * 8, [2, 3, 3], [8]]


def test_power_zero_is_a_shuffle() -> None:
    labels = [0] * 70 + [1] * 25 + [2] * 5
    order = drawn(BalancedSampler(labels, power=0.0))
    assert sorted(order) == list(range(100)) and order != list(range(100))


def test_power_half_is_square_root_sampling() -> None:
    labels = np.array([0] * 100 + [1] * 25 + [2] * 4)  # roots 10, 5, 2
    classes = Counter(labels[drawn(BalancedSampler(labels, num_samples=170, power=0.5))].tolist())
    assert classes == {0: 100, 1: 50, 2: 20}


def test_order_depends_on_seed_and_epoch() -> None:
    labels = [0] * 20 + [1] * 5
    sampler, twin, other = BalancedSampler(labels), BalancedSampler(labels), BalancedSampler(labels, seed=1)
    first = drawn(sampler)
    assert drawn(sampler) == drawn(twin) == first != drawn(other)
    sampler.set_epoch(1)
    assert drawn(sampler) != first


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.integers(1, 150),
    st.floats(0, 1),
    st.integers(0, 3),
)
def test_sampler_properties(labels: list[int], num_samples: int, power: float, epoch: int) -> None:
    sampler = BalancedSampler(labels, num_samples, power)
    sampler.set_epoch(epoch)
    order = drawn(sampler)
    assert len(order) == len(sampler) == num_samples
    count = Counter(order)
    sizes = Counter(labels)
    total = sum(size ** (1 - power) for size in sizes.values())
    for c, size in sizes.items():
        counts = [count[i] for i, label in enumerate(labels) if label == c]
        assert max(counts) - min(counts) <= 1
        assert abs(sum(counts) - num_samples * size ** (1 - power) / total) < 1 + 1e-6


@pytest.mark.parametrize(
    ("labels", "options"), [([], {}), ([0], {"num_samples": 0}), ([0], {"power": 1.5}), ([0], {"power": -0.1})]
)
def test_sampler_refuses_nonsense(labels: list[int], options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"nothing to sample|outside 0..1"):
        BalancedSampler(labels, **options)  # type: ignore[arg-type]


def test_loader_batches_do_not_depend_on_workers(crop_set: CropSet) -> None:
    def epochs(workers: int) -> list[torch.Tensor]:
        dataset = CropDataset(crop_set, "train", seed_transform)
        sampler = BalancedSampler(dataset.labels, num_samples=7)
        loader = build_loader(dataset, batch_size=3, sampler=sampler, workers=workers)
        batches = []
        for epoch in range(2):
            dataset.set_epoch(epoch)
            sampler.set_epoch(epoch)
            batches.append(torch.cat([images for images, _ in loader]))
        return batches

    alone, helped = epochs(0), epochs(2)
    assert alone[0].shape == (7, 3, 1, 1)
    assert not torch.equal(alone[0], alone[1])
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_loader_can_drop_a_short_last_batch(crop_set: CropSet) -> None:
    dataset = CropDataset(crop_set, "train", seed_transform)
    images, labels = next(iter(build_loader(dataset, 4)))
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert labels.tolist() == [0, 0, 1, 0]
    assert len(build_loader(dataset, 4)) == 2
    assert len(build_loader(dataset, 4, drop_last=True)) == 1
