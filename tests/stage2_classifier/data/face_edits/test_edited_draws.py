"""Draws with changed faces: how often, of which classes, with which boxes; the preview; what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from pipeline.training.plan import _why_no_edit
from stage2_classifier.config import TrainConfig
from stage2_classifier.cropping import cut_crop
from stage2_classifier.data.box_jitter import BoxJitter
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import CropRecord, CropSet, write_crop_set
from stage2_classifier.reports import preview
from stage2_classifier.reports.preview import HALVES, save_training_views

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
SKIN, CLOTH = (200, 150, 120), (150, 200, 225)
LANDMARKS = np.array([[38, 40], [62, 40], [50, 52], [42, 60], [58, 60]], np.float64)
BOX = (25.0, 22.0, 75.0, 80.0)


def make_faces(root: Path, known: bool = True) -> CropSet:
    """Write three training crops of each class."""
    records = []
    for label in CLASSES:
        photo = np.full((100, 100, 3), SKIN, np.uint8)
        if label != "without_mask":
            photo[(49 if label == "with_mask" else 56) : 75, 28:72] = CLOTH
        (root / label).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(cut_crop(photo, BOX, 0.6)).save(root / label / f"{i}.png")
            numbers = tuple(float(v) for v in LANDMARKS.ravel()) if known else ()
            records.append(CropRecord(f"{label}/{i}.png", label, "train", f"{label}{i}", BOX, numbers))
    crops = CropSet(root, tuple(records), CLASSES, 0.6)
    write_crop_set(crops)
    return crops


@pytest.fixture
def faces(tmp_path: Path) -> CropSet:
    return make_faces(tmp_path)


def dataset_of(crops: CropSet, **options: Any) -> CropDataset:
    def as_it_is(crop: np.ndarray, _seed: int) -> torch.Tensor:
        return torch.from_numpy(np.array(crop))

    return CropDataset(crops, "train", as_it_is, margin=0.2, **options)


@pytest.mark.parametrize("edit", ["mask_transfer_prob", "occluder_prob", "mask_recolor_prob"])
def test_a_face_whose_stored_crop_is_too_small_is_kept(faces: CropSet, edit: str) -> None:
    """Crops of further sources are stored smaller: landmarks that span a face in the photo may not in the crop."""
    narrow = LANDMARKS.copy()
    narrow[:, 0] = 50 + (narrow[:, 0] - 50) * 0.1  # eyes 2.4 px apart
    records = []
    for record in faces.records:
        with Image.open(faces.root / record.path) as image:
            image.resize((image.width // 4, image.height // 4)).save(faces.root / record.path)
        records.append(replace(record, landmarks=tuple(narrow.ravel().tolist())))
    crops = replace(faces, records=tuple(records))
    changed, plain = dataset_of(crops, jitter=BoxJitter(), **{edit: 1.0}), dataset_of(crops, jitter=BoxJitter())
    for i in range(len(plain)):
        assert torch.equal(changed[i].image, plain[i].image)


def changed_draws(dataset: CropDataset, plain: CropDataset, label: str, draws: int = 90) -> float:
    """Return the share of a class's draws whose pixels are changed; labels and boxes must be the same."""
    members, changed = np.flatnonzero(dataset.labels == CLASSES.index(label)), []
    for draw in range(draws):
        i = int(members[draw % len(members)])
        (view, kind, deltas, *_), (before, plain_kind, plain_deltas, *_) = dataset[draw, i], plain[draw, i]
        assert kind == plain_kind and torch.equal(deltas, plain_deltas) and view.shape == before.shape
        changed.append(not torch.equal(view, before))
    return float(np.mean(changed))


@pytest.mark.slow
@pytest.mark.parametrize(("option", "label"), [("occluder_prob", "without_mask"), ("mask_recolor_prob", "with_mask")])
def test_the_probability_decides_for_one_class(faces: CropSet, option: str, label: str) -> None:
    jitter = BoxJitter(degrees_p=0)
    plain = dataset_of(faces, jitter=jitter)
    for prob, tolerance in ((0.0, 0.0), (0.3, 0.12), (1.0, 0.0)):
        dataset = dataset_of(faces, jitter=jitter, **{option: prob})
        for name in CLASSES:
            share = changed_draws(dataset, plain, name)
            assert abs(share - prob) <= tolerance if name == label else share == 0


@pytest.mark.parametrize("option", ["occluder_prob", "mask_recolor_prob"])
def test_without_jitter_the_window_is_that_of_inference(faces: CropSet, option: str) -> None:
    dataset, plain = dataset_of(faces, **{option: 1.0}), dataset_of(faces)
    i = int(np.flatnonzero(dataset.labels == (1 if option == "occluder_prob" else 0))[0])
    (view, _, deltas, *_), (before, _, plain_deltas, *_) = dataset[5, i], plain[5, i]
    assert deltas.numpy() == pytest.approx(plain_deltas.numpy(), abs=0.03)
    forehead = view.numpy()[:12].astype(int) - before.numpy()[:12]
    assert np.abs(forehead).max() <= 4  # eyes and forehead stay where they were


def test_epoch_and_draw_alone_decide_and_stored_crops_stay(faces: CropSet) -> None:
    options = {"occluder_prob": 1.0, "mask_recolor_prob": 1.0}
    dataset, again = dataset_of(faces, **options), dataset_of(faces, **options)
    before = [dataset.pixels(i).copy() for i in range(len(dataset))]
    for i in (0, 3):
        first = [dataset[draw, i][0] for draw in range(4)]
        assert all(torch.equal(again[draw, i][0], first[draw]) for draw in reversed(range(4)))
        again.set_epoch(1)
        assert not all(torch.equal(again[draw, i][0], first[draw]) for draw in range(4))
        again.set_epoch(0)
    assert all(np.array_equal(dataset.pixels(i), pixels) for i, pixels in enumerate(before))


def test_transferred_masks_are_recoloured_too(faces: CropSet) -> None:
    options = {"mask_transfer_prob": 1.0}
    dataset, plain = dataset_of(faces, **options, mask_recolor_prob=1.0), dataset_of(faces, **options)
    assert all(not torch.equal(dataset[draw, 6][0], plain[draw, 6][0]) for draw in range(6))


@pytest.mark.parametrize(("option", "label"), [("occluder_prob", "without_mask"), ("mask_recolor_prob", "with_mask")])
def test_crops_that_do_not_allow_it_are_refused(tmp_path: Path, option: str, label: str) -> None:
    unknown = make_faces(tmp_path / "unknown", known=False)
    with pytest.raises(UserError, match=f"^{option}: .* has no {label} faces of 14 px with landmarks; build crops"):
        dataset_of(unknown, **{option: 0.5})
    assert _why_no_edit(option, unknown).endswith(f"has no {label} faces of 14 px with landmarks")
    faces = make_faces(tmp_path / "faces")
    assert _why_no_edit(option, faces) == ""
    others = replace(
        faces, class_names=("head", "helmet"), records=tuple(replace(r, label="head") for r in faces.records)
    )
    with pytest.raises(UserError, match=f"^{option}: the crops have no class '{label}'; set it to 0"):
        dataset_of(others, **{option: 0.5})


def test_faces_without_landmarks_stay(faces: CropSet) -> None:
    records = tuple(replace(r, landmarks=()) if r.path.endswith("/1.png") else r for r in faces.records)
    crops = replace(faces, records=records)
    dataset, plain = dataset_of(crops, occluder_prob=1.0), dataset_of(crops)
    assert torch.equal(dataset[0, 4][0], plain[0, 4][0]) and not torch.equal(dataset[0, 3][0], plain[0, 3][0])


def test_the_preview_shows_faces_before_and_after(
    faces: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, list[Any]] = {}

    def sheet(rows: list[Any], _side: int, labels: list[str], _lines: int) -> Image.Image:
        for label, row in zip(labels, rows, strict=True):
            shown.setdefault(label, []).append(row)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(preview, "contact_sheet", sheet)
    config = TrainConfig(margin=0.2, input_size=64, augment="none", occluder_prob=0.5, mask_recolor_prob=0.5)
    save_training_views(tmp_path / "p.png", config, faces, (HALVES, HALVES), per_class=1, versions=4)
    rows = ("with_mask", "with_mask, recoloured mask", "without_mask", "without_mask, occluder")
    assert [*shown] == [*rows, "mask_weared_incorrect"]
    for label, edit in (("with_mask", "recoloured mask"), ("without_mask", "occluder")):
        ((nothing, *cells),) = shown[f"{label}, {edit}"]
        assert nothing.image is None and len(cells) == 4
        for before, after in (cells[:2], cells[2:]):
            assert before.caption == "before" and after.caption.endswith(f"\n{edit}")
            mean = before.image.mean(axis=(0, 1)), after.image.mean(axis=(0, 1))
            assert np.abs(mean[0] - mean[1]).max() > 3
