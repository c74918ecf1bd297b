"""Which annotated photos can be used: those that can be read, and are as large as their headers say.

Results lie apart from them: what is written among the photos may be read as data the next time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.annotations import AnnotatedImage, Annotations
from common.cli import progress
from common.errors import MediaError, UserError
from common.images import read_image
from pipeline.training.steps import Say

FEW = 5  # of the problems in the data are told, and of the photos in a list


def check_apart(data: Path, path: Path, flag: str) -> None:
    """Raises UserError when what `flag` names lies in the dataset."""
    if path.resolve().is_relative_to(data.resolve()):
        raise UserError(f"{path}: lies in {data} and would be read as data; give another {flag}")


def usable_images(data: Path, read: Annotations, say: Say) -> list[AnnotatedImage]:
    """The photos of `read` that can be used; every other is named, and the first problems that reading met.

    Raises UserError when there are none.
    """
    for problem in read.problems[:FEW]:
        say(f"warning: {problem}")
    if len(read.problems) > FEW:
        say(f"warning: and {len(read.problems) - FEW} more problems in the data")
    images = readable(read.images, say)
    if not images:
        raise UserError(f"{data}: not one of its {len(read.images)} photos can be used")
    return images


def readable(images: Iterable[AnnotatedImage], say: Say) -> list[AnnotatedImage]:
    """The photos that can be used; every other is named."""
    kept = []
    with progress() as bar:
        for image in bar.track(list(images), description="reading photos"):
            try:
                height, width = read_image(image.path).shape[:2]
            except MediaError as error:
                say(f"warning: {error}; left out")
                continue
            if (width, height) == image.size:
                kept.append(image)
            else:  # a PNG may tell of its rotation after its pixels
                sizes = f"{width}x{height} when decoded, {image.size[0]}x{image.size[1]} by its header"
                say(f"warning: {image.path}: is {sizes}; left out")
    return kept
