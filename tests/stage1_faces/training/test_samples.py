"""Training samples: P-Net's targets, and whether boxes and landmarks are where the picture shows them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from stage1_faces.anchors import box_anchors, decode
from stage1_faces.detector import O_CONTEXT, O_SIZE, PNET_ANCHOR, R_CONTEXT, R_SIZE, STRIDE
from stage1_faces.roi_crop import GREY
from stage1_faces.training import samples
from stage1_faces.training.samples import (
    PATCH_SIZE,
    TrainingPhoto,
    affine,
    cell_targets,
    cut_edges,
    photometric_augment,
    sample_patch,
    sample_window,
    transform_boxes,
)
from tests.helpers.drawn_photos import draw, landmarks_of, made_photo

CELLS = PATCH_SIZE // STRIDE


def centred(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.float32([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]])


def objectness_of(*boxes: np.ndarray) -> np.ndarray:
    whole = np.concatenate(boxes)
    return cell_targets(whole, whole)[0]


def block(objectness: np.ndarray, value: int) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in zip(*np.nonzero(objectness == value), strict=True)]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off colour changes, tilt, stretch, cut edges and low resolution."""
    monkeypatch.setattr(samples, "photometric_augment", lambda image, rng: image)
    for name in ("TILT", "STRETCH", "CUT_PROB"):
        monkeypatch.setattr(samples, f"PATCH_{name}", 0.0)
        monkeypatch.setattr(samples, f"WINDOW_{name}", 0.0)
    monkeypatch.setattr(samples, "WINDOW_SHRINK_PROB", 0.0)


@pytest.fixture
def square_face() -> TrainingPhoto:
    """A white face of 40x50 px in black, with its landmarks."""
    box = np.float32([[100, 80, 140, 130]])
    image = np.zeros((300, 300, 3), np.uint8)
    image[80:130, 100:140] = 255
    return made_photo(image, box, landmarks=landmarks_of(box))


def extent(image: np.ndarray) -> list[int]:
    """Return the box of the white pixels."""
    white = image[..., 0] > 191
    rows, columns = np.nonzero(white.any(axis=1))[0], np.nonzero(white.any(axis=0))[0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def test_a_face_on_a_cell_is_positive_there_and_ignored_around() -> None:
    # 12 px at the middle of cell (10, 20): 3.6 px around it belong to it, 7 px are ignored.
    face = centred(20 * 4 + 0.5, 10 * 4 + 0.5, 12, 12)
    objectness, box_deltas = cell_targets(face, face)
    assert objectness.shape == (CELLS, CELLS) and objectness.dtype == np.int8
    assert block(objectness, 1) == [(10, 20)]
    assert block(objectness, -1) == [(r, c) for r in (9, 10, 11) for c in (19, 20, 21) if (r, c) != (10, 20)]
    assert (objectness == 0).sum() == CELLS**2 - 9
    assert box_deltas[10, 20] == pytest.approx([0, 0, math.log(12 / PNET_ANCHOR), math.log(12 / PNET_ANCHOR)], abs=1e-6)
    assert (box_deltas[objectness != 1] == 0).all()


def test_a_larger_face_fills_more_cells() -> None:
    # 16 px wide and 20 high: 4.8 and 6 px around the middle belong to it, 9 and 11 px are ignored.
    objectness = objectness_of(centred(80.5, 40.5, 16, 20))
    assert block(objectness, 1) == [(r, c) for r in (9, 10, 11) for c in (19, 20, 21)]
    assert {c for _, c in block(objectness, -1)} == {18, 19, 20, 21, 22}
    assert {r for r, _ in block(objectness, -1)} == {8, 9, 10, 11, 12}


def test_a_face_between_cells_is_positive_in_all_of_them() -> None:
    face = centred(82.5, 42.5, 8, 8)  # 2 px from four cells
    objectness, box_deltas = cell_targets(face, face)
    assert block(objectness, 1) == [(10, 20), (10, 21), (11, 20), (11, 21)]
    assert box_deltas[10, 20, :2] == pytest.approx([2 / PNET_ANCHOR, 2 / PNET_ANCHOR])
    assert box_deltas[11, 21, :2] == pytest.approx([-2 / PNET_ANCHOR, -2 / PNET_ANCHOR])


@pytest.mark.parametrize(
    ("size", "learned", "ignored"),
    [(5, False, True), (7, False, True), (7.1, True, True), (18.2, True, True), (18.3, False, True), (24, False, True),
     (24.1, False, False)],
)  # fmt: skip
def test_faces_of_other_sizes_are_ignored_or_background(size: float, learned: bool, ignored: bool) -> None:
    objectness = objectness_of(centred(80.5, 40.5, size, size))
    assert (1 in objectness, -1 in objectness) == (learned, ignored)


def test_where_faces_overlap_the_smaller_one_counts() -> None:
    large, small = centred(80.5, 80.5, 18, 18), centred(84.5, 80.5, 9, 9)
    for boxes in (np.concatenate([large, small]), np.concatenate([small, large])):
        objectness, box_deltas = cell_targets(boxes, boxes)
        # The large face has the nine cells around (20, 20), the small one (20, 21) alone.
        assert block(objectness, 1) == [(r, c) for r in (19, 20, 21) for c in (19, 20, 21)]
        assert box_deltas[20, 21] == pytest.approx([0, 0, *[math.log(9 / PNET_ANCHOR)] * 2], abs=1e-6)
        assert box_deltas[20, 20] == pytest.approx([0, 0, *[math.log(18 / PNET_ANCHOR)] * 2], abs=1e-6)
        assert box_deltas[20, 19, 0] == pytest.approx(4 / PNET_ANCHOR)


def test_an_ignored_face_takes_nothing_from_a_learned_one() -> None:
    learned, tiny, huge = centred(80.5, 80.5, 18, 18), centred(80.5, 80.5, 5, 5), centred(80.5, 80.5, 23, 23)
    objectness = objectness_of(learned, tiny, huge)
    assert block(objectness, 1) == [(r, c) for r in (19, 20, 21) for c in (19, 20, 21)]


def test_a_face_cut_to_half_is_ignored() -> None:
    whole = centred(80.5, 80.5, 16, 16)
    most, little = whole.copy(), whole.copy()
    most[:, 2] -= 7  # 9 of 16 px are left, then 8
    little[:, 2] -= 8
    objectness, box_deltas = cell_targets(most, whole)
    # The target is the visible part, whose middle, 77, is next to the cell at 76.5.
    assert 1 in objectness
    rows, columns = np.nonzero(objectness == 1)
    at = np.stack([columns * STRIDE + 0.5, rows * STRIDE + 0.5, np.full(len(rows), PNET_ANCHOR)], axis=1)
    found = decode(at.astype(np.float32), box_deltas[rows, columns])
    assert found == pytest.approx(np.tile(most, (len(rows), 1)), abs=1e-3)
    objectness, _ = cell_targets(little, whole)
    assert 1 not in objectness and -1 in objectness


def test_faces_outside_the_patch_or_none() -> None:
    assert not objectness_of(centred(-40, 80, 12, 12)).any()
    assert not objectness_of(centred(200, 200, 12, 12)).any()
    assert not objectness_of(np.zeros((0, 4), np.float32)).any()
    # All of it cut away: no area, and no warning.
    gone = np.float32([[50, 20, 40, 30]])
    assert not cell_targets(gone, centred(40, 25, 12, 12))[0].any()


@pytest.mark.usefixtures("plain")
def test_patch_deltas_decode_to_the_face_that_the_patch_shows(square_face: TrainingPhoto) -> None:
    cells = 0
    for seed in range(30):
        image, objectness, box_deltas = sample_patch(square_face, 0, np.random.default_rng(seed))
        assert image.shape == (PATCH_SIZE, PATCH_SIZE, 3) and image.dtype == np.uint8
        rows, columns = np.nonzero(objectness == 1)
        if not len(rows):
            continue
        at = np.stack([columns * STRIDE + 0.5, rows * STRIDE + 0.5, np.full(len(rows), PNET_ANCHOR)], axis=1)
        found = decode(at.astype(np.float32), box_deltas[rows, columns])
        assert np.ptp(found, axis=0).max() < 1e-3  # all cells encode the same box
        if min(found[0, :2]) > 1 and max(found[0, 2:]) < PATCH_SIZE - 1:
            assert found[0] == pytest.approx(extent(image), abs=1)
            cells += len(rows)
    assert cells > 40


@pytest.mark.usefixtures("plain")
def test_patches_show_every_face_at_the_sizes_that_pnet_learns(square_face: TrainingPhoto) -> None:
    sizes = []
    for seed in range(60):
        image, _, _ = sample_patch(square_face, 0, np.random.default_rng(seed))
        x1, y1, x2, y2 = extent(image)
        if min(x1, y1) > 0 and max(x2, y2) < PATCH_SIZE:
            sizes.append(math.sqrt((x2 - x1) * (y2 - y1)))
    assert 6 < min(sizes) < 8.5
    assert 15 < max(sizes) < 20


@pytest.mark.usefixtures("plain")
def test_small_faces_are_enlarged_twice_at_most() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:44, 40:43] = 255
    photo = made_photo(image, [[40, 40, 43, 44]])
    for seed in range(5):
        shown, objectness, _ = sample_patch(photo, 0, np.random.default_rng(seed))
        white = shown[..., 0] > 127
        assert white.any(axis=0).sum() <= 7 and white.any(axis=1).sum() <= 9
        assert (objectness == 1).sum() == 0  # 6.9 px at most: too small to learn, too large for background
        assert (objectness == -1).any()


def test_patches_from_anywhere_have_targets_for_their_faces(square_face: TrainingPhoto) -> None:
    objectness = [sample_patch(square_face, None, np.random.default_rng(seed))[1] for seed in range(60)]
    assert any((t == 1).any() for t in objectness) and any(not t.any() for t in objectness)
    empty = made_photo(np.zeros((20, 30, 3), np.uint8), [])
    image, cells, box_deltas = sample_patch(empty, None, np.random.default_rng(0))
    assert image.shape == (PATCH_SIZE, PATCH_SIZE, 3) and not cells.any() and not box_deltas.any()


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("side", "context"), [(R_SIZE, R_CONTEXT), (O_SIZE, O_CONTEXT)])
def test_window_deltas_decode_to_the_face_that_the_window_shows(
    square_face: TrainingPhoto, side: int, context: float
) -> None:
    inside = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        anchor = box_anchors(square_face.boxes + rng.uniform(-6, 6, (1, 4)).astype(np.float32))[0]
        image, box_deltas, _ = sample_window(square_face, anchor, 0, context, side, rng)
        assert image.shape == (side, side, 3) and image.dtype == np.uint8
        # The net counts from the window's middle, in anchor units.
        found = decode(np.float32([[side / 2, side / 2, side / context]]), box_deltas[None])[0]
        if min(found[:2]) > 1 and max(found[2:]) < side - 1:
            assert found == pytest.approx(extent(image), abs=1)
            inside += 1
    assert inside > 5


@pytest.mark.usefixtures("plain")
def test_landmarks_are_where_the_picture_shows_them_also_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    # One eye and one corner of the mouth are white: a mirrored face must have the other's index there.
    box = np.float32([[60, 50, 110, 120]])
    points = landmarks_of(box)
    image = np.full((200, 200, 3), 90, np.uint8)
    for k in (0, 3):
        x, y = points[0, k].astype(int)
        image[y - 3 : y + 3, x - 3 : x + 3] = 255
    photo = made_photo(image, box, landmarks=points)
    monkeypatch.setattr(samples, "WINDOW_TILT", 5.0)
    mirrored = 0
    for seed in range(30):
        shown, _, marks = sample_window(photo, box_anchors(box)[0], 0, O_CONTEXT, O_SIZE, np.random.default_rng(seed))
        at = marks * (O_SIZE / O_CONTEXT) + O_SIZE / 2
        assert (
            at[0, 0] < at[2, 0] < at[1, 0] and at[3, 0] < at[2, 0] < at[4, 0]
        )  # ordered by their place in the picture
        assert at[0, 1] < at[2, 1] < at[3, 1]
        bright = [shown[int(y), int(x), 0] > 170 for x, y in at]
        assert bright in ([True, False, False, True, False], [False, True, False, False, True])
        mirrored += bright[1]
    assert 5 < mirrored < 25


def test_unknown_landmarks_and_windows_without_a_face_are_nan(square_face: TrainingPhoto) -> None:
    anchor = box_anchors(square_face.boxes)[0]
    unknown = made_photo(square_face.maps.image, square_face.boxes)
    _, box_deltas, points = sample_window(unknown, anchor, 0, O_CONTEXT, O_SIZE, np.random.default_rng(0))
    assert np.isfinite(box_deltas).all() and np.isnan(points).all()
    _, box_deltas, points = sample_window(square_face, anchor, None, O_CONTEXT, O_SIZE, np.random.default_rng(0))
    assert np.isnan(box_deltas).all() and np.isnan(points).all()
    assert (box_deltas.shape, points.shape, points.dtype) == ((4,), (5, 2), np.float32)


def test_cut_edges_keeps_the_face_and_greys_only_outside() -> None:
    rng = np.random.default_rng(0)
    image = np.full((100, 120, 3), 200, np.uint8)
    boxes = np.float32([[40, 30, 60, 55], [0, 0, 20, 20], [70, 60, 119, 99]])
    kept = boxes[0]
    grace = 0.1 * (kept[2:] - kept[:2])
    sides_cut = np.zeros(4, int)
    for _ in range(300):
        out, seen = cut_edges(image, boxes, kept, rng)
        same = (out == image).all(axis=2)
        assert (out[~same] == GREY).all()
        rows, columns = np.nonzero(same.any(axis=1))[0], np.nonzero(same.any(axis=0))[0]
        low, high = np.array([columns[0], rows[0]]), np.array([columns[-1], rows[-1]]) + 1
        assert same[low[1] : high[1], low[0] : high[0]].all()  # the rest is one rectangle
        # At most a tenth of the face's side is lost.
        assert (low <= kept[:2] + grace).all() and (high >= kept[2:] - grace).all()
        # Boxes end at the new edges, and are whole elsewhere.
        assert seen == pytest.approx(np.concatenate([np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)], 1))
        sides_cut += [*(low > 0), *(high < [120, 100])]
    assert (sides_cut > 90).all() and (sides_cut < 210).all()
    assert (image == 200).all(), "the picture given was changed"


def test_cut_edges_of_a_face_that_sticks_out() -> None:
    rng = np.random.default_rng(1)
    image = np.full((100, 100, 3), 200, np.uint8)
    kept = np.float32([-10, 80, 12, 110])
    for _ in range(100):
        out, seen = cut_edges(image, kept[None], kept, rng)
        x1, y1, x2, y2 = seen[0]
        # Sides that the photo's edge cuts already lose nothing more.
        assert (x1, y2) == (0, 100) and x2 >= 12 - 2.2 and y1 <= 80 + 3
        assert (out[int(y1) + 1 :, : int(x2) - 1] == 200).all()


@pytest.mark.parametrize("kind", ["patch", "window"])
def test_the_same_seed_gives_the_same_sample(kind: str) -> None:
    boxes = [[30.0, 30, 60, 70], [80, 20, 95, 40]]
    photo = made_photo(draw((160, 120), boxes), boxes, landmarks=landmarks_of(np.float32(boxes)))

    def make(seed: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng(seed)
        if kind == "patch":
            return sample_patch(photo, seed % 2, rng)
        return sample_window(photo, box_anchors(photo.boxes)[seed % 2], seed % 2, R_CONTEXT, R_SIZE, rng)

    different = 0
    for seed in range(12):
        for first, second in zip(make(seed), make(seed), strict=True):
            np.testing.assert_array_equal(first, second)
        different += not np.array_equal(make(seed)[0], make(seed + 2)[0])
    assert different == 12


def test_photometric_augment_keeps_the_shape_and_the_places() -> None:
    # In any colours, the face stays brighter than the background, and in its place.
    image = np.full((48, 48, 3), 60, np.uint8)
    image[12:36, 16:32] = 190
    changed = 0
    for seed in range(80):
        out = photometric_augment(image, np.random.default_rng(seed))
        assert out.shape == image.shape and out.dtype == np.uint8
        grey = out.mean(axis=2)
        middle = (grey[20:28, 20:28].mean() + grey[:8, :8].mean()) / 2
        assert grey[20:28, 20:28].mean() > grey[:8, :8].mean() + 20
        rows, columns = (np.nonzero((grey > middle).mean(axis=k) > 0.2)[0] for k in (1, 0))
        assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((12, 35, 16, 31), abs=1.5)
        changed += not np.array_equal(out, image)
    assert changed > 60
    assert (image[0] == 60).all()


def test_some_samples_are_dark_hazy_or_in_coloured_light() -> None:
    image = np.full((32, 32, 3), 60, np.uint8)
    image[:16] = 180
    means = np.array(
        [
            [out[:12].mean((0, 1)), out[20:].mean((0, 1))]
            for out in (photometric_augment(image, np.random.default_rng(seed)) for seed in range(400))
        ]
    )  # (samples, bright and dark half, channels)
    bright, low = means.mean(axis=2).T
    ratios = means[:, 0].max(axis=1) / means[:, 0].min(axis=1)
    assert 0.02 < (bright < 70).mean() < 0.2
    assert 0.02 < ((bright - low < 50) & (low > 70)).mean() < 0.2
    assert 0.08 < (ratios > 1.3).mean() < 0.2


def test_affine_maps_the_middle_to_the_centre() -> None:
    view = affine((70.5, 33.25), 1.5, 20, 1.1, True, 48)
    assert view @ [24, 24, 1] == pytest.approx([70.5, 33.25])
    # A pixel of the view covers step ** 2 pixels of the photo at any tilt and stretch; a mirror changes the sign.
    assert np.linalg.det(view[:, :2]) == pytest.approx(-(1.5**2))
    upright = affine((10, 20), 2.0, 0, 1.0, False, 8)
    assert upright.tolist() == [[2, 0, 2], [0, 2, 12]]


def test_coarsened_windows_show_the_same_place(square_face: TrainingPhoto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "photometric_augment", lambda image, rng: image)
    monkeypatch.setattr(samples, "WINDOW_TILT", 0.0)

    def shown(share: float, seed: int) -> np.ndarray:
        monkeypatch.setattr(samples, "WINDOW_SHRINK_PROB", share)
        return sample_window(
            square_face, box_anchors(square_face.boxes)[0], None, R_CONTEXT, R_SIZE, np.random.default_rng(seed)
        )[0]

    coarser = 0
    for seed in range(20):
        fine, coarse = shown(0.0, seed), shown(1.0, seed)
        assert extent(coarse) == pytest.approx(extent(fine), abs=2)
        coarser += not np.array_equal(fine, coarse)
    assert coarser > 10


def test_faces_of_sixteen_px_or_less_are_not_coarsened(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    photo = made_photo(draw((60, 60), [[20.0, 20, 34, 34]]), [[20.0, 20, 34, 34]])
    warp_crop: Callable[..., np.ndarray] = photo.maps.warp_crop
    monkeypatch.setattr(photo.maps, "warp_crop", lambda view, size: sizes.append(size) or warp_crop(view, size))
    monkeypatch.setattr(samples, "WINDOW_SHRINK_PROB", 1.0)
    for seed in range(10):
        sample_window(photo, np.float32([27, 27, 12]), 0, R_CONTEXT, R_SIZE, np.random.default_rng(seed))
    assert sizes == [R_SIZE] * 10


def test_transform_boxes_into_a_view_that_enlarges() -> None:
    view = affine((15, 15), 0.5, 0, 1.0, True, 40)
    assert transform_boxes(np.float32([[10, 10, 14, 20]]), view).tolist() == [[22, 10, 30, 30]]
