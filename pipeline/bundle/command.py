"""The command pipeline.bundle: shows the metadata of a bundle."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from common import arguments
from common.cli import console, run_cli
from common.errors import UserError
from pipeline.inference.bundle import Bundle


@dataclass(frozen=True)
class ShowArgs:
    """Print where a bundle comes from, what it needs and what it scored."""

    folder: tyro.conf.Positional[Path | None] = None
    """Bundle directory, or a bundle of the project by name; the default bundle when none is named."""
    bundle: Path | None = None
    """The same, as an option."""


def parse_args(argv: Sequence[str]) -> ShowArgs:
    """Return the arguments of `show`, the only subcommand, which may be left out where nothing else is given.

    Raises:
        UserError: the first argument is not `show`, or two bundles are named.
    """
    program = arguments.program_name("pipeline.bundle")
    if argv[:1] == ["pack"]:
        raise UserError("pack is a separate command; use `python -m pipeline.pack`")
    if argv[:1] not in ([], ["show"], ["-h"], ["--help"]):
        raise UserError(f"use `{program} show [FOLDER]`")
    options = argv[1:] if argv[:1] == ["show"] else argv
    args = arguments.parse_args(ShowArgs, options, "pipeline.bundle", prog=f"{program} show")
    if args.folder is not None and args.bundle is not None:
        raise UserError(f"{args.folder}: --bundle names a bundle, too; name one")
    return args


def show_bundle(args: ShowArgs) -> int:
    """Print a bundle's metadata as JSON."""
    metadata = Bundle.load(args.folder or args.bundle).describe()
    if metadata["provenance"].get("commit") is None:  # git did not know it, or an older version packed the bundle
        metadata["provenance"]["commit"] = "not recorded"
    console().print_json(json.dumps(metadata))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    return run_cli(lambda: show_bundle(parse_args(given)))
