"""Prints how many pictures of a camera a second the static site looks at, on one thread and on several.

Example: python -m tests.pipeline.export.page.camera_rate (needs Chromium, and `make js`)
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from pipeline.detect.demo.command import portrait, tiled_photo
from pipeline.export.command import main as export
from pipeline.inference.predictor import Predictor
from tests.helpers.js_runtime import WEB_RUNTIME
from tests.helpers.serve.browser import CHROMIUM, FLAGS, write_camera
from tests.helpers.serve.static_host import Host

WIDTH, HEIGHT, SECONDS = 640, 480, 20


def rate(page: Page) -> str:
    """Return what the page says of its rate after some seconds; three faces are in the picture."""
    page.click("#camera")
    expect(page.locator("#overlay")).to_have_attribute("data-faces", "3", timeout=90_000)
    time.sleep(SECONDS)
    text = page.locator("#size").text_content() or ""
    page.click("#camera")
    return text


def main() -> None:
    """Write the site and a camera's video, and open both in Chromium."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site, video = Path(folder) / "site", Path(folder) / "camera.mjpeg"
        export(["--web", str(site), "--runtime", str(WEB_RUNTIME)])
        write_camera(video, tiled_photo(Predictor.default(), portrait()), WIDTH, HEIGHT)
        host = Host(site)
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={video}"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_context(locale="en-GB").new_page()
        page.set_default_timeout(90_000)
        page.goto(host.address)
        print(f"{WIDTH}x{HEIGHT} px, first visit, one thread: {rate(page)}")
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        page.reload()
        threads = page.evaluate("crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1")
        print(f"second visit, {threads} threads: {rate(page)}")
        browser.close()
        host.close()


if __name__ == "__main__":
    main()
