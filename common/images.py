"""Reads any picture file as upright RGB."""

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
from PIL import Image, UnidentifiedImageError

from common.errors import MediaError, TooManyPixelsError

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Shrink = Callable[[tuple[int, int]], float]

# Pillow's own default bound: a quarter of a gibibyte as RGB. A file of a few kilobytes can claim far more.
MAX_PIXELS = 89_478_485
# Photo formats only: others that Pillow knows run programs (EPS) or hold no photo.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM", "QOI")
_ORIENTATION = 0x0112  # the EXIF tag
_SMALLER = (2, 4, 8)  # how many times smaller a JPEG's decoder can give a picture
_STRIP = 256  # rows converted at a time: Pillow's own conversion would hold the picture three times


@dataclass(frozen=True)
class Photo:
    """A picture file as read. pixels: uint8 (H, W, 3) RGB, upright. size: the file's width and height, upright.

    The pixels may be fewer than the file's, `scale` times in each direction.
    """

    pixels: Pixels
    size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the file per pixel read, across and down."""
        return self.size[0] / self.pixels.shape[1], self.size[1] / self.pixels.shape[0]


def read_image(path: str | Path) -> Pixels:
    """Reads a picture file as uint8 (H, W, 3) RGB, upright by its EXIF orientation.

    Transparency is laid on white, 16-bit and float pixels are scaled to 8 bits, of an animation or a
    multi-page file the first picture is taken.

    Raises MediaError when the file is missing, special, empty, no picture, truncated or above MAX_PIXELS.
    """
    return read_photo(path).pixels


def read_photo(path: str | Path, shrink: Shrink | None = None) -> Photo:
    """`read_image`, at a half, quarter or eighth of its size where `shrink` admits it and the file is a JPEG.

    A JPEG's decoder gives such sizes in half the time and a quarter of the memory (it leaves fine detail out of
    each block of 8x8). shrink: how many times smaller a file of (width, height) may be read; the largest of 1, 2, 4
    and 8 that is no larger is taken. Raises MediaError as `read_image` does.
    """
    with opened(path) as file:
        return decode_photo(file, path, shrink)


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """A picture file, open. Raises MediaError when it is missing, special, empty or may not be read."""
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(path, "is a folder, not a picture; name a picture file")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise MediaError(path, "is a pipe or device, not a file; save it as a picture file first")
        if status.st_size == 0:
            raise MediaError(path, "is empty (0 bytes); copy or download it again")
        with Path(path).open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise MediaError(path, "not found; check the name") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MediaError(path, f"cannot be read ({why}); check its name and permissions") from error


def decode_photo(file: BinaryIO, name: str | Path, shrink: Shrink | None = None, max_pixels: int = MAX_PIXELS) -> Photo:
    """`read_photo` for an open file or an upload; `name` is what errors call it.

    max_pixels: the most that the file may have, MAX_PIXELS or fewer. Raises TooManyPixelsError above it.
    """
    with recognised(file, name, max_pixels) as image:
        width, height = image.size
        admitted = 1 if shrink is None or image.format not in ("JPEG", "MPO") else shrink((width, height))
        times = max((each for each in _SMALLER if each <= admitted), default=1)
        if times > 1:
            image.draft(None, (max(width // times, 1), max(height // times, 1)))
        image.load()
        pixels, turned = _upright(to_rgb(image), image)
        return Photo(pixels, (height, width) if turned else (width, height))


@contextmanager
def recognised(file: BinaryIO, name: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """An open file as a picture of which nothing is decoded yet; faults found inside are the file's, too.

    Raises MediaError when it is none or broken, TooManyPixelsError when it has more than `max_pixels` or MAX_PIXELS.
    """
    most = min(max_pixels, MAX_PIXELS)
    with _QUIET:
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.size[0] * image.size[1] > most:  # known from the header
                    raise Image.DecompressionBombError
                yield image
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            limit = f"more than {most / 1e6:g} million pixels"
            raise TooManyPixelsError(name, f"has {limit}; make it smaller first") from error
        except UnidentifiedImageError as error:
            raise MediaError(name, "is not a picture that can be read; convert it to JPEG or PNG") from error
        except Exception as error:  # a broken file makes the decoders raise almost anything
            why = str(error) or type(error).__name__
            raise MediaError(name, f"is truncated or broken ({why}); copy or download it again") from error


class _Quiet:
    """Pillow's warnings are silent inside, but one: too many pixels are an error.

    `warnings.catch_warnings` alone is not for threads: who leaves last would put back what another had changed. So
    the first one in changes the filters, the last one out restores them.
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


_QUIET = _Quiet()


def to_rgb(image: Image.Image) -> Pixels:
    """A loaded Pillow picture of any mode as uint8 (H, W, 3)."""
    if image.mode in ("I", "F"):
        return _stretch(np.asarray(image, dtype=np.float32))
    width, height = image.size
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        out[top:bottom] = _strip_to_rgb(image.crop((0, top, width, bottom)))
    return out


def _strip_to_rgb(strip: Image.Image) -> Pixels:
    if strip.mode.startswith("I;16"):  # Pillow's convert() cuts 16-bit grey off at 255
        grey = (np.asarray(strip).astype(np.uint32) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if strip.has_transparency_data:
        white = Image.new("RGBA", strip.size, "white")
        strip = Image.alpha_composite(white, strip.convert("RGBA"))
    return np.asarray(strip.convert("RGB"))


def _stretch(values: NDArray[np.float32]) -> Pixels:
    """Grey (H, W) to 8 bits: a range of 0..1, 0..255 or 0..65535 as such, any other from its min to its max."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535:
        low, high = 0.0, next(top for top in (1.0, 255.0, 65535.0) if high <= top)
    grey = np.rint((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def orientation_of(image: Image.Image) -> int:
    """A picture's EXIF orientation, 1 to 8; a damaged EXIF block counts as none: the pixels themselves are sound."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # any damage
        return 1


def _upright(pixels: Pixels, image: Image.Image) -> tuple[Pixels, bool]:
    """The pixels turned by the picture's EXIF orientation, and whether rows became columns."""
    orientation = orientation_of(image)
    turned = orientation in (5, 6, 7, 8)
    if turned:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels), turned
