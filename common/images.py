"""Read any picture file as upright RGB."""

from __future__ import annotations

import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from common.errors import MediaError, TooManyPixelsError

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Shrink = Callable[[tuple[int, int]], float]

# Pillow's default limit: a quarter of a gibibyte as RGB. A file of a few kilobytes can claim far more.
MAX_PIXELS = 89_478_485
# Photo formats only: other formats of Pillow run programs (EPS) or hold no photo.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM", "QOI")
_TRANSPOSED = (5, 6, 7, 8)  # the EXIF orientations that swap width and height
_STRIP_ROWS = 256  # rows converted at a time: Pillow's conversion would hold the whole picture three times


@dataclass(frozen=True)
class Photo:
    """A picture file as read."""

    pixels: Pixels  # uint8 (H, W, 3) RGB, upright; smaller than the file's by `scale`
    size: tuple[int, int]  # the file's (width, height), upright

    @property
    def scale(self) -> tuple[float, float]:
        """Return the file's pixels per pixel read, as (x, y)."""
        return self.size[0] / self.pixels.shape[1], self.size[1] / self.pixels.shape[0]


def read_image(path: str | Path) -> Pixels:
    """Read a picture file as uint8 (H, W, 3) RGB, upright by its EXIF orientation.

    Transparent pixels are blended with white. 16-bit and float pixels are scaled to 8 bits. An animation or a
    multi-page file gives its first picture.

    Raises:
        MediaError: the file is missing, not a plain file, empty, not a picture, truncated or above MAX_PIXELS.
    """
    return read_photo(path).pixels


def read_photo(path: str | Path, shrink: Shrink | None = None) -> Photo:
    """Read a picture file as `read_image` does; a JPEG may be read at 1/2, 1/4 or 1/8 of its size.

    A JPEG's decoder does so in half the time and a quarter of the memory: it skips the fine detail of each 8x8 block.

    Args:
        shrink: returns the largest factor, rounded down to 1, 2, 4 or 8, by which (width, height) may be reduced.

    Raises:
        MediaError: as for `read_image`.
    """
    with open_image_file(path) as file:
        return decode_photo(file, path, shrink)


@contextmanager
def open_image_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a picture file; raise MediaError when it is missing, not a plain file, empty or not readable."""
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(path, "is a folder, not a picture; name a picture file")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
            raise MediaError(path, "is a pipe or device, not a file; save it as a picture file first")
        if status.st_size == 0:
            raise MediaError(path, "is empty (0 bytes); copy or download it again")
        with Path(path).open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise MediaError(path, "not found; check the name") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MediaError(path, f"cannot be read ({reason}); check its name and permissions") from error


def decode_photo(file: BinaryIO, name: str | Path, shrink: Shrink | None = None, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read an open file or an upload as `read_photo` does.

    Args:
        name: the picture's name in error messages.
        shrink: as in `read_photo`.
        max_pixels: the most pixels that the file may have; MAX_PIXELS is the upper limit.

    Raises:
        MediaError: the picture cannot be read; TooManyPixelsError where it is too large.
    """
    with open_undecoded(file, name, max_pixels) as image:
        width, height = image.size
        allowed = 1 if shrink is None or image.format not in ("JPEG", "MPO") else shrink((width, height))
        factor = max((each for each in (2, 4, 8) if each <= allowed), default=1)  # those of a JPEG's decoder
        if factor > 1:
            image.draft(None, (max(width // factor, 1), max(height // factor, 1)))
        image.load()
        orientation = orientation_of(image)
        pixels = _autorotate(to_rgb(image), orientation)
        return Photo(pixels, (height, width) if orientation in _TRANSPOSED else (width, height))


@contextmanager
def open_undecoded(file: BinaryIO, name: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a picture without decoding its pixels; errors of the block count as errors of the file.

    Raises MediaError for a broken file, TooManyPixelsError above `max_pixels` or MAX_PIXELS.
    """
    limit = min(max_pixels, MAX_PIXELS)
    with _PILLOW_WARNINGS:
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.size[0] * image.size[1] > limit:  # the header has the size
                    raise Image.DecompressionBombError
                yield image
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            what = f"has more than {limit / 1e6:g} million pixels; make it smaller first"
            raise TooManyPixelsError(name, what) from error
        except UnidentifiedImageError as error:
            raise MediaError(name, "is not a picture that can be read; convert it to JPEG or PNG") from error
        except Exception as error:  # a broken file makes the decoders raise almost anything
            reason = str(error) or type(error).__name__
            raise MediaError(name, f"is truncated or broken ({reason}); copy or download it again") from error


class _PillowWarnings:
    """Hides Pillow's warnings in a block, except one: too many pixels become an error.

    `warnings.catch_warnings` alone is not safe for threads: each would restore the filters of another. Here the
    first thread that enters changes the filters, and the last that leaves restores them.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._filters: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                warnings.simplefilter("error", Image.DecompressionBombWarning)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._filters is not None:
                self._filters.__exit__(None, None, None)


_PILLOW_WARNINGS = _PillowWarnings()


def to_rgb(image: Image.Image) -> Pixels:
    """Return a loaded Pillow picture of any mode as uint8 (H, W, 3) RGB."""
    if image.mode in ("I", "F"):
        return _scale_to_8_bits(np.asarray(image, dtype=np.float32))
    width, height = image.size
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        out[top:bottom] = _strip_to_rgb(image.crop((0, top, width, bottom)))
    return out


def _strip_to_rgb(strip: Image.Image) -> Pixels:
    """Return some rows of a picture as RGB."""
    if strip.mode.startswith("I;16"):  # Pillow's convert() clips 16-bit grey at 255
        grey = (np.asarray(strip).astype(np.uint32) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if strip.has_transparency_data:
        white = Image.new("RGBA", strip.size, "white")
        strip = Image.alpha_composite(white, strip.convert("RGBA"))
    return np.asarray(strip.convert("RGB"))


def _scale_to_8_bits(values: NDArray[np.float32]) -> Pixels:
    """Scale grey (H, W) from 0..1, 0..255 or 0..65535, or else from its minimum and maximum, to 8-bit RGB."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535:
        low, high = 0.0, next(top for top in (1.0, 255.0, 65535.0) if high <= top)
    grey = np.rint((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def orientation_of(image: Image.Image) -> int:
    """Return a picture's EXIF orientation, 1 to 8; 1 where the EXIF block is damaged: the pixels can still be good."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # any damage
        return 1


def upright_pixels(image: Image.Image) -> Pixels:
    """Return a loaded Pillow picture as uint8 (H, W, 3) RGB, upright by its EXIF orientation."""
    return _autorotate(to_rgb(image), orientation_of(image))


def _autorotate(pixels: Pixels, orientation: int) -> Pixels:
    """Return the pixels upright, rotated and mirrored by their EXIF orientation."""
    if orientation in _TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
