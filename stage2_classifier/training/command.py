"""Command: train one classifier on a folder of crops, as an experiment says. Never reads the test split.

    python -m stage2_classifier.train --crops DIR [--experiment NAME] [--FIELD VALUE ...] [--resume]
    torchrun --nproc-per-node 2 -m stage2_classifier.train ...      (several devices)

Writes runs/<name>/: config.json, metrics.jsonl (one line per epoch), curves.png, best.safetensors, last.pt and, at the
end, summary.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from rich.table import Column, Table

from common import arguments
from common.cli import console, run_cli
from common.memory import keep_freed_memory
from stage2_classifier.config import EXPERIMENTS, RENAMED_FIELDS, TrainConfig, experiment
from stage2_classifier.training.fit import fit
from stage2_classifier.training.torchrun import end_with_launcher, exit_now, rank, report_errors_once

# The present name of each flag that earlier versions had under another name.
RENAMED_FLAGS = {f"--{old}": f"--{new.replace('_', '-')}" for old, new in RENAMED_FIELDS.items()} | {
    "--no-boxes": "--no-box-head",
    "--augment own": "--augment opencv",
}


@dataclass(frozen=True)
class TrainArgs:
    """Train a classifier on face crops. The flags below --tensorboard override the experiment's values."""

    crops: Path = Path("crops")  # Folder that pipeline.build_crops made.
    experiment: str = "baseline"  # Named experiment to start from; --list shows all.
    list: bool = False  # Show the named experiments and stop.
    runs: Path = Path("runs")  # Folder of all runs; the subfolder --name is this run's.
    resume: bool = False  # Continue a broken run.
    overwrite: bool = False  # Start again even if the run exists.
    threads: int = 0  # CPU threads of torch; 0: torch chooses.
    cpu: bool = False  # Do not use a GPU.
    tensorboard: bool = False  # Also log to runs/<name>/tensorboard.
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)


def parse_args(argv: Sequence[str] | None) -> TrainArgs:
    """Parse the flags; the experiment comes first, because its values are the defaults of the others."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--experiment", default="baseline")
    name = first.parse_known_args(argv)[0].experiment
    default = TrainArgs(experiment=name, config=experiment(name))
    return arguments.parse_args(TrainArgs, argv, "stage2_classifier.train", RENAMED_FLAGS, default=default)


def run(argv: Sequence[str] | None) -> int:
    """Parse, train and print the run's folder."""
    args = parse_args(argv)
    if args.list:
        names = Column("experiment", min_width=max(map(len, EXPERIMENTS)))  # a name is never cut
        table = Table(names, "model", "description", title="Experiments (--experiment NAME)")
        for config in EXPERIMENTS.values():
            model = f"{config.model}, pretrained" if config.pretrained else config.model
            table.add_row(config.name, model, config.description)
        console().print(table)
        return 0
    keep_freed_memory()
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    folder = args.runs / args.config.name
    finished_before = args.resume and (folder / "summary.json").is_file()
    options = {"resume": args.resume, "overwrite": args.overwrite, "cpu": args.cpu, "tensorboard": args.tensorboard}
    summary = fit(args.config, args.crops, args.runs, **options)
    if rank() == 0:
        state = "was finished already" if finished_before else "finished"
        f1, epoch = summary["best"].get("val_macro_f1"), summary["best_epoch"]
        score = "" if f1 is None else f"; best validation macro-F1 {f1:.4f} in epoch {epoch}"
        console().print(f"{folder}: {state}{score}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    end_with_launcher()
    return run_cli(lambda: report_errors_once(lambda: run(argv)))


def main_as_process() -> None:
    """Run the command line and end the process, as torchrun expects."""
    exit_now(main())
