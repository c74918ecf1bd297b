"""Writes a model folder for the Hugging Face Hub: card with front matter, configuration and the graph."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pipeline.export.folders import FolderKind
from pipeline.export.graph.detector_graph import INPUTS, OUTPUTS, detector_graph
from pipeline.inference.bundle import REPORT, Bundle
from pipeline.inference.bundle_meta import BundleMeta
from pipeline.inference.provenance import recorded_sources

MODEL, CARD, CONFIG, ATTRIBUTES = "model.onnx", "README.md", "config.json", ".gitattributes"
MODEL_TYPE = "face-mask-detector"
TASK = "object-detection"
TAGS = ["onnx", "face-detection", "face-mask-detection", "mtcnn", "image-classification"]
# The bundle's figures on validation photos, as the card shows them.
FIGURES = {
    "mAP50": "mAP50",
    "mAP50-95": "mAP50-95",
    "face_AP50": "face AP50",
    "face_recall50": "face recall at IoU 0.5",
}
LARGE_FILES = "*.onnx filter=lfs diff=lfs merge=lfs -text\n"  # for those who push with git


def _written_files(folder: Path) -> frozenset[str]:
    """Return the files that this module writes; none where the folder is not one that it wrote."""
    try:
        own = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_type"] == MODEL_TYPE
    except (OSError, ValueError, KeyError, TypeError):
        own = False
    return frozenset({MODEL, CARD, CONFIG, ATTRIBUTES, REPORT}) if own else frozenset()


HUB_FOLDER = FolderKind("--hub", "a model folder", _written_files)


def hub_files(bundle: Bundle) -> dict[str, bytes]:
    """Return the files of a model folder by name.

    Raises:
        UserError: the bundle has the stock cascade.
    """
    files = {
        MODEL: detector_graph(bundle).SerializeToString(),
        CONFIG: (json.dumps(_config(bundle.meta), indent=2) + "\n").encode(),
        CARD: _card(bundle).encode(),
        ATTRIBUTES: LARGE_FILES.encode(),
    }
    return {**files, REPORT: (bundle.path / REPORT).read_bytes()} if _has_report(bundle) else files


def _has_report(bundle: Bundle) -> bool:
    """Return whether there is a report, and of these nets."""
    return bool(bundle.meta.metrics) and (bundle.path / REPORT).is_file()


def _config(meta: BundleMeta) -> dict[str, Any]:
    """Return config.json: the classes under the names that the Hub's libraries use, and what the numbers mean."""
    return {
        "model_type": MODEL_TYPE,
        "id2label": {str(k): name for k, name in enumerate(meta.class_names)},
        "label2id": {name: k for k, name in enumerate(meta.class_names)},
        "score_threshold": meta.score_threshold,
        "unsure_margin": meta.fusion.unsure_margin,
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "bundle_sha256": dict(meta.sha256),
        "provenance": meta.provenance,
    }


def _card(bundle: Bundle) -> str:
    """Return the model card: YAML front matter, then Markdown."""
    meta = bundle.meta
    figures = {name: value for name, value in meta.metrics.get("val", {}).items() if name in FIGURES}
    front = ModelCardData(
        license="mit",
        library_name="onnx",
        pipeline_tag=TASK,
        tags=TAGS,
        model_name="mask-detector" if figures else None,
        eval_results=[_result(meta, name, value) for name, value in figures.items()] or None,
    )
    text = Template((Path(__file__).parent / "hub-card.md").read_text(encoding="utf-8")).substitute(
        classes=", ".join(meta.class_names),
        threshold=f"{meta.score_threshold:g}",
        inputs=_rows(INPUTS),
        outputs=_rows(OUTPUTS),
        figures=_figures(bundle, figures),
        origin="\n".join(f"- {line}" for line in _origin(meta.provenance)),
    )
    return f"---\n{front.to_yaml()}\n---\n\n{text}"


def _result(meta: BundleMeta, name: str, value: float) -> EvalResult:
    """Return a figure as the Hub's index of models has it."""
    dataset = next(iter(_sources(meta.provenance)), "annotated photos")
    return EvalResult(
        task_type=TASK,
        dataset_type=dataset.replace(" ", "-"),
        dataset_name=f"{dataset}: validation photos{_whose(meta)}",
        dataset_split="validation",
        metric_type=name,
        metric_name=FIGURES[name],
        metric_value=round(value, 4),
    )


def _whose(meta: BundleMeta) -> str:
    """Return what the figures are of, if not of these weights."""
    return " (of the same recipe, trained without them)" if "settings_and_metrics_from" in meta.provenance else ""


def _rows(meanings: Mapping[str, str]) -> str:
    """Return the rows of a Markdown table."""
    return "\n".join(f"| `{name}` | {meaning} |" for name, meaning in meanings.items())


def _figures(bundle: Bundle, figures: Mapping[str, float]) -> str:
    """Return the section of the figures."""
    if not figures:
        changed = "its nets were stored in INT8 after the figures were measured"
        reason = changed if bundle.meta.provenance.get("int8") else "it was packed without annotated photos"
        return f"The bundle has none: {reason}."
    photos = bundle.meta.metrics["val"]["photos"]
    rows = "\n".join(f"| {FIGURES[name]} | {value:.3f} |" for name, value in figures.items())
    table = f"| on {photos} validation photos | |\n| --- | --- |\n{rows}"
    chosen = "Calibration and threshold were chosen on the same photos."
    apart = "These figures are of weights that had not seen those photos; the weights here learned from all photos."
    notes = [chosen, *([apart] if "settings_and_metrics_from" in bundle.meta.provenance else [])]
    more = [f"[{REPORT}]({REPORT}) has the figures on test photos."] if _has_report(bundle) else []
    return f"{table}\n\n{' '.join([*notes, *more])}"


def _origin(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on what the weights learned from, and on their licences."""
    for name in recorded_sources(provenance) or ():
        facts = _sources(provenance).get(name, {})
        counts = ", ".join(f"{facts[what]} {what}" for what in ("photos", "faces") if what in facts)
        yield f"learned from `{name}`: {counts or 'numbers not recorded'}"
    if recorded_sources(provenance) is None:
        yield "learned from one set of annotated photos; the bundle does not record its name"
    stage2 = provenance.get("stage2") or {}
    for one in stage2.get("mean_of", [stage2]):
        if pretrained := one.get("pretrained"):
            origin = f"{pretrained['origin']} ({pretrained['package']}, {pretrained['licence']})"
            yield f"{one['model']} started from {origin}"
    if int8 := provenance.get("int8"):
        yield f"computes in INT8: {', '.join(int8)}"
    yield "O-Net started from facenet-pytorch's weights (MIT)"
    yield "the graph, its code and its weights: MIT"


def _sources(provenance: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return {name: facts} of the datasets that the cascade learned from; empty where the bundle does not say."""
    return (provenance.get("stage1") or {}).get("sources") or {}
