"""Loads a predictor late: ONNX Runtime is imported after bad input was reported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.inference.device import Device

if TYPE_CHECKING:
    from pipeline.inference.predictor import Predictor


def load_predictor(bundle: Path | None, threads: int, device: Device) -> Predictor:
    """Load the predictor of a bundle directory (None: the project's own bundle), with `threads` for each network."""
    from pipeline.inference.predictor import Predictor

    return Predictor.load(bundle, threads, device)
