"""What `Predictor.detect` takes: paths, arrays, PIL images and bytes; anything else is refused in one clear line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import MediaError, UserError
from common.images import read_image
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.inference.detections import Detections
from pipeline.inference.image_input import ACCEPTED, ImageTypeError, image_pixels
from pipeline.inference.predictor import Predictor

ROOT = Path(__file__).resolve().parents[3]
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.default()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return synthetic_photo(320, 240, 2, seed=3)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def assert_same(found: Detections, expected: Detections) -> None:
    assert len(found) == len(expected) > 0
    assert (found.boxes == expected.boxes).all() and (found.scores == expected.scores).all()
    assert found.labels == expected.labels


class OwnPath(os.PathLike[str]):
    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_every_kind_of_image_gives_the_same_faces(predictor: Predictor, pixels: np.ndarray, tmp_path: Path) -> None:
    data = encoded(pixels)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    expected = predictor.detect(path)
    given: list[Any] = [str(path), OwnPath(path), data, bytearray(data), memoryview(data), pixels, predictor.read(path)]
    with path.open("rb") as file:
        for image in [*given, Image.open(path), Image.open(file), Image.fromarray(pixels)]:
            assert_same(predictor.detect(image), expected)
    assert_same(predictor.detect(cv2.imread(str(path)), bgr=True), expected)
    assert_same(predictor.detect(np.ascontiguousarray(pixels[..., ::-1])[..., ::-1]), expected)
    readonly = pixels.copy()
    readonly.setflags(write=False)
    assert_same(predictor.detect(readonly), expected)


def test_a_batch_takes_them_too(predictor: Predictor, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(pixels))
    expected = predictor.detect(path)
    for found in predictor.detect_batch([path, str(path), path.read_bytes(), pixels, Image.open(path)]):
        assert_same(found, expected)
    assert len(predictor.detect_batch(iter([path, path]))) == 2
    for found in predictor.detect_batch(np.stack([pixels, pixels])):
        assert found.boxes == pytest.approx(expected.boxes, abs=0.01)
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    for found in predictor.detect_batch([bgr, bgr], bgr=True):
        assert found.boxes == pytest.approx(expected.boxes, abs=0.01)


def test_a_huge_file_is_read_smaller_from_bytes_too(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(synthetic_photo(1600, 1200, 2), "JPEG"))
    assert predictor.read(path, 210).scale == (4, 4)
    expected = predictor.detect(path, min_face=210)
    assert_same(predictor.detect(path.read_bytes(), min_face=210), expected)
    assert_same(predictor.detect_batch([path], min_face=210)[0], expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_pil_image_of_any_mode_is_read_as_its_file_is(mode: str, tmp_path: Path) -> None:
    image = Image.linear_gradient("L").resize((60, 40))
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    pixels = image_pixels(image, bgr=False)
    assert pixels.shape == (40, 60, 3) and pixels.dtype == np.uint8 and pixels.std() > 20
    if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):  # PNG has these
        image.save(tmp_path / "a.png")
        assert (read_image(tmp_path / "a.png") == pixels).all()


def test_transparent_pixels_are_blended_with_white() -> None:
    image = Image.new("RGBA", (4, 3), (255, 0, 0, 0))
    assert (image_pixels(image, bgr=False) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_turned_by_its_exif_orientation(orientation: int, tmp_path: Path) -> None:
    stored = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(stored).save(path, exif=exif)
    with Image.open(path) as image:
        assert (image_pixels(image, bgr=False) == read_image(path)).all()
        assert (np.asarray(image) == stored).all()  # the caller's image stays as it was


def test_grey_arrays_are_images(predictor: Predictor, pixels: np.ndarray) -> None:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    expected = predictor.detect(np.repeat(grey[..., None], 3, axis=2))
    for image, bgr in ((grey, False), (grey[..., None], False), (grey, True)):
        assert_same(predictor.detect(image, bgr=bgr), expected)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 50, 3), (2, 3, 3), (3, 3)])
def test_odd_but_valid_shapes(predictor: Predictor, shape: tuple[int, ...]) -> None:
    assert len(predictor.detect(np.zeros(shape, np.uint8))) == 0


class FakeTensor:
    __module__ = "torch"
    shape = (3, 4, 5)


REFUSED: list[tuple[Any, str, str]] = [
    (None, "is None", "cv2.imread returns None where a file is missing or cannot be read"),
    ([np.zeros((4, 5, 3), np.uint8)], "is a list of 1", "detect_batch"),
    ((), "is a tuple of 0", "detect_batch"),
    ({"a": 1}, "of type dict", ""),
    (7, "of type int", ""),
    (io.BytesIO(b"x"), "of type _io.BytesIO", "file.getvalue()"),
    (FakeTensor(), "torch.FakeTensor with shape (3, 4, 5)", ".permute(1, 2, 0).cpu().numpy()"),
    (np.float32(1), "of type numpy.float32", "numpy.asarray"),
    (np.zeros((4, 5, 3)), "an array of float64 with shape (4, 5, 3)", "(255 * image).clip(0, 255).astype(np.uint8)"),
    (np.full((4, 5, 3), 9, np.float32), "float32", "from 0..255 to uint8: image.clip(0, 255).astype(np.uint8)"),
    (np.full((4, 5, 3), np.nan), "float64", "astype(np.uint8)"),
    (np.zeros((4, 5, 3), np.uint16), "uint16", "image // 257"),
    (np.zeros((4, 5, 3), np.int64), "int64", "image.astype(np.uint8)"),
    (np.zeros((4, 5, 3), bool), "bool", "255 * image.astype(np.uint8)"),
    (np.zeros((4, 5, 3), object), "object", "uint8"),
    (np.zeros((4, 5, 4), np.uint8), "shape (4, 5, 4)", "image[..., :3]"),
    (np.zeros((3, 40, 50), np.uint8), "shape (3, 40, 50)", "image.transpose(1, 2, 0)"),
    (np.zeros((40, 50, 2), np.uint8), "shape (40, 50, 2)", "3 channels, not 2"),
    (np.zeros((2, 4, 5, 3), np.uint8), "shape (2, 4, 5, 3)", "detect_batch"),
    (np.zeros((0, 5, 3), np.uint8), "shape (0, 5, 3)", "has pixels"),
    (np.zeros(7, np.uint8), "shape (7,)", "array.tobytes()"),
    (Image.new("RGB", (0, 5)), "a PIL image of size (0, 5)", "has pixels"),
    ("", "an empty path", "name a file"),
]


@pytest.mark.parametrize(("image", "given", "fix"), REFUSED, ids=[given for _, given, _ in REFUSED])
def test_anything_else_is_refused(predictor: Predictor, image: Any, given: str, fix: str) -> None:
    for call in (lambda: predictor.detect(image), lambda: predictor.detect_batch(["a.jpg", image][1:])):
        with pytest.raises(ImageTypeError) as caught:
            call()
        message = str(caught.value)
        assert given in message and fix in message and message.endswith(ACCEPTED) and "\n" not in message
        assert isinstance(caught.value, UserError) and isinstance(caught.value, TypeError)


@pytest.mark.parametrize("images", ["a.jpg", Path("a.jpg"), b"x", np.zeros((4, 5, 3), np.uint8), None, 7])
def test_a_batch_is_a_list(predictor: Predictor, images: Any) -> None:
    with pytest.raises(ImageTypeError, match="the images are not a list, but "):
        predictor.detect_batch(images)


@pytest.mark.parametrize("image", ["a.jpg", Path("a.jpg"), b"x", Image.new("L", (4, 4))])
def test_bgr_is_for_arrays_only(predictor: Predictor, image: Any) -> None:
    with pytest.raises(ImageTypeError, match=r"remove bgr=True, which is for OpenCV's arrays only"):
        predictor.detect(image, bgr=True)


def test_what_opencv_could_not_read_is_named_as_such(predictor: Predictor) -> None:
    with pytest.raises(ImageTypeError, match=r"the image is None; cv2.imread returns None where a file is missing"):
        predictor.detect(None, bgr=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "line"),
    [
        (b"", "bytes: is empty (0 bytes); "),
        (b"abc", "bytes: is not a picture that can be read; "),
        (encoded(np.zeros((50, 50, 3), np.uint8))[:60], "bytes: is truncated or broken "),
        ("missing.jpg", "missing.jpg: not found; check the name"),
        ("http://me:secret@host/a.jpg", "http://...: is an address, not a file; "),
    ],
)
def test_what_cannot_be_read(predictor: Predictor, image: Any, line: str) -> None:
    with pytest.raises(MediaError) as caught:
        predictor.detect(image)
    assert str(caught.value).startswith(line) and "secret" not in str(caught.value)


def test_a_pil_image_whose_file_is_broken_or_closed(predictor: Predictor, tmp_path: Path) -> None:
    whole = encoded(synthetic_photo(200, 150, 1), "JPEG")
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    with Image.open(path) as image, pytest.raises(MediaError, match=r"a\.jpg: cannot be decoded \("):
        predictor.detect(image)
    path.write_bytes(whole)
    with Image.open(path) as closed:
        pass
    with pytest.raises(MediaError, match="cannot be decoded"):
        predictor.detect(closed)


def test_classify_takes_bgr_and_pil_images(predictor: Predictor, pixels: np.ndarray) -> None:
    boxes = predictor.detect(pixels).boxes
    expected = predictor.classify(pixels, boxes)
    assert (predictor.classify(np.ascontiguousarray(pixels[..., ::-1]), boxes, bgr=True) == expected).all()
    assert (predictor.classify(Image.fromarray(pixels), boxes) == expected).all()
    with pytest.raises(ImageTypeError):
        predictor.classify(None, boxes)  # type: ignore[arg-type]


def test_importing_the_package_loads_no_picture_library() -> None:
    code = "import sys, pipeline; print([m for m in ('PIL', 'cv2', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
