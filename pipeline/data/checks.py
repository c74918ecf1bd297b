"""Checks of a dataset before work begins: which photos can be used, and that results stay out of its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage, Annotations
from common.annotations.yolo import photo_folders
from common.cli import progress
from common.display import display_name
from common.errors import MediaError, UserError
from common.images import read_image


def check_apart(data: Path, path: Path, flag: str) -> None:
    """Raise UserError when `path`, given by `flag`, is in the dataset: the next run would read results as data.

    A data.yaml names the folders of its photos; only these count.
    """
    is_yaml = data.suffix.lower() in (".yaml", ".yml") and data.is_file()
    for place in (data, *(photo_folders(data) if is_yaml else ())):
        if path.resolve().is_relative_to(place.resolve()):
            raise UserError(f"{path}: is in {display_name(place)} and would be read as data; give another {flag}")


def check_dataset(data: Path, annotations: Annotations, log: Callable[[str], None]) -> list[AnnotatedImage]:
    """Return the photos that can be decoded, and report the others.

    Args:
        data: the dataset, for messages.
        annotations: the dataset as read.
        log: gets one line per unusable photo.

    Raises:
        UserError: no photo can be used.
    """
    images = readable_images(annotations.images, log)
    if not images:
        raise UserError(f"{data}: none of its {len(annotations.images)} photos can be used; check the warnings above")
    return images


def readable_images(images: Iterable[AnnotatedImage], log: Callable[[str], None]) -> list[AnnotatedImage]:
    """Return the images that can be decoded at the size of their headers, and report the others with `log`."""
    usable = []
    with progress() as bar:
        for image in bar.track(list(images), description="reading photos"):
            try:
                mismatch = size_mismatch(read_image(image.path), image.size)
            except MediaError as error:
                log(f"warning: {error}; left out")
                continue
            if mismatch:
                log(f"warning: {display_name(image.path)}: is {mismatch}; left out")
            else:
                usable.append(image)
    return usable


def size_mismatch(pixels: NDArray[np.uint8], size: tuple[int, int]) -> str:
    """Return how pixels, uint8 (H, W, 3), differ from the size (width, height) in their header; empty if they do not.

    A PNG may have its rotation after its pixels, where a reader of headers does not look.
    """
    height, width = pixels.shape[:2]
    return "" if (width, height) == size else f"{width}x{height} when decoded, {size[0]}x{size[1]} by its header"
