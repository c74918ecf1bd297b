"""A server, a browser and photos for the tests of the web page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import pytest
from PIL import Image

from pipeline.detect.demo.command import portrait, tiled_photo
from pipeline.inference.predictor import Predictor

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.helpers.serve.page_visits import Visits


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder: tiled.png with one face per class, the same as JPEG and tiny, a camera's video, a text file."""
    from tests.helpers.serve.browser import write_camera

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
    from tests.helpers.serve.browser import serving

    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def browser(photos: Path) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    from tests.helpers.serve.browser import CHROMIUM, FLAGS

    video = f"--use-file-for-fake-video-capture={photos / 'camera.mjpeg'}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, video])
        yield browser
        browser.close()


@pytest.fixture
def visits(browser: Browser, server: str) -> Iterator[Visits]:
    from tests.helpers.serve.page_visits import REFUSED, Visits

    visits = Visits(browser, server)
    yield visits
    visits.close()
    assert [line for line in visits.errors if not REFUSED.match(line)] == []
    assert [url for url in visits.urls if not url.startswith((visits.server + "/", "data:", "blob:"))] == []
