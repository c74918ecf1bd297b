"""The web page and /docs in a real browser, below a path prefix of a reverse proxy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("playwright", reason="needs the package playwright")

from playwright.sync_api import expect

from tests.helpers.serve.browser import CHROMIUM, choose
from tests.helpers.serve.page_visits import Visits, counts
from tests.helpers.serve.proxy import proxy
from tests.load.server_process import running_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.mark.parametrize("strips", [True, False])
def test_the_page_and_the_docs_below_a_prefix(browser: Browser, photos: Path, strips: bool) -> None:
    with running_server("--root-path", "/tools/mask") as server, proxy(server, "/tools/mask", strips) as target:
        address = f"http://{target.host}:{target.port}/tools/mask"
        visits = Visits(browser, address)  # without a slash at its end
        page = visits.open()
        choose(page, photos / "tiny.png")
        assert sum(counts(page).values()) == 3
        page.goto(f"{address}/docs")
        page.get_by_text("/v1/health").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        visits.close()
        assert visits.errors == []
        assert [
            url for url in visits.urls if url != address and not url.startswith((f"{address}/", "data:", "blob:"))
        ] == []
