"""Joins the two stages: everything that a user runs.

`import pipeline` loads nothing. `from pipeline import Predictor` does not load ONNX Runtime; making a predictor does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import common  # noqa: F401  # first: it turns off ONNX Runtime's telemetry

if TYPE_CHECKING:
    from pipeline.inference.detections import Detections
    from pipeline.inference.predictor import Predictor

__all__ = ["Detections", "Predictor"]

_MODULES = {"Detections": "pipeline.inference.detections", "Predictor": "pipeline.inference.predictor"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
