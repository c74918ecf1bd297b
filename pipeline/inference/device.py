"""What the nets run on: the CPU, or an NVIDIA GPU by ONNX Runtime's CUDA provider. No silent substitution."""

from __future__ import annotations

from typing import Any, Literal

from common.errors import UserError

Device = Literal["cpu", "cuda"]
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def providers(device: Device) -> list[Any]:
    """ONNX Runtime's providers for a device, best first.

    Raises UserError when the installed ONNX Runtime was not built for it.
    """
    import onnxruntime

    if device == "cpu":
        return [_CPU]
    if _CUDA not in onnxruntime.get_available_providers():
        raise UserError(
            "device cuda: this ONNX Runtime runs on the CPU only; "
            "`pip uninstall onnxruntime`, then `pip install onnxruntime-gpu`, or use device cpu"
        )
    # Photos differ in size: an exhaustive search for the quickest algorithm would start anew for each.
    return [(_CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}), _CPU]


def check_running(session: Any, device: Device) -> None:
    """Raises UserError when a session for a GPU fell back to the CPU, as ONNX Runtime does without asking."""
    if device == "cuda" and _CUDA not in session.get_providers():
        raise UserError(
            "device cuda: ONNX Runtime found no usable GPU; check the driver and the CUDA libraries, or use device cpu"
        )
