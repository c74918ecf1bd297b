"""The report of a trained baseline, scored as by pipeline.evaluate: how good, how large, how fast."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.annotations import AnnotatedImage
from common.cli import console, progress
from common.files import write_text
from pipeline.baseline.fit import find_faces, seconds_per_photo
from pipeline.baseline.model import MAX_DETECTIONS, MIN_SCORE
from pipeline.baseline.run_folder import load_best
from pipeline.bench.environment import machine_info
from pipeline.evaluate.coco_results import write_results
from pipeline.evaluate.evaluation import DetectionEvaluation, EvaluationSettings, evaluate_samples
from pipeline.evaluate.metrics import Sample
from pipeline.evaluate.report import Table, markdown, number, show, tables, to_json
from pipeline.evaluate.slices import FaceAttributes, face_attributes


def write_report(
    out: Path,
    split: str,
    images: Sequence[AnnotatedImage],
    notes: Sequence[str],
    settings: EvaluationSettings,
    device: torch.device,
) -> None:
    """Score the best epoch of a run, print the tables, and write the predictions and the report.

    `notes` start the report. The network detects on `device`, but the time per photo is always the CPU's. Raises
    UserError when best.safetensors cannot be used.
    """
    file = out / "best.safetensors"
    model, best = load_best(file)
    seconds = seconds_per_photo(model, images)  # before the model leaves the CPU
    samples, attributes = _detect(model.to(device), images, best.class_names)
    threshold_from = "best F1 on validation photos"
    evaluation = evaluate_samples(
        samples, best.class_names, settings, best.model, best.threshold, threshold_from, seconds, attributes
    )
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    record = {
        "model": best.model,
        "split": split,
        "photos": len(images),
        "incomplete_photos": sum(not image.complete for image in images),
        "best_epoch": best.epoch,
        "val_map50": best.map50,
        "parameters": sum(p.numel() for p in model.parameters()),
        "megabytes": file.stat().st_size / 1e6,
        "seconds_a_photo": seconds,
        "threads": torch.get_num_threads(),
        "machine": machine_info(),
        "config": config,
        "detector": to_json(evaluation),
    }
    faces = sum(len(image.boxes) for image in images)
    notes = [
        *notes,
        f"split {split}: {len(images)} photos with {faces} faces; bootstrap seed {settings.seed}",
        f"epoch {best.epoch} of {config['epochs']}, with the best mAP50 on validation photos: {best.map50:.3f}",
        f"detections from score {MIN_SCORE:g} on, at most {MAX_DETECTIONS} a photo; "
        f"none in {evaluation.silent_images} photos",
    ]
    write_results(out / "predictions.coco.json", samples, images, best.class_names)
    write_text(out / "baseline.json", json.dumps({**record, "notes": notes}, indent=1) + "\n")
    shown = [summary(evaluation, record), *tables([evaluation])]
    write_text(out / "baseline.md", markdown(f"One stage: {best.model}", notes, shown))
    show(shown, notes)
    console().print(f"report: {out / 'baseline.md'}", markup=False, highlight=False)


def _detect(
    model: nn.Module, images: Sequence[AnnotatedImage], class_names: Sequence[str]
) -> tuple[list[Sample], list[FaceAttributes]]:
    attributes: list[FaceAttributes] = []
    with progress() as bar:
        task = bar.add_task("detecting", total=len(images))

        def measure(image: AnnotatedImage, pixels: NDArray[np.uint8]) -> None:
            attributes.append(face_attributes(pixels, image.boxes))
            bar.advance(task)

        samples = find_faces(model, images, class_names, measure)
    return samples, attributes


def summary(evaluation: DetectionEvaluation, record: dict[str, Any]) -> Table:
    """Return the table of accuracy, size and time; `record` is the content of baseline.json."""
    # As in COCO's protocol for one-stage detectors: a box counts once for each class that has a score.
    scores, threads = evaluation.each_class, record["threads"]
    mean = scores.mean.overall
    rows = [
        ("mAP50", number(mean.ap50)),
        ("mAP50-95", number(mean.ap)),
        *((f"AP50 {c.name}", number(c.overall.ap50)) for c in scores.classes),
        ("parameters", f"{record['parameters']:,}"),
        ("size of the weights' file, MB", f"{record['megabytes']:.1f}"),
        ("median seconds a photo on the CPU", f"{record['seconds_a_photo']:.3f}"),
    ]
    note = f"{record['machine']['cpu']}, {threads} thread{'s' if threads > 1 else ''}; reading photos is not timed."
    return Table("Summary", ("", evaluation.name), tuple(rows), note)
