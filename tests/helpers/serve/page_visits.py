"""Visits to the web page in a browser, and what the page shows."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from pipeline.inference.predictor import Predictor
from tests.helpers.serve.browser import (
    COLOURS,
    COUNTED,
)

expect.set_options(timeout=15_000)  # the machine may be busy
DETECT = re.compile(r"/v1/detect\?")
# The browser logs each refused request; the page shows these to the user.
REFUSED = re.compile(r"Failed to load resource: .*(status of (401|422|429)|net::ERR_FAILED)")


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


def saved(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()
