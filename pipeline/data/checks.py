"""Checks of a dataset before work begins: which photos can be used, and that results stay out of its folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Container, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage, Annotations
from common.annotations.yolo import photo_folders
from common.cli import progress
from common.display import display_name, printable
from common.errors import MediaError, UserError
from common.images import read_image
from stage2_classifier.data.crop_manifest import BACKGROUND

MAX_CLASS_BYTES = 200  # of a class name, which is a folder's name


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


def check_class_names(class_names: Iterable[str]) -> None:
    """Raise UserError when a class cannot have a folder of crops, or has the name of hard negatives."""
    class_names = tuple(class_names)
    for name in class_names:
        if fault := class_name_fault(name):
            rename = shlex.quote(f"{name}={usable_name(name, class_names)}")
            way = f"use --rename {rename}, or " if can_be_typed(name) else ""
            raise UserError(f"class {printable(name)!r} {fault}; {way}rename it in the annotations")


def class_name_fault(name: str) -> str:
    """Return why no crops can be made of a class of that name; "" where they can."""
    if name == BACKGROUND:
        return "is the name of hard negatives"
    if name != Path(name).name or name.startswith(".") or "\0" in name:
        return "cannot be a folder's name"
    return "is too long for a folder's name" if len(name.encode()) > MAX_CLASS_BYTES else ""


def usable_name(name: str, taken: Container[str] = ()) -> str:
    """Return a name like this one that a folder of crops can have, and that is not `taken`."""
    text = re.sub(r"[^\w .-]+", "_", name).strip(" .")
    text = text.encode()[:MAX_CLASS_BYTES].decode(errors="ignore")
    text = text if text and not class_name_fault(text) else f"{text}_class"
    return next(each for each in (text, *(f"{text}_{n}" for n in range(2, 100))) if each not in taken)


def can_be_typed(name: str) -> bool:
    """Return whether --rename can have a class name."""
    return name.isprintable() and "=" not in name and not name.startswith("-")
