"""Batches, losses and schedules by hand; one epoch trains and is repeatable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from stage1_faces.detector import R_SIZE, STRIDE
from stage1_faces.training import batches as batches_module
from stage1_faces.training.batches import (
    MIN_HARD_WEIGHT,
    Batches,
    PatchBatches,
    WindowBatches,
    box_loss,
)
from stage1_faces.training.draws import BACKGROUND_SHARE, face_sampling_weights
from stage1_faces.training.mining import MinedWindows
from stage1_faces.training.nets import build_net
from stage1_faces.training.samples import PATCH_SIZE, TrainingPhoto
from stage1_faces.training.trainer import FINAL_RATE_SHARE, WARMUP_STEPS, StepSchedule, train_epoch
from tests.helpers.drawn_photos import draw, landmarks_of, made_photo

FACES = [[20.0, 20, 50, 60], [90, 40, 110, 65]]
CELLS = PATCH_SIZE // STRIDE


def photo(landmarks: bool = False) -> TrainingPhoto:
    boxes = np.float32(FACES)
    return made_photo(draw((160, 120), FACES), FACES, landmarks=landmarks_of(boxes) if landmarks else None)


def mined_of(boxes: Sequence[Sequence[float]], face: Sequence[int], overlap: Sequence[float]) -> MinedWindows:
    n = len(boxes)
    return MinedWindows(
        np.zeros(n, np.int64),
        np.float32(boxes).reshape(-1, 4),
        np.full(n, 0.5, np.float32),
        np.array(face, np.int64),
        np.array(overlap, np.float32),
    )


NOTHING = [[float(x), 80, x + 20, 100] for x in range(0, 140, 20)]  # seven boxes without a face


def windows(net: str = "rnet", size: int = 10, landmarks: bool = False) -> WindowBatches:
    mined = mined_of([*NOTHING, [21, 20, 51, 60]], [0] * 7 + [0], [0.0] * 7 + [0.9])
    return WindowBatches([photo(landmarks)], mined, net, size, 0, (0.3, 0.45))


# Losses


def test_box_loss_is_zero_at_equality_and_grows() -> None:
    true = torch.tensor([[0.1, -0.2, 0.3, -0.4]])
    assert box_loss(true, true).item() == pytest.approx(0, abs=1e-6)
    for k in range(4):
        for sign in (-1, 1):
            losses = []
            for step in (0.02, 0.1, 0.5, 2, 8):
                off = true.clone()
                off[0, k] += sign * step
                losses.append(box_loss(off, true).item())
            assert losses[0] > 1e-3
            assert losses == sorted(losses) and math.isfinite(losses[-1])


def test_box_loss_by_hand() -> None:
    # Unit squares, one of them moved by half a side: IoU 0.5 / 1.5 in a hull of 1.5; smooth L1 of 0.5 with beta 0.1.
    found, true = torch.tensor([[0.5, 0.0, 0, 0]]), torch.zeros(1, 4)
    assert box_loss(found, true).item() == pytest.approx(1 - 1 / 3 + (0.5 - 0.05) / 4, abs=1e-5)
    # Apart by two sides: no IoU, and a third of the hull is between them.
    found = torch.tensor([[2.0, 0.0, 0, 0]])
    assert box_loss(found, true).item() == pytest.approx(1 + 1 / 3 + (2 - 0.05) / 4, abs=1e-5)
    assert box_loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_box_loss_pulls_boxes_that_do_not_touch_together() -> None:
    found = torch.tensor([[3.0, -2.0, 0.5, -0.5]], requires_grad=True)
    box_loss(found, torch.zeros(1, 4)).sum().backward()
    assert found.grad is not None
    assert found.grad[0, 0] > 0 > found.grad[0, 1] and found.grad[0, 2] > 0 > found.grad[0, 3]


def patch_targets(objectness: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(objectness.astype(np.int8)), torch.zeros(*objectness.shape, 4)]


def test_focal_loss_skips_ignored_cells() -> None:
    objectness = np.zeros((1, CELLS, CELLS))
    objectness[0, 3, 4], objectness[0, 3, 5], objectness[0, 20:, :] = 1, -1, -1
    batches = PatchBatches([photo()], 1, 0)
    torch.manual_seed(0)
    outputs = torch.randn(1, 5, CELLS, CELLS, requires_grad=True)
    losses = batches.loss(outputs, patch_targets(objectness))
    (losses["face"] + losses["box"]).backward()
    assert outputs.grad is not None
    ignored = torch.from_numpy(objectness[0] == -1)
    assert (outputs.grad[0][:, ignored] == 0).all()
    assert (outputs.grad[0, 0][~ignored] != 0).all()
    # Box deltas count where the face is, and nowhere else.
    assert (outputs.grad[0, 1:, 3, 4] != 0).all()
    assert (outputs.grad[0, 1:] != 0).sum() == 4
    with torch.no_grad():
        outputs[0, :, 3, 5], outputs[0, :, 20:, :] = 50, -50
    again = batches.loss(outputs, patch_targets(objectness))
    assert {k: v.item() for k, v in again.items()} == {k: v.item() for k, v in losses.items()}


def test_focal_loss_by_hand() -> None:
    objectness = np.full((1, CELLS, CELLS), -1)
    objectness[0, 0, :3] = 1, 1, 0
    outputs = torch.zeros(1, 5, CELLS, CELLS)
    outputs[0, 0, 0, :3] = torch.tensor([math.log(3), 0, -math.log(4)])  # probabilities 3/4, 1/2, 1/5
    losses = PatchBatches([photo()], 1, 0).loss(outputs, patch_targets(objectness))
    terms = [0.25**2 * -math.log(0.75), 0.5**2 * -math.log(0.5), 0.2**2 * -math.log(0.8)]
    assert losses["face"].item() == pytest.approx(sum(terms) / 2, rel=1e-5)
    assert losses["box"].item() == pytest.approx(0, abs=1e-6)


def test_a_batch_of_patches_without_a_face_has_a_loss() -> None:
    losses = PatchBatches([photo()], 1, 0).loss(
        torch.zeros(1, 5, CELLS, CELLS), patch_targets(np.zeros((1, CELLS, CELLS)))
    )
    assert losses["face"].item() == pytest.approx(CELLS**2 * 0.25 * math.log(2), rel=1e-5)
    assert losses["box"].item() == 0


def test_loss_ignores_landmarks_that_are_not_known() -> None:
    batches = windows("onet", landmarks=True)
    outputs = torch.randn(10, 15, generator=torch.Generator().manual_seed(0)).requires_grad_()
    box_deltas, points = torch.full((10, 4), torch.nan), torch.full((10, 5, 2), torch.nan)
    box_deltas[:4], points[1], points[2, 3] = 0.0, 0.1, 0.2
    losses = batches.loss(outputs, [box_deltas, points])
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert outputs.grad is not None and outputs.grad.isfinite().all()
    marks = outputs.grad[:, 5:].reshape(10, 5, 2)
    known = ~points.isnan()
    assert (marks[known] != 0).all() and (marks[~known] == 0).all()
    # The box counts where there is a face; the first column everywhere.
    assert (outputs.grad[:4, 1:5] != 0).any(dim=1).all() and (outputs.grad[4:, 1:5] == 0).all()
    assert (outputs.grad[:, 0] != 0).all()
    expected = nn.functional.smooth_l1_loss(outputs[:, 5:].reshape(10, 5, 2)[known], points[known], beta=0.05)
    assert losses["landmarks"].item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_loss_without_a_single_known_landmark_is_finite() -> None:
    outputs = torch.randn(10, 15, requires_grad=True)
    losses = windows("onet").loss(outputs, [torch.zeros(10, 4), torch.full((10, 5, 2), torch.nan)])
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert losses["landmarks"].item() == 0
    assert outputs.grad is not None and outputs.grad.isfinite().all()


def test_rnet_learns_no_landmarks() -> None:
    losses = windows().loss(torch.zeros(10, 5), [torch.zeros(10, 4), torch.full((10, 5, 2), torch.nan)])
    assert set(losses) == {"face", "box"}
    assert losses["face"].item() == pytest.approx(2 * math.log(2), rel=1e-5)


# Schedule


def test_schedule_counts_epochs() -> None:
    schedule = StepSchedule(1000, 300, 0.1)
    assert schedule.epochs == 4
    assert [schedule.steps_in(epoch) for epoch in range(4)] == [300, 300, 300, 100]
    assert StepSchedule(300, 300, 0.1).epochs == 1
    assert (StepSchedule(7, 300, 0.1).epochs, StepSchedule(7, 300, 0.1).steps_in(0)) == (1, 7)


def test_rate_rises_then_falls_to_little() -> None:
    schedule = StepSchedule(1000, 300, 0.1)
    rates = [schedule.rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1 / WARMUP_STEPS * (1 + FINAL_RATE_SHARE))
    top = int(np.argmax(rates))
    assert top == WARMUP_STEPS - 1
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[500] == pytest.approx(0.1 * (0.5 + FINAL_RATE_SHARE))
    assert 0 < rates[-1] < 0.1 * FINAL_RATE_SHARE * 1.01
    assert max(rates) < 0.1 * (1 + FINAL_RATE_SHARE)


# Which faces and windows are drawn


def test_face_sampling_weights_by_hand() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    boxes = [[0.0, 0, 10, 10], [20, 0, 30, 10], [20, 20, 30, 30]]
    photos = [
        made_photo(image, boxes[:1], ["bare"]),
        made_photo(image, []),
        made_photo(image, boxes, ["mask", "mask", "mask"]),
    ]
    faces, weights = face_sampling_weights(photos)
    assert faces.tolist() == [[0, 0], [2, 0], [2, 1], [2, 2]]
    # One face of a class in a photo of one; three of a class in a photo of three: 1 and 1 / sqrt(3 * 3).
    assert weights == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])


def drawn_in(batches: WindowBatches, epoch: int, steps: int = 200) -> np.ndarray:
    batches.start_epoch(epoch, steps)
    return np.bincount(batches._drawn_negatives.ravel(), minlength=7)


def test_windows_that_fool_the_net_are_drawn_more_often() -> None:
    batches = windows()
    assert batches.state.tolist() == [0.5] * 7  # the scores of the net before
    before = drawn_in(batches, 0)
    assert before.sum() == 200 * 6 and before.min() > 120  # of 10 windows, 4 show a face
    # Epoch 0: the third window fools the net, the others do not.
    for step in range(200):
        outputs = torch.full((10, 5), -9.0)
        outputs[4:, 0][torch.from_numpy(batches._drawn_negatives[step] == 2)] = 9.0
        batches.after_step(step, outputs)
    assert batches.state[2] > 0.99 and (batches.state[[0, 1, 3, 4, 5, 6]] < 0.01).all()
    after = drawn_in(batches, 1)
    # By the scores, with MIN_HARD_WEIGHT as the smallest.
    expected = np.full(7, MIN_HARD_WEIGHT)
    expected[2] = 1
    assert after / after.sum() == pytest.approx(expected / expected.sum(), abs=0.03)
    assert after.min() > 0


def test_the_new_score_counts_half() -> None:
    batches = windows()
    batches.start_epoch(0, 1)
    drawn = set(batches._drawn_negatives[0].tolist())
    batches.after_step(0, torch.full((10, 5), math.log(0.9 / 0.1)))
    assert [round(float(s), 4) for s in batches.state] == [0.7 if k in drawn else 0.5 for k in range(7)]


def test_state_restores_the_face_scores() -> None:
    batches, other = windows(), windows()
    batches.start_epoch(0, 3)
    for step in range(3):
        batches.after_step(step, torch.randn(10, 5))
    other.state = batches.state.clone()
    np.testing.assert_array_equal(drawn_in(batches, 1), drawn_in(other, 1))


def test_windows_with_a_face_come_first() -> None:
    batches = windows("onet", landmarks=True)
    batches.start_epoch(0, 2)
    pixels, box_deltas, points = batches.batch(0, 1)
    assert pixels.shape == (10, 48, 48, 3) and pixels.dtype == np.uint8
    assert np.isfinite(box_deltas[:4]).all() and np.isnan(box_deltas[4:]).all()
    assert np.isfinite(points[:4]).all() and np.isnan(points[4:]).all()
    # Drawn faces are bright: positives show one.
    middle = pixels[:, 16:32, 16:32].mean(axis=(1, 2, 3))
    assert middle[:4].min() > middle[4:].max()
    assert np.abs(box_deltas[:4, :2]).max() < 0.7 and np.abs(box_deltas[:4, 2:]).max() < 1.2


def test_windows_have_the_size_of_their_net() -> None:
    batches = windows()
    batches.start_epoch(0, 1)
    assert batches.batch(0, 0)[0].shape == (10, R_SIZE, R_SIZE, 3)


def test_overlaps_separate_faces_from_background() -> None:
    # IoU 0.29: no face; 0.3 and 0.44: neither; 0.45: that face.
    mined = mined_of(NOTHING[:4], [0, 0, 0, 1], [0.29, 0.3, 0.44, 0.45])
    batches = WindowBatches([photo()], mined, "rnet", 10, 0, (0.3, 0.45))
    assert len(batches.state) == 1
    assert batches._mined_by_face == {(0, 1): [3]}


def test_without_negatives_all_windows_show_a_face() -> None:
    batches = WindowBatches([photo()], mined_of([], [], []), "rnet", 6, 0, (0.3, 0.45))
    batches.start_epoch(0, 2)
    pixels, box_deltas, _ = batches.batch(0, 1)
    assert len(pixels) == 6 and np.isfinite(box_deltas).all()
    losses = batches.loss(torch.zeros(6, 5), [torch.from_numpy(box_deltas), torch.zeros(6, 5, 2)])
    assert all(torch.isfinite(part) for part in losses.values())
    batches.after_step(1, torch.zeros(6, 5))


def all_batches() -> list[Batches]:
    return [PatchBatches([photo()], 3, 7), windows(), windows("onet", landmarks=True)]


def test_a_batch_depends_on_epoch_and_step_alone() -> None:
    for first, second in zip(all_batches(), all_batches(), strict=True):
        first.start_epoch(2, 4)
        second.start_epoch(2, 4)
        ahead = [first.batch(2, step) for step in range(4)]
        alone = second.batch(2, 3)  # without the steps before
        for some, others in zip(ahead[3], alone, strict=True):
            np.testing.assert_array_equal(some, others)
        assert not np.array_equal(ahead[3][0], ahead[2][0])
        second.start_epoch(3, 4)
        assert not np.array_equal(second.batch(3, 3)[0], alone[0])


def test_other_seeds_give_other_batches() -> None:
    first, second = (PatchBatches([photo()], 2, seed) for seed in (0, 1))
    assert not np.array_equal(first.batch(0, 0)[0], second.batch(0, 0)[0])


def test_patches_around_faces_and_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    def sample_patch(photo: TrainingPhoto, face: int | None, rng: np.random.Generator):
        asked.append(face)
        return np.zeros((2, 2, 3), np.uint8), np.zeros((1, 1), np.int8), np.zeros((1, 1, 4), np.float32)

    monkeypatch.setattr(batches_module, "sample_patch", sample_patch)
    pixels, objectness, box_deltas = PatchBatches([photo()], 1000, 0).batch(0, 0)
    assert (pixels.shape, objectness.shape, box_deltas.shape) == ((1000, 2, 2, 3), (1000, 1, 1), (1000, 1, 1, 4))
    assert asked.count(None) / 1000 == pytest.approx(BACKGROUND_SHARE, abs=0.04)
    assert asked.count(0) == pytest.approx(asked.count(1), abs=120)


# One epoch


def trained(steps: int = 3, drawn_before: int = 0) -> tuple[nn.Module, ModelEmaV3, dict[str, float], list[int]]:
    torch.manual_seed(0)
    net = build_net("rnet")
    torch.rand(drawn_before)  # draws before the epoch change nothing: dropout depends on the epoch alone
    ema = ModelEmaV3(net, decay=0.9)
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    steps_done: list[int] = []
    losses = train_epoch(
        net,
        ema,
        optimizer,
        windows(),
        StepSchedule(5, steps, 0.01),
        1,
        0,
        lambda: steps_done.append(len(steps_done)),
    )
    assert optimizer.param_groups[0]["lr"] == StepSchedule(5, steps, 0.01).rate_at(4)
    return net, ema, losses, steps_done


def test_an_epoch_trains_and_is_repeatable() -> None:
    net, ema, losses, steps_done = trained()
    assert steps_done == [0, 1]  # the second and last epoch of 5 steps has two
    assert set(losses) == {"face", "box"} and all(math.isfinite(v) and v > 0 for v in losses.values())
    torch.manual_seed(0)
    start = build_net("rnet").state_dict()
    state, mean = net.state_dict(), ema.module.state_dict()
    assert not torch.equal(state["head.weight"], start["head.weight"])
    assert not torch.equal(state["head.weight"], mean["head.weight"])
    again, again_ema, again_losses, _ = trained(drawn_before=5)
    assert losses == again_losses
    for name, value in state.items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert torch.equal(mean[name], again_ema.module.state_dict()[name]), name


def test_an_error_in_a_batch_ends_the_epoch() -> None:
    class Broken(PatchBatches):
        def batch(self, epoch: int, step: int) -> tuple[np.ndarray, ...]:
            raise RuntimeError("no photo")

    net = build_net("pnet")
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    with pytest.raises(RuntimeError, match="no photo"):
        train_epoch(net, ModelEmaV3(net), optimizer, Broken([photo()], 1, 0), StepSchedule(2, 2, 0.1), 0, 0)
