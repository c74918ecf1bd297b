"""Trains a one-stage detector of torchvision on the same photos, to hold our two stages against.

    python -m pipeline.baseline --model ssdlite320_mobilenet_v3_large --data DIR --splits splits.csv --out runs/ssdlite

Learns from the training photos of splits.csv, takes the epoch with the best mAP50 on its validation photos, and is
scored on --split as pipeline.evaluate scores. Writes OUT/: config.json, log.jsonl (a line an epoch), best.safetensors,
baseline.md, baseline.json, and predictions.coco.json for `python -m pipeline.evaluate --predictions`, which puts it
beside ours. Started again after a kill, it goes on; a finished one is only scored, on another --split, too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from common.annotations import AnnotatedImage, Annotations, read_dataset
from common.cli import program_name, requires_extra, run_cli
from common.errors import UserError
from common.images import read_image
from common.splits import SPLITS, read_splits
from pipeline.baseline.config import BaselineConfig
from pipeline.data.checks import check_apart, readable
from pipeline.evaluate.command import select_images
from pipeline.evaluate.evaluation import Settings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BaselineArgs:
    """Train a one-stage detector on annotated photos, and score it as ours is scored."""

    data: Path
    """Annotated photos: a Pascal VOC, COCO or YOLO folder."""
    out: Path
    """Folder of the run; a run that was broken off there goes on."""
    splits: Path = Path("splits.csv")
    """splits.csv of pipeline.split."""
    split: str = "test"
    """Photos to score on: train, val or test."""
    overwrite: bool = False
    """Start anew even if the folder holds a baseline."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU where there is one. Seconds a photo are the CPU's in any case."""
    threads: int = 0
    """CPU threads of torch; 0 leaves it to torch."""
    workers: int = 0
    """Processes that read and augment photos beside the training; 0 for none."""
    bootstrap: int = 200
    """Resamples of the photos for the 95% intervals; 0 for none."""
    recipe: tyro.conf.OmitArgPrefixes[BaselineConfig] = field(default_factory=BaselineConfig)


def run(args: BaselineArgs) -> int:
    """Trains, or goes on; scores; prints and writes the report."""
    settings = Settings(rounds=args.bootstrap)
    _check(args)
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (missing: say so before hours of training)
        import torch

        from pipeline.baseline.fit import fit
        from pipeline.baseline.model import check_name
        from pipeline.baseline.report import report
        from pipeline.baseline.run_folder import BaselineFolder
        from stage1_faces.training.finetune import keep_memory
    check_name(args.recipe.model)
    device = _device(args.device)
    keep_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    dataset = read_dataset(args.data)
    for problem in dataset.problems:
        print(f"warning: {problem}", file=sys.stderr)
    scored, facts = select_images(dataset.images, args.data, args.splits, args.split)
    for image in scored:
        read_image(image.path)  # one that cannot be read: say so before hours of training
    sides = read_splits(args.splits)
    train, val = (
        readable([i for i in dataset.images if sides.get(i.image_id) == side], _warn) for side in ("train", "val")
    )
    _check_faces(args, train, val)
    folder = BaselineFolder(args.out)
    folder.start(_record(args, dataset, train, val), args.overwrite)
    with folder.held():
        try:
            fit(args.recipe, train, val, dataset.class_names, folder, device, args.workers)
        except torch.OutOfMemoryError as error:
            raise UserError(f"--device {device}: its memory is full; lower --batch-size or --size") from error
        if args.split != "test":
            facts.append(f"split {args.split} was used in training, which flatters")
        report(folder.path, args.split, scored, facts, settings, device)
    return 0


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


def _check(args: BaselineArgs) -> None:
    """Raises UserError on what can be refused at once."""
    if args.split not in SPLITS:
        raise UserError(f"--split is {args.split!r}, must be one of {', '.join(SPLITS)}")
    for name, value in (("--threads", args.threads), ("--workers", args.workers)):
        if value < 0:
            raise UserError(f"{name} is {value}, must be 0 or more")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: is a file; name a folder with --out")
    check_apart(args.data, args.out, "--out")
    if args.recipe.weights is not None and not args.recipe.weights.is_file():
        raise UserError(f"{args.recipe.weights}: not found; check the name given with --weights")


def _check_faces(args: BaselineArgs, train: Sequence[AnnotatedImage], val: Sequence[AnnotatedImage]) -> None:
    for side, images in (("train", train), ("val", val)):
        if not any(len(image.boxes) for image in images):
            raise UserError(f"{args.splits}: no photo of {args.data} in split {side!r} has a face; make the split anew")
    if len(train) < 2:
        raise UserError(f"{args.splits}: one training photo only; 2 or more are needed")


def _device(name: str) -> torch.device:
    """Raises UserError when the device is not known or not there."""
    import torch

    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if device.type not in ("cpu", "cuda"):
            raise ValueError("neither cpu nor cuda")
        torch.zeros(1, device=device)
    except (RuntimeError, ValueError, AssertionError) as error:  # AssertionError: torch built without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: cannot be used ({reason}); give cpu, or leave it out") from error
    return device


def _record(
    args: BaselineArgs, dataset: Annotations, train: Sequence[AnnotatedImage], val: Sequence[AnnotatedImage]
) -> dict[str, Any]:
    """What config.json holds."""
    from stage1_faces.training.run_folder import fingerprint

    return {
        **args.recipe.record(),
        "class_names": list(dataset.class_names),
        "train_photos": fingerprint(train),
        "val_photos": fingerprint(val),
        "data": str(args.data),
        "splits": str(args.splits),
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm")},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m pipeline.baseline`."""

    def command() -> int:
        # Inside, because a recipe checks itself when it is made.
        return run(tyro.cli(BaselineArgs, args=argv, description=__doc__, prog=program_name("pipeline.baseline")))

    return run_cli(command)
