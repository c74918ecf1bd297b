"""Where a bundle's classifier comes from: training runs, exported and averaged, or another bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import BundleError, UserError
from pipeline.inference.bundle import Bundle, BundleMeta, bundle_folder, bundle_names
from pipeline.inference.fusion import ScoreFusion
from pipeline.training.packing.inner_view import inner_view
from stage1_faces.training.export import TOLERANCE, max_difference, to_onnx
from stage2_classifier.heads import Heads
from stage2_classifier.training.checkpoint import ModelMeta, load_model


class ClassifierEnsemble(nn.Module):
    """Computes the outputs of a bundle's classifier graph: each the mean over models with the same heads.

    From (N, 3, S, S) normalised pixels come class probabilities (N, C). Where the classifier has these heads, log
    odds of being a face (N,) and box deltas (N, 4) follow.
    """

    def __init__(self, models: Sequence[nn.Module], heads: Heads) -> None:
        super().__init__()
        self.models, self.heads = nn.ModuleList(models), heads

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the outputs."""
        return ("probabilities", *("face",) * self.heads.has_objectness, *("box",) * self.heads.has_box)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        each = [model(pixels) for model in self.models]
        mean = torch.stack(each).mean(dim=0)  # of log odds and box deltas
        outputs = [torch.stack([self.heads.class_logits(one).softmax(dim=1) for one in each]).mean(dim=0)]
        if self.heads.has_objectness:
            outputs.append(self.heads.face_logit(mean))
        if self.heads.has_box:
            outputs.append(self.heads.box_deltas(mean))
        return tuple(outputs)


def export_classifier(models: Sequence[nn.Module], input_size: int, heads: Heads) -> bytes:
    """Return the ONNX graph of one or more classifiers; raise BundleError when it differs from torch."""
    net = ClassifierEnsemble(models, heads).eval()
    graph = to_onnx(net, (2, 3, input_size, input_size), {0: 1}, net.names)
    rng = np.random.default_rng(0)
    for n in (1, 5):
        difference = max_difference(graph, net, rng.normal(0, 1, (n, 3, input_size, input_size)).astype(np.float32))
        if not difference <= TOLERANCE:
            raise BundleError(f"classifier: the exported graph differs from torch by {difference:.2g}")
    return graph


@dataclass(frozen=True)
class ClassifierSource:
    """What a bundle needs of a classifier."""

    meta: ModelMeta | BundleMeta  # class names and preprocessing
    metrics: Mapping[str, Any]  # metrics on validation crops
    origin: Mapping[str, Any]  # the training runs, for the bundle's provenance
    class_counts: Mapping[str, Any] | None  # number of crops per class and split, if known
    export: Callable[[], bytes]  # makes the ONNX graph
    has_objectness: bool  # whether the graph gives log odds of being a face
    fusion: ScoreFusion = field(default_factory=ScoreFusion)  # the fusion with stage 1, unless it is fitted


def classifier_source(runs: Sequence[Path]) -> ClassifierSource:
    """Return the classifier of training runs, averaged, or of one bundle.

    Raises UserError when a run is not finished or differs in outputs, BundleError for an unreadable bundle.
    """
    if len(runs) == 1:
        folder = bundle_folder(runs[0]) if str(runs[0]) in bundle_names() and not runs[0].exists() else runs[0]
        if (folder / "bundle.json").is_file():
            return _from_bundle(folder)
    return _from_runs(runs)


def load_classifiers(runs: Sequence[Path]) -> tuple[list[nn.Module], list[ModelMeta], ModelMeta]:
    """Return the best classifiers of training runs as they see a shared crop, their headers, and the shared header.

    Raises UserError when a run is not finished or differs in outputs.
    """
    loaded: list[tuple[nn.Module, ModelMeta]] = []
    for run in runs:
        if (run / "last.pt").is_file() and not (run / "summary.json").is_file():
            raise UserError(f"{run}: its training is not finished; finish it with stage2_classifier.train --resume")
        model, meta = load_model(run / "best.safetensors")
        first = loaded[0][1] if loaded else meta
        for name in ("class_names", "mean", "std", "heads"):
            if getattr(meta, name) != getattr(first, name):
                differs = f"its {name} {getattr(meta, name)} differs from {runs[0]}'s {getattr(first, name)}"
                raise UserError(f"{run}: {differs}; average runs with the same outputs")
        loaded.append((model, meta))
    # All see the crop with the most context; the others see its middle.
    meta = max((own for _, own in loaded), key=lambda own: (own.margin, own.input_size))
    return [inner_view(model, own, meta) for model, own in loaded], [own for _, own in loaded], meta


def _from_runs(runs: Sequence[Path]) -> ClassifierSource:
    """Return the best classifiers of training runs, averaged."""
    models, metas, meta = load_classifiers(runs)
    origins = [_origin(run, own) for run, own in zip(runs, metas, strict=True)]
    for origin, own in zip(origins, metas, strict=True):
        if (own.input_size, own.margin) != (meta.input_size, meta.margin):
            origin |= {"input_size": own.input_size, "margin": own.margin}
    if (sources := origins[0].get("sources")) and len(runs) > 1 and all(o.get("sources") == sources for o in origins):
        shared = {"sources": sources}  # of the same crops: said once
        origins = [{key: value for key, value in one.items() if key != "sources"} for one in origins]
    else:
        shared = {}
    return ClassifierSource(
        meta,
        meta.metrics if len(runs) == 1 else {},
        origins[0] if len(runs) == 1 else {"mean_of": origins, **shared},
        _class_counts(runs[0]),
        lambda: export_classifier(models, meta.input_size, meta.heads),
        meta.has_objectness,
    )


def _origin(run: Path, meta: ModelMeta) -> dict[str, Any]:
    """Return what a bundle's provenance says of a training run."""
    pretrained = {"pretrained": meta.pretrained} if meta.pretrained else {}
    sources = _run_sources(run)
    learned = {"sources": sources} if sources else {}
    return {"run": run.resolve().name, "model": meta.model, "epoch": meta.epoch, **pretrained, **learned}


def _from_bundle(path: Path) -> ClassifierSource:
    """Return the classifier of a bundle."""
    bundle = Bundle.load(path)
    meta = bundle.meta
    outputs = bundle.graph("classifier")(np.zeros((1, 3, meta.input_size, meta.input_size), np.float32))
    return ClassifierSource(
        meta,
        meta.metrics.get("val_crops", {}),
        meta.provenance.get("stage2", {}),
        meta.provenance.get("data", {}).get("class_counts"),
        lambda: bundle.graph_bytes("classifier"),
        len(outputs) > 1,
        meta.fusion,
    )


def _class_counts(run: Path) -> Mapping[str, Any] | None:
    """Return the number of training and validation crops per class, if the run's config.json has it."""
    return _record(run / "config.json").get("class_counts")


def _run_sources(run: Path) -> dict[str, Any]:
    """Return {name: facts} of the datasets that a run learned from; empty for one dataset.

    Runs of earlier versions have them in config.json alone, without the faces by class.
    """
    if found := _record(run / "summary.json").get("sources"):
        return dict(found)
    listed = _record(run / "config.json").get("sources") or ()
    return {one["name"]: {key: value for key, value in one.items() if key != "name"} for one in listed}


def _record(file: Path) -> dict[str, Any]:
    """Return a run's JSON object; empty without the file. Raise UserError when it is damaged."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: is not a JSON object ({error}); train the run again") from error
