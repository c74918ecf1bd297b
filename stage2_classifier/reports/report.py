"""Command: score trained runs on a split of crops, and compare them in a report.

    python -m stage2_classifier.report runs/baseline runs/opt_sgd [--crops DIR] [--split val] [--out reports]

Writes OUT/<run>/: classification_report.json, predictions.csv, confusion_matrix.png, pr_curves.png, mistakes.png,
curves.png, augmentation.png; and OUT/report.html (self-contained) and OUT/report.md over all runs.
"""

from __future__ import annotations

import base64
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import tyro
from jinja2 import Environment, PackageLoader, StrictUndefined

from common.arguments import parse_args
from common.cli import console, progress, run_cli
from common.errors import UserError
from common.files import atomic_text, check_writable_folder, write_bytes, write_text
from stage2_classifier.data.crop_manifest import CropSet, read_crop_set
from stage2_classifier.reports.evaluation import CropEvaluation, check_fits, evaluate, macro_f1_interval, scores
from stage2_classifier.reports.figures import save_confusion_matrix, save_mistakes, save_pr_curves
from stage2_classifier.reports.preview import save_training_views
from stage2_classifier.reports.run_comparison import ScoredRun, answer_topics, find_baseline
from stage2_classifier.reports.runs import TrainedRun, read_run
from stage2_classifier.reports.timeline import build_timeline
from stage2_classifier.training.checkpoint import load_model

PICTURES = {
    "confusion_matrix.png": "Confusion matrix: crops, and shares of each true class",
    "pr_curves.png": "Precision against recall",
    "mistakes.png": "The worst mistakes: true class, predicted class, its probability",
    "curves.png": "Training",
    "augmentation.png": "Training crops: as inference sees them, then as this training drew them, epoch by epoch",
}


@dataclass(frozen=True)
class ReportArgs:
    """Score trained runs and compare them in a report."""

    runs: tyro.conf.Positional[tuple[Path, ...]]  # Run folders made by stage2_classifier.train.
    crops: Path = Path("crops")  # Folder of crops made by pipeline.build_crops.
    split: Literal["val", "test"] = "test"  # The crops to score on.
    out: Path = Path("reports")  # Folder of the report.
    # --no-faces leaves out pictures of people (worst mistakes, training crops), so that the report can be shared.
    faces: bool = True


@dataclass(frozen=True)
class PagePicture:
    """A picture of a run."""

    file: str
    title: str
    data_uri: str  # the file's content, so that the HTML page needs no other file


@dataclass(frozen=True)
class RunPage:
    """One run's part of the report."""

    name: str
    link: str  # the run's folder, quoted for a link
    scores: dict[str, Any]
    pictures: tuple[PagePicture, ...]


def run(args: ReportArgs) -> int:
    """Check all inputs first, so that a wrong folder costs no time; then predict, draw and write."""
    if not args.runs:
        raise UserError("no run given; name at least one run folder")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: is a file; name a folder with --out")
    check_writable_folder(args.out)
    runs = [read_run(folder) for folder in args.runs]
    names = [trained.name for trained in runs]
    if len(set(names)) < len(names):
        raise UserError(f"runs: two have the name {max(names, key=names.count)}; rename one of the folders")
    crops = read_crop_set(args.crops)
    for trained in runs:
        check_fits(load_model(trained.weights)[1], crops, trained.name)
    scored_runs, pages = [], []
    with progress() as bar:
        for trained in bar.track(runs, description="runs"):
            scored, page = score_run(trained, crops, args.split, args.out / trained.name, args.faces)
            scored_runs.append(scored)
            pages.append(page)
    write_report(args.out, scored_runs, pages, args.split)
    for scored in sorted(scored_runs, key=lambda s: -s.f1):
        console().print(f"{scored.run.name}: {args.split} accuracy {scored.accuracy:.3f}, macro-F1 {scored.f1:.3f}")
    console().print(f"wrote {args.out / 'report.html'} and {args.out / 'report.md'}")
    return 0


def score_run(run: TrainedRun, crops: CropSet, split: str, out: Path, faces: bool = True) -> tuple[ScoredRun, RunPage]:
    """Score one run on a split and write the run's files into `out`; without `faces`, no pictures of crops."""
    model, meta = load_model(run.weights)
    evaluation = evaluate(model, meta, crops, split)
    found = scores(evaluation)
    low, high = found["macro_f1_interval_95"]
    splits = {record.split for record in crops.records}
    train_f1 = float(scores(evaluate(model, meta, crops, "train"))["macro_f1"]) if "train" in splits else None
    val_interval = (low, high) if split == "val" else None
    if split != "val" and "val" in splits:
        val_interval = macro_f1_interval(evaluate(model, meta, crops, "val"))
    write_predictions(evaluation, out / "predictions.csv")
    details = {"run": run.name, "model": meta.model, "epoch": meta.epoch, **found, "train_macro_f1": train_f1}
    write_text(out / "classification_report.json", json.dumps(details, indent=2) + "\n")
    save_confusion_matrix(evaluation, out / "confusion_matrix.png")
    save_pr_curves(evaluation, out / "pr_curves.png")
    for name in ("mistakes.png", "augmentation.png"):  # of an earlier report
        (out / name).unlink(missing_ok=True)
    if faces:
        save_mistakes(evaluation, out / "mistakes.png")
        views = out / "augmentation.png"
        try:  # the crops may lack what the training used
            save_training_views(views, run.train_config, crops, (meta.mean, meta.std), per_class=2, versions=6)
        except UserError as error:
            print(f"warning: {run.name}: no picture of its training crops ({error})", file=sys.stderr)
    curves = run.folder / "curves.png"
    if curves.is_file():
        write_bytes(out / "curves.png", curves.read_bytes())
    else:
        (out / "curves.png").unlink(missing_ok=True)  # of an earlier report
    scored = ScoredRun(run, found["accuracy"], found["macro_f1"], low, high, train_f1, val_interval)
    drawn = {file: title for file, title in PICTURES.items() if (out / file).is_file()}
    pictures = tuple(PagePicture(file, title, _data_uri(out / file)) for file, title in drawn.items())
    return scored, RunPage(run.name, quote(run.name), found, pictures)


def write_predictions(evaluation: CropEvaluation, path: Path) -> None:
    """Write one row per crop: path, true and predicted label, confidence, and each class's probability."""
    names = evaluation.class_names
    with atomic_text(path, newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("path", "label", "predicted", "confidence", *(f"p_{name}" for name in names)))
        rows = zip(evaluation.dataset.records, evaluation.predicted, evaluation.probs, strict=True)
        for record, predicted, probs in rows:
            shown = (f"{p:.6f}" for p in (probs.max(), *probs))
            writer.writerow((record.path, record.label, names[predicted], *shown))


def write_report(out: Path, scored_runs: Sequence[ScoredRun], pages: Sequence[RunPage], split: str) -> None:
    """Write report.html and report.md over all runs."""
    first = find_baseline([scored.run for scored in scored_runs])
    baseline = next(scored for scored in scored_runs if scored.run is first)
    context = {
        "split": split,
        "crops": pages[0].scores["crops"],
        "baseline": baseline,
        "table": sorted(scored_runs, key=lambda s: -s.val_f1),
        "timeline": build_timeline(scored_runs, baseline),
        "answers": answer_topics(scored_runs, baseline),
        "pages": pages,
    }
    for name in ("report.html", "report.md"):
        environment = Environment(
            loader=PackageLoader("stage2_classifier.reports"),
            autoescape=name.endswith(".html"),
            undefined=StrictUndefined,
            keep_trailing_newline=True,
        )
        environment.filters.update(cell=_cell, when=_when)
        write_text(out / name, environment.get_template(f"{name}.j2").render(context))


def _cell(text: object) -> str:
    """Escape text for a cell of a Markdown table, without HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _when(time: datetime | None) -> str:
    """Return a time to the minute in UTC."""
    return "—" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def _data_uri(file: Path) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_cli(lambda: run(parse_args(ReportArgs, argv, "stage2_classifier.report")))
