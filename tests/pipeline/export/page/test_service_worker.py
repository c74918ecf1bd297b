"""The site's service worker in Node, with stand-ins for what a browser gives it: it answers for its own files alone."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from pipeline.export import site
from tests.helpers.js_runtime import NODE

pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node: https://nodejs.org")

HOST = "https://user.github.io"
# Prints, for each request, the answer of the worker's fetch handler; null where it leaves the request to the browser.
SCRIPT = """
import fs from "node:fs";
const { worker, scope, cached, redirects, requests } = JSON.parse(fs.readFileSync(0, "utf8"));
const handlers = {};
const self = { addEventListener: (name, handler) => (handlers[name] = handler) };
const match = async (request) => {
  const { origin, pathname } = new URL(request.url ?? request, scope);
  return cached.includes(origin + pathname) ? new Response(`kept ${pathname}`) : undefined;
};
const caches = { open: async () => ({ match }) };
const redirect = { type: "opaqueredirect", status: 0, statusText: "", body: null, headers: new Headers() };
const fetched = () => new Response("from the host", { status: 206, headers: { "Content-Type": "text/css" } });
const fetch = async ({ url }) => (redirects.includes(url) ? redirect : fetched());
const names = ["self", "caches", "fetch", "location", "registration"];
new Function(...names, worker)(self, caches, fetch, new URL("service-worker.js", scope), { scope });
const answers = [];
for (const [method, url] of requests) {
  let answer = null;
  handlers.fetch({ request: { method, url }, respondWith: (promise) => (answer = promise) });
  const found = await answer;
  const body = found instanceof Response ? await found.text() : "";
  answers.push(found && { status: found.status, body, headers: Object.fromEntries(found.headers) });
}
console.log(JSON.stringify(answers));
"""


def answers(scope: str, *addresses: str, method: str = "GET", **more: list[str]) -> list[Any]:
    """Return the worker's answers to requests; `more` are addresses: `cached`, and `redirects` of the host."""
    worker = site._service_worker({"index.html": b"", "static/page.css": b"", "device/model.json": b""}).decode()
    requests = [[method, address] for address in addresses]
    given = {"cached": [], "redirects": [], **more, "worker": worker, "scope": scope, "requests": requests}
    assert NODE is not None
    command = [NODE, "--input-type=module", "--eval", SCRIPT]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("folder", ["/", "/masks/"])
def test_the_sites_own_files_have_the_headers(folder: str) -> None:
    scope = HOST + folder
    own = [f"{scope}{name}" for name in ("", "?lang=ko", "index.html", "static/page.css?v=1", "device/model.json")]
    found = answers(scope, *own, cached=[scope, f"{scope}static/page.css"])
    for answer in found:
        assert answer["headers"]["content-security-policy"] == site.POLICY
        assert answer["headers"]["cross-origin-opener-policy"] == "same-origin"
        assert answer["headers"]["cross-origin-embedder-policy"] == "require-corp"
    kept = [f"kept {folder}"] * 3 + [f"kept {folder}static/page.css"]
    assert [answer["body"] for answer in found] == [*kept, "from the host"]
    assert found[4]["status"] == 206 and found[4]["headers"]["content-type"] == "text/css"


def test_all_else_is_left_to_the_browser() -> None:
    scope = f"{HOST}/"
    names = ("shop", "shop/", "shop/index.html", "static/other.css", "service-worker.js")
    others = [*(f"{scope}{name}" for name in names), "https://elsewhere.org/static/page.css"]
    assert answers(scope, *others) == [None] * 6
    assert answers(f"{HOST}/masks/", scope, f"{HOST}/static/page.css") == [None] * 2
    assert answers(scope, scope, f"{scope}static/page.css", method="POST") == [None] * 2


def test_a_redirect_reaches_the_browser() -> None:
    """Also one of the site's page, where the browser has dropped the kept files."""
    shop, page = f"{HOST}/shop", f"{HOST}/index.html"
    found = answers(f"{HOST}/", shop, page, redirects=[shop, page])
    assert found == [None, {"status": 0, "body": "", "headers": {}}]
