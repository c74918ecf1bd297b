"""Pages of other sites: refused by default, admitted by --allow-origin, with preflight requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from common.errors import UserError
from pipeline.serve.access import checked_origins
from pipeline.serve.app import create_app
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.serve.app_client import LIMITS, RAW

APP = "https://app.example.org"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
BROWSER = {"Sec-Fetch-Site": "cross-site", "Origin": APP}


@pytest.fixture
def admitting(fake: FakePredictor) -> Iterator[TestClient]:
    app = create_app(fake, LIMITS, origins={APP}, hosts=("testserver",))  # type: ignore[arg-type]
    with TestClient(app) as client:
        yield client


def test_an_admitted_page(admitting: TestClient, photo: bytes) -> None:
    ask = admitting.options("/v1/detect", headers={"Origin": APP, **PREFLIGHT})
    assert ask.status_code == 200 and ask.headers["access-control-allow-origin"] == APP
    assert "POST" in ask.headers["access-control-allow-methods"]
    assert {"Authorization", "Content-Type"} <= set(ask.headers["access-control-allow-headers"].split(", "))
    answer = admitting.post("/v1/detect", content=photo, headers={**RAW, **BROWSER})
    assert answer.status_code == 200 and len(answer.json()["faces"]) == 1
    assert answer.headers["access-control-allow-origin"] == APP and "Origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers
    assert admitting.get("/v1/model", headers=BROWSER).headers["access-control-allow-origin"] == APP


def test_an_admitted_page_can_read_errors(admitting: TestClient) -> None:
    for query, body, status in (("", b"x", 422), ("?x=1", b"x", 422), ("", b"x" * 200_000, 413)):
        answer = admitting.post(f"/v1/detect{query}", content=body, headers={**RAW, **BROWSER})
        assert answer.status_code == status and answer.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example.org", f"{APP}:444", "null"])
def test_other_pages_stay_refused(admitting: TestClient, photo: bytes, origin: str) -> None:
    ask = admitting.options("/v1/detect", headers={"Origin": origin, **PREFLIGHT})
    assert ask.status_code == 400 and "access-control-allow-origin" not in ask.headers
    assert ask.json() == {"error": "Disallowed CORS origin; see --allow-origin"}
    for site in ({"Sec-Fetch-Site": "cross-site"}, {}):
        answer = admitting.post("/v1/detect", content=photo, headers={**RAW, "Origin": origin, **site})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_its_own_page_still_works(admitting: TestClient, photo: bytes) -> None:
    headers = {**RAW, "Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}
    assert admitting.post("/v1/detect", content=photo, headers=headers).status_code == 200


def test_another_host_is_refused_before(admitting: TestClient, photo: bytes) -> None:
    wrong = {"Host": "evil.example", "Origin": APP}
    assert admitting.options("/v1/detect", headers={**wrong, **PREFLIGHT}).status_code == 403
    assert admitting.post("/v1/detect", content=photo, headers={**RAW, **wrong}).status_code == 403


def test_every_page(fake: FakePredictor, photo: bytes) -> None:
    app = create_app(fake, LIMITS, token="secret", origins={"*"})  # type: ignore[arg-type]
    with TestClient(app) as client:
        ask = client.options("/v1/detect", headers={"Origin": APP, **PREFLIGHT})
        assert ask.status_code == 200 and ask.headers["access-control-allow-origin"] == "*"
        refused = client.post("/v1/detect", content=photo, headers={**RAW, **BROWSER})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "*"
        right = {**RAW, **BROWSER, "Authorization": "Bearer secret"}
        assert client.post("/v1/detect", content=photo, headers=right).status_code == 200


def test_off_by_default(client: TestClient) -> None:
    ask = client.options("/v1/detect", headers={"Origin": APP, **PREFLIGHT})
    assert ask.status_code == 405 and not [name for name in ask.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        (APP, APP),
        (f"{APP}/", APP),
        ("HTTPS://App.Example.org", APP),
        ("https://app.example.org:443", APP),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://마스크.example", "http://xn--hz2b25no1l.example"),
    ],
)
def test_origins(given: str, origin: str) -> None:
    assert checked_origins([given], has_token=False) == {origin}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("*", "--allow-origin *: would let every web page use this server; set MASK_TOKEN"),
        ("null", "--allow-origin null: is the origin of every local file and sandbox"),
        ("app.example.org", "--allow-origin app.example.org: is not an origin; give scheme and host, as https://"),
        ("https://*.example.org", "is not an origin"),
        ("https://app.example.org/page", "is not an origin"),
        ("https://me:secret@app.example.org", "is not an origin"),
        ("https://app.example.org:x", "is not an origin"),
        ("ftp://app.example.org", "is not an origin"),
        ("https://", "is not an origin"),
        ("", "is not an origin"),
    ],
)
def test_what_is_no_origin(given: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        checked_origins([given], has_token=False)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_every_page_needs_a_token() -> None:
    assert checked_origins(["*", APP], has_token=True) == {"*", APP}
