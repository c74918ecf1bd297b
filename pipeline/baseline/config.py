"""How a one-stage baseline is trained: every choice, other than the photos, that its weights depend on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError


@dataclass(frozen=True)
class BaselineConfig:
    """The network, the weights to start from, and the training.

    Raises:
        UserError: a value is out of range.
    """

    model: str = "ssdlite320_mobilenet_v3_large"
    """Name of any box detector of torchvision.models.detection."""
    size: int | None = None
    """Pixels of the network's input: a photo's shorter side, for ssd models both sides; default: the model's."""
    small_anchors: bool = True
    """Anchors of a quarter of torchvision's size, for small faces (fcos has no anchors)."""
    pretrained: bool = False
    """Start from torchvision's weights for COCO, from the hub."""
    weights: Path | None = None
    """Start from a local state dict (.pth or .safetensors) of such a detector or of its backbone."""
    epochs: int = 100
    """How often training uses every photo."""
    batch_size: int = 8
    """Photos per batch."""
    lr: float = 1e-3
    """Highest learning rate (AdamW; warm-up, then a cosine); use a lower one with pretrained weights."""
    weight_decay: float = 0.02
    """AdamW's weight decay."""
    ema: bool = True
    """Score a moving average of the weights; --no-ema scores the weights themselves."""
    seed: int = 0
    """Seed of all random draws."""

    def __post_init__(self) -> None:
        minimum = {"size": 32, "epochs": 1, "batch_size": 2, "seed": 0}  # batch norm needs 2 photos
        for name, low in minimum.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"--{name.replace('_', '-')} is {value}, must be {low} or more")
        if not 0 < self.lr < math.inf:
            raise UserError(f"--lr is {self.lr}, must be above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"--weight-decay is {self.weight_decay}, must be 0 or more")
        if self.pretrained and self.weights is not None:
            raise UserError("--pretrained and --weights exclude each other; give one of them")

    def record(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self) | {"weights": None if self.weights is None else str(self.weights)}
