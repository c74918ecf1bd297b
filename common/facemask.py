"""The console script `facemask`: all commands under one name, each imported only when it runs."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches

# Command: (module that `python -m` runs, what it does).
COMMANDS = {
    "detect": ("pipeline.detect", "find faces in photos, folders, videos and cameras"),
    "demo": ("pipeline.detect.demo", "find faces in your photo, or in one that comes with a dependency"),
    "serve": ("pipeline.serve", "web page and HTTP API on this machine"),
    "batch": ("pipeline.batch", "millions of photos into a Parquet table"),
    "check": ("pipeline.check", "show what annotated photos hold, before anything is trained"),
    "split": ("pipeline.split", "split annotated photos into train, val and test"),
    "build-crops": ("pipeline.build_crops", "cut annotated faces out of photos, as a crop dataset"),
    "train-all": ("pipeline.train_all", "train both stages, from photos to a bundle with its report"),
    "finetune": ("stage1_faces.finetune", "fine-tune the face detector"),
    "train": ("stage2_classifier.train", "train one classifier on crops"),
    "report": ("stage2_classifier.report", "score trained classifiers, and compare them"),
    "transforms": ("stage2_classifier.transforms", "show crops before and after augmentation"),
    "pack": ("pipeline.pack", "make a bundle from trained runs"),
    "export": ("pipeline.export", "write the whole detector as one ONNX file"),
    "bundle": ("pipeline.bundle", "show where a bundle comes from and what it scored"),
    "evaluate": ("pipeline.evaluate", "score detectors on annotated photos"),
    "crossval": ("pipeline.crossval", "train and score both stages once per fold"),
    "baseline": ("pipeline.baseline", "train a one-stage detector for comparison"),
    "bench": ("pipeline.bench", "time the pipeline against others"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, or list the commands; return the exit code (unknown: 2)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return _show_usage()
    name = arguments[0].replace("_", "-")
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]!r}?" if close else "run `facemask` for the list"
        print(f"error: {arguments[0]!r} is not a command; {hint}", file=sys.stderr)
        return 2
    sys.argv = [f"facemask {name}", *arguments[1:]]
    runpy.run_module(COMMANDS[name][0], run_name="__main__")
    return 0


def _show_usage() -> int:
    """Print the list and return the exit code: 1 when the reader of a pipe has ended. `common.cli` would load rich."""
    try:
        print(usage(), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again at its end
        return 1
    return 0


def usage() -> str:
    """Return the list of commands, one line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: facemask COMMAND [options]   (facemask COMMAND --help)", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
