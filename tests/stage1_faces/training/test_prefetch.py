"""Batches made in a thread and in processes are the same, in the same order."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from timm.utils import ModelEmaV3

from common.errors import UserError
from stage1_faces.training.batches import Batches, PatchBatches
from stage1_faces.training.finetune import finetune
from stage1_faces.training.nets import build_net
from stage1_faces.training.prefetch import prefetch_batches
from stage1_faces.training.trainer import StepSchedule, train_epoch
from tests.stage1_faces.training.test_trainer import photo, windows


@pytest.mark.parametrize("kind", ["patches", "windows"])
def test_processes_make_the_batches_of_the_thread(kind: str) -> None:
    def start() -> Batches:
        batches = PatchBatches([photo()], 4, 0) if kind == "patches" else windows()
        batches.start_epoch(1, 5)
        return batches

    from_thread, from_processes = (list(prefetch_batches(start(), 1, 5, workers)) for workers in (0, 2))
    assert len(from_thread) == len(from_processes) == 5
    for first, second in zip(from_thread, from_processes, strict=True):
        assert [a.dtype for a in first] == [b.dtype for b in second]
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True))
    assert not torch.equal(from_thread[0][0], from_thread[1][0])


def test_a_net_learns_the_same_from_processes() -> None:
    def loss(workers: int) -> dict[str, float]:
        torch.manual_seed(0)
        net = build_net("rnet")
        optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
        schedule = StepSchedule(3, 3, 1e-3)
        return train_epoch(net, ModelEmaV3(net), optimizer, windows(), schedule, 0, 0, workers=workers)

    alone = loss(0)
    assert alone == loss(2)
    assert all(math.isfinite(value) for value in alone.values())


def test_an_epoch_without_steps_makes_nothing() -> None:
    assert list(prefetch_batches(windows(), 0, 0)) == []


@pytest.mark.parametrize("workers", [-1, 257])
def test_a_wrong_number_of_processes_is_refused(workers: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--workers is {workers}, must be from 0 to 256"):
        finetune(tmp_path / "data", tmp_path / "splits.csv", tmp_path / "run", workers=workers)
