"""Makes a bundle from a training run and the cascade's torch nets: export, parity check, box fit, threshold."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.bundle import Bundle, BundleError, BundleMeta, check_place, load_graph, write_bundle
from pipeline.errors import PipelineError
from pipeline.evaluation import detect_samples
from pipeline.fit_boxes import measure_shift
from pipeline.metrics import score_samples
from pipeline.predictor import Predictor
from pipeline.resampling import best_score
from stage1_faces.annotations import AnnotatedImage, Problem, read_dataset
from stage1_faces.detector import CascadeConfig, FaceDetector
from stage1_faces.export import TOLERANCE, export_cascade, export_net, parity, stock_nets, to_onnx
from stage1_faces.splits import read_splits
from stage2_classifier.checkpoint import load_model
from stage2_classifier.console import progress

MATCH_IOU = 0.5  # at which a detection counts as right when the threshold is chosen
DEFAULT_SCORE = 0.5


@dataclass(frozen=True)
class Photos:
    """Annotated photos for packing: the boxes are fitted on `train`, the threshold is chosen on `val`.

    problems: what was refused when they were read. splits_sha256: of the split file.
    """

    train: tuple[AnnotatedImage, ...]
    val: tuple[AnnotatedImage, ...]
    problems: tuple[Problem, ...] = ()
    splits_sha256: str = ""


def photos_of(data: Path, splits: Path) -> Photos:
    """The training and validation photos of a dataset. Raises FacesError, or PipelineError when either is empty."""
    sides = read_splits(splits)
    read = read_dataset(data)
    train, val = (tuple(i for i in read.images if sides.get(i.image_id) == side) for side in ("train", "val"))
    if not train or not val:
        raise PipelineError(f"{splits}: no training or no validation photos of {data}; make the split anew")
    return Photos(train, val, read.problems, hashlib.sha256(splits.read_bytes()).hexdigest())


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
    photos: Photos | None = None,
    score_threshold: float | None = None,
    note: str = "",
) -> Bundle:
    """Packs a run's best classifier with the stock cascade into a bundle at `out`.

    With photos, O-Net's boxes are moved by what `measure_shift` finds on the training ones, and the threshold, unless
    given, is that of the best F1 on the validation ones.

    Raises ClassifierError when the run cannot be read, PipelineError when the photos have a class that it does not
    know, FacesError or BundleError when an export fails its check or `out` is taken.
    """
    check_place(out)
    if (run / "last.pt").is_file() and not (run / "summary.json").is_file():
        raise PipelineError(f"{run}: its training is not finished; finish it with stage2_classifier.train --resume")
    model, meta = load_model(run / "best.safetensors")
    if photos is not None:
        _check_labels(photos, meta.class_names)
    graphs = export_cascade()
    stage1: dict[str, Any] = {"weights": "facenet-pytorch 2.5.3, stock"}
    if photos is not None:
        pnet, rnet, onet = (load_graph(graphs[name], name) for name in ("pnet", "rnet", "onet"))
        detector = FaceDetector(pnet, rnet, onet, search)
        with progress() as bar:
            shift = measure_shift(detector, bar.track(photos.train, description="fitting boxes"))
        graphs["onet"] = export_net("onet", stock_nets(shift.edges)["onet"])
        stage1["box_shift"] = asdict(shift)
    graphs["classifier"] = export_classifier(model, meta.input_size)
    bundle_meta = BundleMeta(
        class_names=meta.class_names,
        input_size=meta.input_size,
        mean=meta.mean,
        std=meta.std,
        margin=meta.margin,
        search=search,
        score_threshold=DEFAULT_SCORE if score_threshold is None else score_threshold,
        metrics={"val_crops": dict(meta.metrics)},
        provenance={
            "stage1": stage1,
            "stage2": {"run": run.resolve().name, "model": meta.model, "epoch": meta.epoch},
            "data": {
                "class_counts": _class_counts(run),
                "splits_sha256": None if photos is None else photos.splits_sha256,
            },
            "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
            "note": note,
        },
    )
    if photos is not None:
        bundle_meta = _judged(Bundle(out, bundle_meta, graphs), photos.val, choose=score_threshold is None)
    return write_bundle(out, bundle_meta, graphs)


def _judged(bundle: Bundle, val: Sequence[AnnotatedImage], choose: bool) -> BundleMeta:
    """The bundle's metadata with what it scores on validation photos and, if asked for, the best threshold there."""
    names = bundle.meta.class_names
    with progress() as bar:
        task = bar.add_task("scoring", total=len(val))
        samples, _ = detect_samples(Predictor(bundle), val, names, advance=lambda: bar.advance(task))
    scores = score_samples(samples, names)
    measured = {
        "photos": len(val),
        "mAP50-95": scores.mean.overall.ap,
        "mAP50": scores.mean.overall.ap50,
        "face_AP50": scores.faces.overall.ap50,
        "face_recall50": scores.faces.overall.recall50,
    }
    threshold = bundle.meta.score_threshold
    if choose:
        threshold = float(np.floor(best_score(samples, len(names), MATCH_IOU) * 1000) / 1000)
    return replace(bundle.meta, metrics={**bundle.meta.metrics, "val": measured}, score_threshold=threshold)


def _check_labels(photos: Photos, class_names: Sequence[str]) -> None:
    for image in (*photos.train, *photos.val):
        unknown = sorted(set(image.labels) - set(class_names))
        if unknown:
            raise PipelineError(
                f"{image.path}: class {unknown[0]!r} is none of the run's ({', '.join(class_names)}); "
                "name the data that the run was trained on"
            )


def _class_counts(run: Path) -> Mapping[str, Any] | None:
    """How many crops of each class the run was trained and validated on, if it says so."""
    file = run / "config.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("class_counts") if file.is_file() else None
    except (ValueError, AttributeError) as error:
        raise PipelineError(f"{file}: is no JSON object ({error}); train the run anew") from error
