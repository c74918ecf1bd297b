"""The crop dataset, the balanced sampler and the loader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import UserError
from stage2_classifier.cropping import box_deltas, crop_window, cut_crop, window_anchor
from stage2_classifier.data.box_jitter import BoxJitter, jittered_view
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import BACKGROUND, CropRecord, CropSet, write_crop_set
from stage2_classifier.data.loaders import BalancedSampler, build_loader

CLASSES = ("with_mask", "without_mask")


def seed_transform(crop: np.ndarray, seed: int) -> torch.Tensor:
    """Return the arguments as a tensor: the crop's first pixel and the seed's two halves."""
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


def test_items_are_pixels_and_labels_of_the_split(crop_set: CropSet) -> None:
    dataset = CropDataset(crop_set, "train", seed_transform)
    assert len(dataset) == len(dataset.records) == 5
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 0, 1, 0, 0]
    tensor, label, deltas, *_ = dataset[2]
    assert tensor[0, 0, 0] == 20 and label == 1
    # A window of 8 px with margins of 0.2 around a face of 6 px, which fills a little more than the middle.
    unit = 8 / 1.4
    assert deltas.dtype == torch.float32
    assert deltas.tolist() == pytest.approx([0, 0, np.log(6 / unit), np.log(6 / unit)])
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


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "not square"])
def test_a_bad_crop_file_is_named(crop_set: CropSet, damage: str) -> None:
    file = crop_set.root / "0.png"
    if damage == "missing":
        file.unlink()
    elif damage == "not square":
        Image.new("RGB", (50, 3)).save(file)
    else:
        file.write_bytes(file.read_bytes()[:45] if damage == "truncated" else b"no picture")
    with pytest.raises(UserError, match=r"0\.png: .*build the crops again"):
        CropDataset(crop_set, "train", seed_transform)[0]


def test_an_empty_split_is_refused(crop_set: CropSet) -> None:
    with pytest.raises(UserError, match="no crops in split 'test'"):
        CropDataset(crop_set, "test", seed_transform)


def plain_transform(crop: np.ndarray, _seed: int) -> torch.Tensor:
    return torch.from_numpy(crop.copy())


def cut_set(root: Path, boxes: Sequence[Sequence[float]], margin: float, size: tuple[int, int] = (70, 90)) -> CropSet:
    """Crops of faces in one photo of noise of `size` (height, width), cut with `margin`, and the photo.png."""
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(photo).save(root / "photo.png")
    records = []
    for i, box in enumerate(boxes):
        Image.fromarray(cut_crop(photo, box, margin)).save(root / f"{i}.png")
        x1, y1, x2, y2 = (float(v) for v in box)
        records.append(CropRecord(f"{i}.png", CLASSES[0], "train", "photo", (x1, y1, x2, y2)))
    return CropSet(root, tuple(records), CLASSES, margin)


def photo_of(crops: CropSet) -> np.ndarray:
    return np.array(Image.open(crops.root / "photo.png"))


def same_as_from_the_photo(crops: CropSet, margin: float) -> None:
    """Compare the dataset's view of each crop with what inference cuts from the photo."""
    dataset = CropDataset(crops, "train", plain_transform, margin=margin)
    for i, record in enumerate(crops.records):
        view, _, deltas, *_ = dataset[i]
        assert np.array_equal(dataset.pixels(i), cut_crop(photo_of(crops), record.box, margin))
        assert np.array_equal(view.numpy(), dataset.pixels(i))
        assert deltas.numpy() == pytest.approx(box_deltas(record.box, window_anchor(record.box, margin)), abs=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.35, 0.6])
def test_a_part_of_a_wide_crop_is_what_inference_cuts(tmp_path: Path, margin: float) -> None:
    # Whole pixels as annotators give them, sides odd and even, in the middle, at the photo's edges and beyond them.
    boxes = [(x, y, x + w, y + h) for x, y in ((30, 20), (31, 21), (0, 0), (78, 57)) for w, h in ((10, 11), (11, 12))]
    same_as_from_the_photo(cut_set(tmp_path, [*boxes, (-3, 60, 20, 75), (40.3, 22.8, 52.1, 37.6)], 0.6), margin)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*(st.floats(v, w) for v, w in ((-2, 80), (-2, 60), (3, 30), (3, 30)))).map(
        lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3])
    ),
    st.sampled_from([0.0, 0.2, 0.35, 0.55]),
)
def test_a_part_of_any_wide_crop_is_what_inference_cuts(
    tmp_path_factory: pytest.TempPathFactory, box: tuple[float, ...], margin: float
) -> None:
    same_as_from_the_photo(cut_set(tmp_path_factory.mktemp("set"), [box], 0.6), margin)


def test_box_is_in_pixels_of_the_crop_file(tmp_path: Path) -> None:
    crops = cut_set(tmp_path, [(30, 20, 44, 40)], 0.6)
    dataset = CropDataset(crops, "train", plain_transform)
    assert crop_window((30, 20, 44, 40), 0.6) == (15, 8, 59, 52)
    assert dataset.box(0) == (15, 12, 29, 32)
    photo = photo_of(crops)
    assert np.array_equal(dataset.pixels(0)[12:32, 15:29], photo[20:40, 30:44])


def test_views_are_jittered_by_seed_epoch_and_draw(tmp_path: Path) -> None:
    crops = cut_set(tmp_path, [(30, 20, 44, 40), (10, 20, 30, 40)], 0.6)
    jitter = BoxJitter(min_side=32)

    def item(seed: int, epoch: int, draw: int, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
        dataset = CropDataset(crops, "train", plain_transform, seed, margin=0.2, jitter=jitter)
        dataset.set_epoch(epoch)
        view, label, deltas, *_ = dataset[draw, index]
        assert label == 0
        return view.numpy(), deltas.numpy()

    view, deltas = item(0, 0, 0)
    again, same = item(0, 0, 0)
    assert np.array_equal(view, again) and np.array_equal(deltas, same)
    assert deltas[:2].all()
    others = [item(*key)[1] for key in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1))]
    assert len({tuple(n.tolist()) for n in (deltas, *others)}) == 5
    # The view is of the whole crop file, with the seed that the transform also gets.
    seeds = []
    dataset = CropDataset(
        crops, "train", lambda crop, seed: seeds.append(seed) or plain_transform(crop, seed), margin=0.2, jitter=jitter
    )
    dataset[0, 0]
    wide = np.array(Image.open(crops.root / "0.png"))
    expected, where = jittered_view(wide, dataset.box(0), 0.2, seeds[0], jitter)
    assert np.array_equal(view, expected) and np.array_equal(deltas, where)


def test_hard_negatives_come_after_the_faces_with_another_class(crop_set: CropSet) -> None:
    negatives = tuple(
        CropRecord(f"{i}.png", BACKGROUND, split, "photo", (0, 0, 6, 6)) for i, split in ((4, "train"), (3, "val"))
    )
    with_negatives = CropSet(crop_set.root, crop_set.records, CLASSES, 0.2, negatives)
    dataset = CropDataset(with_negatives, "train", seed_transform, hard_negatives=True)
    assert dataset.labels.tolist() == [0, 0, 1, 0, 0, 2]
    assert dataset.class_names == CLASSES
    tensor, label, *_ = dataset[5]
    assert tensor[0, 0, 0] == 40 and label == 2
    assert CropDataset(with_negatives, "train", seed_transform).labels.tolist() == [0, 0, 1, 0, 0]


def test_more_margin_than_was_cut_is_refused(crop_set: CropSet) -> None:
    assert CropDataset(crop_set, "train", seed_transform).margin == 0.2
    assert CropDataset(crop_set, "train", seed_transform, margin=0.1).margin == 0.1
    with pytest.raises(UserError, match=r"^margin: 0\.3 is more than the 0\.2 .*build_crops --margin 0\.3`$"):
        CropDataset(crop_set, "train", seed_transform, margin=0.3)


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


def test_fixed_labels_take_their_share_of_all_draws() -> None:
    labels = np.array([0] * 100 + [1] * 25 + [2] * 40)
    order = drawn(BalancedSampler(labels, num_samples=200, power=0.5, fixed={2: 0.25}))
    assert Counter(labels[order].tolist()) == {0: 100, 1: 50, 2: 50}  # the others by the roots 10 and 5
    of_fixed = Counter(i for i in order if labels[i] == 2)
    assert sorted(of_fixed.values()) == [1] * 30 + [2] * 10  # cycled through like the others
    none = drawn(BalancedSampler(labels, num_samples=50, fixed={2: 0.0}))
    assert Counter(labels[none].tolist()) == {0: 25, 1: 25}
    absent = drawn(BalancedSampler(labels[:125], num_samples=50, fixed={2: 0.25}))
    assert Counter(labels[absent].tolist()) == {0: 25, 1: 25}


@pytest.mark.parametrize("fixed", [{1: 1.0}, {0: 0.5, 1: 0.25}, {1: -0.1}, {0: 0.75, 1: 0.5}])
def test_fixed_shares_must_leave_something(fixed: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="leave nothing for the other labels"):
        BalancedSampler([0, 0, 1], fixed=fixed)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 90), st.floats(0, 1), st.floats(0, 0.9))
def test_fixed_shares_hold_with_any_labels(labels: list[int], num_samples: int, power: float, share: float) -> None:
    labels = [0, *labels, 4]
    sampler = BalancedSampler(labels, num_samples, power, fixed={4: share})
    count = Counter(labels[i] for i in drawn(sampler))
    assert sum(count.values()) == num_samples
    assert abs(count[4] - share * num_samples) < 1 + 1e-6
    sizes = Counter(label for label in labels if label != 4)
    total = sum(size ** (1 - power) for size in sizes.values())
    for label, size in sizes.items():
        assert abs(count[label] - (1 - share) * num_samples * size ** (1 - power) / total) < 1 + 1e-6


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
            batches.append(torch.cat([images for images, *_ in loader]))
        return batches

    alone, helped = epochs(0), epochs(2)
    assert alone[0].shape == (7, 3, 1, 1)
    assert not torch.equal(alone[0], alone[1])
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_weights_say_how_often_members_of_a_class_are_drawn() -> None:
    labels = np.array([0] * 12 + [1] * 6)
    weights = np.array([1.0] * 8 + [3.0] * 4 + [0.5] * 4 + [0.0] * 2)
    order = drawn(BalancedSampler(labels, num_samples=220, power=0.0, weights=weights))
    count = np.bincount(order, minlength=18)
    # Sums of weights: 20 of class 0, of which 12 for its last four, and 2 of class 1.
    assert count[:12].sum() == 200 and count[8:12].tolist() == [30] * 4 and count[:8].tolist() == [10] * 8
    assert count[12:].tolist() == [5] * 4 + [0] * 2
    alike = BalancedSampler(labels, num_samples=50, power=0.5, weights=np.full(18, 0.7))
    assert drawn(alike) == drawn(BalancedSampler(labels, num_samples=50, power=0.5))
    with pytest.raises(ValueError, match="leave nothing"):
        BalancedSampler(labels, fixed={0: 0.5}, weights=np.where(labels == 0, 1.0, 0.0))


def test_loader_can_drop_a_short_last_batch(crop_set: CropSet) -> None:
    dataset = CropDataset(crop_set, "train", seed_transform)
    images, labels, deltas, *_ = next(iter(build_loader(dataset, 4)))
    assert images.dtype == deltas.dtype == torch.float32 and labels.dtype == torch.int64
    assert deltas.shape == (4, 4)
    assert labels.tolist() == [0, 0, 1, 0]
    assert len(build_loader(dataset, 4)) == 2
    assert len(build_loader(dataset, 4, drop_last=True)) == 1
