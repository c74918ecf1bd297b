"""Makes a bundle from classifier runs and a cascade: export, parity check, calibration, score threshold."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.annotations import AnnotatedImage, ReadingArgs, require_faces
from common.annotations.loading import warn
from common.annotations.options import DEFAULT_READING
from common.annotations.types import fingerprint
from common.cli import progress
from common.errors import UserError
from common.sources import SourcesArgs, load_sources, main_part
from common.splits import missing_line, read_splits
from pipeline.bundle.int8 import to_int8
from pipeline.bundle.weights_dtype import WeightsDtype, check_stored, is_int8, store_weights
from pipeline.evaluate.selection import rename_advice
from pipeline.inference.bundle import GRAPHS, Bundle, check_destination, write_bundle
from pipeline.inference.bundle_meta import BundleMeta, Search
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.graphs import load_graph
from pipeline.inference.predictor import Predictor
from pipeline.training.packing.box_bias import measure_box_bias
from pipeline.training.packing.calibration import (
    best_precision,
    box_precision,
    calibrate_cascade,
    calibration_error,
    collect_outputs,
    fit_fusion,
    uncalibrated,
    without_face_logits,
)
from pipeline.training.packing.classifier_source import ClassifierSource, classifier_source
from pipeline.training.packing.git_revision import git_revision
from pipeline.training.packing.second_look import fit_second_look
from pipeline.training.validation import validation_metrics
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector
from stage1_faces.training.export import FINE_TUNED, STOCK, export_cascade, export_net, stock_nets
from stage1_faces.training.nets import ExportWrapper
from stage1_faces.training.run_folder import load_net, run_facts

DEFAULT_SCORE = 0.5
PIXEL_SCALE = 70.0  # of random pixels for the cascade's nets: about the spread of a photo's
# The entry of bundle.json in a bundle with another bundle's settings.
SETTINGS_FROM_NOTE = (
    "the weights were learned from all photos; settings and metrics are those of the bundle named below, "
    "whose weights were learned by the same recipe from the training part only"
)


@dataclass(frozen=True)
class FitPhotos:
    """Annotated photos that a bundle's settings are fitted on."""

    train: tuple[AnnotatedImage, ...]  # for the box bias of the stock cascade, and for the ranges of INT8
    val: tuple[AnnotatedImage, ...]  # for calibration and score threshold
    splits_sha256: str = ""  # digest of the split file
    further: tuple[AnnotatedImage, ...] = ()  # training photos of further sources: only to know what was learned from

    @property
    def learned(self) -> str:
        """Return the fingerprint of all training photos, as a run of stage1_faces.finetune records it."""
        return fingerprint(sorted((*self.train, *self.further), key=lambda image: image.image_id))


def read_fit_photos(
    data: Path | Sequence[Path],
    splits: Path,
    reading: ReadingArgs = DEFAULT_READING,
    sources: Path | None = None,
    *,
    validation: bool = True,
) -> FitPhotos:
    """Return the training and validation photos of a dataset.

    Args:
        data: the dataset; of several, settings are fitted on the first.
        splits: splits.csv.
        reading: how to read the data.
        sources: YAML file that says what may be learned from each dataset.
        validation: whether the validation part is needed.

    Raises:
        UserError: the training part, or the validation part that is needed, has no face.
    """
    split_of = read_splits(splits)
    folders = (data,) if isinstance(data, Path) else tuple(data)
    args = SourcesArgs(data=folders, sources=sources, rename=reading.rename, unlabelled=reading.unlabelled)
    read = load_sources(args)
    if line := missing_line(splits, split_of, {image.image_id for image in read.images}):
        warn(line)
    main = main_part(read).images
    train, val = (tuple(i for i in main if split_of.get(i.image_id) == split) for split in ("train", "val"))
    for split, images in (("train", train), ("val", val))[: 1 + validation]:
        require_faces(images, f"{splits}: split {split!r} of {args.main_data}", "make the split again")
    own = {image.image_id for image in main}
    further = tuple(i for i in read.images if i.image_id not in own and split_of.get(i.image_id) == "train")
    return FitPhotos(train, val, hashlib.sha256(splits.read_bytes()).hexdigest(), further)


def pack_bundle(
    runs: Sequence[Path],
    out: Path,
    cascade_config: Search,
    cascade_run: Path | None = None,
    photos: FitPhotos | None = None,
    score_threshold: float | None = None,
    note: str = "",
    settings_from: Path | None = None,
    *,
    weights_dtype: WeightsDtype = "float16",
    compare_second_look: bool = False,
    int8: Sequence[str] = (),
) -> Bundle:
    """Pack the classifier of one or more runs with a cascade into a bundle.

    Args:
        runs: of stage2_classifier.train, whose outputs are averaged, or one bundle whose classifier is taken.
        out: the bundle's folder.
        cascade_config: of the stock or the fine-tuned cascade.
        cascade_run: of stage1_faces.finetune; None for the stock cascade.
        photos: to correct the stock cascade's boxes, or calibrate the fine-tuned cascade's scores; to fit the fusion;
            and to choose the threshold.
        score_threshold: from which a face is reported; by default chosen by F1 on validation photos.
        note: kept in the provenance.
        settings_from: a bundle whose settings and metrics are taken, for weights of the same recipe trained on all
            photos.
        weights_dtype: type of the weights on disk.
        compare_second_look: fit the settings with and without O-Net's second pass, and with and without stage 2's
            weight in the face score; the quickest of the best is kept, and the figures of each are recorded.
        int8: nets of GRAPHS that compute in INT8. Their ranges are measured on the training photos.
            Only with it may `photos` be given together with `settings_from`.

    Raises:
        UserError: a run cannot be read, the photos have an unknown class, or arguments exclude each other.
        BundleError: an export fails its check, or `out` cannot be a bundle.
    """
    check_destination(out)
    _check_arguments(cascade_config, photos, score_threshold, settings_from, int8)
    template = None if settings_from is None else Bundle.load(settings_from).meta
    classifier = classifier_source(runs)
    if photos is not None:
        _check_labels(photos, classifier.meta.class_names)
    graphs, stage1 = _export_cascade(cascade_config, cascade_run, photos)
    graphs["classifier"] = classifier.export()
    meta = _unfitted_meta(classifier, cascade_config, stage1, photos, note)
    stored = _store_weights(graphs, weights_dtype)  # before the fit, which sees what is written
    meta = replace(meta, weights_dtype=weights_dtype)
    if int8 and photos is not None:
        stored = to_int8(Bundle(out, meta, stored), int8, graphs, [photo.path for photo in photos.train])
    if in_int8 := [name for name in GRAPHS if is_int8(stored[name])]:
        meta = replace(meta, provenance={**meta.provenance, "int8": in_int8})
    if score_threshold is not None:
        meta = replace(meta, score_threshold=score_threshold)
    if template is not None:
        return write_bundle(out, _take_settings(meta, template, settings_from, classifier.has_objectness), stored)
    if photos is not None:
        fit = partial(_fit, graphs=stored, out=out, val=photos.val, choose_threshold=score_threshold is None)
        meta = _fit_with_second_look(meta, fit, stored, out, photos.val) if compare_second_look else fit(meta)
    return write_bundle(out, meta, stored)


def _export_cascade(
    config: Search, run: Path | None, photos: FitPhotos | None
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the cascade's graphs and provenance."""
    if not isinstance(config, CascadeConfig):
        if run is not None:
            raise UserError(f"{run}: a fine-tuned cascade cannot have the stock one's settings; leave out --cascade")
        return _stock_cascade(config, photos)
    if run is None:
        raise UserError("a fine-tuned cascade needs its run; name it with --cascade")
    nets = {name: ExportWrapper(load_net(run, name)) for name in FINE_TUNED}
    facts: dict[str, Any] = {"weights": "fine-tuned", "run": run.resolve().name, **run_facts(run)}
    graphs = export_cascade(nets, FINE_TUNED)
    # The photos of several sources are known only where all of them are given.
    comparable = photos is not None and (len(facts.get("sources", ())) < 2 or photos.further)
    if photos is not None and comparable and facts["data"] != photos.learned:
        reason = "was trained on other photos than the split's training photos; its metrics may be too good"
        print(f"warning: {run}: {reason}", file=sys.stderr)
    return graphs, facts


def _check_arguments(
    config: Search,
    photos: FitPhotos | None,
    score_threshold: float | None,
    settings_from: Path | None,
    int8: Sequence[str],
) -> None:
    """Raise UserError when arguments of pack_bundle exclude each other."""
    given = {"--data": photos is not None and not int8, "--score-threshold": score_threshold is not None}
    if settings_from is not None and any(given.values()):
        flags = " and ".join(flag for flag, is_given in given.items() if is_given)
        raise UserError(f"--settings-from takes all settings from that bundle; leave out {flags}")
    if set(int8) - {"classifier"} and not isinstance(config, CascadeConfig):
        raise UserError("--int8: the stock cascade's nets stay in float32; use --int8 classifier")
    if int8 and photos is None:
        raise UserError("--int8 measures ranges on training photos; name them with --data")


def _store_weights(graphs: Mapping[str, bytes], dtype: WeightsDtype) -> dict[str, bytes]:
    """Return the graphs with their weights stored in a type; check float16 against the graphs that torch checked."""
    stored = {name: store_weights(graph, dtype) for name, graph in graphs.items()}
    if dtype == "float16":
        for name in graphs:
            check_stored(name, graphs[name], stored[name], 1.0 if name == "classifier" else PIXEL_SCALE)
    return stored


def _unfitted_meta(
    classifier: ClassifierSource, config: Search, stage1: Mapping[str, Any], photos: FitPhotos | None, note: str
) -> BundleMeta:
    """Return the bundle's metadata, with the origin of its parts, before any setting is fitted."""
    splits_sha256 = None if photos is None else photos.splits_sha256
    provenance = {
        "stage1": stage1,
        "stage2": dict(classifier.origin),
        "data": {"class_counts": classifier.class_counts, "splits_sha256": splits_sha256},
        "commit": git_revision(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
        "note": note,
    }
    own = classifier.meta
    return BundleMeta(
        class_names=own.class_names,
        input_size=own.input_size,
        mean=own.mean,
        std=own.std,
        margin=own.margin,
        search=config,
        score_threshold=DEFAULT_SCORE,
        fusion=classifier.fusion,
        metrics={"val_crops": dict(classifier.metrics)},
        provenance=provenance,
    )


def _fit(
    meta: BundleMeta,
    graphs: Mapping[str, bytes],
    out: Path,
    val: Sequence[AnnotatedImage],
    choose_threshold: bool,
    classifier_weight: bool = True,
) -> BundleMeta:
    """Return the metadata with settings fitted and metrics measured on validation photos.

    Without `classifier_weight`, stage 2 has no weight in the face score.
    """
    if isinstance(meta.search, CascadeConfig):
        with progress() as bar:
            images = bar.track(val, description="calibrating scores")
            meta = replace(meta, search=calibrate_cascade(Bundle(out, meta, graphs).detector(), meta.search, images))
    meta = _fit_fusion(meta, graphs, out, val, classifier_weight)
    metrics, threshold = validation_metrics(Predictor(Bundle(out, meta, graphs)), val)
    meta = replace(meta, metrics={**meta.metrics, "val": metrics})
    return replace(meta, score_threshold=threshold) if choose_threshold else meta


def _fit_with_second_look(
    meta: BundleMeta,
    fit: Callable[..., BundleMeta],
    graphs: Mapping[str, bytes],
    out: Path,
    val: Sequence[AnnotatedImage],
) -> BundleMeta:
    """Return the metadata fitted with and without O-Net's second pass, whichever is better."""
    return fit_second_look(meta, fit, lambda fitted: Predictor(Bundle(out, fitted, graphs)), val)


def _fit_fusion(
    meta: BundleMeta, graphs: Mapping[str, bytes], out: Path, val: Sequence[AnnotatedImage], classifier_weight: bool
) -> BundleMeta:
    """Return the metadata with the fusion fitted, the calibration error before and after, and the boxes' precision."""
    meta = replace(meta, fusion=ScoreFusion(flip_tta=True))
    bundle = Bundle(out, meta, graphs)
    with progress() as bar:
        images = bar.track(val, description="fitting the score fusion")
        outputs = collect_outputs(Predictor(bundle), bundle.detector(), images, True)
    if not classifier_weight:
        outputs = [without_face_logits(o) for o in outputs]
    fusion = fit_fusion(outputs, meta.margin, flip_tta=True)
    before = uncalibrated(meta.search) if isinstance(meta.search, CascadeConfig) else meta.fusion
    error = {"before": calibration_error(before, outputs), "after": calibration_error(fusion, outputs)}
    metrics: dict[str, Any] = {"val_calibration_error": error}
    if any(o.second for o in outputs):
        metrics["val_box_AP50-95"] = best_precision(box_precision(fusion, outputs, meta.margin))
    return replace(meta, fusion=fusion, metrics={**meta.metrics, **metrics})


def _take_settings(meta: BundleMeta, other: BundleMeta, path: Path | None, has_objectness: bool) -> BundleMeta:
    """Return `meta` with another bundle's settings and metrics. Raise UserError when the recipes differ."""
    if other.fusion.classifier_weight and not has_objectness:
        need = "its face scores need a classifier with objectness, which these runs do not have"
        raise UserError(f"{path}: {need}; name another bundle")
    for name in ("class_names", "input_size", "margin", "cascade"):
        if getattr(meta, name) != getattr(other, name):
            differs = f"its {name} {getattr(other, name)} is not {getattr(meta, name)}"
            raise UserError(f"{path}: {differs}; name a bundle of the same recipe")
    own, others = (set(each.provenance.get("int8", ())) for each in (meta, other))
    if own != others:
        advice = "name a bundle of the same recipe"
        raise UserError(f"{path}: its nets in INT8 ({_listed(others)}) are not these ({_listed(own)}); {advice}")
    origin = {
        "weights_and_metrics": SETTINGS_FROM_NOTE,
        "settings_and_metrics_from": {"sha256": dict(other.sha256), "data": other.provenance.get("data")},
    }
    settings = {name: getattr(other, name) for name in ("search", "fusion", "score_threshold", "metrics")}
    return replace(meta, **settings, provenance={**meta.provenance, **origin})


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _stock_cascade(config: MtcnnConfig, photos: FitPhotos | None) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the stock cascade's graphs, its box bias corrected if there are photos, and their provenance."""
    graphs = export_cascade(stock_nets(), STOCK)
    facts: dict[str, Any] = {"weights": "facenet-pytorch 2.5.3, stock"}
    if photos is not None:
        pnet, rnet, onet = (load_graph(graphs[name], name) for name in ("pnet", "rnet", "onet"))
        detector = MtcnnDetector(pnet, rnet, onet, config)
        with progress() as bar:
            bias = measure_box_bias(detector, bar.track(photos.train, description="measuring the box bias"))
        graphs["onet"] = export_net("onet", stock_nets(bias.edges)["onet"], STOCK["onet"])
        facts["box_shift"] = asdict(bias)
    return graphs, facts


def _check_labels(photos: FitPhotos, class_names: Sequence[str]) -> None:
    """Raise UserError when a photo has a class that the classifier does not know."""
    images = (*photos.train, *photos.val)
    unknown = sorted({label for image in images for label in image.labels} - set(class_names))
    for image in images:
        if own := sorted(set(image.labels) & set(unknown)):
            known = f"class {own[0]!r} is not a class of the run ({', '.join(class_names)})"
            advice = f"use the data that the run was trained on, or {rename_advice(unknown, class_names)}"
            raise UserError(f"{image.path}: {known}; {advice}")
