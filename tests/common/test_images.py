"""Pictures of all formats, modes and orientations are read as upright RGB, or refused with one line."""

from __future__ import annotations

import io
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common import images
from common.display import display_name
from common.errors import MediaError
from common.images import decode_photo, read_image, read_photo
from tests.helpers import unprivileged
from tests.helpers.unusual_photos import PHOTO, READABLE, STORED, UNREADABLE, png_with_claimed_size

# 2 rows x 3 columns of coloured blocks, 8 x 8 px so that JPEG keeps the colours: R G B / white grey black
COLOURS = np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 255, 255), (128, 128, 128), (0, 0, 0)]], np.uint8)
SCENE = COLOURS.repeat(8, axis=0).repeat(8, axis=1)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def assert_scene(pixels: np.ndarray, tolerance: int = 0) -> None:
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    assert pixels.shape == SCENE.shape
    assert np.abs(pixels.astype(int)[4::8, 4::8] - COLOURS.astype(int)).max() <= tolerance


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_read_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](SCENE)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    assert_scene(read_image(save(tmp_path / f"a.{suffix}", image, exif=exif, **options)), 4)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_meaningless_orientation_is_ignored(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert_scene(read_image(save(tmp_path / "a.png", Image.fromarray(SCENE), exif=exif)))


def test_damaged_exif_does_not_lose_the_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(SCENE), quality=100, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff")
    assert_scene(read_image(path), 4)


def test_transparent_pixels_are_blended_with_white(tmp_path: Path) -> None:
    rgba = Image.fromarray(np.array([[(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)]], np.uint8))
    expected = [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]  # 255 x (1 - 51/255) = 204
    assert read_image(save(tmp_path / "rgba.png", rgba)).tolist() == expected

    grey_alpha = Image.fromarray(np.array([[(100, 255), (100, 0)]], np.uint8), mode="LA")
    assert read_image(save(tmp_path / "la.png", grey_alpha)).tolist() == [[[100] * 3, [255] * 3]]

    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    expected = [[[10, 20, 30], [255, 255, 255]]]
    assert read_image(save(tmp_path / "p.png", palette, transparency=1)).tolist() == expected
    assert read_image(save(tmp_path / "p.gif", palette, transparency=1)).tolist() == expected

    keyed = Image.fromarray(np.array([[(1, 2, 3), (9, 9, 9)]], np.uint8))
    assert read_image(save(tmp_path / "t.png", keyed, transparency=(1, 2, 3))).tolist() == [[[255] * 3, [9] * 3]]


def test_opaque_rgba_keeps_its_colours(tmp_path: Path) -> None:
    assert_scene(read_image(save(tmp_path / "a.png", Image.fromarray(SCENE).convert("RGBA"))))


def test_grey_palette_and_one_bit(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 90, 255]], np.uint8))
    assert read_image(save(tmp_path / "l.png", grey)).tolist() == [[[0] * 3, [90] * 3, [255] * 3]]
    assert_scene(read_image(save(tmp_path / "p.png", Image.fromarray(SCENE).quantize(6))))
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert read_image(save(tmp_path / "1.png", bits)).tolist() == [[[0] * 3, [255] * 3]]


def test_cmyk_in_adobes_inverted_jpeg_and_in_tiff(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(SCENE).convert("CMYK"), quality=100, subsampling=0)
    data = path.read_bytes()
    assert b"Adobe" in data  # Pillow writes inverted values, as Photoshop does
    assert_scene(read_image(path), 6)
    assert_scene(read_image(save(tmp_path / "a.tif", Image.fromarray(SCENE).convert("CMYK"))), 1)


def test_16_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.array([[0, 257 * 10, 257 * 128, 65535]], np.uint16)
    rgb = np.array([[(65535, 257 * 7, 0), (257 * 200, 300, 65000)]], np.uint16)
    for suffix in ("png", "tif"):
        cv2.imwrite(str(tmp_path / f"grey.{suffix}"), grey)
        assert read_image(tmp_path / f"grey.{suffix}")[0, :, 0].tolist() == [0, 10, 128, 255]
        cv2.imwrite(str(tmp_path / f"rgb.{suffix}"), rgb[..., ::-1])
        wanted = np.array([[(255, 7, 0), (200, 1, 253)]])
        assert np.abs(read_image(tmp_path / f"rgb.{suffix}") - wanted).max() <= 1
    cv2.imwrite(str(tmp_path / "grey.pgm"), grey)
    assert read_image(tmp_path / "grey.pgm")[0, :, 2].tolist() == [0, 10, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([float("nan"), 0.5, 1.0], [0, 128, 255]),
        ([-5.0, -5.0, -5.0], [0, 0, 0]),
    ],
)
def test_float_tiff_is_scaled_by_its_range(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    path = save(tmp_path / "f.tif", Image.fromarray(np.array([values], np.float32)))
    assert read_image(path)[0, :, 1].tolist() == expected


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_or_page_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    assert (read_image(path) == (255, 0, 0)).all()


def test_more_rows_than_one_strip(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (700, 5, 3), np.uint8)
    assert (read_image(save(tmp_path / "a.png", Image.fromarray(image))) == image).all()


@pytest.mark.parametrize(
    "side", [9_500, 12_000, 60_000]
)  # above our limit, Pillow's warning limit, Pillow's error limit
def test_a_decompression_bomb_is_refused_before_decoding(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_with_claimed_size(side, side))
    with pytest.raises(
        MediaError, match=r"^\S+/bomb\.png: has more than 89\.4785 million pixels; make it smaller first$"
    ):
        read_image(tmp_path / "bomb.png")


def test_the_pixel_limit_is_inclusive_and_pillow_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Image.MAX_IMAGE_PIXELS
    path = save(tmp_path / "a.png", Image.new("RGB", (10, 10)))
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert read_image(path).shape == (10, 10, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(MediaError, match=r"^\S+/a\.png: has more than 9\.9e-05 million pixels; make it smaller first$"):
        read_image(path)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_an_error(tmp_path: Path, suffix: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path = save(tmp_path / f"a.{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError) as caught:
        read_image(path)
    broken = r"is truncated or broken \(.+\); copy or download it again"
    unknown = r"is not a picture that can be read; convert it to JPEG or PNG"  # where the header is incomplete
    assert re.fullmatch(
        rf"{re.escape(str(path))}: ({broken if share > 0.02 else f'{broken}|{unknown}'})", str(caught.value)
    )


def test_an_unusable_file_is_reported_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone")
    for name, what in {
        "page.jpg": "is not a picture that can be read; convert it to JPEG or PNG",
        "folder.jpg": "is a folder, not a picture; name a picture file",
        "pipe.jpg": "is a pipe or device, not a file; save it as a picture file first",
        "dangling.jpg": "not found; check the name",
        "missing.jpg": "not found; check the name",
        "x" * 300 + ".jpg": "cannot be read (File name too long); check its name and permissions",
        "nul\0.jpg": "cannot be read (embedded null byte); check its name and permissions",
    }.items():
        with pytest.raises(MediaError) as caught:
            read_image(tmp_path / name)
        assert str(caught.value) == f"{display_name(tmp_path / name)}: {what}"


def test_a_file_without_permission(tmp_path: Path) -> None:
    save(tmp_path / "a.png", Image.new("RGB", (2, 2))).chmod(0)
    code = "from common.images import MediaError, read_image\ntry: read_image('a.png')\n"
    done = unprivileged.run_python("-c", code + "except MediaError as error: print(error)", cwd=tmp_path)
    assert done.stdout == "a.png: cannot be read (Permission denied); check its name and permissions\n"


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    Image.new("RGB", (3, 2)).save(path, format="PNG")
    assert read_image(path).shape == (2, 3, 3)
    path.write_bytes(b"nothing")
    with pytest.raises(MediaError) as caught:
        read_image(path)
    what = "is not a picture that can be read; convert it to JPEG or PNG"
    assert str(caught.value) == f"{tmp_path}/caf\N{REPLACEMENT CHARACTER}.png: {what}"


@pytest.mark.parametrize("name", READABLE)
def test_a_photo_stored_in_an_unusual_way_is_read(tmp_path: Path, name: str) -> None:
    READABLE[name](tmp_path / name)
    pixels = read_image(tmp_path / name)
    assert pixels.shape == PHOTO.shape and np.abs(pixels.astype(int) - PHOTO).max() <= 1


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_photo_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    write, what = UNREADABLE[name]
    write(tmp_path / name)
    with pytest.raises(MediaError) as caught:
        read_image(tmp_path / name)
    assert str(caught.value) == f"{tmp_path}/{name}: {what}"


def test_shown_is_one_line() -> None:
    assert display_name("a\nb\x1b[31m.jpg") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31m.jpg"
    assert display_name("口罩.jpg") == "口罩.jpg"


def test_an_upload_is_decoded_like_a_file() -> None:
    data = io.BytesIO()
    Image.fromarray(SCENE).save(data, "PNG")
    assert_scene(decode_photo(data, "upload").pixels)
    with pytest.raises(MediaError, match=r"^upload: is truncated or broken \(.+\); copy or download it again$"):
        decode_photo(io.BytesIO(data.getvalue()[:-30]), "upload")


def gradient(width: int, height: int) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8))


@pytest.mark.parametrize(
    ("factor", "expected"), [(0.3, 1), (1, 1), (1.99, 1), (2, 2), (3.9, 2), (4, 4), (7.9, 4), (8, 8), (1000, 8)]
)
def test_a_jpeg_is_read_smaller_where_allowed(tmp_path: Path, factor: float, expected: int) -> None:
    gradient(330, 170).save(tmp_path / "a.jpg", quality=95)
    sizes = []
    photo = read_photo(tmp_path / "a.jpg", lambda size: sizes.append(size) or factor)
    assert sizes == [(330, 170)] and photo.size == (330, 170)
    assert photo.pixels.shape == (-(-170 // expected), -(-330 // expected), 3)
    assert photo.scale == pytest.approx((expected, expected), rel=0.05)
    whole = read_image(tmp_path / "a.jpg")
    small = np.asarray(Image.fromarray(whole).resize(photo.pixels.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(small.astype(int) - photo.pixels).mean() < 3


def test_other_formats_are_read_at_full_size(tmp_path: Path) -> None:
    for suffix in ("png", "webp", "bmp"):
        gradient(64, 48).save(tmp_path / f"a.{suffix}")
        photo = read_photo(tmp_path / f"a.{suffix}", lambda size: 8)
        assert photo.pixels.shape == (48, 64, 3) and photo.scale == (1, 1)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_size_is_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient(160, 80).save(tmp_path / "a.jpg", exif=exif)
    photo = read_photo(tmp_path / "a.jpg", lambda size: 2)
    assert photo.size == ((80, 160) if orientation == 6 else (160, 80))
    assert photo.pixels.shape[1::-1] == ((40, 80) if orientation == 6 else (80, 40))


def test_reading_in_threads_does_not_change_the_warning_filters(tmp_path: Path) -> None:
    for i in range(8):
        Image.fromarray(SCENE).save(tmp_path / f"{i}.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            list(pool.map(read_image, [tmp_path / f"{i}.png" for i in range(8)]))
    assert warnings.filters == before


def test_an_error_of_our_code_is_not_an_error_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(SCENE))

    def broken(*_: object) -> int:
        raise AttributeError("nothing")

    with pytest.raises(AttributeError):
        read_photo(path, broken)
    monkeypatch.setattr(images, "to_rgb", broken)
    with pytest.raises(AttributeError):
        read_image(path)
    with pytest.raises(ValueError, match="our bug"), images.open_image_file(path):
        raise ValueError("our bug")
    with pytest.raises(MediaError, match=r"a\.jpg: cannot be read \(lost\)"), images.open_image_file(path):
        raise OSError(5, "lost")


def test_a_jpeg_of_1600_pixels_is_not_looked_at_as_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: object) -> bool:
        raise AssertionError

    monkeypatch.setattr(images, "_is_dark", never)
    assert read_image(save(tmp_path / "a.jpg", Image.new("RGB", (1600, 16)))).shape == (16, 1600, 3)
