"""Makes a bundle from a training run and the cascade's torch nets: export, parity check, provenance."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.bundle import Bundle, BundleError, BundleMeta, write_bundle
from stage1_faces.detector import CascadeConfig
from stage1_faces.export import TOLERANCE, export_cascade, parity, to_onnx
from stage2_classifier.checkpoint import load_model


class Probabilities(nn.Module):
    """A classifier followed by softmax: (N, 3, S, S) normalised pixels -> class probabilities (N, C)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).softmax(dim=1)


def export_classifier(model: nn.Module, input_size: int) -> bytes:
    """The ONNX graph of a classifier, checked against torch. Raises BundleError when they differ."""
    net = Probabilities(model).eval()
    graph = to_onnx(net, (2, 3, input_size, input_size), {0: "n"}, ("probabilities",))
    rng = np.random.default_rng(0)
    for n in (1, 5):
        difference = parity(graph, net, rng.normal(0, 1, (n, 3, input_size, input_size)).astype(np.float32))
        if not difference <= TOLERANCE:
            raise BundleError(f"classifier: the exported graph differs from torch by {difference:.2g}")
    return graph


def pack_bundle(
    run: Path,
    out: Path,
    search: CascadeConfig,
    score_threshold: float,
    note: str = "",
    metrics: Mapping[str, Any] | None = None,
    cascade: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Packs a run's best classifier with the cascade (the stock one unless graphs are given) into a bundle at `out`.

    Raises ClassifierError when the run cannot be read, FacesError or BundleError when an export fails its check.
    """
    model, meta = load_model(run / "best.safetensors")
    stage1 = "facenet-pytorch stock weights" if cascade is None else "fine-tuned"
    provenance = {
        "stage1": stage1,
        "stage2": {"run": run.resolve().name, "model": meta.model, "epoch": meta.epoch},
        "data": _training_data(run),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
        "note": note,
    }
    bundle_meta = BundleMeta(
        class_names=tuple(meta.class_names),
        input_size=meta.input_size,
        mean=_triple(meta.mean),
        std=_triple(meta.std),
        margin=meta.margin,
        search=search,
        score_threshold=score_threshold,
        metrics={**({} if metrics is None else metrics), "val_crops": dict(meta.metrics)},
        provenance=provenance,
    )
    graphs = dict(export_cascade() if cascade is None else cascade)
    graphs["classifier"] = export_classifier(model, meta.input_size)
    return write_bundle(out, bundle_meta, graphs)


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c


def _training_data(run: Path) -> dict[str, Any]:
    """The class counts that the run recorded of its training crops, if it did."""
    file = run / "config.json"
    if not file.is_file():
        return {}
    return {"class_counts": json.loads(file.read_text(encoding="utf-8")).get("class_counts")}
