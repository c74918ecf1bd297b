"""The server behind a reverse proxy: below a path prefix, removed or kept, and under the proxy's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from common.errors import UserError
from pipeline.serve.access import OWN_FIRST_PARTS, checked_hosts, checked_root_path
from pipeline.serve.app import create_app
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.serve.app_client import LIMITS, RAW, metric
from tests.helpers.serve.proxy import proxy
from tests.helpers.serve.served import served
from tests.load.server_process import Target

PREFIX = "/tools/mask"


@pytest.fixture(params=[True, False], ids=["removed", "kept"])
def behind(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Return a proxy that removes or keeps the prefix."""
    hosts = ("127.0.0.1", "mask.example.org")
    with (
        served(FakePredictor(), root_path=PREFIX, hosts=hosts) as server,
        proxy(server, PREFIX, request.param, host="mask.example.org") as target,
    ):
        yield target


def links(page: str, text: str) -> list[str]:
    """Return the paths that a page or a script names, as a browser resolves them."""
    base = re.search('<base href="([^"]+)">', text)
    page = base[1] if base else page
    named = re.findall(r'(?:src|href)="([^"#][^"]*)"|(?:from|import) "(\.[^"]+)"|url\((?:"|\')?([^)"\']+)', text)
    return [urljoin(page, next(filter(None, each))) for each in named if not "".join(each).startswith("data:")]


@pytest.mark.parametrize("slash", ["/", ""])
def test_the_page_and_all_its_files(behind: Target, slash: str) -> None:
    if not slash and behind.ask("GET", PREFIX)[0] == 307:
        return  # where the prefix is kept, the server adds the slash
    paths, seen = [PREFIX + slash], set()
    while paths:
        path = paths.pop()
        assert path.startswith(f"{PREFIX}/") or not seen, path
        status, body = behind.ask("GET", path)
        assert status == 200, path
        seen.add(path)
        if not path.endswith((".svg", ".png")):
            paths += [each for each in links(path, body.decode()) if each not in seen]
    assert {f"{PREFIX}/static/{name}" for name in ("page.js", "api.js", "words.js", "page.css", "icon.svg")} <= seen


def test_the_scripts_name_no_absolute_address(behind: Target) -> None:
    script = behind.ask("GET", f"{PREFIX}/static/api.js")[1].decode()
    assert '"v1/model"' in script and "`v1/detect?" in script and '"/v1' not in script and "`/v1" not in script


def test_the_docs_and_their_files(behind: Target) -> None:
    status, body = behind.ask("GET", f"{PREFIX}/docs")
    files = links(f"{PREFIX}/docs", body.decode())
    assert status == 200 and len(files) == 3
    for file in files:
        assert file.startswith(f"{PREFIX}/static-offline-docs/")
        assert behind.ask("GET", file)[0] == 200
    (address,) = re.findall(r"url: '([^']+)'", body.decode())
    status, described = behind.ask("GET", urljoin(f"{PREFIX}/docs", address))
    assert status == 200 and json.loads(described)["servers"] == [{"url": PREFIX}]


def test_the_api(behind: Target, photo: bytes) -> None:
    status, body = behind.ask("POST", f"{PREFIX}/v1/detect?min_score=0.3", photo, "image/png")
    assert status == 200 and len(json.loads(body)["faces"]) == 1
    assert behind.ask("GET", f"{PREFIX}/v1/model")[0] == behind.ask("GET", f"{PREFIX}/v1/health")[0] == 200
    assert behind.ask("GET", f"{PREFIX}/nothing")[0] == 404
    status, text = behind.ask("GET", f"{PREFIX}/metrics")
    assert status == 200 and b'mask_requests_total{path="/v1/detect",status="200"} 1.0' in text
    assert b'path="other",status="404"' in text and PREFIX.encode() not in text


def test_without_the_prefix_it_answers_too(fake: FakePredictor, photo: bytes) -> None:
    with TestClient(create_app(fake, LIMITS, root_path="/mask")) as client:  # type: ignore[arg-type]
        for path in ("/v1/detect", "/mask/v1/detect"):
            assert client.post(path, content=photo, headers=RAW).status_code == 200
        assert metric(client, 'mask_requests_total{path="/v1/detect",status="200"}') == 2
        assert client.get("/masks/v1/health").status_code == 404
        for path in ("/v1/model", "/mask/v1/model"):
            assert client.get(path).headers["cache-control"] == "no-store"


def test_the_prefix_alone_leads_to_the_page(fake: FakePredictor) -> None:
    with TestClient(create_app(fake, LIMITS, root_path="/mask")) as client:  # type: ignore[arg-type]
        answer = client.get("/mask?a=b", follow_redirects=False)
        assert answer.status_code == 307 and answer.headers["location"] == "/mask/?a=b"
        page = client.get("/mask")
        assert page.headers["content-type"].startswith("text/html") and '<base href="/mask/">' in page.text
        assert "base-uri 'self'" in page.headers["content-security-policy"]
        assert metric(client, 'mask_requests_total{path="other",status="307"}') == 2


def test_without_a_prefix_nothing_names_one(client: TestClient) -> None:
    assert "<base" not in client.get("/").text
    assert "servers" not in client.get("/openapi.json").json()


def test_a_proxy_that_removes_the_prefix_needs_no_flag_for_the_page(photo: bytes) -> None:
    with served(FakePredictor()) as server, proxy(server, PREFIX, strips=True) as target:
        for path in ("/", "/static/page.js", "/docs", "/static-offline-docs/swagger-ui.css", "/openapi.json"):
            assert target.ask("GET", PREFIX + path)[0] == 200
        assert target.ask("POST", f"{PREFIX}/v1/detect", photo, "image/png")[0] == 200


def test_every_first_part_of_an_own_path_is_reserved() -> None:
    app = create_app(FakePredictor(), LIMITS)  # type: ignore[arg-type]
    firsts = {route.path.split("/")[1] for route in app.routes}  # type: ignore[attr-defined]
    assert firsts - {""} == set(OWN_FIRST_PARTS)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("", ""),
        ("/", ""),
        ("/mask", "/mask"),
        ("/mask/", "/mask"),
        ("/a/b.c/d-e_f~", "/a/b.c/d-e_f~"),
        ("/v10", "/v10"),
    ],
)
def test_prefixes(given: str, path: str) -> None:
    assert checked_root_path(given) == path


@pytest.mark.parametrize(
    "given", ["mask", "mask/", "//mask", "/a//b", "/a/../b", "/.", "/a b", "/마스크", "/a?b", "/a\n", "http://x/mask"]
)
def test_what_is_no_prefix(given: str) -> None:
    with pytest.raises(UserError, match="is not a path prefix; give one such as /mask") as caught:
        checked_root_path(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["/v1", "/docs", "/static/x", "/metrics"])
def test_prefixes_that_look_like_own_paths(given: str) -> None:
    with pytest.raises(UserError, match="begins as one of the server's own paths"):
        checked_root_path(given)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Mask.Example.org", "mask.example.org"),
        ("mask.example.org.", "mask.example.org"),
        ("nas", "nas"),
        ("192.168.0.7", "192.168.0.7"),
        ("[::1]", "::1"),
        ("2001:DB8:0::5", "2001:db8::5"),
        ("마스크.example", "xn--hz2b25no1l.example"),
    ],
)
def test_names_of_hosts(fake: FakePredictor, given: str, name: str) -> None:
    hosts = checked_hosts([given])
    assert hosts == {name}
    app = create_app(fake, LIMITS, hosts=hosts)  # type: ignore[arg-type]
    header = f"[{name}]:8000" if ":" in name else f"{name}:8000"
    assert TestClient(app).get("/v1/health", headers={"Host": header}).status_code == 200
    assert TestClient(app).get("/v1/health", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "given", ["", "*", "*.example.org", "http://mask.example.org", "mask.example.org:8000", "a b", "-a", "a..b", "a/b"]
)
def test_what_is_no_host(given: str) -> None:
    with pytest.raises(UserError, match=r"--allow-host .*: (is not a host name; give|names no single host)"):
        checked_hosts([given])
