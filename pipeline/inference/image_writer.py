"""Writes pictures as JPEG and PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from common.errors import MediaError
from common.files import atomic_replace
from common.images import Pixels


def write_image(path: str | Path, image: Pixels) -> None:
    """Write an image in one step, as JPEG or PNG by the name's suffix.

    Args:
        path: a name that ends in .jpg, .jpeg or .png.
        image: uint8 (H, W, 3) RGB.

    Raises:
        MediaError: the suffix is another one, or the format cannot hold the image's size.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".jpg", ".jpeg"):
        if max(image.shape[:2]) > 65500:
            raise MediaError(path, "is too large for JPEG (65500 pixels a side); write a PNG instead")
        options: dict[str, Any] = {"format": "JPEG", "quality": 92, "subsampling": 0}  # thin coloured lines stay sharp
    elif suffix == ".png":
        options = {"format": "PNG", "compress_level": 3}
    else:
        raise MediaError(path, "cannot be written in this format; end its name with .jpg or .png")
    with atomic_replace(path) as temporary:
        Image.fromarray(image).save(temporary, **options)
