"""Train and eval transforms, the three implementations of the augmentation policy, and the preview."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from stage2_classifier.augment.albumentations_augment import AlbumentationsAugment
from stage2_classifier.augment.opencv_augment import OpencvAugment
from stage2_classifier.augment.policy import DEFAULT_POLICY, AugmentPolicy
from stage2_classifier.augment.torchvision_augment import TorchvisionAugment
from stage2_classifier.augment.transforms import AUGMENTATIONS, eval_transform, train_transform
from stage2_classifier.config import TrainConfig
from stage2_classifier.cropping import cut_crop, to_input
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import CropRecord, CropSet, write_crop_set
from stage2_classifier.data.loaders import build_loader
from stage2_classifier.reports import preview
from stage2_classifier.reports.preview_command import main
from stage2_classifier.training.setup import build_sampler, training_crops

MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.24, 0.23)
KINDS = [kind for kind in AUGMENTATIONS if kind != "none"]
IMPLEMENTATIONS = [OpencvAugment, TorchvisionAugment, AlbumentationsAugment]
NOTHING = replace(DEFAULT_POLICY, **{name: 0.0 for name in vars(DEFAULT_POLICY) if name.endswith("_p")})
FILL = (10.0, 20.0, 30.0)


def face(side: int = 40) -> np.ndarray:
    """Return a smooth picture that differs from its mirror image."""
    y, x = np.mgrid[0:side, 0:side] / side
    return np.stack([60 + 150 * x, 200 - 120 * y, 90 + 50 * np.sin(6 * x * y)], axis=2).astype(np.uint8)


def test_eval_is_bit_for_bit_the_inference_path() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for box in [(10, 10, 30, 38), (70, 40, 118, 88), (0, 0, 5, 5)]:
        at_inference = to_input(cut_crop(photo, box, 0.2, 64)[None], MEAN, STD)[0]
        crop = cut_crop(photo, box, 0.2)
        for transform in (eval_transform(64, MEAN, STD), train_transform("none", 64, MEAN, STD)):
            tensor = transform(crop, 7)
            assert tensor.dtype == torch.float32
            assert np.array_equal(tensor.numpy(), at_inference)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(kind: str) -> None:
    transform = train_transform(kind, 64, MEAN, STD)
    crop = face()
    before = crop.copy()
    first = [transform(crop, seed) for seed in range(6)]
    np.random.default_rng(1)
    torch.rand(3)  # the global generators have no effect
    again = [transform(crop, seed) for seed in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({tensor.numpy().tobytes() for tensor in first}) >= 4  # some draws change nothing
    assert all(tensor.shape == (3, 64, 64) and tensor.dtype == torch.float32 for tensor in first)
    assert np.array_equal(crop, before)


@pytest.mark.parametrize("kind", KINDS)
def test_global_random_state_is_left_alone(kind: str) -> None:
    transform = train_transform(kind, 32, MEAN, STD)
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    transform(face(), 3)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 33, 112])
def test_any_input_size_and_crop_size(kind: str, size: int) -> None:
    transform = train_transform(kind, size, MEAN, STD)
    for side in (1, 22, 200):
        for seed in range(8):
            tensor = transform(face(side), seed)
            assert tensor.shape == (3, size, size) and torch.isfinite(tensor).all()


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_transforms_travel_to_worker_processes(kind: str) -> None:
    transform = train_transform(kind, 24, MEAN, STD)
    copy = pickle.loads(pickle.dumps(transform))
    assert torch.equal(copy(face(), 9), transform(face(), 9))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
class TestPolicy:
    """Each implementation follows the policy, tested one step at a time."""

    def versions(self, implementation: type, policy: AugmentPolicy, image: np.ndarray, n: int = 12) -> list[np.ndarray]:
        augment = implementation(image.shape[0], FILL, policy)
        return [augment(image, seed) for seed in range(n)]

    def test_nothing(self, implementation: type) -> None:
        image = face()
        assert all(np.array_equal(v, image) for v in self.versions(implementation, NOTHING, image))

    def test_flip(self, implementation: type) -> None:
        image = face()
        for version in self.versions(implementation, replace(NOTHING, flip_p=1.0), image):
            assert np.array_equal(version, image[:, ::-1])

    def test_geometry_moves_within_bounds_and_repeats_the_edge(self, implementation: type) -> None:
        image = np.full((64, 64, 3), 200, np.uint8)
        image[28:36, 28:36] = 0  # a dark spot in the middle of a light picture
        centres, areas = [], []
        for version in self.versions(implementation, replace(NOTHING, geometry_p=1.0), image, 60):
            assert version[[0, 0, -1, -1], [0, -1, 0, -1]].min() >= 199  # no black corner
            dark = (200 - version[:, :, 0].astype(float)) / 200
            areas.append(dark.sum())
            y, x = np.mgrid[0:64, 0:64]
            centres.append(((x * dark).sum() / dark.sum() - 31.5, (y * dark).sum() / dark.sum() - 31.5))
        moved = np.abs(centres)
        assert moved.max() < 0.1 * 64 + 1.1
        assert (moved.max(axis=0) > 3).all()
        ratio = np.sqrt(np.array(areas) / 64)
        assert 0.82 < ratio.min() < 0.95 and 1.05 < ratio.max() < 1.18

    def test_colour_keeps_the_shape(self, implementation: type) -> None:
        image = face()
        versions = self.versions(implementation, replace(NOTHING, colour_p=1.0), image)
        means = np.array([v.mean() for v in versions])
        assert means.std() > 3
        for version in versions:
            assert np.corrcoef(version.mean(axis=2).ravel(), image.mean(axis=2).ravel())[0, 1] > 0.9

    def test_light(self, implementation: type) -> None:
        image = face()
        kinds, means = {"dim": 0, "haze": 0, "cast": 0}, image.mean(axis=(0, 1))
        for version in self.versions(implementation, replace(NOTHING, light_p=1.0), image, 60):
            gains = np.array([np.polyfit(image[..., c].ravel(), version[..., c].ravel(), 1)[0] for c in range(3)])
            ratios = version.mean(axis=(0, 1)) / means
            assert (gains > 0.18).all() and (gains < 1.22).all()
            if np.ptp(gains) > 0.03:
                kinds["cast"] += 1
                assert ratios == pytest.approx(gains, abs=0.03)
            elif ratios[0] == pytest.approx(gains[0], abs=0.03):
                kinds["dim"] += 1
                assert gains.max() < 0.72
            else:
                kinds["haze"] += 1
                assert (
                    gains.min() > 0.28 and gains.max() < 0.72 and version.mean() == pytest.approx(image.mean(), abs=9)
                )
        assert min(kinds.values()) > 8

    def test_grey(self, implementation: type) -> None:
        for version in self.versions(implementation, replace(NOTHING, grey_p=1.0), face()):
            assert np.ptp(version.astype(int), axis=2).max() == 0

    @pytest.mark.parametrize("field", ["blur_p", "low_resolution_p"])
    def test_detail_is_lost(self, implementation: type, field: str) -> None:
        image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for version in self.versions(implementation, replace(NOTHING, **{field: 1.0}), image):
            assert abs(version.mean() - image.mean()) < 2
            assert cv2.Laplacian(version, cv2.CV_32F).std() < 0.95 * cv2.Laplacian(image, cv2.CV_32F).std()

    @pytest.mark.parametrize("field", ["jpeg_p", "noise_p"])
    def test_small_errors_are_added(self, implementation: type, field: str) -> None:
        image = face()
        for version in self.versions(implementation, replace(NOTHING, **{field: 1.0}), image):
            error = version.astype(float) - image
            assert 0.3 < error.std() < 12.5 and abs(error.mean()) < 2

    def test_erasing_fills_a_small_patch(self, implementation: type) -> None:
        image = np.full((64, 64, 3), 200, np.uint8)
        for version in self.versions(implementation, replace(NOTHING, erase_p=1.0), image):
            erased = (version == FILL).all(axis=2)
            share = erased.mean()
            assert 0.015 < share < 0.09
            assert (version[~erased] == 200).all()


@pytest.mark.slow
def test_libraries_that_are_not_chosen_are_not_imported() -> None:
    code = (
        "import sys; from stage2_classifier.augment.transforms import train_transform; "
        "train_transform('opencv', 32, (0.5,) * 3, (0.5,) * 3); "
        "print(*{'torchvision', 'albumentations', 'timm'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="'imgaug' is unknown; use one of none, torchvision"):
        train_transform("imgaug", 32, MEAN, STD)


@pytest.fixture
def crop_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "crops"
    folder.mkdir()
    records = []
    for i, label in enumerate(["with_mask", "without_mask"] * 2):
        Image.fromarray(face(20 + i)).save(folder / f"{i}.png")
        records.append(CropRecord(f"{i}.png", label, "train", f"p{i}", (0, 0, 20, 20)))
    write_crop_set(CropSet(folder, tuple(records), ("with_mask", "without_mask"), 0.2))
    return folder


def test_preview_is_written(crop_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = crop_folder.parent / "made" / "preview.png"
    assert main(["--crops", str(crop_folder), "--preview", str(out), "--per-class", "2"]) == 0
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.width > 13 * 96 and picture.height > 4 * 96  # 1 + 3 x 4 columns, 2 x 2 rows
    one = crop_folder.parent / "one.png"
    assert main(["--crops", str(crop_folder), "--preview", str(one), "--augment", "opencv"]) == 0
    with Image.open(one) as picture:
        assert picture.width < 8 * 96


def test_preview_of_missing_crops_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--crops", str(tmp_path / "none"), "--preview", str(tmp_path / "p.png")]) == 1
    error = capsys.readouterr().err
    assert "crops.csv: not found" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["p.txt", "p.psd"])  # Pillow reads PSD, and does not write it
def test_preview_name_must_be_a_picture(crop_folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--crops", str(crop_folder), "--preview", str(crop_folder.parent / name)]) == 1
    assert "end it with .png" in capsys.readouterr().err
    assert not (crop_folder.parent / name).exists()


@pytest.mark.parametrize("name", ["0.png", "made/new.png"])
def test_a_preview_is_not_written_among_the_crops(
    crop_folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = (crop_folder / "0.png").read_bytes()
    (crop_folder.parent / "link").symlink_to(crop_folder, target_is_directory=True)
    for out in (crop_folder / name, crop_folder.parent / "link" / name):
        assert main(["--crops", str(crop_folder), "--preview", str(out), "--augment", "opencv"]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {out}: ") and error.endswith("use another --preview\n")
    assert (crop_folder / "0.png").read_bytes() == before and not (crop_folder / "made").exists()


def test_preview_refuses_a_negative_seed(crop_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--crops", str(crop_folder), "--preview", str(crop_folder.parent / "p.png"), "--seed", "-1"]) == 1
    assert capsys.readouterr().err == "error: --seed -1: use 0 or more\n"


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Return the list to which each drawn sheet is added: (rows of cells, side, row labels, caption lines)."""
    drawn: list[tuple[Any, ...]] = []
    draw = preview.contact_sheet

    def keep(*sheet: Any) -> Image.Image:
        drawn.append(sheet)
        return draw(*sheet)

    monkeypatch.setattr(preview, "contact_sheet", keep)
    return drawn


def crops_by_pixels(crops: CropSet, margin: float) -> dict[bytes, str]:
    """Return the label of each training crop by the pixels that inference sees."""
    dataset = CropDataset(crops, "train", eval_transform(32, MEAN, STD), margin=margin, hard_negatives=True)
    return {dataset.pixels(i).tobytes(): record.label for i, record in enumerate(dataset.records)}


STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("changes", [{}, {"jitter": 1.0}, {"jitter": 1.0, "hard_negatives": 0.25, "margin": 0.1}])
def test_the_preview_shows_the_views_of_the_training(
    wide_crops: CropSet, tmp_path: Path, sheets: list[tuple[Any, ...]], changes: dict[str, Any]
) -> None:
    config = TrainConfig(input_size=48, epochs=6, batch_size=10, **changes)
    preview.save_training_views(tmp_path / "p.png", config, wide_crops, STATS, per_class=2, versions=5)
    with Image.open(tmp_path / "p.png") as picture:
        picture.verify()
    # Every view of the training by epoch and pixels, as the network gets them.
    dataset = training_crops(config, wide_crops, STATS)
    sampler = build_sampler(config, dataset)
    names = (*wide_crops.class_names, "not_a_face")
    seen: dict[tuple[str, bytes], str] = {}
    for epoch in range(config.epochs):
        dataset.set_epoch(epoch)
        sampler.set_epoch(epoch)
        for views, labels, *_ in build_loader(dataset, config.batch_size, sampler):
            for view, label in zip(views.numpy(), labels, strict=True):
                pixels = view.transpose(1, 2, 0) * np.float32(STATS[1]) + np.float32(STATS[0])
                seen[f"epoch {epoch + 1}", np.rint(255 * pixels).clip(0, 255).astype(np.uint8).tobytes()] = names[label]
    before = crops_by_pixels(wide_crops, config.margin)
    [(rows, _, labels, _)] = sheets
    expected = names if config.hard_negatives else names[:3]
    assert labels == [name for name in expected for _ in range(2)]
    for row, label in zip(rows, labels, strict=True):
        assert before[row[0].image.tobytes()] == label
        assert 2 <= len(row) <= 6  # 5 views, fewer of a crop that is drawn less often
        for cell in row[1:]:
            assert seen[cell.caption, cell.image.tobytes()] == label
    assert any(len(row) == 6 for row in rows)


def test_preview_of_an_experiment(wide_crops: CropSet, tmp_path: Path, sheets: list[tuple[Any, ...]]) -> None:
    out = tmp_path / "objectness.png"
    flags = [
        "--crops",
        str(wide_crops.root),
        "--preview",
        str(out),
        "--experiment",
        "objectness_box",
        "--per-class",
        "1",
    ]
    assert main([*flags, "--versions", "3"]) == 0
    [(rows, side, labels, _)] = sheets
    assert labels == [*wide_crops.class_names, "not_a_face"]
    assert [len(row) for row in rows] == [4] * 4 and rows[0][1].image.shape == (64, 64, 3)
    with Image.open(out) as picture:
        assert picture.width > 4 * side and picture.height > 4 * side


def test_the_comparison_has_the_margin_of_the_baseline(
    wide_crops: CropSet, crop_folder: Path, sheets: list[tuple[Any, ...]]
) -> None:
    out = crop_folder.parent / "p.png"
    assert main(["--crops", str(wide_crops.root), "--preview", str(out), "--augment", "opencv"]) == 0
    assert main(["--crops", str(crop_folder), "--preview", str(out), "--augment", "opencv"]) == 0
    before = crops_by_pixels(wide_crops, 0.2)
    (rows, *_), (narrow, *_) = sheets
    assert rows and all(row[0].image.tobytes() in before for row in rows)
    assert {row[0].image.shape[0] for row in narrow} <= {20, 21, 22, 23}  # whole files


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--experiment", "objectnes_box"], "did you mean objectness_box"),
        (["--experiment", "judge"], "use objectness_box"),
        (["--experiment", "objectness_box", "--augment", "opencv"], "--experiment: sets augmentation and input size"),
        (["--experiment", "objectness_box", "--input-size", "64"], "--experiment: sets augmentation and input size"),
        (["--experiment", "objectness_box"], "hard_negatives: {crops} has none for training"),
        (["--experiment", "view_margin_35"], "margin: 0.35 is more than the 0.2 that {crops} was cut with"),
        (["--input-size", "0"], "--input-size, --per-class and --versions must be 1 or more"),
    ],
)
def test_a_preview_that_is_impossible_is_one_line(
    crop_folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    out = crop_folder.parent / "p.png"
    assert main(["--crops", str(crop_folder), "--preview", str(out), *flags]) == 1
    error = capsys.readouterr().err
    assert message.format(crops=crop_folder) in error and len(error.splitlines()) == 1
    assert not out.exists()
