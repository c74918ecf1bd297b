"""Write every figure of the documentation from results, so that no figure is typed.

Example: python -m pipeline.evaluate.figures --results docs/results --pages MODEL_CARD.md README.md

--results has one folder per bundle, kaggle/ and default/. Files are found by name in them, at any depth:
  crossval.json: of pipeline.crossval.
  left_out_NAME.json: the evaluation.json of a bundle that learned from all sources but NAME, on NAME.
  evaluation.json: of pipeline.evaluate, on one or more datasets, with --face-free or without.
  measured.json: what no command writes, such as {"time": {"value": 1.05, "low": 1.02, "high": 1.08}}; the keys are
    time and training_hours.
What is missing is an empty cell. Figures on photos that a bundle learned from are left out of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.arguments import parse_args
from common.cli import console, run_cli
from common.errors import UserError
from common.files import write_text
from pipeline.evaluate.figures.results import Record, read_column, read_json, read_reference
from pipeline.evaluate.figures.rows import COLUMNS
from pipeline.evaluate.figures.sections import all_sections, fill_sections

PAGE = """# Figures

Written by `python -m pipeline.evaluate.figures`; do not edit by hand. An empty cell is not measured yet. ± is the
standard deviation over the folds, brackets hold 95% intervals over photos. "below" and "above" mark a missed target.
Where a cell has two targets, the first is of `kaggle` and the second of `default`.

{targets}
{peers}
"""


@dataclass(frozen=True)
class FiguresArgs:
    """Write docs/figures.md, and the marked sections of other pages."""

    results: Path
    """Folder with one folder of results per bundle: kaggle and default."""
    out: Path = Path("docs/figures.md")
    """The page of the one table."""
    pages: tuple[Path, ...] = ()
    """Pages whose sections between `<!-- figures: NAME -->` and `<!-- /figures -->` are written."""
    bundles: Path = Path("pipeline/models")
    """Folder of the bundles, whose bundle.json says what was learned from."""


def run(args: FiguresArgs) -> int:
    """Read the results, write the pages, and return the exit code."""
    if not args.results.is_dir():
        raise UserError(f"{args.results}: is not a folder; put results into {args.results}/kaggle and /default")
    if not any((args.results / name).is_dir() for name in COLUMNS):
        raise UserError(f"{args.results}: has no folder {' or '.join(COLUMNS)}; put results into these")
    columns = {name: read_column(args.results / name, assume_learned=name == "default") for name in COLUMNS}
    sections = all_sections(columns, _bundles(args.bundles), read_reference())
    pages = {}
    for page in args.pages:  # all are read before the first is written
        try:
            text = page.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{page}: cannot be read ({error}); check --pages") from error
        pages[page] = fill_sections(text, str(page), sections)
    targets, peers = sections["targets"](), sections["peers"]()
    write_text(args.out, PAGE.format(targets=targets, peers=peers))
    console().print(f"{args.out}: written", markup=False, highlight=False)
    for page, (text, kept) in pages.items():
        write_text(page, text)
        note = f"; no results for {', '.join(kept)}, which stay as they were" if kept else ""
        console().print(f"{page}: written{note}", markup=False, highlight=False)
    return 0


def _bundles(folder: Path) -> dict[str, Record]:
    files = {name: folder / name / "bundle.json" for name in COLUMNS}
    return {name: read_json(file) for name, file in files.items() if file.is_file()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.evaluate.figures`."""

    return run_cli(lambda: run(parse_args(FiguresArgs, argv, "pipeline.evaluate.figures", description=__doc__)))
