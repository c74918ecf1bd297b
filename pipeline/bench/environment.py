"""What a benchmark's figures depend on: the machine, the libraries' versions and the number of threads."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import onnxruntime

from common.parallel import usable_cores


@contextmanager
def same_threads(threads: int) -> Iterator[None]:
    """Let PyTorch and OpenCV, which our cascade resizes with, use this many threads inside the block."""
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def machine_info() -> dict[str, Any]:
    """Return the processor's model, the cores that this process may use, the load of the last minute and the system."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cpu = cpu_model(Path("/proc/cpuinfo"))
    return {"cpu": cpu, "cores": usable_cores(), "load": load, "system": platform.platform()}


def cpu_model(cpuinfo: Path) -> str:
    """Return the processor's model as the system's file `cpuinfo` tells it, or as Python does without the file."""
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of the libraries that the detectors use."""
    import torch

    return {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "opencv": cv2.__version__,
        "torch": torch.__version__,
        "facenet-pytorch": version("facenet-pytorch"),
        "timm": version("timm"),
    }
