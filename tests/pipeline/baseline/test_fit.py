"""Training and detection of a one-stage baseline, without the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.annotations import AnnotatedImage
from common.errors import UserError
from pipeline.baseline.config import BaselineConfig
from pipeline.baseline.data import TrainPhotos, train_loader
from pipeline.baseline.fit import BaselineTrainState, detect, start_state, train_epoch
from stage1_faces.training.trainer import StepSchedule

CLASSES = ("bare", "covered")


@pytest.fixture
def images(tmp_path: Path) -> list[AnnotatedImage]:
    """Four photos of noise with a red and a bright patch."""
    rng = np.random.default_rng(0)
    photos = []
    for k in range(4):
        boxes = [(8 + 2 * k, 10, 28 + 2 * k, 34), (56, 20 + 2 * k, 74, 42 + 2 * k)]
        pixels = rng.integers(0, 90, (72, 96, 3), np.uint8)
        for colour, (x1, y1, x2, y2) in zip([(230, 60, 60), (200, 200, 230)], boxes, strict=True):
            pixels[y1:y2, x1:x2] = colour
        path = tmp_path / f"p{k}.png"
        Image.fromarray(pixels).save(path)
        photos.append(AnnotatedImage(path, f"p{k}", (96, 72), np.array(boxes, np.float32), CLASSES))
    return photos


@pytest.mark.slow
def test_an_epoch_lowers_the_loss_of_every_part(images: list[AnnotatedImage]) -> None:
    train_state = start_state(BaselineConfig(size=64), len(CLASSES), torch.device("cpu"))
    schedule = StepSchedule(400, 1, 0.1)  # the warm-up takes 200 steps
    losses = []
    for epoch in range(12):
        loader = train_loader(TrainPhotos(images, CLASSES, 0, 0), 4, np.arange(4), 0)  # the same pictures each time
        losses.append(train_epoch(train_state, loader, schedule, epoch))
    for part in ("loss", "bbox_regression", "classification"):
        assert losses[-1][part] < 0.8 * losses[0][part]


def test_a_loss_that_is_not_finite_ends_the_run(images: list[AnnotatedImage]) -> None:
    class NanLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1.0))

        def forward(self, photos: Any, targets: Any) -> dict[str, torch.Tensor]:
            return {"part": self.weight * float("nan")}

    model = NanLoss()
    train_state = BaselineTrainState(model, None, torch.optim.SGD(model.parameters(), 0.1))
    loader = train_loader(TrainPhotos(images[:2], CLASSES, 0, 0), 2, np.arange(2), 0)
    with pytest.raises(UserError, match=r"the loss is not finite in epoch 3; lower 0\.1"):
        train_epoch(train_state, loader, StepSchedule(10, 1, 0.1), 2)


def test_background_is_not_a_detection() -> None:
    class FixedOutput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1.0))

        def forward(self, photos: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            assert photos[0].shape == (3, 4, 6)
            assert photos[0].max() == 1
            boxes = torch.arange(12.0).reshape(3, 4)
            return [{"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7]), "labels": torch.tensor([2, 0, 1])}]

    boxes, scores, labels = detect(FixedOutput(), np.full((4, 6, 3), 255, np.uint8))
    assert labels.tolist() == [1, 0]
    assert scores == pytest.approx([0.9, 0.7])
    assert boxes[:, 0].tolist() == [0, 8]
