"""Where and how precisely the nets compute in training: on the CPU or a GPU, in float32 or bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

from common.errors import UserError

DeviceChoice = Literal["auto", "cpu", "cuda"]
MixedPrecision = Literal["auto", "no", "bf16"]


@dataclass(frozen=True)
class ComputeMode:
    """Device and precision of a training."""

    device: str = "cpu"  # "cpu" or "cuda"
    bf16: bool = False  # the nets compute in bfloat16, weights and losses stay in float32

    def autocast(self) -> AbstractContextManager[object]:
        """Return a block in which nets compute in this precision."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    def facts(self) -> dict[str, str]:
        """Return device and precision, for records."""
        return {"device": self.device, "precision": "bf16" if self.bf16 else "fp32"}


FLOAT32_CPU = ComputeMode()


def choose_compute(device: DeviceChoice, mixed_precision: MixedPrecision) -> ComputeMode:
    """Return how a training computes on this machine.

    Args:
        device: "auto" takes a GPU where there is one.
        mixed_precision: "auto" takes bfloat16 where the device computes in it.

    Raises:
        UserError: no GPU is there, but one was asked for.
    """
    gpu = torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise UserError("--device cuda: PyTorch finds no GPU here; use --device cpu, or install PyTorch for your GPU")
    chosen = "cuda" if gpu and device != "cpu" else "cpu"
    native = torch.cuda.is_bf16_supported() if chosen == "cuda" else cpu_has_bf16()
    return ComputeMode(chosen, mixed_precision == "bf16" or (mixed_precision == "auto" and native))


def cpu_has_bf16() -> bool:
    """Return whether the CPU multiplies bfloat16 itself (AVX512-BF16 or AMX); others would only be slower."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)
