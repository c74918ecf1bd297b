"""Runs graphs on the CPU, or on an NVIDIA GPU by ONNX Runtime's CUDA provider; never silently on the other."""

from __future__ import annotations

from typing import Any, Literal

from common.errors import UserError
from common.parallel import usable_cores

Device = Literal["cpu", "cuda"]
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
MAX_WORKERS = 8  # without --workers: each may hold a photo of 89 million pixels


def providers(device: Device) -> list[Any]:
    """Return ONNX Runtime's providers for a device, best first.

    Raises:
        UserError: the installed ONNX Runtime was not built for the device.
    """
    import onnxruntime  # here, because commands import this module before they parse their arguments

    if device == "cpu":
        return [_CPU]
    if _CUDA not in onnxruntime.get_available_providers():
        fix = "`pip uninstall onnxruntime`, then `pip install onnxruntime-gpu`, or use device cpu"
        raise UserError(f"device cuda: this ONNX Runtime runs on the CPU only; {fix}")
    # Photos differ in size: an exhaustive search for the quickest algorithm would start again for each size.
    return [(_CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}), _CPU]


def check_running(session: Any, device: Device) -> None:
    """Raise UserError when a session for a GPU fell back to the CPU, which ONNX Runtime does without an error."""
    if device == "cuda" and _CUDA not in session.get_providers():
        fix = "check the driver and the CUDA libraries, or use device cpu"
        raise UserError(f"device cuda: ONNX Runtime found no usable GPU; {fix}")


def default_workers(device: Device) -> int:
    """Return the number of workers without --workers: one per core, 8 at most; one with cuda."""
    return 1 if device == "cuda" else min(usable_cores(), MAX_WORKERS)
