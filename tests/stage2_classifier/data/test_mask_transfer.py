"""Masks transferred between faces: their place, the face below, how often, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from stage2_classifier.config import TrainConfig
from stage2_classifier.cropping import cut_crop
from stage2_classifier.data.box_jitter import BoxJitter
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import BACKGROUND, CropRecord, CropSet, CropSource, write_crop_set
from stage2_classifier.data.mask_transfer import TransferPosition, transfer_axes, transfer_mask
from stage2_classifier.reports import preview
from stage2_classifier.reports.preview import HALVES, save_training_views

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
SKIN, CLOTH = (200, 150, 120), (40, 70, 200)
# A face of 60 px in a picture of 100: eyes on row 40, mouth on row 65, nose tip on row 55.
LANDMARKS = np.array([[35, 40], [65, 40], [50, 55], [40, 65], [60, 65]], np.float64)
BRIDGE, NOSE, MOUTH, CHIN = (48, 50), (55, 50), (66, 50), (78, 50)
POSITIONS: list[TransferPosition] = ["correct", "nose_out", "chin"]


def bare_face() -> np.ndarray:
    return np.full((100, 100, 3), SKIN, np.uint8)


def masked_face() -> np.ndarray:
    face = bare_face()
    face[49:] = CLOTH  # from just above the nose tip
    return face


def is_cloth(pixel: np.ndarray) -> bool:
    """Blue rather than skin, whatever its light."""
    return bool(pixel[2] > pixel[0])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("position", "nose", "mouth"), [("correct", True, True), ("nose_out", False, True), ("chin", False, False)]
)
def test_each_position_covers_what_its_name_says(
    position: TransferPosition, nose: bool, mouth: bool, seed: int
) -> None:
    result = transfer_mask(bare_face(), LANDMARKS, masked_face(), LANDMARKS, position, np.random.default_rng(seed))
    assert result.shape == (100, 100, 3) and result.dtype == np.uint8
    assert is_cloth(result[NOSE]) == nose
    assert is_cloth(result[MOUTH]) == mouth
    assert is_cloth(result[CHIN])
    assert is_cloth(result[BRIDGE]) <= (position == "correct")
    # Eyes, forehead, ears and the background stay as they were, to the last bit.
    for part in (result[:40], result[:, :8], result[:, -8:]):
        assert (part == SKIN).all()


@pytest.mark.parametrize("seed", range(12))
def test_a_hanging_mask_is_next_to_one_cheek_and_leaves_nose_and_mouth_free(seed: int) -> None:
    result = transfer_mask(bare_face(), LANDMARKS, masked_face(), LANDMARKS, "hanging", np.random.default_rng(seed))
    assert not any(is_cloth(result[place]) for place in (BRIDGE, NOSE, MOUTH, CHIN))
    cloth = result[..., 2].astype(int) > result[..., 0]
    rows, columns = np.nonzero(cloth)
    assert np.ptp(rows) > 1.3 * np.ptp(columns) > 0  # the mask is turned: longer down than across
    assert (columns < 42).all() or (columns > 58).all()  # on one side only
    assert rows.min() > 40 and cloth.sum() > 200


def test_a_mask_hangs_from_the_ear_that_is_seen() -> None:
    for nose, seen in ((38, slice(55, None)), (62, slice(None, 45))):
        turned = LANDMARKS.copy()
        turned[2, 0] = nose
        for seed in range(6):
            result = transfer_mask(
                bare_face(), turned, masked_face(), LANDMARKS, "hanging", np.random.default_rng(seed)
            )
            cloth = result[..., 2].astype(int) > result[..., 0]
            assert cloth[:, seen].sum() == cloth.sum() > 0


def test_the_mask_follows_a_turned_and_smaller_face() -> None:
    # The bare face is turned by a quarter, with the mouth to the left, at 0.6 of the size.
    quarter = np.array([[0, -1], [1, 0]], np.float64)
    landmarks = (LANDMARKS - 50) @ quarter.T * 0.6 + 50
    assert landmarks[3:, 0].max() < landmarks[:2, 0].min()
    for seed in range(8):
        result = transfer_mask(
            bare_face(), landmarks, masked_face(), LANDMARKS, "nose_out", np.random.default_rng(seed)
        )
        mouth, nose = (np.round((np.array(p[::-1]) - 50) @ quarter.T * 0.6 + 50).astype(int) for p in (MOUTH, NOSE))
        assert is_cloth(result[mouth[1], mouth[0]]) and not is_cloth(result[nose[1], nose[0]])
        assert (result[:, 60:] == SKIN).all()


def test_a_large_mask_is_averaged_when_it_shrinks() -> None:
    masked = cv2.resize(masked_face(), (800, 800), interpolation=cv2.INTER_NEAREST)
    grains = np.random.default_rng(0).integers(0, 2, (800, 800, 1)) * 255
    masked[392:] = grains[392:]
    for seed in range(8):
        result = transfer_mask(bare_face(), LANDMARKS, masked, LANDMARKS * 8, "correct", np.random.default_rng(seed))
        assert result[62:72, 40:60, 0].std() < 25  # single grains would be black or white


def test_a_mask_worn_lower_keeps_the_upper_edge() -> None:
    masked = masked_face()
    masked[49:57] = (40, 220, 40)  # the hem, a green stripe
    for position in POSITIONS:
        result = transfer_mask(bare_face(), LANDMARKS, masked, LANDMARKS, position, np.random.default_rng(0))
        middle = result[:, 50].astype(int)
        hem, cloth = (np.flatnonzero(middle.argmax(axis=1) == channel) for channel in (1, 2))
        assert 3 <= len(hem) <= 14 and hem.max() < cloth.min()


@pytest.mark.parametrize("position", POSITIONS)
def test_rng_alone_decides_and_nothing_is_edited_in_place(position: TransferPosition) -> None:
    bare, masked = bare_face(), masked_face()
    for picture in (bare, masked):
        picture.setflags(write=False)
    rngs = [np.random.default_rng(seed) for seed in (1, 1, 2)]
    result = [transfer_mask(bare, LANDMARKS, masked, LANDMARKS, position, rng) for rng in rngs]
    assert np.array_equal(result[0], result[1]) and not np.array_equal(result[0], result[2])
    assert np.array_equal(bare, bare_face()) and np.array_equal(masked, masked_face())


@pytest.mark.parametrize(
    "landmarks",
    [
        np.full((5, 2), 50.0),
        np.where(np.arange(5)[:, None] < 2, LANDMARKS, LANDMARKS - (0, 24)),  # eyes and mouth 1 px apart
        np.array([[50, 40], [50, 40], [50, 55], [40, 65], [60, 65]]),  # one eye on the other
        np.array([[30, 50], [50, 50], [60, 50], [70, 50], [70, 50]]),  # all on one line
    ],
)
def test_landmarks_that_span_no_face_are_refused(landmarks: np.ndarray) -> None:
    assert transfer_axes(landmarks) is None
    for pair in ((landmarks, LANDMARKS), (LANDMARKS, landmarks)):
        with pytest.raises(ValueError, match="do not span a face"):
            transfer_mask(bare_face(), pair[0], masked_face(), pair[1], "correct", np.random.default_rng(0))


# Each kind of face has another colour of forehead; without_mask crops are of two people.
FOREHEADS = {
    "with_mask": (210, 200, 40),
    "first bare": (200, 90, 60),
    "second bare": (200, 60, 90),
    "small bare": (120, 0, 0),
    "unknown bare": (60, 0, 0),
    "mask_weared_incorrect": (60, 200, 60),
    BACKGROUND: (250, 250, 250),
}
# Box of each in the photo. Only the two bare faces are twice as high as they are wide, and not alike.
BOXES = {"first bare": (40, 30, 60, 70), "second bare": (42, 32, 58, 68), "small bare": (45, 45, 55, 55)}


def face_photo(who: str) -> np.ndarray:
    photo = np.full((100, 100, 3), FOREHEADS[who], np.uint8)
    if who == "with_mask":
        photo[49:] = CLOTH
    return photo


def make_faces(root: Path, left_out: Sequence[str] = (), landmarks: bool = True, margin: float = 0.6) -> CropSet:
    """Write training crops with landmarks, four of each kind; the small and the unknown face cannot be donors."""
    records: list[CropRecord] = []
    for who in (who for who in FOREHEADS if who not in left_out):
        label = "without_mask" if who.endswith("bare") else who
        box = BOXES.get(who, (30, 30, 70, 70))
        # All have the same axes, 20 px from eye to eye.
        marks = (LANDMARKS - 50) * (2 / 3) + 50
        known = landmarks and who not in ("unknown bare", BACKGROUND)
        for i in range(4):
            path = f"{who}/{i}.png"
            (root / who).mkdir(parents=True, exist_ok=True)
            Image.fromarray(cut_crop(face_photo(who), box, margin)).save(root / path)
            numbers = tuple(float(v) for v in marks.ravel()) if known else ()
            records.append(CropRecord(path, label, "train", f"{who}{i}", tuple(float(v) for v in box), numbers))
    faces = tuple(r for r in records if r.label != BACKGROUND)
    crops = CropSet(root, faces, CLASSES, margin, tuple(r for r in records if r.label == BACKGROUND))
    write_crop_set(crops)
    return crops


def as_it_is(crop: np.ndarray, _seed: int) -> torch.Tensor:
    return torch.from_numpy(np.array(crop))


def dataset_of(crops: CropSet, prob: float, **options: Any) -> CropDataset:
    return CropDataset(crops, "train", as_it_is, margin=0.1, mask_transfer_prob=prob, **options)


def face_kind(pixels: np.ndarray) -> str:
    """Return the kind of face face_kind forehead a view shows."""
    forehead = pixels[pixels.shape[0] // 10, pixels.shape[1] // 2].astype(int)
    return min(FOREHEADS, key=lambda who: np.abs(forehead - FOREHEADS[who]).sum())


def drawn(dataset: CropDataset, label: str, draws: int = 240) -> list[tuple[str, str]]:
    """Return (kind of the crop, kind of the face in the view) of many draws of a class."""
    kind = (*CLASSES, BACKGROUND).index(label)
    members = np.flatnonzero(dataset.labels == kind)
    seen = []
    for draw in range(draws):
        i = int(members[draw % len(members)])
        view, label_index, *_ = dataset[draw, i]
        assert label_index == kind
        seen.append((Path(dataset.records[i].path).parent.name, face_kind(view.numpy())))
    return seen


@pytest.fixture
def faces(tmp_path: Path) -> CropSet:
    return make_faces(tmp_path)


@pytest.mark.parametrize("jitter", [None, BoxJitter()])
def test_the_probability_decides(faces: CropSet, jitter: BoxJitter | None) -> None:
    for share in (0.0, 0.3, 1.0):
        dataset = dataset_of(faces, share, jitter=jitter, hard_negatives=True)
        seen = {label: drawn(dataset, label) for label in (*CLASSES, BACKGROUND)}
        shares = {label: np.mean([own != face for own, face in pairs]) for label, pairs in seen.items()}
        assert shares["without_mask"] == shares[BACKGROUND] == 0
        if share in {0.0, 1.0}:
            assert shares["mask_weared_incorrect"] == share
        assert abs(shares["mask_weared_incorrect"] - share) < 0.1
        assert abs(shares["with_mask"] - share / 5) < 0.08
        # Faces that are too small or have no landmarks take no mask.
        transferred = {face for pairs in seen.values() for own, face in pairs if own != face}
        assert transferred == ({"first bare", "second bare"} if share else set())


def test_the_share_of_hanging_masks_decides(faces: CropSet) -> None:
    shares = {}
    for share in (0.0, 0.4, 1.0):
        dataset = dataset_of(faces, 1.0, mask_hanging_share=share)
        rng = np.random.default_rng(0)
        drawn_positions = [dataset._draw_mask_position("mask_weared_incorrect", rng) for _ in range(400)]
        shares[share] = np.mean([position == "hanging" for position in drawn_positions])
        assert dataset._draw_mask_position("with_mask", np.random.default_rng(1)) in ("correct", None)
    assert shares[0.0] == 0 and shares[1.0] == 1 and abs(shares[0.4] - 0.4) < 0.08
    views = [dataset_of(faces, 1.0, **options)[3, 20][0] for options in ({}, {"mask_hanging_share": 0.0})]
    assert torch.equal(*views)


def test_rare_draws_show_nose_or_mouth_and_masked_ones_neither(faces: CropSet) -> None:
    dataset = dataset_of(faces, 1.0)
    covered: dict[str, list[tuple[bool, bool]]] = {label: [] for label in CLASSES}
    for label in ("with_mask", "mask_weared_incorrect"):
        members = np.flatnonzero(dataset.labels == CLASSES.index(label))
        for draw in range(240):
            view, _, deltas, *_ = dataset[draw, int(members[0])]
            pixels = view.numpy()
            if face_kind(pixels) == label:
                continue
            # The face is in the photo's middle; the box's longer side is the view without both margins.
            height = {"first bare": 40, "second bare": 36}[face_kind(pixels)]
            step = pixels.shape[0] / (1.2 * height)
            nose, mouth = (round(pixels.shape[0] / 2 + (2 / 3) * (row - 50) * step) for row, _ in (NOSE, MOUTH))
            middle = pixels.shape[1] // 2
            covered[label].append((is_cloth(pixels[nose, middle]), is_cloth(pixels[mouth, middle])))
            assert np.isfinite(deltas.numpy()).all()
    assert set(covered["with_mask"]) == {(True, True)}
    rare = covered["mask_weared_incorrect"]
    assert set(rare) == {(False, True), (False, False)}
    assert 0.5 < np.mean([mouth for _, mouth in rare]) < 0.8  # the nose alone, more often than the chin


def test_how_a_transferred_mask_is_worn_is_known_whoever_annotated_the_faces(faces: CropSet) -> None:
    records = tuple(replace(r, source="news") for r in faces.records)
    sources = (CropSource("main"), CropSource("news", absent_classes=("mask_weared_incorrect",)))
    crops = replace(faces, records=records, sources=sources)
    for label in (1, 0):  # a bare face as it is; and masked ones, some with the mask of another on a bare face
        found = set()
        dataset = dataset_of(crops, 1.0)
        member = int(np.flatnonzero(dataset.labels == label)[0])
        for draw in range(60):
            view = dataset[draw, member]
            found.add(
                (
                    face_kind(view.image.numpy()) != Path(records[member].path).parent.name,
                    *view.annotated_classes.tolist(),
                )
            )
        assert found == (
            {(False, True, True, False), (True, True, True, True)} if label == 0 else {(False, True, True, False)}
        )


@pytest.mark.parametrize("jitter", [None, BoxJitter(degrees_p=0)])
def test_box_deltas_are_the_bare_faces(faces: CropSet, jitter: BoxJitter | None) -> None:
    dataset = dataset_of(faces, 1.0, jitter=jitter)
    rare = int(np.flatnonzero(dataset.labels == 2)[0])
    for draw in range(30):
        view, _, deltas, *_ = dataset[draw, rare]
        x1, y1, x2, y2 = BOXES[face_kind(view.numpy())]
        assert float(deltas[2] - deltas[3]) == pytest.approx(np.log((x2 - x1) / (y2 - y1)), abs=1e-4)
        if jitter is None:  # the window is the bare face's, up to whole pixels
            assert deltas.numpy() == pytest.approx([0, 0, np.log((x2 - x1) / (y2 - y1)), 0], abs=0.03)


def test_epoch_and_draw_alone_decide_and_stored_crops_stay(faces: CropSet) -> None:
    dataset, again = dataset_of(faces, 1.0), dataset_of(faces, 1.0)
    rare = int(np.flatnonzero(dataset.labels == 2)[0])
    before = [dataset.pixels(i).copy() for i in range(len(dataset))]
    first = [dataset[draw, rare][0] for draw in range(8)]
    for draw in reversed(range(8)):
        assert torch.equal(again[draw, rare][0], first[draw])
    assert len({view.numpy().tobytes() for view in first}) > 4
    again.set_epoch(1)
    assert not all(torch.equal(again[draw, rare][0], view) for draw, view in enumerate(first))
    assert all(np.array_equal(dataset.pixels(i), pixels) for i, pixels in enumerate(before))


def test_other_classes_are_refused(faces: CropSet) -> None:
    renamed = replace(faces, class_names=("mask", "without_mask", "mask_weared_incorrect"), records=faces.records[4:])
    with pytest.raises(UserError, match=r"mask_transfer_prob: the crops have no class 'with_mask'.*set it to 0"):
        dataset_of(renamed, 0.5)
    assert len(dataset_of(renamed, 0.0)) == len(renamed.records)


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        ({"landmarks": False}, "with_mask"),
        ({"left_out": ["with_mask"]}, "with_mask"),
        ({"left_out": ["first bare", "second bare"]}, "without_mask"),  # the others cannot be donors
    ],
)
def test_crops_without_donors_are_refused(tmp_path: Path, options: dict[str, Any], lacking: str) -> None:
    crops = make_faces(tmp_path, **options)
    with pytest.raises(UserError, match=f"has no {lacking} faces of 14 px with landmarks.*--cascade RUN"):
        dataset_of(crops, 0.5)


def test_the_preview_has_a_row_of_transferred_masks_and_marks_them(
    faces: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, list[Any]] = {}

    def sheet(rows: list[Any], _side: int, labels: list[str], _lines: int) -> Image.Image:
        for label, row in zip(labels, rows, strict=True):
            shown.setdefault(label, []).append(row)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(preview, "contact_sheet", sheet)
    config = TrainConfig(margin=0.1, input_size=32, augment="none", jitter=1.0, mask_transfer_prob=0.5, epochs=12)
    save_training_views(tmp_path / "p.png", config, faces, (HALVES, HALVES), per_class=2, versions=5)
    assert [*shown] == [
        "with_mask",
        "with_mask, mask transfer",
        "without_mask",
        "mask_weared_incorrect",
        "mask_weared_incorrect, mask transfer",
    ]
    for label in ("with_mask", "mask_weared_incorrect"):
        (nothing, *transferred), *others = shown[f"{label}, mask transfer"]
        assert not others and nothing.image is None and 1 <= len(transferred) <= 5
        assert {face_kind(cell.image) for cell in transferred} <= {"first bare", "second bare"}
    views = [cell for row in shown["mask_weared_incorrect"] for cell in row[1:]]
    assert len(views) == 10
    for cell in views:
        assert ("mask transfer" in cell.caption) == (face_kind(cell.image) != "mask_weared_incorrect")
    assert 0 < sum("mask transfer" in cell.caption for cell in views) < 10
