"""The web page: the camera, and a server that is busy, closed or broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="needs the package playwright")

from playwright.sync_api import Browser, Route, expect

from tests.helpers.serve.browser import (
    CHROMIUM,
    COLOURS,
    ask,
    choose,
    is_drawn,
    pixels,
    serving,
    wait_for_photos,
)
from tests.helpers.serve.page_visits import DETECT, REFUSED, Visits, counts, shown_score

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


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
