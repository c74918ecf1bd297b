"""CLI: trains one classifier on a folder of crops, as an experiment says. Never reads the test split.

    python -m stage2_classifier.train --crops DIR [--experiment NAME] [--FIELD VALUE ...] [--resume]
    torchrun --nproc-per-node 2 -m stage2_classifier.train ...      (several devices)

Writes runs/<name>/: config.json, metrics.jsonl (one line an epoch), curves.png, best.safetensors, last.pt and,
when done, summary.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from rich.table import Table

from common.cli import console, program_name, refuse_renamed, run_cli
from stage2_classifier.config import EXPERIMENTS, TrainConfig, experiment
from stage2_classifier.training.fit import fit
from stage2_classifier.training.torchrun import end_with_launcher, leave, rank, together

# The present flag by its name in earlier versions.
RENAMED_FLAGS = {
    "--why": "--description",
    "--spliced": "--mask-transfer-prob",
    "--rejects": "--hard-negatives",
    "--boxes": "--box-head",
    "--no-boxes": "--no-box-head",
    "--keep": "--checkpoint-epoch",
}


@dataclass(frozen=True)
class TrainArgs:
    """Trains a classifier on face crops. The flags below --tensorboard override the experiment's values."""

    crops: Path = Path("crops")
    """Folder that pipeline.build_crops made."""
    experiment: str = "baseline"
    """Named experiment to start from; --list shows all."""
    list: bool = False
    """Show the named experiments and stop."""
    runs: Path = Path("runs")
    """Folder of all runs; this one goes to its subfolder --name."""
    resume: bool = False
    """Go on with a run that was broken off."""
    overwrite: bool = False
    """Start anew even if the run exists."""
    threads: int = 0
    """CPU threads of torch; 0 leaves it to torch."""
    cpu: bool = False
    """Do not use a GPU."""
    tensorboard: bool = False
    """Also log to runs/<name>/tensorboard."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)


def _parse(argv: Sequence[str] | None) -> TrainArgs:
    # The experiment is looked up first, so that its values are the defaults that the other flags override.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--experiment", default="baseline")
    name = first.parse_known_args(argv)[0].experiment
    default = TrainArgs(experiment=name, config=experiment(name))
    return tyro.cli(TrainArgs, args=argv, default=default, prog=program_name("stage2_classifier.train"))


def _list_experiments() -> None:
    table = Table("experiment", "model", "why", title="Experiments (--experiment NAME)")
    for config in EXPERIMENTS.values():
        table.add_row(config.name, config.model, config.description)
    console().print(table)


def run(argv: Sequence[str] | None) -> int:
    """Parses, trains, and says where the run lies."""
    refuse_renamed(argv, RENAMED_FLAGS)
    args = _parse(argv)
    if args.list:
        _list_experiments()
        return 0
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    folder = args.runs / args.config.name
    finished_before = args.resume and (folder / "summary.json").is_file()
    summary = fit(
        args.config,
        args.crops,
        args.runs,
        resume=args.resume,
        overwrite=args.overwrite,
        cpu=args.cpu,
        tensorboard=args.tensorboard,
    )
    if rank() == 0:
        state = "was finished already" if finished_before else "finished"
        f1, epoch = summary["best"].get("val_macro_f1"), summary["best_epoch"]
        score = "" if f1 is None else f"; best validation macro-F1 {f1:.4f} in epoch {epoch}"
        console().print(f"{folder}: {state}{score}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    end_with_launcher()
    return run_cli(lambda: together(lambda: run(argv)))


def main_as_process() -> None:
    """Run the command line and end the process, as torchrun expects."""
    leave(main())
