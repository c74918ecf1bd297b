"""Pictures of more than 8 bits that Pillow cannot read, or reads as 8 bits only: read by OpenCV."""

from __future__ import annotations

from typing import BinaryIO, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 262, 274  # TIFF tags
_BLACK_IS_ZERO = 1
_PACKED_BITS = (10, 14)  # that Pillow does not know
Deep = NDArray[np.uint16]  # (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA


def read_packed_tiff(file: BinaryIO, max_pixels: int) -> tuple[Deep, int, int] | None:
    """Return the grey pixels of a TIFF with 10 or 14 bits per pixel, the value of white, and its orientation.

    None for every other file, and for one above `max_pixels`.
    """
    file.seek(0)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        bits, pixels = tags[_BITS], int(tags[_WIDTH]) * int(tags[_HEIGHT])
        orientation = int(tags.get(_ORIENTATION, 1))
        grey = len(bits) == 1 and bits[0] in _PACKED_BITS and tags[_PHOTOMETRIC] == _BLACK_IS_ZERO
    except Exception:  # another format, or a broken header
        return None
    if not grey or pixels > max_pixels or (values := read_16_bits(file)) is None or values.ndim != 2:
        return None
    return values >> (16 - bits[0]), 2 ** bits[0] - 1, orientation  # OpenCV fills the upper bits


def read_16_bits(file: BinaryIO) -> Deep | None:
    """Return the pixels of a PNG or TIFF of more than 8 bits as stored, not upright; None where OpenCV cannot."""
    file.seek(0)
    data = _without_orientation(file.read())
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[2:] not in ((), (3,), (4,)):
        return None
    values = pixels.astype(np.uint16, copy=False)
    return values if values.ndim == 2 else np.ascontiguousarray(values[..., [2, 1, 0, 3][: values.shape[2]]])


def _without_orientation(data: bytes) -> bytes:
    """Return a TIFF without its orientation, by which OpenCV would rotate; any other file as it is."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return data
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    begin = int.from_bytes(data[4:8], order)
    count = int.from_bytes(data[begin : begin + 2], order)
    for entry in range(begin + 2, begin + 2 + 12 * count, 12):
        if int.from_bytes(data[entry : entry + 2], order) == _ORIENTATION:
            return data[: entry + 8] + (1).to_bytes(2, order) + data[entry + 10 :]
    return data
