"""Readable photos that are stored in unusual ways, and unreadable photo files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

PhotoWriter = Callable[[Path], object]

BOX = (8, 6, 20, 24)
PHOTO = np.full((32, 48, 3), 128, np.uint8)  # grey, with a red "face" in BOX
PHOTO[6:24, 8:20] = (255, 0, 0)
# How a camera stores an upright photo with each EXIF orientation: the inverse of the rotation that the tag requests.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


def _write_rotated(path: Path, orientation: int) -> None:
    """Write PHOTO with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](PHOTO))).save(path, exif=exif)


def _write_animated(path: Path) -> None:
    others = [Image.new("RGB", (48, 32), "blue")]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(PHOTO).save(path, save_all=True, append_images=others, **options)


def _write_transparent(path: Path) -> None:
    opaque = np.where((PHOTO == 128).all(axis=2), 127, 255).astype(np.uint8)  # half grey 1 on white is grey 128
    colours = np.where(opaque[..., None] == 127, np.uint8(1), PHOTO)
    Image.fromarray(np.dstack([colours, opaque])).save(path)


# Each file is read as PHOTO, upright, with an error of at most one grey level.
READABLE: dict[str, PhotoWriter] = {
    **{f"exif{k}.png": lambda path, k=k: _write_rotated(path, k) for k in STORED},  # type: ignore[misc]
    "rgba.png": _write_transparent,
    "palette.png": lambda path: Image.fromarray(PHOTO).quantize(2).save(path),
    "cmyk.tif": lambda path: Image.fromarray(PHOTO).convert("CMYK").save(path),
    "16bit.png": lambda path: cv2.imwrite(str(path), PHOTO[..., ::-1].astype(np.uint16) * 257),
    "animated.webp": _write_animated,
    "animated.gif": _write_animated,
    os.fsdecode(b"caf\xe9.png"): lambda path: Image.fromarray(PHOTO).save(path, format="PNG"),
}


def png_with_claimed_size(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes with this size in its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _write_truncated(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])


# Each with its complete error message.
UNREADABLE: dict[str, tuple[PhotoWriter, str]] = {
    "zero.jpg": (Path.touch, "is empty (0 bytes); copy or download it again"),
    "bomb.png": (
        lambda path: path.write_bytes(png_with_claimed_size(60_000, 60_000)),
        "has more than 89.4785 million pixels; make it smaller first",
    ),
    "large.png": (
        lambda path: path.write_bytes(png_with_claimed_size(9_500, 9_500)),
        "has more than 89.4785 million pixels; make it smaller first",
    ),
    "text.jpg": (
        lambda path: path.write_text("hello"),
        "is not a picture that can be read; convert it to JPEG or PNG",
    ),
    "truncated.png": (_write_truncated, "is truncated or broken (image file is truncated); copy or download it again"),
}
