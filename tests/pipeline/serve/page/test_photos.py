"""The web page: photos, faces and saved results."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="needs the package playwright")

from playwright.sync_api import expect

from tests.helpers.serve.browser import (
    CHROMIUM,
    COLOURS,
    ask,
    choose,
    give,
    is_drawn,
    pixels,
    turned,
    wait_for_photos,
)
from tests.helpers.serve.page_visits import DETECT, Visits, count_of, counts, saved, shown, shown_score, threshold

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


def test_a_chosen_photo_shows_its_faces(visits: Visits, photos: Path) -> None:
    page = visits.open(device_scale_factor=2)
    expect(page.locator("#result")).to_be_hidden()
    choose(page, photos / "tiled.png")
    answer = ask(visits.server, photos / "tiled.png")
    faces = shown(answer, threshold())
    assert sorted(face["label"] for face in faces) == sorted(COLOURS)
    assert counts(page) == count_of(faces) == dict.fromkeys(COLOURS, 1)
    assert " ".join(page.inner_text("#share").split()) == "33% of the faces wear a mask correctly (1 of 3)"
    assert shown_score(page) == threshold() and page.inner_text("#score-value") == f"{threshold():.2f}"
    rows = [row.split() for row in page.locator("#rows tr").all_inner_texts()]
    assert [float(row[-1]) for row in rows] == [round(face["score"], 2) for face in faces]
    assert (page.inner_text("#name"), page.inner_text("#size")) == ("tiled.png", "1536 \N{MULTIPLICATION SIGN} 420 px")
    overlay, picture = pixels(page, "overlay", "picture")
    assert overlay.shape == picture.shape and overlay.shape[1] == 2 * page.locator("#overlay").bounding_box()["width"]
    assert all(is_drawn(overlay, face, (1536, 420), slack=4) for face in faces)
    assert "3 faces: With mask 1, Without mask 1" in str(page.get_attribute("#overlay", "aria-label"))
    assert page.inner_text("#status") == f"tiled.png: {page.get_attribute('#overlay', 'aria-label')}"


def test_texts_and_points_are_drawn_and_hide_no_face(visits: Visits, photos: Path) -> None:
    page = visits.open()
    choose(page, photos / "tiled.png")
    (overlay,) = pixels(page, "overlay")
    scale = overlay.shape[1] / 1536
    for face in ask(visits.server, photos / "tiled.png", 0.5)["faces"]:
        x1, y1, x2, y2 = (np.array(face["box"]) * scale).round().astype(int)
        background = (np.abs(overlay[..., :3].astype(int) - COLOURS[face["label"]]).max(axis=-1) < 8) & (
            overlay[..., 3] > 250
        )
        assert background[max(y1 - 22, 0) : y1 - 3, x1:x2].mean() > 0.35  # the background of its text, above the box
        inside = overlay[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4, 3]
        assert (inside > 0).mean() < 0.03  # five points
        for x, y in np.array(face["landmarks"]) * scale:
            assert overlay[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2, 3].any()


def test_several_photos_dropped_and_one_pasted(visits: Visits, photos: Path) -> None:
    page = visits.open()
    give(page, "drop", photos / "tiled.png", photos / "tiny.png")
    wait_for_photos(page, 2)
    give(page, "paste", photos / "tiled.jpg")
    wait_for_photos(page, 3)
    assert page.inner_text("#name") == "tiled.jpg"
    strip = page.locator("#strip button")
    names = [str(strip.nth(i).get_attribute("aria-label")) for i in range(3)]
    assert [name.split(":")[0] for name in names] == ["tiled.png", "tiny.png", "tiled.jpg"]
    assert all("3 faces" in name for name in names) and page.inner_text("#total").startswith("All 3 photos: 9 faces")
    strip.nth(1).click()
    assert page.inner_text("#name") == "tiny.png" and strip.nth(1).get_attribute("aria-current") == "true"
    expect(page.locator("#strip canvas")).to_have_count(3)
    page.click("#remove")
    expect(strip).to_have_count(2)
    assert page.inner_text("#name") == "tiled.jpg"
    page.click("#clear")
    expect(page.locator("#result")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "choose"


def test_a_drop_without_a_file_shows_a_notice(visits: Visits) -> None:
    page = visits.open()
    give(page, "drop")
    expect(page.locator(".notice")).to_contain_text("No photo came with this")
    page.click(".notice button")
    expect(page.locator(".notice")).to_have_count(0)


def test_the_slider_acts_at_once_without_a_request(visits: Visits, photos: Path) -> None:
    page = visits.open()
    choose(page, photos / "tiny.png")
    answer = ask(visits.server, photos / "tiny.png")
    before, seen = visits.asked, []
    for key in ("Home", "End", "PageDown", "ArrowLeft"):
        page.locator("#score").press(key)
        faces = shown(answer, shown_score(page))
        assert counts(page) == count_of(faces)
        assert page.get_attribute("#overlay", "data-faces") == str(len(faces))
        expect(page.locator("#rows tr:visible")).to_have_count(len(faces))
        assert f"{shown_score(page):.2f}, {len(faces) or 'No'} face" in page.get_attribute("#score", "aria-valuetext")
        page.evaluate("() => new Promise(requestAnimationFrame).then(() => new Promise(requestAnimationFrame))")
        (overlay,) = pixels(page, "overlay")
        assert [is_drawn(overlay, face, (184, 50)) for face in answer["faces"]] == [
            face in faces for face in answer["faces"]
        ]
        seen.append(len(faces))
    assert len(set(seen)) > 1 and visits.asked == before == 1
    page.click("#reset")
    assert shown_score(page) == threshold() and counts(page) == count_of(shown(answer, threshold()))
    expect(page.locator("#reset")).to_be_hidden()


def test_another_smallest_face_asks_again(visits: Visits, photos: Path) -> None:
    page = visits.open()
    choose(page, photos / "tiny.png")
    with page.expect_response(DETECT) as response:
        page.select_option("#smallest", "80")
    assert "min_face=80" in response.value.url and visits.asked == 2
    expect(page.locator("#overlay")).to_have_attribute("data-faces", "0")
    assert "No face is shown" in page.inner_text("#share")


def test_a_selected_face_is_highlighted(visits: Visits, photos: Path) -> None:
    page = visits.open()
    choose(page, photos / "tiled.png")
    (before,) = pixels(page, "overlay")
    row = page.locator("#rows button").nth(1)
    row.click()
    face = ask(visits.server, photos / "tiled.png")["faces"][1]
    assert row.get_attribute("aria-pressed") == "true"
    figures = page.inner_text("#close-up-figures")
    assert all(f"{p:.2f}" in figures for p in face["probs"].values())
    page.wait_for_function("() => document.getElementById('close-up-picture').toDataURL().length > 9000")
    (chosen,) = pixels(page, "overlay")
    assert (chosen[..., 3] > 250).sum() < (before[..., 3] > 250).sum() * 0.7  # the others are dimmed
    assert is_drawn(chosen, face, (1536, 420), slack=5)
    page.keyboard.press("Escape")
    expect(page.locator("#close-up")).to_be_hidden()
    area = page.locator("#overlay").bounding_box()
    x, y = np.array([face["box"][0] + face["box"][2], face["box"][1] + face["box"][3]]) / 2 * area["width"] / 1536
    page.locator("#overlay").click(position={"x": x, "y": y})
    assert row.get_attribute("aria-pressed") == "true"


def test_what_is_saved(visits: Visits, photos: Path) -> None:
    page = visits.open()
    choose(page, photos / "tiled.png")
    answer = ask(visits.server, photos / "tiled.png")
    best = max(face["score"] for face in answer["faces"])
    page.locator("#score").press("End")
    while shown_score(page) > best:
        page.locator("#score").press("ArrowLeft")
    least = shown_score(page)
    faces = shown(answer, least)  # not every face
    assert 0 < len(faces) < len(answer["faces"])

    name, data = saved(page, "#save-picture")
    picture = Image.open(io.BytesIO(data))
    assert (name, picture.format, picture.size) == ("tiled-faces.png", "PNG", (1536, 420))
    drawn = np.asarray(picture.convert("RGBA"))
    original = np.asarray(Image.open(photos / "tiled.png").convert("RGB"))
    assert [is_drawn(drawn, face, (1536, 420), slack=4) for face in answer["faces"]] == [
        face in faces for face in answer["faces"]
    ]
    same = (drawn[..., :3] == original).all(axis=-1)
    assert same[360:].all() and same[:100].all() and 0.9 < same.mean() < 1

    name, data = saved(page, "#save-json")
    assert (name, json.loads(data)) == ("tiled-faces.json", {**answer, "faces": faces})

    choose(page, photos / "notes.txt", photos / "tiled.jpg")
    name, data = saved(page, "#save-all")
    everything = json.loads(data)
    jpeg = ask(visits.server, photos / "tiled.jpg")
    assert name == "detections.json" and list(everything) == ["bundle", "images", "errors"]
    assert everything["bundle"]["class_names"] == list(COLOURS)
    assert everything["images"] == [{**answer, "faces": faces}, {**jpeg, "faces": shown(jpeg, least)}]
    (error,) = everything["errors"]
    assert error == {"file": "notes.txt", "error": "is not a picture that can be read; convert it to JPEG or PNG"}

    page.locator("#strip button").nth(2).click()
    name, data = saved(page, "#save-picture")
    assert (name, Image.open(io.BytesIO(data)).format) == ("tiled-faces.jpg", "JPEG")


def test_a_tiny_picture_is_saved_with_texts_that_can_be_read(visits: Visits, photos: Path) -> None:
    page = visits.open()
    choose(page, photos / "tiny.png")
    _, data = saved(page, "#save-picture")
    drawn = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert drawn.shape == (50, 184, 3)
    background = (np.abs(drawn - COLOURS["with_mask"]).max(axis=-1) < 8).sum(axis=1)
    assert (background > 12).sum() >= 10  # rows of a text's background: more than a box's two sides


def test_every_address_of_a_file_is_given_back(visits: Visits, photos: Path) -> None:
    page = visits.open(
        """
        window.made = window.back = 0;
        const [make, giveBack] = [URL.createObjectURL, URL.revokeObjectURL];
        URL.createObjectURL = (blob) => { window.made += 1; return make.call(URL, blob); };
        URL.revokeObjectURL = (url) => { window.back += 1; giveBack.call(URL, url); };
        const wait = setTimeout;
        window.setTimeout = (f, ms, ...rest) => wait(f, ms / 100, ...rest);
        """
    )
    choose(page, photos / "tiled.png")
    saved(page, "#save-picture")
    saved(page, "#save-json")
    page.click("#camera")
    expect(page.locator("#overlay")).to_have_attribute("data-faces", "3")
    page.click("#camera")
    page.wait_for_function("() => back === 2")
    assert page.evaluate("[made, back]") == [2, 2]


def test_rotated_pictures_are_shown_upright(visits: Visits, photos: Path, tmp_path: Path) -> None:
    tiled = np.asarray(Image.open(photos / "tiled.png").convert("RGB"))
    ways = (("jpg", 6), ("jpg", 8), ("webp", 6), ("webp", 3), ("png", 6))
    files = [turned(tmp_path / f"{orientation}.{kind}", tiled, orientation) for kind, orientation in ways]
    faces = ask(visits.server, photos / "tiled.png", 0.5)["faces"]
    page = visits.open()
    choose(page, *files)
    for i, file in enumerate(files):
        page.locator("#strip button").nth(i).click()
        expect(page.locator("#name")).to_have_text(file.name)
        page.wait_for_function("() => document.getElementById('picture').toDataURL().length > 99000")
        assert page.inner_text("#size") == "1536 \N{MULTIPLICATION SIGN} 420 px"
        picture, overlay = pixels(page, "picture", "overlay")
        upright = cv2.resize(tiled, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(picture[..., :3].astype(int) - upright).mean() < 12, file.name
        assert all(is_drawn(overlay, face, (1536, 420), slack=4) for face in faces), file.name


def test_a_format_that_the_browser_cannot_show(visits: Visits, photos: Path, tmp_path: Path) -> None:
    Image.open(photos / "tiled.png").save(tmp_path / "tiled.tif")
    page = visits.open()
    choose(page, tmp_path / "tiled.tif")
    assert counts(page) == dict.fromkeys(COLOURS, 1)
    expect(page.locator("#veil")).to_contain_text("cannot show this format")
    (overlay,) = pixels(page, "overlay")
    assert all(is_drawn(overlay, face, (1536, 420)) for face in ask(visits.server, photos / "tiled.png", 0.5)["faces"])
    page.click("#save-picture")
    expect(page.locator(".notice")).to_contain_text("tiled.tif: Your browser cannot draw this photo")


def test_in_a_crowd_no_face_is_covered(visits: Visits, photos: Path, tmp_path: Path) -> None:
    tiled = np.asarray(Image.open(photos / "tiled.png").convert("RGB"))[110:370]  # little room between the faces
    small = cv2.resize(tiled, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    Image.fromarray(np.tile(small, (10, 4, 1))).save(tmp_path / "crowd.png")
    page = visits.open(device_scale_factor=2)
    choose(page, tmp_path / "crowd.png")
    answer = ask(visits.server, tmp_path / "crowd.png")
    faces = shown(answer, threshold())
    assert len(faces) > 60 and page.get_attribute("#overlay", "data-faces") == str(len(faces))
    (overlay,) = pixels(page, "overlay")
    scale = overlay.shape[1] / answer["width"]
    for face in faces:
        x1, y1, x2, y2 = (np.array(face["box"]) * scale).round().astype(int)
        inside = overlay[y1 + 6 : y2 - 6, x1 + 6 : x2 - 6, 3]
        assert (inside > 0).mean() < 0.1  # five landmarks at most


def test_texts_overlap_no_face_and_no_text(visits: Visits) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(-10, 390, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (60, 2))], axis=1)
    placed = visits.open().evaluate(
        """async (boxes) => {
            const { placeText } = await import("/static/place.js");
            const texts = [];
            return boxes.map((box, i) => {
                const area = placeText(box, 50, 16, { width: 400, height: 300 }, [...boxes.toSpliced(i, 1), ...texts]);
                if (area) texts.push(area);
                return area;
            });
        }""",
        boxes.tolist(),
    )
    texts = np.array([area for area in placed if area])
    owners = np.array([i for i, area in enumerate(placed) if area])
    assert 10 < len(texts) < 60
    assert (texts >= 0).all() and (texts[:, 2] <= 400).all() and (texts[:, 3] <= 300).all()

    def share(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
        return (low < high).all(axis=-1)

    on_faces = share(texts, boxes)
    on_faces[np.arange(len(texts)), owners] = False  # a text may be inside its own box
    assert not on_faces.any() and share(texts, texts).sum() == len(texts)
