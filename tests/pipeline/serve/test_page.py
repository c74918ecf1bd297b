"""The web page in a real browser, on a real server."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="needs the package playwright")

from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from pipeline.detect.demo import portrait, tiled_photo
from pipeline.inference.predictor import Predictor
from tests.helpers.browser import (
    CHROMIUM,
    COLOURS,
    CONTRASTS,
    COUNTED,
    FLAGS,
    ask,
    choose,
    give,
    is_drawn,
    pixels,
    serving,
    turned,
    wait_for_photos,
    write_camera,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
expect.set_options(timeout=15_000)  # the machine may be busy
STATIC = Path(__file__).resolve().parents[3] / "pipeline" / "serve" / "static"
SMALL = {"width": 320, "height": 640}
WIDTH = "document.documentElement.scrollWidth"
DETECT = re.compile(r"/v1/detect\?")
# The browser logs each refused request; the page shows these to the user.
REFUSED = re.compile(r"Failed to load resource: .*(status of (401|422|429)|net::ERR_FAILED)")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder: tiled.png with one face per class, the same as JPEG and tiny, a camera's video, a text file."""
    folder = tmp_path_factory.mktemp("photos")
    tiled = tiled_photo(Predictor.default(), portrait())
    small = cv2.resize(tiled, None, fx=0.12, fy=0.12, interpolation=cv2.INTER_AREA)
    for name, picture in (("tiled.png", tiled), ("tiled.jpg", tiled), ("tiny.png", small)):
        Image.fromarray(picture).save(folder / name, quality=95)
    write_camera(folder / "camera.mjpeg", tiled)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def browser(photos: Path) -> Iterator[Browser]:
    video = f"--use-file-for-fake-video-capture={photos / 'camera.mjpeg'}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, video])
        yield browser
        browser.close()


class Visits:
    """Opens the page in a new browser context each time; records its errors and requests."""

    def __init__(self, browser: Browser, server: str) -> None:
        self._browser, self.server = browser, server
        self.errors: list[str] = []
        self.urls: list[str] = []

    def open(self, script: str = "", **options: Any) -> Page:
        page = self.blank(script, **options)
        page.goto(self.server)
        return page

    def blank(self, script: str = "", **options: Any) -> Page:
        """Return a page before it is opened; `script` runs before the page's scripts."""
        context = self._browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda request: self.urls.append(request.url))
        page.on("filechooser", lambda _: None)  # otherwise a chooser may open before the test listens for it
        if script:
            page.add_init_script(script)
        return page

    @property
    def asked(self) -> int:
        """Number of pictures sent so far."""
        return sum(bool(DETECT.search(url)) for url in self.urls)

    def close(self) -> None:
        for context in self._browser.contexts:
            context.close()


@pytest.fixture
def visits(browser: Browser, server: str) -> Iterator[Visits]:
    visits = Visits(browser, server)
    yield visits
    visits.close()
    assert [line for line in visits.errors if not REFUSED.match(line)] == []
    assert [url for url in visits.urls if not url.startswith((visits.server + "/", "data:", "blob:"))] == []


def counts(page: Page) -> dict[str, int]:
    return {name: int(page.inner_text(COUNTED.format(name))) for name in COLOURS}


def count_of(faces: list[dict[str, Any]]) -> dict[str, int]:
    found = Counter(face["label"] for face in faces)
    return {name: found[name] for name in COLOURS}


def shown(result: Any, least: float) -> list[dict[str, Any]]:
    return [face for face in result["faces"] if face["score"] >= least]


@cache
def threshold() -> float:
    return Predictor.default().bundle.meta.score_threshold


def shown_score(page: Page) -> float:
    return float(page.input_value("#score"))


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


def test_the_camera_finds_faces_one_frame_at_a_time(visits: Visits, photos: Path, tmp_path: Path) -> None:
    page = visits.open()
    in_flight: list[int] = [0]
    most: list[int] = [0]
    bodies: list[bytes] = []

    def begun(request: Any) -> None:
        if DETECT.search(request.url):
            assert request.headers["content-type"] == "image/jpeg"
            in_flight[0] += 1
            most[0] = max(most[0], in_flight[0])
            bodies.append(request.post_data_buffer or b"")

    def ended(request: Any) -> None:
        in_flight[0] -= bool(DETECT.search(request.url))

    page.on("request", begun)
    page.on("requestfinished", ended)
    page.on("requestfailed", ended)
    page.click("#camera")
    expect(page.locator("#overlay")).to_have_attribute("data-faces", "3")
    expect(page.locator("#size")).to_have_text(re.compile(r"^\d+\.\d pictures a second$"))
    page.wait_for_timeout(1000)  # some more frames
    assert most == [1] and len(bodies) > 2
    assert counts(page) == dict.fromkeys(COLOURS, 1)

    # The boxes belong to the shown frame, although the camera has newer frames.
    picture, overlay = pixels(page, "picture", "overlay")
    Image.fromarray(picture[..., :3]).save(tmp_path / "frame.png")
    found = ask(visits.server, tmp_path / "frame.png", 0.5)
    assert len(found["faces"]) == 3
    assert all(is_drawn(overlay, face, (found["width"], found["height"]), slack=6) for face in found["faces"])

    page.evaluate("window.track = document.getElementById('video').srcObject.getTracks()[0]")
    page.click("#camera")
    assert page.evaluate("[track.readyState, document.getElementById('video').srcObject]") == ["ended", None]
    page.wait_for_timeout(300)
    sent = visits.asked
    page.wait_for_timeout(500)
    assert visits.asked == sent
    expect(page.locator("#result")).to_be_hidden()


def test_a_camera_picture_can_be_kept(visits: Visits) -> None:
    page = visits.open()
    page.click("#camera")
    expect(page.locator("#overlay")).to_have_attribute("data-faces", "3")
    page.evaluate("window.track = document.getElementById('video').srcObject.getTracks()[0]")
    page.click("#keep")
    wait_for_photos(page, 1)
    assert re.fullmatch(r"camera-.*\.jpg", page.inner_text("#name"))
    assert page.inner_text("#size") == "1280 \N{MULTIPLICATION SIGN} 720 px" and counts(page) == dict.fromkeys(
        COLOURS, 1
    )
    assert page.evaluate("track.readyState") == "ended"


def test_a_hidden_page_releases_the_camera(visits: Visits) -> None:
    page = visits.open()
    page.click("#camera")
    expect(page.locator("#overlay")).to_have_attribute("data-faces", "3")
    page.evaluate(
        """() => {
            window.track = document.getElementById("video").srcObject.getTracks()[0];
            Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    assert page.evaluate("track.readyState") == "ended"
    expect(page.locator(".notice")).to_contain_text("switched off while the page was hidden")
    page.evaluate("delete document.visibilityState")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#overlay")).to_have_attribute("data-faces", "3")


def test_an_unavailable_camera(visits: Visits) -> None:
    page = visits.open()
    for error, message in (
        ("NotAllowedError", "not allowed"),
        ("NotFoundError", "No camera was found"),
        ("NotReadableError", "Another program"),
        (None, "over https"),  # as on an insecure origin
    ):
        page.evaluate(
            """(error) => error === null
                ? Object.defineProperty(navigator, "mediaDevices", { value: undefined })
                : navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("", error); }""",
            error,
        )
        page.click("#camera")
        expect(page.locator(".notice").last).to_contain_text(message)
        expect(page.locator("#camera")).to_have_text("Switch the camera on")
    expect(page.locator(".notice")).to_have_count(4)


def test_a_bad_file_is_named_and_the_page_still_works(visits: Visits, photos: Path) -> None:
    page = visits.open()
    choose(page, photos / "notes.txt")
    notice = page.locator("#notices[aria-live=assertive] .notice")
    expect(notice).to_contain_text("notes.txt: is not a picture that can be read; convert it to JPEG or PNG")
    assert notice.locator("p").get_attribute("lang") == "en"
    assert page.inner_text("#veil") == "No result for this photo."
    assert page.locator("#save-picture").is_disabled() and page.locator("#save-json").is_disabled()
    choose(page, photos / "tiled.png")
    assert counts(page) == dict.fromkeys(COLOURS, 1)
    page.locator("#strip button").first.click()
    page.click("#retry")
    expect(notice).to_have_count(1)
    page.click("#remove")
    expect(notice).to_have_count(0)
    assert page.inner_text("#name") == "tiled.png"


def test_a_server_that_does_not_answer(visits: Visits, photos: Path) -> None:
    page = visits.blank()
    page.route("**/v1/**", lambda route: route.abort())
    page.goto(visits.server)
    expect(page.locator(".notice")).to_contain_text("The server does not answer")
    choose(page, photos / "tiled.png", photos / "tiny.png")
    expect(page.locator(".notice")).to_have_count(1)
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").first.click()
    expect(page.locator("#strip button[data-state=done]")).to_have_count(2)
    expect(page.locator(".notice")).to_have_count(0)
    assert counts(page) == dict.fromkeys(COLOURS, 1)


def test_a_busy_server_is_asked_again(visits: Visits, photos: Path) -> None:
    page = visits.open()
    tries: list[str] = []

    def busy_twice(route: Route) -> None:
        tries.append(route.request.url)
        if len(tries) > 2:
            route.continue_()
        else:
            route.fulfill(status=429, headers={"Retry-After": "0"}, json={"error": "many photos are in progress"})

    page.route(DETECT, busy_twice)
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files(photos / "tiled.png")
    expect(page.locator("#veil")).to_have_text("The server is busy. Trying again …")
    wait_for_photos(page, 1)
    assert len(tries) == 3 and counts(page) == dict.fromkeys(COLOURS, 1)
    expect(page.locator(".notice")).to_have_count(0)


def test_a_server_that_stays_busy_is_reported(visits: Visits, photos: Path) -> None:
    page = visits.open("const wait = setTimeout; window.setTimeout = (f, ms, ...rest) => wait(f, ms / 100, ...rest)")
    busy = {"error": "16 photos are in progress, the most allowed; try again in 2 seconds"}
    page.route(DETECT, lambda route: route.fulfill(status=429, json=busy))
    choose(page, photos / "tiled.png")
    expect(page.locator(".notice")).to_contain_text("16 photos are in progress")
    assert visits.asked == 6


def test_the_token_is_asked_for_and_kept_in_memory_only(browser: Browser, photos: Path) -> None:
    with serving(MASK_TOKEN="open sesame") as server:
        visits = Visits(browser, server)
        page = visits.open()
        expect(page.locator("#token-help")).to_contain_text("kept only until you close or reload")
        for token in ("wrong", "open sesame"):
            page.fill("#token-value", token)
            page.keyboard.press("Enter")
            if token == "wrong":
                expect(page.locator("#token-help")).to_contain_text("does not accept")
        expect(page.locator("#token")).to_be_hidden()
        choose(page, photos / "tiled.png")
        assert counts(page) == dict.fromkeys(COLOURS, 1)
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
        assert "sesame" not in kept
        page.reload()
        expect(page.locator("#token")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(".notice")).to_contain_text("Without its token")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#token")).to_be_visible()
        visits.close()
        assert [line for line in visits.errors if not REFUSED.match(line)] == []


def saved(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_what_is_saved(visits: Visits, photos: Path) -> None:
    page = visits.open()
    choose(page, photos / "tiled.png")
    page.locator("#score").press("End")  # so that not every face is shown
    least = shown_score(page)
    answer = ask(visits.server, photos / "tiled.png")
    faces = shown(answer, least)
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


def test_by_keyboard_alone(visits: Visits, photos: Path) -> None:
    page = visits.open()

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel || 'none'"))

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            # the focus is visible
            assert (
                focused() == "none" or page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            )
            if focused() == name:
                return
        raise AssertionError(f"{name} cannot be reached")

    tab_to("choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([photos / "tiled.png", photos / "tiny.png"])
    wait_for_photos(page, 2)
    page.reload()
    tab_to("choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([photos / "tiled.png", photos / "tiny.png"])
    wait_for_photos(page, 2)

    page.keyboard.press("Shift+Tab")  # theme
    page.keyboard.press("Shift+Tab")  # language
    page.keyboard.press("Shift+Tab")
    assert focused() == "skip" and page.locator("#skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert focused() == "result"
    tab_to("tiny.png: 3 faces: With mask 1, Without mask 1, Mask worn wrongly 1")
    page.keyboard.press("Enter")
    assert page.inner_text("#name") == "tiny.png"
    tab_to("score")
    page.keyboard.press("Home")
    assert shown_score(page) < 0.1
    tab_to("Face 2")
    page.keyboard.press("Space")
    assert page.locator("#rows button").nth(1).get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.locator("#rows button").nth(1).get_attribute("aria-pressed") == "false"
    tab_to("save-all")
    with page.expect_download():
        page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused() == "none"  # the focus leaves the page: no keyboard trap


def test_every_control_has_a_name_for_screen_readers(visits: Visits, photos: Path) -> None:
    page = visits.open()
    choose(page, photos / "tiled.png")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input:not([hidden]), canvas[role=img], table, nav")]
            .filter((e) => e.checkVisibility())
            .filter((e) => !(e.ariaLabel || e.textContent.trim() && e.tagName === "BUTTON" || e.labels?.length
                             || document.getElementById(e.getAttribute("aria-labelledby"))))
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_korean_by_the_browsers_language_and_a_remembered_choice(visits: Visits, photos: Path) -> None:
    page = visits.open(locale="ko-KR")
    assert page.get_attribute("html", "lang") == "ko" and page.title() == "얼굴 마스크 감지"
    choose(page, photos / "tiled.png", photos / "notes.txt")
    assert page.inner_text("#counts").split("\n")[1::3] != []
    assert all(name in page.inner_text("#counts") for name in ("마스크 착용", "마스크 미착용", "마스크 잘못 착용"))
    hangul = "|".join(page.locator("[data-words]:visible").all_inner_texts())
    assert re.findall("[A-Za-z]{2,}", hangul.replace("JSON", "")) == []
    (korean,) = pixels(page, "overlay")
    page.select_option("#language", "en")
    assert page.get_attribute("html", "lang") == "en" and page.title() == "Face mask detection"
    assert "Without mask" in page.inner_text("#counts") and "Without mask" in page.inner_text("#rows")
    page.wait_for_timeout(100)
    assert not np.array_equal(korean, pixels(page, "overlay")[0])  # the texts in the picture have changed, too
    page.reload()
    assert page.inner_text("#choose") == "Choose photos" and page.input_value("#language") == "en"
    assert visits.open(locale="de-DE").get_attribute("html", "lang") == "en"


def test_every_text_exists_in_both_languages(visits: Visits) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in STATIC.glob("*.js"))
    keys = set(re.findall(r'data-words(?:-label)?="([^"]+)"', (STATIC / "index.html").read_text(encoding="utf-8")))
    keys |= set(re.findall(r'(?:say|Refusal)\("(\w+)"', sources)) | set(re.findall(r'"(camera[A-Z]\w+)"', sources))
    assert len(keys) > 60
    page = visits.open()
    missing = page.evaluate(
        """async (keys) => {
            const { say, speak } = await import("/static/words.js");
            const texts = (code) => { speak(code); return keys.map((key) => say(key)); };
            const [en, ko] = [texts("en"), texts("ko")];
            return keys.filter((key, i) => !en[i] && key !== "refused" || !ko[i] && key !== "refused"
                || en[i] === ko[i] && !["inPhoto", "scoreValue", "share", "size", "refused"].includes(key));
        }""",
        sorted(keys),
    )
    assert missing == []


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-US"), ("dark", "ko-KR")])
def test_texts_have_enough_contrast(visits: Visits, photos: Path, scheme: Any, locale: str) -> None:
    page = visits.open(color_scheme=scheme, locale=locale, reduced_motion="reduce")
    assert page.get_attribute("html", "data-theme") == scheme
    texts = page.evaluate(CONTRASTS)
    choose(page, photos / "tiled.png", photos / "notes.txt")
    page.locator("#rows button").first.click()
    texts += page.evaluate(CONTRASTS)
    page.locator("#strip button").nth(1).click()
    texts += page.evaluate(CONTRASTS)
    assert len(texts) > 90
    assert [row for row in texts if row[0] < row[1]] == []


def test_light_and_dark_by_the_device_and_a_remembered_choice(visits: Visits) -> None:
    page = visits.open(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"() => {background} !== '{light}'")
    dark = page.evaluate(background)
    page.select_option("#theme", "light")
    assert page.evaluate(background) == light
    page.reload()
    assert page.evaluate(background) == light and page.input_value("#theme") == "light"
    page.select_option("#theme", "auto")
    assert page.evaluate(background) == dark


def test_a_phone_has_no_sideways_scroll_and_large_targets(visits: Visits, photos: Path) -> None:
    page = visits.open(viewport=SMALL, is_mobile=True, has_touch=True)
    expect(page.locator("#take")).to_be_visible()
    assert page.get_attribute("#shot", "capture") == "environment"
    assert page.evaluate(WIDTH) == 320
    choose(page, photos / "tiled.png", photos / "notes.txt")
    page.locator("#rows button").first.click()
    for language in ("ko", "en"):
        page.select_option("#language", language)
        assert page.evaluate(WIDTH) == 320
        targets = page.locator("button:visible, select:visible, input:visible")
        small = [
            (targets.nth(i).get_attribute("id"), box)
            for i in range(targets.count())
            if (box := targets.nth(i).bounding_box()) and min(box["width"], box["height"]) < 44
        ]
        assert small == [] and targets.count() > 12
    page.locator("#strip button").nth(1).click()
    assert page.evaluate(WIDTH) == 320


def test_less_motion_when_preferred(visits: Visits, photos: Path) -> None:
    still = "getComputedStyle(document.getElementById('veil'), '::before').animationName"
    for motion, name in (("reduce", "none"), ("no-preference", "breathe")):
        page = visits.open(reduced_motion=motion)
        page.route(DETECT, lambda route: None)
        with page.expect_file_chooser() as chooser:
            page.click("#choose")
        chooser.value.set_files(photos / "tiled.png")
        expect(page.locator("#veil[data-state=working]")).to_be_visible()
        assert page.evaluate(still) == name


def test_file_names_are_never_html(visits: Visits, photos: Path, tmp_path: Path) -> None:
    odd = tmp_path / "<img src=x onerror=alert(1)><b>&amp;.png"
    odd.write_bytes((photos / "tiled.png").read_bytes())
    bad = tmp_path / "<i>bad<i>.png"
    bad.write_text("no picture")
    page = visits.open()
    choose(page, odd, bad)
    assert page.inner_text("#name") == odd.name
    assert page.locator("#result img, #result i, #notices i, #result b b").count() == 0
    assert bad.name in page.inner_text("#notices")


def test_classes_of_another_bundle_keep_their_names(visits: Visits, photos: Path) -> None:
    names = ["<u>cap</u>", "hat"]
    face = {"box": [10, 10, 60, 40], "label": "hat", "score": 0.9, "face_score": 0.95, "unsure": True}
    face |= {"probs": {names[0]: 0.05, "hat": 0.95}, "landmarks": [[30, 20]] * 5}
    answer = {"file": "tiled.png", "width": 1536, "height": 420, "faces": [face]}
    page = visits.blank()
    page.route("**/v1/model", lambda route: route.fulfill(json={"class_names": names, "thresholds": {"score": 0.3}}))
    page.route(DETECT, lambda route: route.fulfill(json=answer))
    page.goto(visits.server)
    choose(page, photos / "tiled.png")
    assert page.inner_text("#counts").split() == ["A", "<u>cap</u>", "0", "B", "hat", "1"]
    assert "hat (not sure)" in page.inner_text("#rows")
    expect(page.locator("#share")).to_be_hidden()
    assert shown_score(page) == 0.3 and page.locator("#counts u").count() == 0


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


def test_the_page_is_complete_without_another_host() -> None:
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        outside = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert outside == set(), path.name
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=", page)


def test_the_pages_colours_are_those_of_the_annotated_pictures() -> None:
    from pipeline.inference.draw import PALETTE

    css = (STATIC / "page.css").read_text(encoding="utf-8")
    kinds = (STATIC / "kinds.js").read_text(encoding="utf-8")
    for i, colour in enumerate(PALETTE):
        assert f".kind-{i} {{ --kind: #{bytes(colour).hex()};" in css
    listed = re.findall(r"\[(\d+), (\d+), (\d+)\]", kinds)
    assert [tuple(map(int, each)) for each in listed] == list(PALETTE)
