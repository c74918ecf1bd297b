"""Makes a bundle from a training run and the cascade's torch nets: export, parity check, box fit, threshold."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn

from common.annotations import AnnotatedImage, Problem, read_dataset
from common.cli import progress
from common.errors import BundleError, UserError
from common.images import read_image
from common.splits import read_splits
from pipeline.evaluate.bootstrap import best_score
from pipeline.evaluate.evaluation import detect_samples
from pipeline.evaluate.metrics import score_every_class, score_samples
from pipeline.inference.bundle import GRAPHS, Bundle, BundleMeta, Search, check_place, write_bundle
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.graphs import load_graph
from pipeline.inference.predictor import Predictor
from pipeline.training.box_bias import measure_shift
from pipeline.training.calibration import calibrated, calibration_error, fit_fusion, gather, uncalibrated
from pipeline.training.git_revision import git_revision
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector
from stage1_faces.training.export import (
    FINE_TUNED,
    STOCK,
    TOLERANCE,
    export_cascade,
    export_net,
    parity,
    stock_nets,
    to_onnx,
)
from stage1_faces.training.nets import ExportWrapper
from stage1_faces.training.run_folder import fingerprint, load_net, run_facts
from stage2_classifier.heads import Heads
from stage2_classifier.training.checkpoint import ModelMeta, load_model

MATCH_IOU = 0.5  # at which a detection counts as right when the threshold is chosen
DEFAULT_SCORE = 0.5
# What bundle.json says of a bundle that was packed like another.
LIKE = (
    "the weights were learned from all photos; settings and metrics are those of the bundle named below, "
    "whose weights were learned by the same recipe from the training part only"
)


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
    """The training and validation photos of a dataset. Raises UserError, or UserError when either is empty."""
    sides = read_splits(splits)
    read = read_dataset(data)
    train, val = (tuple(i for i in read.images if sides.get(i.image_id) == side) for side in ("train", "val"))
    if not train or not val:
        raise UserError(f"{splits}: no training or no validation photos of {data}; make the split anew")
    return Photos(train, val, read.problems, hashlib.sha256(splits.read_bytes()).hexdigest())


class ClassifierEnsemble(nn.Module):
    """A classifier's outputs as a bundle's graph gives them, from (N, 3, S, S) normalised pixels.

    Class probabilities (N, C), then log odds of being a face (N,) and box numbers (N, 4) where the classifier has them.
    Of several models with the same heads the mean of each output.
    """

    def __init__(self, models: Sequence[nn.Module], heads: Heads) -> None:
        super().__init__()
        self.models, self.heads = nn.ModuleList(models), heads

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs."""
        return ("probabilities", *("face",) * self.heads.has_objectness, *("box",) * self.heads.has_box)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        each = [model(pixels) for model in self.models]
        outputs = torch.stack(each).mean(dim=0)  # of log odds and box numbers
        given = [torch.stack([self.heads.class_logits(one).softmax(dim=1) for one in each]).mean(dim=0)]
        if self.heads.has_objectness:
            given.append(self.heads.face_logit(outputs))
        if self.heads.has_box:
            given.append(self.heads.box_deltas(outputs))
        return tuple(given)


def export_classifier(models: Sequence[nn.Module], input_size: int, heads: Heads) -> bytes:
    """The ONNX graph of one or more classifiers, checked against torch. Raises BundleError when they differ."""
    net = ClassifierEnsemble(models, heads).eval()
    graph = to_onnx(net, (2, 3, input_size, input_size), {0: 1}, net.names)
    rng = np.random.default_rng(0)
    for n in (1, 5):
        difference = parity(graph, net, rng.normal(0, 1, (n, 3, input_size, input_size)).astype(np.float32))
        if not difference <= TOLERANCE:
            raise BundleError(f"classifier: the exported graph differs from torch by {difference:.2g}")
    return graph


@dataclass(frozen=True)
class Classifier:
    """What a bundle needs of a classifier.

    meta: how to feed it. origin: where it is from. export: makes its graph. judges: whether that gives verdicts on
    faces, too. judge: how they join stage 1's as long as nothing else is fitted.
    """

    meta: ModelMeta | BundleMeta
    metrics: Mapping[str, Any]
    origin: Mapping[str, Any]
    class_counts: Mapping[str, Any] | None
    export: Callable[[], bytes]
    judges: bool
    judge: ScoreFusion = field(default_factory=ScoreFusion)


def _trained(runs: Sequence[Path]) -> Classifier:
    """The kept classifiers of training runs, to be averaged.

    Raises UserError when one is not finished or is fed another way than the first, UserError.
    """
    loaded: list[tuple[nn.Module, ModelMeta]] = []
    for run in runs:
        if (run / "last.pt").is_file() and not (run / "summary.json").is_file():
            raise UserError(f"{run}: its training is not finished; finish it with stage2_classifier.train --resume")
        model, meta = load_model(run / "best.safetensors")
        first = loaded[0][1] if loaded else meta
        for name in ("class_names", "input_size", "margin", "mean", "std", "heads"):
            if getattr(meta, name) != getattr(first, name):
                raise UserError(
                    f"{run}: its {name} {getattr(meta, name)} differs from {runs[0]}'s {getattr(first, name)}; "
                    "average runs that are fed alike"
                )
        loaded.append((model, meta))
    meta = loaded[0][1]
    origins = [
        {"run": run.resolve().name, "model": own.model, "epoch": own.epoch}
        for run, (_, own) in zip(runs, loaded, strict=True)
    ]
    return Classifier(
        meta,
        meta.metrics if len(loaded) == 1 else {},
        origins[0] if len(loaded) == 1 else {"mean_of": origins},
        _class_counts(runs[0]),
        lambda: export_classifier([model for model, _ in loaded], meta.input_size, meta.heads),
        meta.has_objectness,
    )


def _kept(bundle: Path) -> Classifier:
    """The classifier of a bundle. Raises BundleError."""
    loaded = Bundle.load(bundle)
    meta = loaded.meta
    verdicts = loaded.graph("classifier")(np.zeros((1, 3, meta.input_size, meta.input_size), np.float32))
    return Classifier(
        meta,
        meta.metrics.get("val_crops", {}),
        meta.provenance.get("stage2", {}),
        meta.provenance.get("data", {}).get("class_counts"),
        lambda: loaded.graph_bytes("classifier"),
        len(verdicts) > 1,
        meta.fusion,
    )


def pack_bundle(
    runs: Sequence[Path],
    out: Path,
    search: Search,
    cascade: Path | None = None,
    photos: Photos | None = None,
    score_threshold: float | None = None,
    note: str = "",
    like: Path | None = None,
) -> Bundle:
    """Packs the kept classifier of one or more runs with a cascade into a bundle at `out`.

    runs: of stage2_classifier.train, whose outputs are averaged, or a bundle whose classifier is kept. cascade: a run
    of stage1_faces.finetune, for a `search` of its kind; the stock cascade without. With photos, the stock O-Net's
    boxes are moved by what `measure_shift` finds on the training ones, the fine-tuned cascade's scores and the
    judge are calibrated on the validation ones, and the threshold, unless given, is that of the best F1 there.
    like: a bundle whose settings and figures are taken instead, for weights of the same recipe learned from all photos.

    Raises UserError when the run cannot be read, UserError when the photos have a class that it does not
    know, UserError or BundleError when an export fails its check or `out` is taken.
    """
    check_place(out)
    if like is not None and (photos is not None or score_threshold is not None):
        raise UserError("--settings-from takes all settings from that bundle; leave out --data and --score")
    model = None if like is None else Bundle.load(like).meta
    kept = len(runs) == 1 and (runs[0] / "bundle.json").is_file()
    classifier = _kept(runs[0]) if kept else _trained(runs)
    if photos is not None:
        _check_labels(photos, classifier.meta.class_names)
    if isinstance(search, CascadeConfig):
        if cascade is None:
            raise UserError("a fine-tuned cascade needs its run; name it with --cascade")
        graphs, stage1 = _fine_tuned(cascade)
        if photos is not None and stage1["data"] != fingerprint(photos.train):
            what = "learned from other photos than the split's training ones; figures on the others may flatter"
            print(f"warning: {cascade}: {what}", file=sys.stderr)
    else:
        if cascade is not None:
            raise UserError(f"{cascade}: a fine-tuned cascade cannot be searched as the stock one is")
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
        fusion=classifier.judge,
        metrics={"val_crops": dict(classifier.metrics)},
        provenance={
            "stage1": stage1,
            "stage2": dict(classifier.origin),
            "data": {
                "class_counts": classifier.class_counts,
                "splits_sha256": None if photos is None else photos.splits_sha256,
            },
            "commit": git_revision(),
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
        bundle_meta = _with_judge(Bundle(out, bundle_meta, graphs), photos.val)
        bundle_meta = _judged(Bundle(out, bundle_meta, graphs), photos.val, choose=score_threshold is None)
    if model is not None:
        if model.fusion.classifier_weight and not classifier.judges:
            raise UserError(f"{like}: its face scores need stage 2's verdicts, which these runs do not give")
        bundle_meta = _like(bundle_meta, model, like)
    return write_bundle(out, bundle_meta, graphs)


def _with_judge(bundle: Bundle, val: Sequence[AnnotatedImage]) -> BundleMeta:
    """The bundle's metadata with its judge fitted on validation photos, and the calibration error before and after."""
    meta = replace(bundle.meta, fusion=ScoreFusion(flip_tta=True))
    predictor = Predictor(Bundle(bundle.path, meta, {name: bundle.graph_bytes(name) for name in GRAPHS}))
    with progress() as bar:
        evidence = gather(predictor, bundle.detector(), bar.track(val, description="fitting the judge"))
    judge = fit_fusion(evidence, meta.margin, mirrored=True)
    raw = meta.fusion if not isinstance(meta.search, CascadeConfig) else uncalibrated(meta.search)
    error = {"before": calibration_error(raw, evidence), "after": calibration_error(judge, evidence)}
    return replace(meta, fusion=judge, metrics={**meta.metrics, "val_calibration_error": error})


def _like(meta: BundleMeta, other: BundleMeta, path: Path | None) -> BundleMeta:
    """`meta` with another bundle's settings and figures. Raises UserError when the two are not of one make."""
    for name in ("class_names", "input_size", "margin", "cascade"):
        if getattr(meta, name) != getattr(other, name):
            raise UserError(
                f"{path}: its {name} {getattr(other, name)} is not {getattr(meta, name)}; name one of the same make"
            )
    whence = {
        "weights_and_metrics": LIKE,
        "settings_and_metrics_from": {"sha256": dict(other.sha256), "data": other.provenance.get("data")},
    }
    return replace(
        meta,
        search=other.search,
        fusion=other.fusion,
        score_threshold=other.score_threshold,
        metrics=other.metrics,
        provenance={**meta.provenance, **whence},
    )


def _fine_tuned(cascade: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Graphs of a fine-tuning run, and where they come from."""
    nets = {name: ExportWrapper(load_net(cascade, name)) for name in FINE_TUNED}
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
    predictor = Predictor(bundle)
    with progress() as bar:
        task = bar.add_task("scoring", total=len(val))
        samples, _ = detect_samples(predictor, val, names, advance=lambda: bar.advance(task))
    accuracy, macro_f1 = crop_scores(predictor, val)
    scores = score_samples(samples, names)
    each_class = score_every_class(samples, names, scores)
    measured = {
        "photos": len(val),
        "mAP50-95": each_class.mean.overall.ap,
        "mAP50": each_class.mean.overall.ap50,
        "mAP50, one label": scores.mean.overall.ap50,
        "face_AP50": scores.faces.overall.ap50,
        "face_recall50": scores.faces.overall.recall50,
        "crop_accuracy": accuracy,
        "crop_macro_f1": macro_f1,
    }
    threshold = bundle.meta.score_threshold
    if choose:
        threshold = float(np.floor(best_score(samples, len(names), MATCH_IOU) * 1000) / 1000)
    return replace(bundle.meta, metrics={**bundle.meta.metrics, "val": measured}, score_threshold=threshold)


def crop_scores(predictor: Predictor, images: Sequence[AnnotatedImage]) -> tuple[float, float]:
    """Accuracy and macro-F1 of the classes that the predictor gives the annotators' boxes; 0 without any box."""
    names = predictor.bundle.meta.class_names
    truths, labels = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
    for image in images:
        if len(image.boxes):
            truths.append(np.array([names.index(label) for label in image.labels], np.intp))
            labels.append(predictor.classify(read_image(image.path), image.boxes).argmax(axis=1))
    true, given = np.concatenate(truths), np.concatenate(labels)
    if not len(true):
        return 0.0, 0.0
    macro_f1 = f1_score(true, given, labels=sorted(set(true.tolist())), average="macro", zero_division=0)
    return float((true == given).mean()), float(macro_f1)


def _check_labels(photos: Photos, class_names: Sequence[str]) -> None:
    for image in (*photos.train, *photos.val):
        unknown = sorted(set(image.labels) - set(class_names))
        if unknown:
            raise UserError(
                f"{image.path}: class {unknown[0]!r} is none of the run's ({', '.join(class_names)}); "
                "name the data that the run was trained on"
            )


def _class_counts(run: Path) -> Mapping[str, Any] | None:
    """How many crops of each class the run was trained and validated on, if it says so."""
    file = run / "config.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("class_counts") if file.is_file() else None
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: is no JSON object ({error}); train the run anew") from error
