"""Train and eval transforms of face crops side by side; CLI: a picture of crops before and after.

    python -m stage2_classifier.transforms --crops DIR --preview preview.png [--augment own]     (implementations)
    python -m stage2_classifier.transforms --crops DIR --preview preview.png --experiment NAME   (what a training sees)

Both kinds are callables (crop uint8 (H, W, 3) RGB, seed) -> float32 tensor (3, S, S).
"""

from __future__ import annotations

if __name__ == "__main__":
    from stage2_classifier.early import end_at_ctrl_c

    end_at_ctrl_c()

    from stage2_classifier.errors import need_training_extra

    need_training_extra()

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from stage2_classifier.augment import POLICY, OwnAugment, Policy
from stage2_classifier.config import experiment
from stage2_classifier.console import guarded
from stage2_classifier.cut import resize_crop, to_input
from stage2_classifier.errors import ClassifierError
from stage2_classifier.records import CropSet, read_crop_set

AUGMENTATIONS = ("none", "torchvision", "albumentations", "own")

Augment = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


class CropPreprocess:
    """Resize, augment (or not), normalise: (crop uint8 (H, W, 3), seed) -> float32 tensor (3, S, S)."""

    def __init__(self, input_size: int, mean: Sequence[float], std: Sequence[float], augment: Augment | None) -> None:
        self.input_size, self.mean, self.std, self.augment = input_size, tuple(mean), tuple(std), augment

    def __call__(self, crop: NDArray[np.uint8], seed: int) -> torch.Tensor:
        image = resize_crop(crop, self.input_size)
        if self.augment is not None:
            image = self.augment(image, seed)
        return torch.from_numpy(to_input(image[None], self.mean, self.std)[0])


def train_transform(
    kind: str, input_size: int, mean: Sequence[float], std: Sequence[float], policy: Policy = POLICY
) -> CropPreprocess:
    """The transform for training; the same seed gives the same pixels.

    kind: one of AUGMENTATIONS. mean, std: per channel, of pixel values scaled to 0..1. policy: what may happen.
    Raises ClassifierError on an unknown kind.
    """
    return CropPreprocess(input_size, mean, std, _augment(kind, input_size, mean, policy))


def eval_transform(input_size: int, mean: Sequence[float], std: Sequence[float]) -> CropPreprocess:
    """The transform for validation and test: bit for bit what inference feeds the network."""
    return CropPreprocess(input_size, mean, std, None)


def _augment(kind: str, size: int, mean: Sequence[float], policy: Policy) -> Augment | None:
    red, green, blue = (255 * float(v) for v in mean)
    fill = (red, green, blue)
    # Each library costs a second or two to import: only the chosen one is.
    match kind:
        case "none":
            return None
        case "own":
            return OwnAugment(size, fill, policy)
        case "torchvision":
            from stage2_classifier.augment_torchvision import TorchvisionAugment

            return TorchvisionAugment(size, fill, policy)
        case "albumentations":
            from stage2_classifier.augment_albumentations import AlbumentationsAugment

            return AlbumentationsAugment(size, fill, policy)
    raise ClassifierError(f"augmentation {kind!r} is none of {', '.join(AUGMENTATIONS)}")


@dataclass(frozen=True)
class PreviewArgs:
    """Draws crops before and after augmentation."""

    crops: Path
    """Folder of crops made by pipeline.build_crops."""
    preview: Path
    """The picture to write (.png)."""
    experiment: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """Show what the training of this named experiment sees; without it, the implementations side by side."""
    augment: Literal["all", "torchvision", "albumentations", "own"] = "all"
    """Which implementation to show; an experiment has its own."""
    input_size: Annotated[int | None, tyro.conf.arg(metavar="PX")] = None
    """Side of the network's input; an experiment has its own, else 64."""
    seed: int = 0
    """Seed of the choice of crops and, without an experiment, of the augmentation."""
    per_class: int = 3
    """Crops shown of each class."""
    versions: int = 4
    """Augmented versions shown by each implementation, or by the experiment."""


def run(args: PreviewArgs) -> int:
    input_size = 64 if args.input_size is None else args.input_size
    if min(input_size, args.per_class, args.versions) < 1:
        raise ClassifierError("--input-size, --per-class and --versions must be 1 or more")
    if args.seed < 0:
        raise ClassifierError(f"--seed {args.seed}: give 0 or more")
    if args.experiment and (args.augment != "all" or args.input_size is not None):
        raise ClassifierError(
            "--experiment: has its own augmentation and input size; leave --augment, --input-size out"
        )
    if args.preview.resolve().is_relative_to(args.crops.resolve()):
        raise ClassifierError(f"{args.preview}: lies in {args.crops}, among the crops; give another --preview")
    crops = read_crop_set(args.crops)
    if args.experiment:
        _show_training(args, crops)
    else:
        _compare_implementations(args, crops, input_size)
    print(f"wrote {args.preview}")
    return 0


def _compare_implementations(args: PreviewArgs, crops: CropSet, input_size: int) -> None:
    from stage2_classifier.preview import HALVES, save_preview  # which imports what imports this module

    kinds = [kind for kind in AUGMENTATIONS if kind != "none"] if args.augment == "all" else [args.augment]
    transforms = {kind: train_transform(kind, input_size, HALVES, HALVES) for kind in kinds}
    save_preview(args.preview, crops, transforms, per_class=args.per_class, versions=args.versions, seed=args.seed)


def _show_training(args: PreviewArgs, crops: CropSet) -> None:
    from stage2_classifier.models import build_model, input_stats
    from stage2_classifier.preview import save_training_views

    config = experiment(args.experiment)
    stats = input_stats(build_model(config.model, len(crops.class_names)))
    save_training_views(
        args.preview, config, crops, stats, per_class=args.per_class, versions=args.versions, seed=args.seed
    )


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(
        lambda: run(tyro.cli(PreviewArgs, args=argv, prog="python -m stage2_classifier.transforms")), ClassifierError
    )


if __name__ == "__main__":
    sys.exit(main())
