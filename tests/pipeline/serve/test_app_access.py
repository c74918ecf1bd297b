"""The application: who may use it, its headers, its pages and its description."""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipeline.serve import app as api
from pipeline.serve.app import create_app
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.serve.app_client import LIMITS, RAW, metric

ROOT = Path(__file__).resolve().parents[3]


def test_the_token_guards_all_but_the_page(fake: FakePredictor, photo: bytes) -> None:
    with TestClient(create_app(fake, LIMITS, token="secret")) as client:  # type: ignore[arg-type]
        for method, path in (("POST", "/v1/detect"), ("GET", "/v1/model"), ("GET", "/metrics")):
            for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
                answer = client.request(method, path, content=photo, headers={**RAW, **wrong})
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"].startswith("the token is missing or wrong")
            right = {**RAW, "Authorization": "Bearer secret"}
            assert client.request(method, path, content=photo, headers=right).status_code == 200
        for path in ("/", "/v1/health", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
    assert len(fake.calls) == 1


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LocalHost"])
def test_its_own_names_are_accepted(fake: FakePredictor, host: str) -> None:
    app = create_app(fake, LIMITS, hosts=("localhost", "127.0.0.1", "::1"))  # type: ignore[arg-type]
    assert TestClient(app).get("/v1/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[", "127.0.0.2"])
def test_other_names_are_refused(fake: FakePredictor, host: str) -> None:
    app = create_app(fake, LIMITS, hosts=("localhost", "127.0.0.1", "::1"))  # type: ignore[arg-type]
    answer = TestClient(app).get("/v1/health", headers={"Host": host})
    assert answer.status_code == 403 and "address it as 127.0.0.1 or" in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://testserver:81"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"}, 403),
        ({"Origin": "http://testserver"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
    ],
)
def test_pages_of_other_sites_cannot_send_photos(
    client: TestClient, photo: bytes, headers: dict[str, str], status: int
) -> None:
    answer = client.post("/v1/detect", content=photo, headers={**RAW, **headers})
    assert answer.status_code == status
    assert not [name for name in answer.headers if name.startswith("access-control")]
    if status == 403:
        assert answer.json() == {"error": "pages of other sites may not send photos here"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/detect/", 404),
        ("GET", "/static/../app.py", 404),
        ("GET", "/static/%2e%2e/app.py", 404),
        ("GET", "/static/..%2fapp.py", 404),
        ("GET", "/static/%00", 404),
        ("GET", "/static/" + "x" * 5000, 404),
        ("GET", "/v1/health?" + "x" * 17_000, 400),
        ("GET", "/v1/detect", 405),
        ("PUT", "/v1/detect", 405),
        ("OPTIONS", "/v1/detect", 405),
        ("POST", "/v1/health", 405),
        ("POST", "/static/index.html", 405),
    ],
)
def test_wrong_addresses_and_methods(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status and list(answer.json()) == ["error"]


@pytest.mark.parametrize("path", ["/", "/v1/health", "/v1/model", "/metrics", "/docs", "/openapi.json", "/nothing"])
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code and head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]


def test_health_and_model(client: TestClient, fake: FakePredictor) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert client.get("/v1/health").json() == {"status": "ok", "version": project["version"]}
    assert client.get("/v1/model").json() == fake.bundle.describe()


def test_metrics(client: TestClient, photo: bytes) -> None:
    client.post("/v1/detect", content=photo, headers=RAW)
    client.post("/v1/detect", content=b"x", headers=RAW)
    for i in range(3):
        client.get(f"/made/up/{i}")
        client.get(f"/static/{i}")
    assert metric(client, 'mask_requests_total{path="/v1/detect",status="200"}') == 1
    assert metric(client, 'mask_requests_total{path="/v1/detect",status="422"}') == 1
    assert metric(client, 'mask_requests_total{path="other",status="404"}') == 3
    assert metric(client, 'mask_requests_total{path="/static/*",status="404"}') == 3
    assert metric(client, 'mask_faces_total{label="with_mask"}') == 1
    assert metric(client, 'mask_faces_total{label="without_mask"}') == 0
    assert metric(client, "mask_upload_bytes_total") == len(photo)
    assert metric(client, "mask_detect_seconds_count") == 1
    assert "made" not in client.get("/metrics").text


def test_every_answer_has_security_headers(client: TestClient, photo: bytes) -> None:
    answers = [client.get("/"), client.get("/nothing"), client.post("/v1/detect", content=photo, headers=RAW)]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert [answer.headers["cache-control"] for answer in answers] == ["no-cache", "no-cache", "no-store"]


def test_the_page_and_its_files(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert client.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    assert client.get("/static/index.html").content == page.content


def test_the_docs_name_no_outside_address(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200 and "http:" not in page.text and "https:" not in page.text
    assert '"validatorUrl": null' in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self' 'sha256-") and "http" not in policy
    (script,) = re.findall(rb"<script>(.*?)</script>", page.content, re.DOTALL)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" in policy
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(files) == 3 and all(client.get(file).status_code == 200 for file in files)


def test_openapi_describes_bodies_answers_and_errors(client: TestClient, photo: bytes) -> None:
    described = client.get("/openapi.json").json()
    assert list(described["paths"]) == ["/v1/detect", "/v1/model", "/v1/health", "/metrics"]
    detect = described["paths"]["/v1/detect"]["post"]
    assert list(detect["requestBody"]["content"]) == ["multipart/form-data", "image/*", "application/octet-stream"]
    assert {int(status) for status in detect["responses"]} == {200, 400, 401, 403, 408, 413, 415, 422, 429, 500, 503}
    assert [each["name"] for each in detect["parameters"]] == ["min_score", "min_face"]
    schemas = described["components"]["schemas"]
    answer = client.post("/v1/detect", content=photo, headers=RAW).json()
    assert list(schemas["PhotoFaces"]["properties"]) == [*answer, "note"]  # only where a file has one
    assert schemas["PhotoFaces"]["required"] == list(answer)
    assert list(schemas["Face"]["properties"]) == list(answer["faces"][0])
    assert list(schemas["ErrorResponse"]["properties"]) == ["error"]


def test_counted_paths_are_the_served_paths() -> None:
    app = create_app(FakePredictor(), LIMITS)  # type: ignore[arg-type]
    served = {route.path for route in app.routes}  # type: ignore[attr-defined]
    assert {path.removesuffix("/*") or "/" for path in api.COUNTED_PATHS} == {path or "/" for path in served}
