"""Command: fine-tune the cascade on annotated faces: P-Net, then R-Net on its proposals, then O-Net on R-Net's.

    python -m stage1_faces.finetune --data DIR --splits splits.csv --out RUN

Learns from the training photos and reports on the validation photos; never reads the test split. Writes to RUN:
config.json, log.jsonl (one line per epoch, and each net's recall by boxes per photo), landmarks.npz (the stock
cascade's), and pnet.safetensors, rnet.safetensors, onet.safetensors for `python -m pipeline.pack --cascade RUN`.
A photo of which an annotation was refused may show a face without a box: it teaches its faces, but no background.
A run that was stopped resumes with the same command. All training photos are in memory: 1 MB per 600x400 pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro

from common.annotations import AnnotatedImage, ReadingArgs, count_line, load_dataset, require_faces
from common.annotations.options import DEFAULT_READING
from common.annotations.types import fingerprint
from common.cli import console, program_name, progress, run_cli
from common.display import counted
from common.errors import MediaError, UserError
from common.images import read_image
from common.memory import keep_freed_memory
from common.splits import read_splits
from stage1_faces.roi_crop import Mipmaps
from stage1_faces.training.finetune_config import FinetuneConfig
from stage1_faces.training.finetune_run import FinetuneRun
from stage1_faces.training.run_folder import FinetuneFolder
from stage1_faces.training.samples import TrainingPhoto

MAX_PHOTO_SIDE = 1600  # px: larger photos are shrunk to it for training, which bounds the memory for each


@dataclass(frozen=True)
class _FinetuneData:
    """The photos of one fine-tuning."""

    train: list[TrainingPhoto]
    val: list[TrainingPhoto]
    fingerprint: str  # of the training photos that could be read, because mined windows count them
    summary: tuple[str, ...]  # lines on refused annotations, and on photos that teach no background


@dataclass(frozen=True)
class FinetuneArgs(ReadingArgs):
    """Fine-tune the cascade (P-Net, R-Net, O-Net) on annotated faces."""

    data: Path  # Annotated photos: a folder in one of the formats of docs/datasets.md.
    out: Path  # Folder of the run; a run that was stopped there resumes.
    splits: Path = Path("splits.csv")  # splits.csv of pipeline.split.
    overwrite: bool = False  # Start again even if the folder holds a run.
    threads: int = 0  # CPU threads of torch; 0 leaves it to torch.
    recipe: tyro.conf.OmitArgPrefixes[FinetuneConfig] = field(default_factory=FinetuneConfig)


def finetune(
    data: Path,
    splits: Path,
    out: Path,
    recipe: FinetuneConfig | None = None,
    overwrite: bool = False,
    threads: int = 0,
    reading: ReadingArgs = DEFAULT_READING,
) -> Path:
    """Fine-tune the cascade into a folder; nets that are finished there stay as they are.

    A run that was killed resumes after its last whole epoch. On the same machine with the same number of threads, it
    ends in the same weights as an unbroken one.

    Args:
        data: annotated photos, in one of the formats of docs/datasets.md.
        splits: splits.csv.
        out: folder of the run.
        recipe: steps, batches and learning rates.
        overwrite: remove a run that the folder holds.
        threads: CPU threads of torch; 0 leaves it to torch.
        reading: how to read the data.

    Returns:
        the folder.

    Raises:
        UserError: the data cannot be used, or the folder holds something else.
    """
    recipe = recipe or FinetuneConfig()
    if out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"{out}: is in {data} and would be read as data; use another --out")
    keep_freed_memory()
    if threads < 0:
        raise UserError(f"--threads is {threads}, must be 0 or more")
    if threads:
        torch.set_num_threads(threads)
    photos = _read_photos(data, splits, reading)
    folder = FinetuneFolder(out)
    with folder.held({"format": 1, "recipe": asdict(recipe), "data": photos.fingerprint}, overwrite):
        if not folder.finished:
            FinetuneRun(folder, recipe, photos.train, photos.val).train_all()
    for line in photos.summary:
        console().print(line, markup=False, highlight=False, soft_wrap=True)
    return folder.path


def _read_photos(data: Path, splits: Path, reading: ReadingArgs) -> _FinetuneData:
    """Return the training and validation photos that can be read. Raise UserError when they cannot train a net."""
    split_of = read_splits(splits)
    dataset = load_dataset(data, reading)
    sets = [[i for i in dataset.images if split_of.get(i.image_id) == split] for split in ("train", "val")]
    for split, images in zip(("train", "val"), sets, strict=True):
        if images or split == "train":  # without validation photos nothing is reported
            require_faces(images, f"{splits}: split {split!r}", "make the split again")
    with progress() as bar:
        task = bar.add_task("reading photos", total=sum(map(len, sets)))
        train, val = (_load_photos(images, lambda: bar.advance(task)) for images in sets)
    if not any(len(photo.boxes) for photo in train.values()):
        raise UserError(f"{data}: no training photo with a face can be read; copy the photos again")
    incomplete = sum(not photo.complete for photo in train.values())
    if incomplete == len(train):
        reason = "each training photo may show a face without a box, so that none teaches the background"
        raise UserError(f"{data}: {reason}; correct the refused annotations")
    photos = counted(incomplete, "training photo")
    note = f"no background was learned from {photos} that may show a face without a box"
    data_print = fingerprint([image for image in sets[0] if image.image_id in train])
    summary = (*([note] if incomplete else []), *filter(None, [count_line(dataset)]))
    return _FinetuneData(list(train.values()), list(val.values()), data_print, summary)


def _load_photos(images: Iterable[AnnotatedImage], on_photo: Callable[[], None]) -> dict[str, TrainingPhoto]:
    """Return the photos that can be read, by image_id; print a warning for each of the others."""
    photos = {}
    for image in images:
        try:
            photos[image.image_id] = load_photo(image)
        except MediaError as error:
            print(f"warning: {error}; left out", file=sys.stderr)
        on_photo()
    return photos


def load_photo(image: AnnotatedImage) -> TrainingPhoto:
    """Return a photo with its boxes, shrunk to MAX_PHOTO_SIDE. Raise MediaError when it cannot be read."""
    pixels, boxes = read_image(image.path), image.boxes
    scale = MAX_PHOTO_SIDE / max(image.size)
    if scale < 1:
        size = (max(round(image.size[0] * scale), 1), max(round(image.size[1] * scale), 1))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        boxes = boxes * np.tile(np.array(size) / image.size, 2).astype(np.float32)
    landmarks = np.full((len(boxes), 5, 2), np.nan, np.float32)
    return TrainingPhoto(Mipmaps(pixels), boxes, image.labels, landmarks, image.complete)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m stage1_faces.finetune`."""

    def command() -> int:
        args = tyro.cli(FinetuneArgs, args=argv, prog=program_name("stage1_faces.finetune"))
        out = finetune(args.data, args.splits, args.out, args.recipe, args.overwrite, args.threads, args)
        console().print(f"{out}: finished")
        return 0

    return run_cli(command, interrupted="interrupted; run the same command to resume")
