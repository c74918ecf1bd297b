"""Reads the photos of a fine-tuning: those of the main dataset, and of further sources that are only learned from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from common.annotations import AnnotatedImage, count_line, require_faces
from common.annotations.loading import warn
from common.annotations.source import Source
from common.annotations.types import Annotations, fingerprint
from common.cli import progress
from common.display import counted
from common.errors import MediaError, UserError
from common.images import read_image
from common.sources import SourcesArgs, load_sources
from common.splits import missing_line, read_splits
from stage1_faces.roi_crop import Mipmaps
from stage1_faces.training.draws import with_source_factors
from stage1_faces.training.samples import TrainingPhoto

MAX_PHOTO_SIDE = 1600  # px: larger photos are shrunk to it for training, which bounds the memory for each
# px: the same for photos of further sources, which are many. It is the side at which the cascade searches a photo.
MAX_FURTHER_SIDE = 800


@dataclass(frozen=True)
class FinetuneData:
    """The photos of one fine-tuning."""

    train: list[TrainingPhoto]
    val: list[TrainingPhoto]
    fingerprint: str  # of the training photos that could be read, because mined windows count them
    summary: tuple[str, ...]  # lines on refused annotations, and on photos that teach no background
    sources: tuple[Source, ...] = ()  # of several sources, the main one first


def read_photos(args: SourcesArgs, splits: Path, teacher_finds_unboxed_faces: bool = False) -> FinetuneData:
    """Return the training and validation photos that can be read.

    Args:
        args: the datasets and how they are read.
        splits: splits.csv.
        teacher_finds_unboxed_faces: whether a teacher finds the faces without a box. Photos of sources that do not box
            every face are complete then.

    Raises:
        UserError: the photos cannot train a net, or a further source has photos that are not only learned from.
    """
    split_of = read_splits(splits)
    dataset = load_sources(args)
    if line := missing_line(splits, split_of, {image.image_id for image in dataset.images}):
        warn(line)
    _check_further(dataset, split_of, splits)
    sets = [[i for i in dataset.images if split_of.get(i.image_id) == split] for split in ("train", "val")]
    for split, images in zip(("train", "val"), sets, strict=True):
        if images or split == "train":  # without validation photos nothing is reported
            require_faces(images, f"{splits}: split {split!r}", "make the split again")
    source_of = {source.name: source for source in dataset.sources}
    main = dataset.sources[0].name if dataset.sources else ""
    with progress() as bar:
        task = bar.add_task("reading photos", total=sum(map(len, sets)))
        train, val = (_load_photos(images, source_of, main, lambda: bar.advance(task)) for images in sets)
    if not any(len(photo.boxes) for photo in train.values()):
        raise UserError(f"{args.main_data}: no training photo with a face can be read; copy the photos again")
    incomplete = sum(
        not (photo.complete or (teacher_finds_unboxed_faces and photo.source_incomplete)) for photo in train.values()
    )
    if incomplete == len(train):
        reason = "each training photo may show a face without a box, so that none teaches the background"
        raise UserError(f"{args.main_data}: {reason}; correct the refused annotations")
    photos = counted(incomplete, "training photo")
    note = f"no background was learned from {photos} that may show a face without a box"
    data_print = fingerprint([image for image in sets[0] if image.image_id in train])
    summary = (*([note] if incomplete else []), *filter(None, [count_line(dataset)]))
    learned = list(train.values())
    if dataset.sources:
        learned = with_source_factors(learned, dataset.sources)
    return FinetuneData(learned, list(val.values()), data_print, summary, dataset.sources)


def _check_further(dataset: Annotations, split_of: Mapping[str, str], splits: Path) -> None:
    """Raise UserError where a further source's photo, or its twin in the main source, is validated or tested.

    The same where the main source's edges are not learned as they are: all offsets are from these.
    """
    main = dataset.sources[0].name if dataset.sources else ""
    if dataset.sources and dataset.sources[0].edges != "same":
        raise UserError(f"source {main}: the first --data teaches the edges; remove its `edges` in the file of sources")
    for image in dataset.images:
        split = split_of.get(image.image_id)
        if image.source == main or split is None:
            continue
        if split != "train":
            raise UserError(f"{splits}: {image.image_id}: is in split {split!r}; only the main data is, split again")
        twin = dataset.twins.get(image.image_id)
        if twin is not None and split_of.get(twin) in ("val", "test"):
            reason = f"is learned from, but it is the same photo as {twin} in split {split_of[twin]!r}"
            raise UserError(f"{splits}: {image.image_id}: {reason}; make the split again")


def _load_photos(
    images: Iterable[AnnotatedImage], source_of: Mapping[str, Source], main: str, on_photo: Callable[[], None]
) -> dict[str, TrainingPhoto]:
    """Return the photos that can be read, by image_id; print a warning for each of the others."""
    photos = {}
    for image in images:
        try:
            photos[image.image_id] = load_photo(image, source_of.get(image.source), image.source == main)
        except MediaError as error:
            print(f"warning: {error}; left out", file=sys.stderr)
        on_photo()
    return photos


def load_photo(image: AnnotatedImage, source: Source | None = None, main: bool = True) -> TrainingPhoto:
    """Return a photo with its boxes, shrunk to MAX_PHOTO_SIDE or MAX_FURTHER_SIDE.

    Args:
        image: the photo's file and annotations.
        source: what may be learned from it; None where the data is read alone.
        main: whether it is of the main source.

    Raises:
        MediaError: the photo cannot be read.
    """
    pixels, boxes, ignored = read_image(image.path), image.boxes, image.ignored
    scale = (MAX_PHOTO_SIDE if main else MAX_FURTHER_SIDE) / max(image.size)
    if scale < 1:
        size = (max(round(image.size[0] * scale), 1), max(round(image.size[1] * scale), 1))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        factors = np.tile(np.array(size) / image.size, 2).astype(np.float32)
        boxes, ignored = boxes * factors, ignored * factors
    landmarks = np.full((len(boxes), 5, 2), np.nan, np.float32)
    photo = TrainingPhoto(Mipmaps(pixels), boxes, image.labels, landmarks, image.complete, ignored=ignored)
    if source is None:
        return photo
    return replace(
        photo,
        source=source.name,
        main=main,
        edges=source.edges,
        face_free=source.face_free,
        source_incomplete=image.source_incomplete,
        class_known=image.class_known,
    )
