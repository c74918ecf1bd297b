"""The page of `pipeline.check` in a real browser: pictures are shown, and nothing is wider than a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.check.command import main
from tests.helpers.planted_data import write_planted

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    pytest.importorskip("playwright", reason="needs the package playwright")
    from playwright.sync_api import sync_playwright

    from tests.helpers.serve.browser import CHROMIUM, FLAGS

    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    data = write_planted(folder / ("a-very-long-name-of-a-folder" * 4))
    main(["--data", str(data), "--out", str(folder / "check.html")])
    return folder / "check.html"


# The width of the page and of the window; wide elements that no scrolling box holds; pictures that are not shown.
MEASURE = """() => ({
    page: document.documentElement.scrollWidth,
    window: document.documentElement.clientWidth,
    wide: [...document.querySelectorAll("body *")].filter((element) =>
        !element.closest(".wide, .picture") && element.getBoundingClientRect().right > innerWidth + 1
    ).map((element) => element.outerHTML.slice(0, 80)),
    unseen: [...document.images].filter((image) => !image.complete || !image.naturalWidth).length,
    pictures: document.images.length,
})"""
# For each picture, how far the drawing of its boxes is from it, in pixels.
OFFSETS = """() => [...document.querySelectorAll(".picture")].map((picture) => {
    const image = picture.querySelector("img").getBoundingClientRect();
    const drawing = picture.querySelector("svg").getBoundingClientRect();
    return Math.max(...["left", "top", "right", "bottom"].map((side) => Math.abs(image[side] - drawing[side])));
})"""
COLOURS = """() => {
    const style = getComputedStyle(document.body);
    return [style.backgroundColor, style.color];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_pictures_are_shown_and_nothing_is_too_wide(browser: Browser, page_file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    errors, urls = [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: urls.append(request.url))
    page.goto(page_file.as_uri())
    for details in page.query_selector_all("details"):
        details.evaluate("(element) => { element.open = true; }")
    found = page.evaluate(MEASURE)
    assert found["pictures"] > 20 and found["unseen"] == 0
    assert found["page"] <= found["window"] == width and found["wide"] == []
    assert max(page.evaluate(OFFSETS)) <= 0.5
    ground, ink = page.evaluate(COLOURS)
    lightness = [sum(map(int, colour[4:-1].split(", "))) for colour in (ground, ink)]
    assert (lightness[0] > lightness[1]) == (scheme == "light") and abs(lightness[0] - lightness[1]) > 450
    assert errors == [] and all(url.startswith(("file:", "data:")) for url in urls)
    context.close()
