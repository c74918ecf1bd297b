"""Train a one-stage detector of torchvision on the same photos, to compare it with our two stages.

    python -m pipeline.baseline --model ssdlite320_mobilenet_v3_large --data DIR --splits splits.csv --out runs/ssdlite

The detector trains on the training photos of splits.csv. The epoch with the best mAP50 on the validation photos is
scored on --split, in the same way as by pipeline.evaluate. OUT/ then holds config.json, log.jsonl (one line per epoch),
best.safetensors, baseline.md, baseline.json, and predictions.coco.json. `python -m pipeline.evaluate --predictions`
compares that file with ours. Photos of which an annotation was refused are not trained on, because their background may
show a face. A killed run resumes when it is started again. A finished run is only scored, also on
another --split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import tyro

from common.annotations import AnnotatedImage, Annotations, ReadingArgs, load_dataset, require_faces
from common.annotations.loading import warn
from common.annotations.types import fingerprint
from common.arguments import parse_args
from common.cli import requires_extra, run_cli
from common.display import counted
from common.errors import UserError, first_line
from common.images import read_image
from common.memory import keep_freed_memory
from common.splits import SPLITS, read_splits
from pipeline.baseline.config import BaselineConfig
from pipeline.baseline.fit import fit
from pipeline.baseline.model import check_model_name
from pipeline.baseline.report import write_report
from pipeline.baseline.run_folder import HEADER, BaselineFolder
from pipeline.data.checks import check_apart, readable_images
from pipeline.evaluate.evaluation import EvaluationSettings
from pipeline.evaluate.report import data_notes
from pipeline.evaluate.selection import select_images


@dataclass(frozen=True)
class BaselineArgs(ReadingArgs):
    """Train a one-stage detector on annotated photos, and score it in the same way as ours."""

    data: Path
    """Annotated photos: a folder in one of the formats of docs/datasets.md."""
    out: Path
    """Folder of the run; an unfinished run there resumes."""
    splits: Path = Path("splits.csv")
    """splits.csv of pipeline.split."""
    split: str = "test"
    """Photos to score on: train, val or test."""
    overwrite: bool = False
    """Start again even if the folder holds a baseline."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one. Seconds per photo are always measured on the CPU."""
    threads: int = 0
    """CPU threads of torch; 0 for torch's default."""
    workers: int = 0
    """Processes that read and augment photos during training; 0 for none."""
    bootstrap: int = 200
    """Resamples of the photos for the 95% intervals; 0 for none."""
    config: tyro.conf.OmitArgPrefixes[BaselineConfig] = field(default_factory=BaselineConfig)


def run(args: BaselineArgs) -> int:
    """Train or resume, score, write the report, and return the exit code."""
    settings = EvaluationSettings(rounds=args.bootstrap)
    _check(args)
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (a missing package is reported before hours of training)
    check_model_name(args.config.model)
    device = _device(args.device)
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    dataset = load_dataset(args.data, args)
    scored, notes = select_images(dataset.images, args.data, args.splits, args.split)
    notes += data_notes(dataset, scored)
    for image in scored:
        read_image(image.path)  # a broken photo is reported before hours of training
    sides = read_splits(args.splits)
    train, val = (
        readable_images([i for i in dataset.images if sides.get(i.image_id) == side], warn) for side in ("train", "val")
    )
    train, left_out = [image for image in train if image.complete], sum(not image.complete for image in train)
    if left_out:
        notes.append(f"{counted(left_out, 'training photo')} may show a face without a box: not trained on")
        warn(f"note: {notes[-1]}")
    _check_faces(args, train, val, left_out)
    folder = BaselineFolder(args.out)
    with folder.held(_record(args, dataset, train, val), args.overwrite):
        try:
            fit(args.config, train, val, dataset.class_names, folder, device, args.workers)
        except torch.OutOfMemoryError as error:
            raise UserError(f"--device {device}: its memory is full; lower --batch-size or --size") from error
        if args.split != "test":
            notes.append(f"split {args.split} was used in training, which flatters")
        write_report(folder.path, args.split, scored, notes, settings, device)
    return 0


def _check(args: BaselineArgs) -> None:
    """Refuse bad options before any work."""
    if args.split not in SPLITS:
        raise UserError(f"--split is {args.split!r}, must be one of {', '.join(SPLITS)}")
    for name, value in (("--threads", args.threads), ("--workers", args.workers)):
        if value < 0:
            raise UserError(f"{name} is {value}, must be 0 or more")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: is a file; name a folder with --out")
    check_apart(args.data, args.out, "--out")
    if args.config.weights is not None and not args.config.weights.is_file():
        raise UserError(f"{args.config.weights}: not found; check the name given with --weights")


def _check_faces(
    args: BaselineArgs, train: Sequence[AnnotatedImage], val: Sequence[AnnotatedImage], left_out: int
) -> None:
    rest = f" without {counted(left_out, 'photo')} that may show a face without a box" if left_out else ""
    require_faces(train, f"{args.splits}: split 'train'{rest}", "make the split again")
    require_faces(val, f"{args.splits}: split 'val'", "make the split again")
    if len(train) < 2:
        raise UserError(f"{args.splits}: only one training photo; make a split with 2 or more")


def _device(name: str) -> torch.device:
    """Return the device. Raise UserError when it is unknown or missing."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if device.type not in ("cpu", "cuda"):
            raise ValueError("neither cpu nor cuda")
        torch.zeros(1, device=device)
    except (RuntimeError, ValueError, AssertionError) as error:  # AssertionError: torch built without CUDA
        reason = first_line(error)
        raise UserError(f"--device {name}: cannot be used ({reason}); give cpu, or leave it out") from error
    return device


def _record(
    args: BaselineArgs, dataset: Annotations, train: Sequence[AnnotatedImage], val: Sequence[AnnotatedImage]
) -> dict[str, Any]:
    """Return the content of config.json."""
    return {
        HEADER: 1,
        **args.config.record(),
        "class_names": list(dataset.class_names),
        "train_photos": fingerprint(train),
        "val_photos": fingerprint(val),
        "data": str(args.data),
        "splits": str(args.splits),
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm")},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.baseline`."""

    def command() -> int:
        # Inside run_cli, because a config checks its values when it is built.
        return run(parse_args(BaselineArgs, argv, "pipeline.baseline", description=__doc__))

    return run_cli(command)
