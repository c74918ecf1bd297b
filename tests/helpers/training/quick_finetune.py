"""A fine-tuning of seconds: few small batches on drawn photos, detection in torch, landmarks as drawn.

A test can start it as a process: `python -m tests.helpers.training.quick_finetune DATA OUT`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stage1_faces.faces import Net
from stage1_faces.training import finetune, finetune_run
from stage1_faces.training.export import onnx_function
from tests.helpers.drawn_photos import landmarks_of

# Rates are high because the warm-up takes longer than these few steps.
RECIPE = finetune.FinetuneConfig(
    pnet_steps=8, rnet_steps=5, onet_steps=5, epoch_steps=3, pnet_batch=4, rnet_batch=10, onet_batch=10,
    pnet_rate=1.0, rnet_rate=0.1, onet_rate=0.05, passes=2,
)  # fmt: skip


def as_function(graph: nn.Module | bytes | None, threads: int) -> Net:
    """Return a net as a function, as `runtime` does, but without an export."""
    if not isinstance(graph, nn.Module):
        return onnx_function(graph, threads) if graph else lambda pixels: []
    net = graph

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in net(torch.from_numpy(pixels))]

    return run


def make_quick(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replace the exports, and the stock cascade that provides landmarks."""
    replace(finetune_run, "export_net", lambda name, net, spec: net)
    replace(finetune_run, "stock_detector", lambda threads, config: None)
    replace(finetune_run, "onnx_function", as_function)
    replace(finetune_run, "stock_landmarks", lambda stock, image, boxes: landmarks_of(boxes))


def run(data: Path, out: Path, **options: Any) -> Path:
    """Fine-tune with RECIPE, on one thread."""
    return finetune.finetune(data, data / "splits.csv", out, RECIPE, threads=1, **options)


if __name__ == "__main__":
    make_quick()
    data, out = sys.argv[1:]
    steps = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(RECIPE).items()]
    files = ["--data", data, "--splits", f"{data}/splits.csv", "--out", out, "--threads", "1"]
    sys.exit(finetune.main([*files, *steps]))
