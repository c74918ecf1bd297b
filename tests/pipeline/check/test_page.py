"""The page of `pipeline.check`: hostile names are text, nothing comes from elsewhere, boxes are on their faces."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.annotations import AnnotatedImage
from pipeline.check.command import main
from pipeline.check.page import class_styles
from pipeline.check.photo_reading import CROP_SIDE, PHOTO_SIDE, PhotoJob, face_window, read_one
from pipeline.check.photo_selection import MAX_CLASS_CROPS, MAX_FINDING_CROPS, MAX_SHEET_PHOTOS
from tests.helpers.planted_data import FACE, write_part, write_planted
from tests.pipeline.check.page_reader import PageContent, read_page

HOSTILE = "<script>alert(1)</script>\"'&amp;[bold]x[/bold]{{ 7 * 7 }}"


def page_of(data: Path, out: Path, *options: str) -> PageContent:
    main(["--data", str(data), "--out", str(out), *options])
    return read_page(out.read_text(encoding="utf-8"))


def jpegs(page: PageContent) -> list[tuple[str, Image.Image]]:
    """Return (alternative text, picture) of each picture on a page."""
    found = []
    for tag, values in page.tags:
        if tag == "img":
            head, _, data = values["src"].partition(",")
            assert head == "data:image/jpeg;base64"
            picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            picture.load()
            assert picture.size == (int(values["width"]), int(values["height"]))
            found.append((values["alt"], picture))
    return found


def test_hostile_names_are_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = 'x" onerror=alert(1) <b>&[red]\u202e.png'
    names = {HOSTILE: 1, "bell\a\x1b[31mred": 2, "lone \ud800": 3, "": 4}
    data = write_part(
        tmp_path / "<i>data",
        {file: (1, [(HOSTILE, (60, 60, 5, 6))])} | {f"p{i}.png": (i, [("x", FACE)]) for i in (2, 3, 4)},
    )
    tables = json.loads((data / "_annotations.coco.json").read_text())
    tables["categories"] = [{"id": i, "name": name} for name, i in names.items()]
    for number, row in enumerate(tables["annotations"], 1):
        row["category_id"] = number
    (data / "_annotations.coco.json").write_text(json.dumps(tables))
    page = page_of(data, tmp_path / "page.html", "--json", str(tmp_path / "check.json"))
    out = capsys.readouterr().out
    assert {tag for tag, _ in page.tags} & {"script", "b", "i", "iframe", "object", "a"} <= {"b"}
    assert not any(name.startswith("on") for _, values in page.tags for name in values)
    assert HOSTILE in page.text and HOSTILE in out
    shown_file = 'x" onerror=alert(1) <b>&[red]\ufffd'
    assert any(alt.startswith(shown_file) for alt, _ in jpegs(page)) and "<i>data" in page.text
    for text in (page.text, out):
        assert "bell\ufffd\ufffd[31mred" in text and "lone \ufffd" in text and "has no class name" in text
        assert not {"\a", "\x1b", "\u202e"} & set(text)
    classes = json.loads((tmp_path / "check.json").read_text())["classes"]
    assert {each["name"] for each in classes} == {HOSTILE, "bell\a\x1b[31mred", "lone \ufffd"}


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    page = page_of(write_planted(tmp_path / "data"), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (
        re.findall(r"https?:|//\w|url\(|@import", re.sub(r"base64,[^\"]*", "", text).replace(str(tmp_path), "")) == []
    )
    assert page.attributes("href") == [] and all(src.startswith("data:image/jpeg;") for src in page.attributes("src"))
    (policy,) = (values["content"] for tag, values in page.tags if values.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")


def test_the_pictures_of_the_planted_data(tmp_path: Path) -> None:
    captions = [alt for alt, _ in jpegs(page_of(write_planted(tmp_path / "data"), tmp_path / "page.html"))]
    sheet, crops = captions[:12], captions[12:]
    assert sheet == [
        *("copy: 1 face, train", "edge: 1 face, train", "empty: 0 faces, test", "huge: 1 face, train"),
        *("leak: 1 face, val", "long: 1 face, train", "plain0: 1 face, train", "plain1: 1 face, train"),
        *("plain2: 1 face, train", "refused: 1 face, perhaps more, train", "tiny: 1 face, train"),
        "twice: 2 faces, train",
    ]
    with_mask = {"copy", "edge", "huge", "plain0", "plain1", "plain2", "refused", "twice"}
    assert set(crops[:8]) == with_mask and set(crops[8:12]) == {"leak", "long", "tiny", "twice"}
    assert crops[12:16] == [
        "twice: with_mask and without_mask, IoU 0.88",
        "huge: 98% of the photo",
        "long: 20.0 x 100.0 px",
        "tiny: 5.0 x 6.0 px",
    ]
    similar = ["leak: 1 face, val", "plain1: 1 face, train", "copy: 1 face, train", "plain0: 1 face, train"]
    assert crops[16:] == similar


def test_the_number_of_pictures_is_limited(tmp_path: Path) -> None:
    faces = [("with_mask", (10 + 30 * (i % 8), 10 + 20 * (i // 8), 6, 7)) for i in range(16)]
    data = write_part(tmp_path / "data", {f"p{i}.png": (i, faces) for i in range(40)})
    page = page_of(data, tmp_path / "page.html", "--skip-duplicates", "--workers", "1")
    assert len(jpegs(page)) == MAX_SHEET_PHOTOS + MAX_CLASS_CROPS + MAX_FINDING_CROPS
    assert sum(row[-1] == "6.0 x 7.0 px" for row in page.rows) == 640  # all are listed


def test_the_seed_draws_other_photos(tmp_path: Path) -> None:
    data = write_part(tmp_path / "data", {f"p{i}.png": (i, [("with_mask", FACE)]) for i in range(40)})
    sheets: list[list[str]] = []
    for seed in ("0", "0", "1"):
        page = page_of(data, tmp_path / "page.html", "--skip-duplicates", "--seed", seed)
        sheets.append([alt.partition(":")[0] for alt, _ in jpegs(page)][:MAX_SHEET_PHOTOS])
    assert sheets[0] == sheets[1] != sheets[2] and all(sheet == sorted(sheet) for sheet in sheets)


def test_a_box_is_drawn_around_its_face(tmp_path: Path) -> None:
    """Each face is a red rectangle: in every picture, its box must surround red pixels only."""
    rng = random.Random(0)
    data = tmp_path / "data"
    boxes = [(rng.randrange(0, 700), rng.randrange(0, 500), rng.randrange(30, 90), rng.randrange(30, 90)) for _ in "12"]
    photos = {f"p{i}.png": (i, [("with_mask", box)]) for i, box in enumerate(boxes)}
    write_part(data, photos)
    for i, (x, y, width, height) in enumerate(boxes):
        pixels = np.full((600, 800, 3), 255, np.uint8)
        pixels[y : y + height, x : x + width] = (255, 0, 0)
        Image.fromarray(pixels).save(data / f"p{i}.png")
    tables = json.loads((data / "_annotations.coco.json").read_text())
    for row in tables["images"]:
        row.update(width=800, height=600)
    (data / "_annotations.coco.json").write_text(json.dumps(tables))
    page = page_of(data, tmp_path / "page.html", "--skip-duplicates")
    views = [values["viewbox"] for tag, values in page.tags if tag == "svg" and "preserveaspectratio" in values]
    rects = [values for tag, values in page.tags if tag == "rect" and "stroke" in values]
    pictures = jpegs(page)
    assert len(views) == len(rects) == len(pictures) == 4
    for view, rect, (_, picture) in zip(views, rects, pictures, strict=True):
        left, top, width, height = map(float, view.split())
        across, down = picture.size[0] / width, picture.size[1] / height
        x1, y1 = (float(rect["x"]) - left) * across, (float(rect["y"]) - top) * down
        x2, y2 = x1 + float(rect["width"]) * across, y1 + float(rect["height"]) * down
        red = np.asarray(picture.convert("RGB")).astype(int)
        is_red = red[:, :, 1] < 128
        found = np.argwhere(is_red)
        drawn = [x1, y1, x2, y2]
        seen = [found[:, 1].min(), found[:, 0].min(), found[:, 1].max() + 1, found[:, 0].max() + 1]
        assert np.abs(np.array(drawn) - seen).max() <= 1.5, (drawn, seen)


@pytest.mark.parametrize("size", [(2000, 7), (7, 2000), (1, 1), (280, 280), (4000, 3000)])
def test_pictures_of_odd_photos(tmp_path: Path, size: tuple[int, int]) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", size, "grey").save(file)
    box = np.array([[0, 0, min(size[0], 5), min(size[1], 5)]], np.float32)
    image = AnnotatedImage(file, "a", size, box, ("x",))
    result = read_one(PhotoJob(image, True, (0,)))
    assert result.fault == "" and result.whole is not None
    assert max(result.whole.size) == min(max(size), PHOTO_SIDE) and min(result.whole.size) >= 1
    ((face, crop),) = result.faces
    left, top, right, bottom = crop.window
    assert face == 0 and crop.window == face_window(image, 0) and max(crop.size) == CROP_SIDE
    assert 0 <= left <= box[0, 0] and right >= box[0, 2] and 0 <= top <= box[0, 1] and bottom >= box[0, 3]
    assert right <= size[0] and bottom <= size[1]


def test_a_photo_whose_pixels_have_another_size_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (40, 30)).save(file)
    image = AnnotatedImage(file, "a", (30, 40), np.zeros((0, 4), np.float32), ())
    assert read_one(PhotoJob(image)).fault == "is 40x30 when decoded, 30x40 by its header"


def test_each_class_looks_different() -> None:
    styles = class_styles([f"class {i}" for i in range(21)])
    assert len(set(styles.values())) == 21
    assert [style.colour for style in styles.values()][:2] == ["rgb(0, 158, 115)", "rgb(213, 94, 0)"]
    assert len({style.dash for style in list(styles.values())[:3]}) == 3  # apart without colours, too
