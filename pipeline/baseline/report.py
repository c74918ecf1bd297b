"""Scores a trained baseline as pipeline.evaluate scores, and writes its report: how good, how large, how fast."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.annotations import AnnotatedImage
from common.cli import console, progress
from common.files import write_text
from pipeline.baseline.fit import find_faces, seconds_a_photo
from pipeline.baseline.model import FLOOR, MOST
from pipeline.baseline.run_folder import load_best
from pipeline.bench.environment import machine
from pipeline.evaluate.coco_results import write_results
from pipeline.evaluate.evaluation import DetectionEvaluation, Settings, evaluate_samples
from pipeline.evaluate.report import Table, tables, to_json
from pipeline.evaluate.slices import FaceAttributes, face_attributes


def report(
    out: Path,
    split: str,
    images: Sequence[AnnotatedImage],
    facts: Sequence[str],
    settings: Settings,
    device: torch.device,
) -> None:
    """Scores the best epoch of the run in `out` on `images`, prints the tables, writes the predictions and the report.

    facts: remarks that open the report. Raises UserError when best.safetensors cannot be used.
    """
    file = out / "best.safetensors"
    model, best = load_best(file)
    seconds = seconds_a_photo(model, images)  # still on the CPU
    model.to(device)
    with progress() as bar:
        task = bar.add_task("detecting", total=len(images))
        looks: list[FaceAttributes] = []

        def seen(image: AnnotatedImage, pixels: NDArray[np.uint8]) -> None:
            looks.append(face_attributes(pixels, image.boxes))
            bar.advance(task)

        samples = find_faces(model, images, best.class_names, seen)
    chosen = "best F1 on validation photos"
    evaluation = evaluate_samples(
        samples, best.class_names, settings, best.model, best.threshold, chosen, seconds, looks
    )
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    record = {
        "model": best.model,
        "split": split,
        "photos": len(images),
        "best_epoch": best.epoch,
        "val_map50": best.map50,
        "parameters": sum(p.numel() for p in model.parameters()),
        "megabytes": file.stat().st_size / 1e6,
        "seconds_a_photo": seconds,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "config": config,
        "detector": to_json(evaluation),
    }
    faces = sum(len(image.boxes) for image in images)
    facts = [
        *facts,
        f"split {split}: {len(images)} photos with {faces} faces; bootstrap seed {settings.seed}",
        f"epoch {best.epoch} of {config['epochs']}, with the best mAP50 on validation photos: {best.map50:.3f}",
        f"detections from score {FLOOR:g} on, at most {MOST} a photo; none in {evaluation.silent_images} photos",
    ]
    write_results(out / "predictions.coco.json", samples, images, best.class_names)
    write_text(out / "baseline.json", json.dumps({**record, "notes": facts}, indent=1) + "\n")
    shown = [summary(evaluation, record), *tables([evaluation])]
    lines = [f"# One stage: {best.model}\n", "\n".join(f"- {fact}" for fact in facts) + "\n"]
    write_text(out / "baseline.md", "\n".join([*lines, *(table.markdown() for table in shown)]))
    screen = console()
    for table in shown:
        screen.print(table.rich())
    for fact in facts:
        screen.print(f"- {fact}", markup=False, highlight=False)
    screen.print(f"report: {out / 'baseline.md'}", markup=False, highlight=False)


def summary(evaluation: DetectionEvaluation, record: dict[str, Any]) -> Table:
    """How well it finds, how large it is, how long it takes."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    # As COCO's protocol has it for one-stage detectors: a box counts once for each class that it has a score for.
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
