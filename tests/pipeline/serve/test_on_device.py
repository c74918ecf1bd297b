"""The server with a site's model: the page has both places, its policy admits WebAssembly, the files are counted."""

from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient

from pipeline.serve.app import create_app
from pipeline.serve.command import main
from pipeline.serve.page_files import checked_device_folder
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.serve.app_client import LIMITS, metric


def made_site(folder: Path) -> Path:
    (folder / "device").mkdir(parents=True)
    (folder / "device/model.json").write_text("{}")
    (folder / "device/mask-detector.onnx").write_bytes(b"graph")
    return folder


def test_the_page_has_both_places(tmp_path: Path) -> None:
    device = checked_device_folder(made_site(tmp_path / "site"))
    with TestClient(create_app(FakePredictor(), LIMITS, device=device)) as client:  # type: ignore[arg-type]
        page = client.get("/")
        assert 'data-backends="server device"' in page.text
        policy = page.headers["content-security-policy"]
        assert "script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:" in policy and "connect-src" not in policy
        assert policy.count("default-src 'self'") == 1  # which is that of connections
        for header in ("cross-origin-opener-policy", "cross-origin-embedder-policy"):
            assert header in page.headers and header in client.get("/device/model.json").headers
        assert client.get("/device/mask-detector.onnx").content == b"graph"
        assert metric(client, 'mask_requests_total{path="/device/*",status="200"}') == 3


def test_the_page_alone(client: TestClient) -> None:
    page = client.get("/")
    assert 'data-backends="server"' in page.text and "wasm" not in page.headers["content-security-policy"]
    assert client.get("/device/model.json").status_code == 404


def test_a_prefix_and_both_places(tmp_path: Path) -> None:
    device = checked_device_folder(made_site(tmp_path / "site"))
    app = create_app(FakePredictor(), LIMITS, root_path="/mask", device=device)  # type: ignore[arg-type]
    with TestClient(app) as client:
        page = client.get("/mask/")
        assert '<base href="/mask/">' in page.text and 'data-backends="server device"' in page.text
        assert "base-uri 'self'" in page.headers["content-security-policy"]


def test_no_site(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["--on-device", str(tmp_path), "--port", "0"]) == 1
    assert "is not a site; make one with" in capsys.readouterr().err
