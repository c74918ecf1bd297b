"""Makes a bundle from a training run and the cascade's torch nets: export, parity check, box fit, threshold."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.bundle import Bundle, BundleError, BundleMeta, Search, check_place, load_graph, write_bundle
from pipeline.calibration import calibrated
from pipeline.errors import PipelineError
from pipeline.evaluation import detect_samples
from pipeline.fit_boxes import measure_shift
from pipeline.metrics import score_samples
from pipeline.predictor import Predictor
from pipeline.resampling import best_score
from stage1_faces.annotations import AnnotatedImage, Problem, read_dataset
from stage1_faces.detector import CascadeConfig
from stage1_faces.export import (
    FINE_TUNED,
    STOCK,
    TOLERANCE,
    export_cascade,
    export_net,
    parity,
    stock_nets,
    to_onnx,
)
from stage1_faces.mtcnn import MtcnnConfig, MtcnnDetector
from stage1_faces.nets import Answers
from stage1_faces.run_folder import fingerprint, load_net, run_facts
from stage1_faces.splits import read_splits
from stage2_classifier.checkpoint import ModelMeta, load_model
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
    graph = to_onnx(net, (2, 3, input_size, input_size), {0: 1}, ("probabilities",))
    rng = np.random.default_rng(0)
    for n in (1, 5):
        difference = parity(graph, net, rng.normal(0, 1, (n, 3, input_size, input_size)).astype(np.float32))
        if not difference <= TOLERANCE:
            raise BundleError(f"classifier: the exported graph differs from torch by {difference:.2g}")
    return graph


@dataclass(frozen=True)
class Classifier:
    """What a bundle needs of a classifier. meta: how to feed it. origin: where it is from. export: makes its graph."""

    meta: ModelMeta | BundleMeta
    metrics: Mapping[str, Any]
    origin: Mapping[str, Any]
    class_counts: Mapping[str, Any] | None
    export: Callable[[], bytes]


def _trained(run: Path) -> Classifier:
    """The best classifier of a training run. Raises PipelineError when it is not finished, ClassifierError."""
    if (run / "last.pt").is_file() and not (run / "summary.json").is_file():
        raise PipelineError(f"{run}: its training is not finished; finish it with stage2_classifier.train --resume")
    model, meta = load_model(run / "best.safetensors")
    return Classifier(
        meta,
        meta.metrics,
        {"run": run.resolve().name, "model": meta.model, "epoch": meta.epoch},
        _class_counts(run),
        lambda: export_classifier(model, meta.input_size),
    )


def _kept(bundle: Path) -> Classifier:
    """The classifier of a bundle. Raises BundleError."""
    loaded = Bundle.load(bundle)
    meta = loaded.meta
    return Classifier(
        meta,
        meta.metrics.get("val_crops", {}),
        meta.provenance.get("stage2", {}),
        meta.provenance.get("data", {}).get("class_counts"),
        lambda: loaded.graph_bytes("classifier"),
    )


def pack_bundle(
    run: Path,
    out: Path,
    search: Search,
    cascade: Path | None = None,
    photos: Photos | None = None,
    score_threshold: float | None = None,
    note: str = "",
) -> Bundle:
    """Packs a run's best classifier with a cascade into a bundle at `out`.

    run: of stage2_classifier.train, or a bundle whose classifier is kept. cascade: a run of stage1_faces.finetune, for
    a `search` of its kind; the stock cascade without. With photos, the stock O-Net's boxes are moved by what
    `measure_shift` finds on the training ones, the fine-tuned cascade's scores are calibrated on the validation ones,
    and the threshold, unless given, is that of the best F1 there.

    Raises ClassifierError when the run cannot be read, PipelineError when the photos have a class that it does not
    know, FacesError or BundleError when an export fails its check or `out` is taken.
    """
    check_place(out)
    classifier = _kept(run) if (run / "bundle.json").is_file() else _trained(run)
    if photos is not None:
        _check_labels(photos, classifier.meta.class_names)
    if isinstance(search, CascadeConfig):
        if cascade is None:
            raise PipelineError("a fine-tuned cascade needs its run; name it with --cascade")
        graphs, stage1 = _fine_tuned(cascade)
        if photos is not None and stage1["data"] != fingerprint(photos.train):
            what = "learned from other photos than the split's training ones; figures on the others may flatter"
            print(f"warning: {cascade}: {what}", file=sys.stderr)
    else:
        if cascade is not None:
            raise PipelineError(f"{cascade}: a fine-tuned cascade cannot be searched as the stock one is")
        graphs, stage1 = _stock(search, photos)
    graphs["classifier"] = classifier.export()
    bundle_meta = BundleMeta(
        class_names=classifier.meta.class_names,
        input_size=classifier.meta.input_size,
        mean=classifier.meta.mean,
        std=classifier.meta.std,
        margin=classifier.meta.margin,
        search=search,
        score_threshold=DEFAULT_SCORE if score_threshold is None else score_threshold,
        metrics={"val_crops": dict(classifier.metrics)},
        provenance={
            "stage1": stage1,
            "stage2": dict(classifier.origin),
            "data": {
                "class_counts": classifier.class_counts,
                "splits_sha256": None if photos is None else photos.splits_sha256,
            },
            "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
            "note": note,
        },
    )
    if photos is not None:
        if isinstance(search, CascadeConfig):
            detector = Bundle(out, bundle_meta, graphs).detector()
            with progress() as bar:
                search = calibrated(detector, search, bar.track(photos.val, description="calibrating scores"))
            bundle_meta = replace(bundle_meta, search=search)
        bundle_meta = _judged(Bundle(out, bundle_meta, graphs), photos.val, choose=score_threshold is None)
    return write_bundle(out, bundle_meta, graphs)


def _fine_tuned(cascade: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Graphs of a fine-tuning run, and where they come from."""
    nets = {name: Answers(load_net(cascade, name)) for name in FINE_TUNED}
    facts: dict[str, Any] = {"weights": "fine-tuned", "run": cascade.resolve().name, **run_facts(cascade)}
    return export_cascade(nets, FINE_TUNED), facts


def _stock(search: MtcnnConfig, photos: Photos | None) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Graphs of the stock cascade, its boxes fitted to the training photos, and where they come from."""
    graphs = export_cascade(stock_nets(), STOCK)
    facts: dict[str, Any] = {"weights": "facenet-pytorch 2.5.3, stock"}
    if photos is not None:
        pnet, rnet, onet = (load_graph(graphs[name], name) for name in ("pnet", "rnet", "onet"))
        detector = MtcnnDetector(pnet, rnet, onet, search)
        with progress() as bar:
            shift = measure_shift(detector, bar.track(photos.train, description="fitting boxes"))
        graphs["onet"] = export_net("onet", stock_nets(shift.edges)["onet"], STOCK["onet"])
        facts["box_shift"] = asdict(shift)
    return graphs, facts


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
