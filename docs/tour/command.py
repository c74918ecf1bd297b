"""Command: run the whole course from photos to a detector, and write tour.md and its pictures.

The project's own commands run one after the other in a work folder. After a kill, the same command resumes with the
first command that was not finished. If all are finished, it only writes the tour again.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.annotations import Annotations, ReadingArgs, load_dataset
from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.errors import UserError
from common.files import check_writable_folder, with_file_name, write_bytes, write_text
from common.run_folder import RunFolder
from common.splits import read_splits
from docs.tour.plan import (
    ALTERNATIVES,
    BASELINE,
    DETECTIONS,
    EVALUATION,
    PREVIEW,
    RESERVED,
    RUNS,
    SECOND_SEED,
    SPLITS_FILE,
    VAL_REPORT,
    TourPlan,
    choose_run,
)
from docs.tour.portrait import FOLDER, PHOTO, write_portraits
from docs.tour.runner import StepResult, StepRunner, TourStep
from pipeline.data.checks import check_apart
from pipeline.training.steps import RESUMABLE

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_FILE, PICTURE_FOLDER, TEMPLATE = "tour.md", "tour", "tour.md.j2"
MIN_EPOCHS = 3  # the learning rate rises over the first two
LINE_WIDTH = 120  # characters
FENCE, NOT_WRAPPED = "```", ("|", "#", "!")
PURPOSES = {
    "bundle.json": "settings of the graphs, and their origin",
    "classifier.onnx": "stage 2",
    "onet.onnx": "stage 1: refines the boxes, finds landmarks",
    "pnet.onnx": "stage 1: proposes faces at every size",
    "rnet.onnx": "stage 1: refuses most proposals",
}

# The present flag by its name in earlier versions.
RENAMED_FLAGS = {"--work": "--work-dir"}


@dataclass(frozen=True)
class TourArgs(ReadingArgs):
    """Run the whole course on annotated photos, shortened, and write OUT/tour.md with pictures in OUT/tour.

    No photo of the data is shown. A public-domain portrait is shown where a face is needed.
    """

    data: Path
    """Annotated dataset: a folder in one of the formats of docs/datasets.md."""
    out: Path = Path("docs")
    """Folder of tour.md."""
    work_dir: Path = Path("runs/tour")
    """Folder of all results, where the same command resumes after a kill. Remove it to start again."""
    epochs: int = 12
    """Epochs of each training."""


def run(args: TourArgs) -> int:
    """Run the remaining steps, and write the tour."""
    _check_args(args)
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (missing: an error before minutes of training)
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import torch  # noqa: F401
    from common.annotations.types import fingerprint

    data = args.data.resolve()
    annotations = load_dataset(args.data, args)
    if len(annotations.class_names) < 2:
        raise UserError(f"{args.data}: has only one class, but a classifier needs two; give other --data")
    record = {"data": fingerprint(annotations.images), "name": data.name, "epochs": args.epochs}
    with RunFolder(args.work_dir, "tour", "--work-dir", "tour.json").held(record):
        work = args.work_dir.resolve()
        _link(data, work / data.name)
        if not (work / FOLDER / "splits.csv").is_file():
            write_portraits(work)
        runner = _LoggingRunner(work, [(data, data.name)])
        reading = ReadingArgs(rename=args.rename, unlabelled=args.unlabelled)
        plan = TourPlan(data.name, len(annotations.class_names), args.epochs, reading)
        plan.run_until_choice(runner)
        chosen = choose_run(work)
        plan.run_from_choice(runner, chosen)
        _write(args, work, annotations, runner.done, chosen)
    console().print(f"wrote {args.out / PAGE_FILE}", markup=False, highlight=False)
    return 0


class _LoggingRunner(StepRunner):
    """A step runner that prints each command before it runs."""

    def run(self, step: TourStep) -> StepResult:
        first = step.command_line.splitlines()[0] if step.command else f"({step.name}: a few lines of Python)"
        console().print(f"$ {first}", markup=False, highlight=False)
        return super().run(step)


def _check_args(args: TourArgs) -> None:
    """Raise UserError on arguments that can be refused before the work."""
    if args.epochs < MIN_EPOCHS:
        raise UserError(f"--epochs {args.epochs}: use {MIN_EPOCHS} or more")
    data = args.data.resolve()
    for flag, path in (("--work-dir", args.work_dir), ("--out", args.out)):
        check_apart(args.data, path, flag)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file; name a folder with {flag}")
        check_writable_folder(path)
    if data.name in RESERVED:
        raise UserError(f"{args.data}: the tour needs the name {data.name} itself; rename the folder")


def _link(data: Path, link: Path) -> None:
    """Link the data into the work folder, so that commands and their output name no other place."""
    if link.is_symlink():
        link.unlink()  # it may point to an earlier place of the data
    with with_file_name(link):
        link.symlink_to(data, target_is_directory=True)


def _write(args: TourArgs, work: Path, annotations: Annotations, done: dict[str, StepResult], chosen: str) -> None:
    """Draw the pictures, then write the page."""
    from docs.tour.facts import collect_facts

    facts = collect_facts(work, annotations, args.epochs, chosen)
    _draw(args, work, annotations, facts)
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            **facts,
            steps=done,
            data=args.data.resolve().name,
            base_run=facts["runs"][BASELINE],
            purposes=PURPOSES,
            minutes=sum(ran.seconds for ran in done.values()) / 60,
        )
    )
    write_text(args.out / PAGE_FILE, wrap_markdown(page))


def wrap_markdown(page: str) -> str:
    """Return Markdown with paragraphs and list items wrapped; code, tables, headings and pictures stay unchanged."""
    blocks = page.split("\n\n")
    inside = False  # whether a code block with empty lines is open
    for k, block in enumerate(blocks):
        continued = inside
        inside ^= block.count(FENCE) % 2 == 1
        if not continued and FENCE not in block and not block.lstrip().startswith(NOT_WRAPPED):
            items = re.split(r"\n(?=- |\d+\. \[)", block.strip("\n"))
            blocks[k] = "\n".join(_wrap_item(item) for item in items)
    return "\n\n".join(blocks).rstrip("\n") + "\n"


def _wrap_item(text: str) -> str:
    """Return one paragraph or list item, wrapped."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(
        " ".join(text.split()), LINE_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _draw(args: TourArgs, work: Path, annotations: Annotations, facts: dict[str, Any]) -> None:
    """Draw the pictures from the results, and copy those that steps drew."""
    from docs.tour import figures
    from docs.tour.facts import read_groups, training_counts

    out = args.out / PICTURE_FOLDER
    base = replace(facts["base"], epochs=args.epochs)
    names, counts = training_counts(work)
    figures.draw_set(annotations, base.input_size, out / "set.png")
    figures.draw_split(annotations, read_splits(work / SPLITS_FILE), read_groups(work), out / "split.png")
    figures.draw_crop(work / FOLDER, facts["crops"]["margin"], base.margin, base.input_size, out / "crop.png")
    figures.draw_shares(names, counts, base.sampler_power, out / "draws.png")
    figures.draw_model(base, names, out / "model.png")
    updates = max(sum(counts) // base.batch_size, 1)
    figures.draw_loss_and_rate(base, updates, len(names), out / "loss_and_rate.png")
    runs = {name: work / RUNS / name for name in (BASELINE, *ALTERNATIVES, SECOND_SEED)}
    histories = {name: figures.read_history(run) for name, run in runs.items()}
    scores = {name: (run["train_f1"], run["f1"]) for name, run in facts["runs"].items()}
    figures.draw_comparison(histories, scores, out / "comparison.png")
    figures.draw_errors(facts["test"]["detector"], out / "errors.png")
    for source, name in (
        (work / PREVIEW, "augmentation.png"),
        (work / RUNS / BASELINE / "curves.png", "curves.png"),
        (work / VAL_REPORT / facts["chosen"] / "confusion_matrix.png", "confusion_crops.png"),
        (work / EVALUATION / "confusion_matrix.png", "confusion_end_to_end.png"),
        (work / DETECTIONS / PHOTO, "detection.jpg"),
    ):
        write_bytes(out / name, source.read_bytes())


def _environment() -> Environment:
    """Return the template environment with number formats."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    filters: dict[str, Callable[[Any], str]] = {
        "f1": "{:.1f}".format,
        "f3": "{:.3f}".format,
        "pct": "{:.0%}".format,
        "pct1": "{:.1%}".format,
        "thousands": "{:,}".format,
        "cell": lambda text: str(text).replace("|", "\\|"),
    }
    environment.filters.update(filters)
    return environment


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m docs.tour`."""

    def command() -> int:
        return run(parse_args(TourArgs, argv, "docs.tour", RENAMED_FLAGS, description=__doc__))

    return run_cli(command, interrupted=RESUMABLE)
