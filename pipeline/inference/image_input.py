"""The kinds of image that `Predictor` takes, and one clear error for any other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import MediaError, UserError
from common.images import Photo, Pixels, upright_pixels
from common.paths import is_address

ImageInput = Pixels | Photo | Image.Image | os.PathLike[str] | str | bytes | bytearray | memoryview
ACCEPTED = "accepted are a path, the bytes of a picture file, a PIL image, and a uint8 array (H, W, 3) in RGB order"

LIST_SUBJECT = "the images are not a list, but"


class ImageTypeError(UserError, TypeError):
    """An object that `Predictor` does not take; the message says what was given, the fix, and what is accepted."""

    def __init__(self, what: str, fix: str, subject: str = "the image is") -> None:
        super().__init__(f"{subject} {what}; {fix}; {ACCEPTED}")


def check_order(image: object, bgr: bool) -> None:
    """Raise ImageTypeError for `bgr` with anything but an array: only an array does not know its channels' order."""
    if bgr and not isinstance(image, np.ndarray):
        fix = _fix_of(None) if image is None else "remove bgr=True, which is for OpenCV's arrays only"
        raise ImageTypeError(_name_of(image), fix)


def image_path(path: str | os.PathLike[str]) -> str:
    """Return a picture file's path as text; raise MediaError for an address, which is never opened here."""
    text = os.fsdecode(path)
    if not text:
        raise ImageTypeError("an empty path", "name a file")
    if is_address(text):  # it may hold a password: only the scheme is shown
        what = "is an address, not a file; download the picture, or use `python -m pipeline.detect` for a camera"
        raise MediaError(f"{text.partition('://')[0]}://...", what)
    return text


def image_list(images: Iterable[Any]) -> list[Any]:
    """Return several images as a list; an array (N, H, W, 3) counts as N images.

    Raises:
        ImageTypeError: this is one image, or cannot be iterated.
    """
    one = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Photo))
    if one or (isinstance(images, np.ndarray) and images.dtype != object and images.ndim != 4):
        raise ImageTypeError(_name_of(images), "use detect for one image, or give a list", LIST_SUBJECT)
    if images is None or not hasattr(type(images), "__iter__"):
        raise ImageTypeError(_name_of(images), "give a list", LIST_SUBJECT)
    return list(images)


def image_pixels(image: object, bgr: bool) -> Pixels:
    """Return an array or a PIL image as uint8 (H, W, 3) RGB, upright.

    Args:
        image: an array, taken as upright: uint8 (H, W, 3), or grey as (H, W) or (H, W, 1). Or a PIL image of any mode:
            it is turned by its EXIF orientation, and blended with white where transparent, as a file is.
        bgr: whether the array's channels are blue, green, red, as OpenCV's are.

    Raises:
        ImageTypeError: this is neither, or an array of another kind.
        MediaError: the PIL image is from a file that cannot be decoded.
    """
    check_order(image, bgr)
    if isinstance(image, Image.Image):
        return _pil_pixels(image)
    if not isinstance(image, np.ndarray):
        raise ImageTypeError(_name_of(image), _fix_of(image))
    pixels = np.asarray(image)  # also of a subclass
    if problem := _array_problem(pixels):
        raise ImageTypeError(_name_of(pixels), problem)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1] if bgr else pixels)


def _pil_pixels(image: Image.Image) -> Pixels:
    """Return a PIL image as upright RGB."""
    name = getattr(image, "filename", "") or "the PIL image"  # images that were made have no file
    if not all(image.size):
        raise ImageTypeError(f"a PIL image of size {image.size}", "give one that has pixels")
    try:
        image.load()  # a file may be read only now
        return upright_pixels(image)
    except Exception as error:  # the file is broken, or closed already
        reason = str(error) or type(error).__name__
        raise MediaError(
            os.fsdecode(name), f"cannot be decoded ({reason}); open it again, or convert it to RGB"
        ) from error


def _array_problem(array: NDArray[Any]) -> str:
    """Return how to turn an array into an image; an empty string for an array that is an image."""
    shape, problem = array.shape, ""
    if array.dtype != np.uint8:
        problem = _dtype_fix(array)
    elif len(shape) == 4:
        problem = "use detect_batch for several images, or give image[0]"
    elif len(shape) not in (2, 3):
        problem = "give the pixels of one picture; for those of a picture file, array.tobytes()"
    elif not array.size:
        problem = "give one that has pixels"
    elif len(shape) == 3 and shape[2] == 4:
        problem = "drop the alpha channel: image[..., :3]"
    elif len(shape) == 3 and shape[2] not in (1, 3):
        first = shape[0] in (1, 3, 4)
        problem = (
            "move the channels to the end: image.transpose(1, 2, 0)" if first else f"give 3 channels, not {shape[2]}"
        )
    return problem


def _dtype_fix(array: NDArray[Any]) -> str:
    """Return how to convert an array's values to uint8."""
    if array.dtype.kind == "f":
        largest = float(np.nanmax(array)) if array.size and not np.isnan(array).all() else 0.0
        factor = "(255 * image)" if largest <= 1 else "image"
        return f"convert it from 0..{1 if largest <= 1 else 255} to uint8: {factor}.clip(0, 255).astype(np.uint8)"
    if array.dtype.kind == "b":
        return "convert it to uint8: 255 * image.astype(np.uint8)"
    if array.dtype == np.uint16:
        return "convert it to uint8: (image // 257).astype(np.uint8) where it uses all 16 bits"
    return "convert it to uint8: image.astype(np.uint8)" if array.dtype.kind in "iu" else "give numbers, as uint8"


def _name_of(image: object) -> str:
    """Return what an object is, without its content."""
    if image is None:
        return "None"
    kind = type(image)
    if isinstance(image, np.ndarray):
        return f"an array of {image.dtype} with shape {image.shape}"
    if isinstance(image, (list, tuple)):
        return f"a {kind.__name__} of {len(image)}"
    if isinstance(image, (str, os.PathLike)):
        return "a path"
    if isinstance(image, Image.Image):
        return "a PIL image"
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    shape = f" with shape {tuple(shape)}" if isinstance(shape := getattr(image, "shape", None), tuple) else ""
    return f"an object of type {module}{kind.__qualname__}{shape}"


def _fix_of(image: object) -> str:
    """Return how to turn an object of another type into an image."""
    if image is None:
        return "cv2.imread returns None where a file is missing or cannot be read: check its path"
    if type(image).__module__.split(".")[0] == "torch":
        return "convert the tensor: (255 * tensor).byte().permute(1, 2, 0).cpu().numpy() for values of 0..1"
    if isinstance(image, (list, tuple, set, dict)):
        return "give one image, or use detect_batch for several"
    if hasattr(image, "getvalue"):
        return "give its bytes: file.getvalue()"
    if hasattr(image, "read"):
        return "give its bytes, file.read(), or its path"
    return "convert it to an array, with numpy.asarray for one" if hasattr(image, "__array__") else "give one of these"
