"""Read any picture file as upright RGB."""

from __future__ import annotations

import io
import stat
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from common.errors import MediaError, TooManyPixelsError

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Depth = TypeVar("Depth", np.uint8, np.uint16)
Shrink = Callable[[tuple[int, int]], float]

# Pillow's default limit: a quarter of a gibibyte as RGB. A file of a few kilobytes can claim far more.
MAX_PIXELS = 89_478_485
# Photo formats only: other formats of Pillow run programs (EPS) or hold no photo.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM", "QOI")
TRANSPOSED = (5, 6, 7, 8)  # the EXIF orientations that swap width and height
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
NO_END_NOTE = "lacks its end marker, but all pixels are there; save it again"
GREY_RANGES = (255, 1023, 4095, 65535)  # largest values of 8, 10, 12 and 16 bits
_HOT_PIXELS = 10_000  # one pixel of this number may be above the range: a sensor's hot pixels, not the picture
# Pillow's modes that it converts to RGB for certain.
_MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "I",
    "F",
    "I;16",
    "I;16L",
    "I;16B",
    "I;16N",
)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF tags, and a value of the second
_JPEG_START, _TIFF_STARTS = b"\xff\xd8\xff", (b"II", b"MM")
_STRIP_ROWS = 256  # rows converted at a time: Pillow's conversion would hold the whole picture three times


@dataclass(frozen=True)
class Photo:
    """A picture file as read."""

    pixels: Pixels  # uint8 (H, W, 3) RGB, upright; smaller than the file's by `scale`
    size: tuple[int, int]  # the file's (width, height), upright
    note: str = ""  # what a user should know of a file that was read all the same

    @property
    def scale(self) -> tuple[float, float]:
        """Return the file's pixels per pixel read, as (x, y)."""
        return self.size[0] / self.pixels.shape[1], self.size[1] / self.pixels.shape[0]


def read_image(path: str | Path) -> Pixels:
    """Read a picture file as uint8 (H, W, 3) RGB, upright by its EXIF orientation.

    Transparent pixels are blended with white. An animation or a multi-page file gives its first picture. A JPEG that
    lacks only its end marker is read.

    Grey of more than 8 bits, and colours stored in 16, are divided by the largest value of their bit depth. That is
    the depth that a TIFF names, else the least of 8, 10, 12 and 16 bits that all but one in 10,000 pixels fit into. So
    10 and 12 bits stored in 16 are read at full brightness, also with a few hot pixels. A black picture stays black:
    nothing is divided by its own maximum.

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
    with ExitStack() as stack:
        try:
            status = Path(path).stat()
            if stat.S_ISDIR(status.st_mode):
                raise MediaError(path, "is a folder, not a picture; name a picture file")
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
                raise MediaError(path, "is a pipe or device, not a file; save it as a picture file first")
            if status.st_size == 0:
                raise MediaError(path, "is empty (0 bytes); copy or download it again")
            file = stack.enter_context(Path(path).open("rb"))
        except FileNotFoundError as error:
            raise MediaError(path, "not found; check the name") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise _unreadable(path, error) from error
        try:
            yield file
        except OSError as error:  # of reading; any other error of the block is not the file's
            raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: OSError | ValueError) -> MediaError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return MediaError(path, f"cannot be read ({reason}); check its name and permissions")


def decode_photo(file: BinaryIO, name: str | Path, shrink: Shrink | None = None, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read an open file or an upload as `read_photo` does.

    Args:
        name: the picture's name in error messages.
        shrink: as in `read_photo`.
        max_pixels: the most pixels that the file may have; MAX_PIXELS is the upper limit.

    Raises:
        MediaError: the picture cannot be read; TooManyPixelsError where it is too large.
    """
    try:
        return _decode(file, name, shrink, max_pixels)
    except TooManyPixelsError:
        raise
    except MediaError:
        file.seek(0)
        start = file.read(len(_JPEG_START))
        if start == _JPEG_START:
            photo = _decode_without_end(file, name, shrink, max_pixels)
        else:
            photo = _decode_packed_tiff(file, max_pixels) if start[:2] in _TIFF_STARTS else None
        if photo is None:
            raise
        return photo


def _decode(file: BinaryIO, name: str | Path, shrink: Shrink | None, max_pixels: int) -> Photo:
    """Read an open file as `decode_photo` does; a JPEG without its end is an error."""
    try:
        with _PILLOW_WARNINGS, _open_checked(file, name, max_pixels) as image:
            width, height = image.size
            allowed = 1 if shrink is None or image.format not in ("JPEG", "MPO") else shrink((width, height))
            factor = max((each for each in (2, 4, 8) if each <= allowed), default=1)  # those of a JPEG's decoder
            # Raw modes such as "RGB;16B"; the tile has numbers, too.
            deep = image.mode in ("RGB", "RGBA") and ";16" in str(getattr(image, "tile", ""))
            with _file_errors(name):
                # Pillow turns a TIFF upright when it loads it, but not the pixels that are read again below.
                stored = orientation_of(image) if image.format == "TIFF" else 1
                if factor > 1:
                    image.draft(None, (max(width // factor, 1), max(height // factor, 1)))
                image.load()
                if image.mode not in _MODES:
                    image = image.convert("RGB")  # noqa: PLW2901
            orientation = orientation_of(image)
            pixels = to_rgb(image)
            if deep and _is_dark(image):
                pixels = _decode_deep_colour(file, pixels, stored)
            pixels = _autorotate(pixels, orientation)
            size = (height, width) if orientation in TRANSPOSED else (width, height)
            return Photo(pixels, size, _animation_note(image))
    except MemoryError as error:
        raise MediaError(name, "needs more memory than there is; make it smaller first") from error


def _decode_without_end(file: BinaryIO, name: str | Path, shrink: Shrink | None, max_pixels: int) -> Photo | None:
    """Return a JPEG that lacks only its end marker; None where pixels are missing, too."""
    from common.decoding.jpeg_end import complete_jpeg  # no other file needs it

    file.seek(0)
    whole = complete_jpeg(file.read())
    if whole is None:
        return None
    return replace(_decode(io.BytesIO(whole), name, shrink, max_pixels), note=NO_END_NOTE)


def _decode_packed_tiff(file: BinaryIO, max_pixels: int) -> Photo | None:
    """Return a TIFF of 10 or 14 bits per pixel, which Pillow does not read; None for every other file."""
    from common.decoding.deep_images import read_packed_tiff

    with _PILLOW_WARNINGS:
        found = read_packed_tiff(file, min(max_pixels, MAX_PIXELS))
    if found is None:
        return None
    values, white, orientation = found
    pixels = _autorotate(_deep_to_rgb(values, white), orientation)
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]))


def _is_dark(image: Image.Image) -> bool:
    """Return whether 12 bits stored in 16 hold all colours, except for hot pixels."""
    colours = np.asarray(image)[..., :3]  # Pillow keeps the upper 8 of 16 bits
    return int(np.count_nonzero(colours > GREY_RANGES[2] >> 8)) <= colours.size // _HOT_PIXELS


def _decode_deep_colour(file: BinaryIO, pixels: Pixels, orientation: int) -> Pixels:
    """Return 10 or 12-bit colours stored in 16 bits at full brightness; `pixels` where they cannot be read so.

    `orientation` is by which `pixels` were turned already.
    """
    from common.decoding.deep_images import read_16_bits

    values = read_16_bits(file)
    if values is None or values.ndim != 3:
        return pixels
    values = _autorotate(values, orientation)
    if values.shape[:2] != pixels.shape[:2]:
        return pixels
    colours = _deep_to_rgb(values[..., :3], _white_of([values[..., :3]]))
    if values.shape[2] == 3:
        return colours
    alpha = (values[..., 3:] >> 8).astype(np.uint8)
    return _strip_to_rgb(Image.fromarray(np.concatenate([colours, alpha], axis=2)))


def _animation_note(image: Image.Image) -> str:
    """Return the note of an animation, of which the first frame is read; "" for a photo."""
    if image.format not in ANIMATED_FORMATS:
        return ""
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:  # a later frame is damaged
        return ""
    return f"is an animation; the first of {frames} frames was used" if frames > 1 else ""


@contextmanager
def open_undecoded(file: BinaryIO, name: str | Path) -> Iterator[Image.Image]:
    """Open a picture without decoding its pixels; errors of the block count as errors of the file.

    Raises MediaError for a broken file, TooManyPixelsError above MAX_PIXELS.
    """
    with _PILLOW_WARNINGS, _open_checked(file, name, MAX_PIXELS) as image, _file_errors(name):
        yield image


def _open_checked(file: BinaryIO, name: str | Path, max_pixels: int) -> Image.Image:
    """Open a picture; raise MediaError for a broken header, TooManyPixelsError above `max_pixels` or MAX_PIXELS."""
    limit = min(max_pixels, MAX_PIXELS)
    with _file_errors(name, limit):
        image = Image.open(file, formats=FORMATS)
        if image.size[0] * image.size[1] > limit:  # the header has the size
            raise Image.DecompressionBombError
    return image


@contextmanager
def _file_errors(name: str | Path, limit: int = MAX_PIXELS) -> Iterator[None]:
    """Turn what Pillow raises in the block into a MediaError; only Pillow may be called in it."""
    try:
        yield
    except MemoryError:
        raise
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
    strips = [(top, min(top + _STRIP_ROWS, height)) for top in range(0, height, _STRIP_ROWS)]
    deep = image.mode.startswith("I;16")
    white = _white_of_grey(image, strips) if deep else 0
    for top, bottom in strips:
        strip = image.crop((0, top, width, bottom))
        out[top:bottom] = _deep_to_rgb(np.asarray(strip), white) if deep else _strip_to_rgb(strip)
    # Pillow inverts a TIFF whose white is 0 for 8 bits alone.
    is_inverted = deep and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return 255 - out if is_inverted else out


def _strip_to_rgb(strip: Image.Image) -> Pixels:
    """Return some rows of a picture as RGB."""
    if strip.has_transparency_data:
        white = Image.new("RGBA", strip.size, "white")
        strip = Image.alpha_composite(white, strip.convert("RGBA"))
    return np.asarray(strip.convert("RGB"))


def _white_of_grey(image: Image.Image, strips: Sequence[tuple[int, int]]) -> int:
    """Return the value of white of grey stored in 16 bits: of the depth that a TIFF names, else by its values."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    if bits < 16:
        return int(2**bits - 1)
    return _white_of(np.asarray(image.crop((0, top, image.width, bottom))) for top, bottom in strips)


def _white_of(parts: Iterable[NDArray[np.uint16]]) -> int:
    """Return the least of GREY_RANGES that all pixels fit into, except for hot ones."""
    above, pixels = np.zeros(len(GREY_RANGES), np.int64), 0
    for part in parts:
        above += [np.count_nonzero(part > white) for white in GREY_RANGES]
        pixels += part.size
    return next(white for white, count in zip(GREY_RANGES, above, strict=True) if count <= pixels // _HOT_PIXELS)


def _deep_to_rgb(values: NDArray[np.uint16], white: int) -> Pixels:
    """Return grey (H, W) or RGB (H, W, 3) values from 0 to `white` as 8-bit RGB."""
    values = np.minimum(values, white)  # of hot pixels
    scaled = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=2)


def _scale_to_8_bits(values: NDArray[np.float32]) -> Pixels:
    """Scale grey (H, W) from 0..1 or one of GREY_RANGES, or else from its minimum and maximum, to 8-bit RGB."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535:
        # The least range that all pixels fit into, except for hot ones. Filters may give values slightly above 1.
        beyond = ((top, 1.5 if top == 1 else top) for top in (1, *GREY_RANGES))
        fitting = (top for top, most in beyond if np.count_nonzero(values > most) <= values.size // _HOT_PIXELS)
        low, high = 0.0, float(next(fitting))
    values = np.clip(values, low, high)
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


def _autorotate(pixels: NDArray[Depth], orientation: int) -> NDArray[Depth]:
    """Return the pixels upright, rotated and mirrored by their EXIF orientation."""
    if orientation in TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
