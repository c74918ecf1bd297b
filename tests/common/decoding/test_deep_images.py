"""Pictures of more than 8 bits are read at full brightness, by the range of their bit depth."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import MediaError
from common.images import _autorotate, read_image
from tests.helpers.cases import CASES, needs_cases


def ramp(white: int) -> np.ndarray:
    return np.linspace(0, white, 48).round().astype(np.uint16).reshape(6, 8)


def in_8_bits(values: np.ndarray, white: int) -> np.ndarray:
    return np.round(values.astype(float) * 255 / white).astype(int)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("white", [255, 1023, 4095, 65535])
def test_grey_stored_in_16_bits(tmp_path: Path, suffix: str, white: int) -> None:
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), ramp(white))
    pixels = read_image(tmp_path / f"a.{suffix}").astype(int)
    assert np.abs(pixels - in_8_bits(ramp(white), white)[..., None]).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("white", [1023, 4095])
def test_colours_stored_in_16_bits(tmp_path: Path, suffix: str, white: int) -> None:
    colours = np.random.default_rng(0).integers(0, white + 1, (8, 9, 3), np.uint16)
    colours[0, 0] = white
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), colours[..., ::-1])
    pixels = read_image(tmp_path / f"a.{suffix}").astype(int)
    assert np.abs(pixels - in_8_bits(colours, white)).max() <= 1


@pytest.mark.parametrize(("high", "white"), [(40, 255), (300, 1023), (1024, 4095), (4096, 65535), (9000, 65535)])
def test_a_dark_picture_is_divided_by_its_depth_not_its_maximum(tmp_path: Path, high: int, white: int) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), ramp(high))
    assert read_image(tmp_path / "a.png").max() == round(high * 255 / white)


def test_one_bright_pixel_in_the_last_rows_decides(tmp_path: Path) -> None:
    values = np.full((700, 3), 1000, np.uint16)
    values[699, 2] = 60_000
    cv2.imwrite(str(tmp_path / "a.png"), values)
    assert read_image(tmp_path / "a.png")[0, 0, 0] == round(1000 * 255 / 65535)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("shape", [(120, 180), (120, 180, 3)])
@pytest.mark.parametrize("white", [1023, 4095])
def test_two_hot_pixels_do_not_darken_the_picture(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], white: int
) -> None:
    values = np.full(shape, white, np.uint16)
    values[3, 3], values[99, 99] = 65535, 40_000  # 2 of 21,600 pixels
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values)
    assert (read_image(tmp_path / f"a.{suffix}") == 255).all()
    values[5, 5] = 40_000  # 3 are more than one in 10,000
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values)
    assert np.median(read_image(tmp_path / f"a.{suffix}")) <= round(white * 255 / 65535)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bit_colours_with_transparency(tmp_path: Path, suffix: str) -> None:
    colours = np.random.default_rng(0).integers(0, 4096, (8, 9, 3), np.uint16)
    colours[0, 0] = 4095
    alpha = np.full((8, 9, 1), 65535, np.uint16)
    alpha[4:] = 0
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), np.concatenate([colours[..., ::-1], alpha], axis=2))
    pixels = read_image(tmp_path / f"a.{suffix}").astype(int)
    assert np.abs(pixels[:4] - in_8_bits(colours, 4095)[:4]).max() <= 1
    assert (pixels[4:] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("white", [4095, 65535])
def test_a_turned_tiff_of_deep_colours_is_upright(tmp_path: Path, orientation: int, white: int) -> None:
    stored = np.random.default_rng(0).integers(0, white + 1, (9, 9, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "a.tif"), stored[..., ::-1])
    data = bytearray((tmp_path / "a.tif").read_bytes())
    begin = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[begin : begin + 2], "little")
    entries = [data[at : at + 12] for at in range(begin + 2, begin + 2 + 12 * count, 12)]
    entries = sorted([*entries, struct.pack("<HHII", 274, 3, 1, orientation)], key=lambda entry: entry[:2][::-1])
    moved = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)  # at the end of the file
    data[4:8] = len(data).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(data + moved)
    upright = _autorotate(stored, orientation)
    pixels = read_image(tmp_path / "a.tif").astype(int)
    assert np.abs(pixels - in_8_bits(upright, white)).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_whose_white_is_zero(tmp_path: Path, bits: int) -> None:
    values = np.array([[0, 2**bits - 1], [2 ** (bits - 2), 2 ** (bits - 1)]])
    data = values.astype("<u2" if bits == 16 else "u1").tobytes()
    shorts = {256: 2, 257: 2, 258: bits, 259: 1, 262: 0, 277: 1, 278: 2}
    tags = sorted([*shorts.items(), (273, 8), (279, len(data))])
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    (tmp_path / "a.tif").write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))
    expected = 255 - in_8_bits(values, 2**bits - 1)
    assert np.abs(read_image(tmp_path / "a.tif")[..., 0].astype(int) - expected).max() <= 1


def test_a_filters_overshoot_does_not_darken_a_float_picture(tmp_path: Path) -> None:
    values = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    values[:, -1] = 1.02
    Image.fromarray(values).save(tmp_path / "f.tif")
    assert read_image(tmp_path / "f.tif")[..., 0].mean() == pytest.approx(127.5, abs=1)


def test_32_bits_follow_the_same_rule(tmp_path: Path) -> None:
    Image.fromarray(ramp(1023).astype(np.int32)).save(tmp_path / "i.tif")
    Image.fromarray(ramp(4095).astype(np.float32)).save(tmp_path / "f.tif")
    for name, white in (("i.tif", 1023), ("f.tif", 4095)):
        assert (read_image(tmp_path / name)[..., 0] == in_8_bits(ramp(white), white)).all()


def packed_tiff(values: np.ndarray, bits: int, orientation: int = 1, photometric: int = 1) -> bytes:
    """Return a TIFF whose pixels have `bits` bits, one after the other, each row from a new byte on."""
    rows = ["".join(format(int(value), f"0{bits}b") for value in row) for row in values]
    rows = [row + "0" * (-len(row) % 8) for row in rows]
    data = b"".join(int(row, 2).to_bytes(len(row) // 8) for row in rows)
    data += bytes(len(data) % 2)
    height, width = values.shape
    shorts = {256: width, 257: height, 258: bits, 259: 1, 262: photometric}
    tags = [*shorts.items(), (273, 8), (274, orientation), (277, 1), (278, height), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return struct.pack("<4sI", b"II*\0", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("high", [1.0, 0.1])
def test_packed_tiff_names_its_depth(tmp_path: Path, bits: int, high: float) -> None:
    white = 2**bits - 1
    values = ramp(int(white * high))
    (tmp_path / "a.tif").write_bytes(packed_tiff(values, bits))
    assert np.abs(read_image(tmp_path / "a.tif")[..., 1] - in_8_bits(values, white)).max() <= 1


def test_packed_tiff_is_upright_and_what_is_unclear_is_refused(tmp_path: Path) -> None:
    for orientation, turn in ((3, lambda p: p[::-1, ::-1]), (6, lambda p: np.rot90(p, -1))):
        (tmp_path / "a.tif").write_bytes(packed_tiff(ramp(1023), 10, orientation))
        assert np.abs(read_image(tmp_path / "a.tif")[..., 0] - turn(in_8_bits(ramp(1023), 1023))).max() <= 1
    (tmp_path / "white.tif").write_bytes(packed_tiff(ramp(1023), 10, photometric=0))
    (tmp_path / "cut.tif").write_bytes(packed_tiff(ramp(1023), 10)[:-30])
    for name in ("white.tif", "cut.tif"):
        with pytest.raises(MediaError, match=r"convert it to JPEG or PNG|is truncated or broken"):
            read_image(tmp_path / name)


@needs_cases
def test_the_case() -> None:
    assert read_image(CASES / "photos/gray10.png").max() > 200
