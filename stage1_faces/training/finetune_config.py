"""FinetuneConfig: how long and how fast each net of the cascade learns."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import get_args

from common.errors import UserError
from stage1_faces.training.compute import MixedPrecision
from stage1_faces.training.nets import PNET_WIDTH
from stage1_faces.training.teacher import Teacher
from stage1_faces.training.trainer import StepSchedule

CHOICES = {"mixed_precision": get_args(MixedPrecision), "teacher": get_args(Teacher)}
MAX_PNET_WIDTH = 256


@dataclass(frozen=True)
class FinetuneConfig:
    """How long and how fast each net learns (EXPERIMENTS.md lists what was tried)."""

    pnet_steps: int = 6000  # Batches that P-Net learns from.
    rnet_steps: int = 1250  # Batches that R-Net learns from.
    onet_steps: int = 1500  # Batches that O-Net learns from.
    epoch_steps: int = 250  # Batches per epoch; a stopped run resumes after its last whole epoch.
    pnet_batch: int = 16  # Patches per batch.
    rnet_batch: int = 192  # Windows per batch.
    onet_batch: int = 160  # Windows per batch.
    pnet_rate: float = 2e-3  # Largest learning rate (AdamW).
    rnet_rate: float = 1.5e-3  # Largest learning rate.
    onet_rate: float = 1.5e-3  # Largest learning rate.
    weight_decay: float = 0.02  # AdamW's weight decay.
    passes: int = 3  # How often each photo is searched for windows, at various sizes and mirrored.
    further_passes: int = 1  # The same for photos of further sources (--sources); they are many.
    seed: int = 0  # Seed of everything drawn.
    pnet_width: int = PNET_WIDTH  # Channels of P-Net's inner layers, a multiple of 16.
    mixed_precision: MixedPrecision = "auto"  # bfloat16 in the nets; auto: where CPU or GPU compute in it.
    # Source of landmarks; retinaface also finds faces without a box, which are then ignored.
    teacher: Teacher = "stock"
    profile_factor: float = 1.0  # How much more often faces seen from the side are drawn.
    hidden_factor: float = 1.0  # The same for narrow, cut and covered boxes.

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            flag = f"--{name.replace('_', '-')}"
            if name in CHOICES:
                if value not in CHOICES[name]:
                    raise UserError(f"{flag} is {value!r}, must be {' or '.join(CHOICES[name])}")
            elif name in ("seed", "weight_decay"):
                if not 0 <= value < math.inf:
                    raise UserError(f"{flag} is {value}, must be 0 or more")
            elif not 0 < value < math.inf:
                raise UserError(f"{flag} is {value}, must be above 0")
            elif name in ("rnet_batch", "onet_batch") and value < 2:
                raise UserError(f"{flag} is {value}, must be 2 or more: windows with a face and without")
            elif name == "pnet_width" and (value % 16 or value > MAX_PNET_WIDTH):
                raise UserError(f"{flag} is {value}, must be a multiple of 16 up to {MAX_PNET_WIDTH}")

    def schedule(self, net: str) -> StepSchedule:
        """Return steps and learning rate of one net."""
        return StepSchedule(getattr(self, f"{net}_steps"), self.epoch_steps, getattr(self, f"{net}_rate"))
