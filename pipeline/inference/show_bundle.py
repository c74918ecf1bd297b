"""Prints what a bundle is made of: the command pipeline.bundle."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from common.cli import console, program_name, run_cli
from common.errors import UserError
from pipeline.inference.bundle import Bundle


@dataclass(frozen=True)
class ShowArgs:
    """Print where a bundle comes from, what it needs and what it scored."""

    folder: tyro.conf.Positional[Path | None] = None
    """Bundle directory; the one that comes with the program when none is named."""
    bundle: Path | None = None
    """The same, as an option."""


def run(args: ShowArgs) -> int:
    """Print a bundle's metadata as JSON."""
    if args.folder is not None and args.bundle is not None:
        raise UserError(f"{args.folder}: --bundle names a bundle, too; name one")
    metadata = Bundle.load(args.folder or args.bundle).describe()
    if metadata["provenance"].get("commit") is None:  # packed where git could not tell, or by an older version
        metadata["provenance"]["commit"] = "not recorded"
    console().print_json(json.dumps(metadata))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def command() -> int:
        if arguments[:1] == ["pack"]:
            raise UserError("pack is a command of its own now; use `python -m pipeline.pack`")
        if arguments[:1] not in (["show"], ["-h"], ["--help"]):
            raise UserError("use `python -m pipeline.bundle show [FOLDER]`")
        options = arguments[1:] if arguments[0] == "show" else arguments
        prog = f"{program_name('pipeline.bundle')} show"
        return run(tyro.cli(ShowArgs, args=options, description=ShowArgs.__doc__, prog=prog))

    return run_cli(command)
