"""The static site in a browser: the same faces as `detect`, on one thread and several, without a network, private."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="needs the package playwright")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from common.boxes import iou
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.detect.demo.command import portrait, tiled_photo
from pipeline.export.command import main
from pipeline.export.site import POLICY, SERVICE_WORKER
from pipeline.inference.predictor import Predictor
from tests.helpers.js_runtime import WEB_RUNTIME, needs_web_runtime
from tests.helpers.serve.browser import CHROMIUM, FLAGS, write_camera
from tests.helpers.serve.page_visits import saved
from tests.helpers.serve.static_host import Host

pytestmark = [
    pytest.mark.slow,
    needs_web_runtime,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
SECONDS = 90_000  # ms; the machine may be busy


# The longest time between two frames that the page draws, as window.longest.
WATCH = """
(() => {
  window.longest = 0;
  let last = performance.now();
  const tick = () => {
    const now = performance.now();
    window.longest = Math.max(window.longest, now - last);
    last = now;
    requestAnimationFrame(tick);
  };
  tick();
})()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "site"
    assert main(["--web", str(folder), "--runtime", str(WEB_RUNTIME)]) == 0
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    tiled = tiled_photo(Predictor.default(), portrait())
    Image.fromarray(tiled).save(folder / "tiled.png")
    Image.fromarray(synthetic_photo(641, 427, 6)).save(folder / "six.png")
    Image.fromarray(np.full((50, 60, 3), 90, np.uint8)).save(folder / "empty.png")
    (folder / "notes.jpg").write_text("no picture")
    write_camera(folder / "camera.mjpeg", tiled)
    return folder


@pytest.fixture(scope="module")
def browser(photos: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        video = f"--use-file-for-fake-video-capture={photos / 'camera.mjpeg'}"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, video])
        yield browser
        browser.close()


@pytest.fixture
def host(site: Path) -> Iterator[Host]:
    host = Host(site)
    yield host
    host.close()


@pytest.fixture
def page(browser: Browser, host: Host) -> Iterator[Page]:
    """Return the opened page; afterwards, it has sent nothing but requests for the site's files."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    expect.set_options(timeout=SECONDS)
    requests: list[tuple[str, str]] = []
    page.on("request", lambda request: requests.append((request.method, request.url)))
    page.goto(host.address)
    yield page
    context.close()
    assert {method for method, _ in requests} == {"GET"}
    assert [url for _, url in requests if not url.startswith((host.address, "blob:", "data:"))] == []


def found(page: Page, photo: Path) -> Any:
    """Return the result for a photo as the page saves it."""
    page.set_input_files("#files", photo)
    expect(page.locator("#name")).to_have_text(photo.name)
    expect(page.locator("#save-json")).to_be_enabled()
    return json.loads(saved(page, "#save-json")[1])


def check_faces(result: Any, photo: Path) -> None:
    """Assert that a result has the faces of `detect`: equal labels, boxes at IoU 0.95."""
    image = np.asarray(Image.open(photo).convert("RGB"))
    expected = Predictor.default().detect(image)
    assert (result["width"], result["height"]) == (image.shape[1], image.shape[0])
    assert len(result["faces"]) == len(expected)
    if not len(expected):
        return
    boxes = np.array([face["box"] for face in result["faces"]], np.float32)
    overlap = iou(expected.boxes, boxes)
    partner = overlap.argmax(axis=1)
    assert overlap.max(axis=1).min() >= 0.95
    faces = [result["faces"][i] for i in partner]
    assert [face["label"] for face in faces] == list(expected.labels)
    assert [face["unsure"] for face in faces] == expected.unsure.tolist()
    np.testing.assert_allclose([face["score"] for face in faces], expected.scores, atol=0.05)
    np.testing.assert_allclose([face["face_score"] for face in faces], expected.face_scores, atol=0.05)


def test_the_faces_are_those_of_detect(page: Page, photos: Path) -> None:
    assert page.evaluate("crossOriginIsolated") is False  # one thread
    for name in ("tiled.png", "six.png", "empty.png"):
        check_faces(found(page, photos / name), photos / name)
    expect(page.locator("#privacy")).to_contain_text("stay on this device")


def test_a_second_visit_needs_no_network_and_has_threads(page: Page, host: Host, photos: Path) -> None:
    check_faces(found(page, photos / "tiled.png"), photos / "tiled.png")
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    host.close()
    check_faces(found(page, photos / "six.png"), photos / "six.png")  # the model is loaded
    page.reload()
    assert page.evaluate("crossOriginIsolated") is True
    check_faces(found(page, photos / "tiled.png"), photos / "tiled.png")
    policy = "fetch('static/page.css').then((kept) => kept.headers.get('Content-Security-Policy'))"
    assert page.evaluate(policy) == POLICY  # so that ONNX Runtime's threads have it, too
    page.goto(f"{host.address}device/LICENSE.onnxruntime.txt")
    expect(page.locator("body")).to_contain_text("MIT License")


def test_a_new_version_replaces_what_the_browser_has_kept(browser: Browser, site: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(site, tmp_path / "site")
    host = Host(copy, {"Cache-Control": "max-age=600"})
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(host.address)
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    for name, change in (
        ("static/words.js", ("", "// new\n")),
        (SERVICE_WORKER, ("VERSION = 'mask-detector-", "VERSION = 'mask-detector-new")),
    ):
        file = copy / name
        file.write_text(file.read_text(encoding="utf-8").replace(*change, 1), encoding="utf-8")
    page.evaluate("navigator.serviceWorker.getRegistration().then((own) => own.update())")  # as a later visit does
    until = time.monotonic() + SECONDS / 1000
    while len(names := page.evaluate("caches.keys()")) != 1 or "new" not in names[0]:
        assert time.monotonic() < until, names
        page.wait_for_timeout(200)
    words = page.evaluate("caches.match('static/words.js').then((kept) => kept.text())")
    assert words.startswith("// new")
    context.close()
    host.close()


def test_no_photo_can_leave_the_page_or_its_worker(page: Page, browser: Browser, site: Path, photos: Path) -> None:
    found(page, photos / "empty.png")
    assert page.evaluate("crossOriginIsolated") is False  # so only the policy forbids what is tried
    other = Host(site)
    send = "(url) => fetch(url, { mode: 'no-cors' }).then(() => 'sent', (error) => String(error))"
    context = browser.new_context()
    free = context.new_page()
    free.goto(f"{page.url}static/page.css")  # has no policy
    assert free.evaluate(send, other.address) == "sent"
    context.close()
    assert page.evaluate(send, other.address) != "sent"
    (worker,) = page.workers
    assert worker.evaluate(send, page.url) == "sent"
    assert worker.evaluate(send, other.address) != "sent"
    other.close()


def test_the_page_stays_alive_while_it_looks(page: Page, photos: Path) -> None:
    found(page, photos / "empty.png")
    page.evaluate(WATCH)
    page.set_input_files("#files", [photos / "six.png"] * 4)
    expect(page.locator("#strip li")).to_have_count(5)
    expect(page.locator("#strip button[data-state=done]")).to_have_count(5)
    assert page.evaluate("window.longest") < 1000


def test_bad_files_and_korean(page: Page, photos: Path) -> None:
    page.set_input_files("#files", photos / "notes.jpg")
    expect(page.locator(".notice")).to_contain_text("notes.jpg: Your browser cannot read this picture.")
    page.select_option("#language", "ko")
    expect(page.locator(".notice")).to_contain_text("notes.jpg: 브라우저가 이 사진을 읽을 수 없습니다.")
    expect(page.locator("#privacy")).to_contain_text("이 기기 밖으로 나가지 않으며")


def test_the_camera(page: Page) -> None:
    page.click("#camera")
    expect(page.locator("#overlay")).to_have_attribute("data-faces", "3")
    expect(page.locator("#size")).to_have_text(re.compile(r"^\d+\.\d pictures a second$"))
    page.click("#camera")
    expect(page.locator("#result")).to_be_hidden()


def test_the_model_is_missing(browser: Browser, site: Path, tmp_path: Path) -> None:
    copy = tmp_path / "site"
    for path in site.rglob("*"):
        if path.is_file() and path.suffix != ".onnx":
            target = copy / path.relative_to(site)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    host = Host(copy)
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.goto(host.address)
    expect(page.locator(".notice")).to_contain_text("The model could not be loaded.")
    (copy / "device/mask-detector.onnx").hardlink_to(site / "device/mask-detector.onnx")
    page.click(".notice button:first-of-type")
    expect(page.locator("#score")).to_be_enabled(timeout=SECONDS)
    expect(page.locator(".notice")).to_have_count(0)
    context.close()
    host.close()


def test_a_page_opened_from_a_folder_says_what_it_needs(browser: Browser, site: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    expect(page.locator("#opened-as-file")).to_be_visible()
    context.close()


def test_the_servers_page_can_look_here(browser: Browser, site: Path, photos: Path) -> None:
    from tests.helpers.serve.browser import serving

    with serving("--on-device", str(site)) as server:
        context = browser.new_context(locale="en-GB")
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server)
        assert page.evaluate("crossOriginIsolated") is True
        check_faces(found(page, photos / "tiled.png"), photos / "tiled.png")
        sent = sum("/v1/detect" in url for url in asked)
        page.select_option("#where", "device")
        expect(page.locator("#privacy")).to_contain_text("stay on this device")
        expect(page.locator("#strip-area")).to_be_hidden()
        expect(page.locator("#save-json")).to_be_enabled()
        check_faces(json.loads(saved(page, "#save-json")[1]), photos / "tiled.png")
        check_faces(found(page, photos / "six.png"), photos / "six.png")
        assert sum("/v1/detect" in url for url in asked) == sent == 1
        context.close()
