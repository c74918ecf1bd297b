"""Command: draw crops before and after augmentation: the implementations side by side, or the views of one training.

python -m stage2_classifier.transforms --crops DIR --preview preview.png [--augment opencv]     (implementations)
python -m stage2_classifier.transforms --crops DIR --preview preview.png --experiment NAME      (views of a training)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.arguments import parse_args
from common.cli import run_cli
from common.errors import UserError
from stage2_classifier.augment.transforms import AUGMENTATIONS, train_transform
from stage2_classifier.config import experiment
from stage2_classifier.data.crop_manifest import read_crop_set
from stage2_classifier.models import build_model, input_stats
from stage2_classifier.reports.preview import HALVES, save_preview, save_training_views


@dataclass(frozen=True, kw_only=True)
class PreviewArgs:
    """Draw crops before and after augmentation."""

    crops: Path = Path("crops")  # Folder of crops made by pipeline.build_crops.
    preview: Path  # The picture to write (.png).
    # Show the training views of this named experiment; without it, the implementations side by side.
    experiment: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    # Implementation to show; not with --experiment.
    augment: Literal["all", "torchvision", "albumentations", "opencv"] = "all"
    # Side of the network's input, default 64; not with --experiment.
    input_size: Annotated[int | None, tyro.conf.arg(metavar="PX")] = None
    seed: int = 0  # Seed of the choice of crops and, without an experiment, of the augmentation.
    per_class: int = 3  # Crops shown of each class.
    versions: int = 4  # Augmented versions shown by each implementation, or by the experiment.


def run(args: PreviewArgs) -> int:
    """Check the arguments, write the picture and print its path."""
    input_size = 64 if args.input_size is None else args.input_size
    if min(input_size, args.per_class, args.versions) < 1:
        raise UserError("--input-size, --per-class and --versions must be 1 or more")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: use 0 or more")
    if args.experiment and (args.augment != "all" or args.input_size is not None):
        raise UserError("--experiment: sets augmentation and input size; remove --augment and --input-size")
    if args.preview.resolve().is_relative_to(args.crops.resolve()):
        raise UserError(f"{args.preview}: is in the crops' folder {args.crops}; use another --preview")
    crops = read_crop_set(args.crops)
    shown = {"per_class": args.per_class, "versions": args.versions, "seed": args.seed}
    if args.experiment:
        config = experiment(args.experiment)
        stats = input_stats(build_model(config.model, len(crops.class_names)))
        save_training_views(args.preview, config, crops, stats, **shown)
    else:
        kinds = [kind for kind in AUGMENTATIONS if kind != "none"] if args.augment == "all" else [args.augment]
        transforms = {kind: train_transform(kind, input_size, HALVES, HALVES) for kind in kinds}
        save_preview(args.preview, crops, transforms, **shown)
    print(f"wrote {args.preview}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def command() -> int:
        return run(parse_args(PreviewArgs, argv, "stage2_classifier.transforms", {"--augment own": "--augment opencv"}))

    return run_cli(command)
