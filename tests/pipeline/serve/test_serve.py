"""The command pipeline.serve as a process: its answers, its end, its arguments."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from matplotlib import cbook

from pipeline.detect import command as detect
from pipeline.serve import command as serve
from pipeline.serve import http_server
from tests.helpers.fake_predictor import write_picture
from tests.load.server_process import HERE, Target, is_idle_within, running_server

ROOT = Path(__file__).resolve().parents[3]
# A server whose detections wait until the file "go" exists.
SLOW = """
import sys, time
from pathlib import Path
from tests.helpers.fake_predictor import FakePredictor
from pipeline.serve import command as serve

class Slow(FakePredictor):
    def detect(self, *args):
        Path(GO + ".begun").touch()
        while not Path(GO).exists():
            time.sleep(0.01)
        return super().detect(*args)

serve.load_predictor = lambda *_: Slow()
sys.exit(serve.main(sys.argv[1:]))
"""


def hopper() -> Path:
    return Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))


def start_server(*command: str, **environment: str) -> subprocess.Popen[str]:
    """Start a server process on a free port."""
    return subprocess.Popen(
        [sys.executable, *command, "--port", "0"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def target_of(server: subprocess.Popen[str]) -> Target:
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith("serving at http://127.0.0.1:") and line.endswith(" (Ctrl-C ends it)\n")
    return Target.of(line.split()[2])


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with running_server() as target:
        yield target


def form(name: str, data: bytes) -> tuple[bytes, str]:
    head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
    return head + data + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("0", "40")])
def test_answers_equal_the_command_lines(
    server: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = Path("grace hopper.jpg")
    photo.write_bytes(hopper().read_bytes())
    flags = [part for pair in zip(("--min-score", "--min-face"), options, strict=False) for part in pair]
    assert detect.main([str(photo), "--no-pictures", "--workers", "1", *flags]) == 0
    text = Path("detections/detections.json").read_text(encoding="utf-8")
    expected = json.loads(text)["images"][0]
    query = "?min_score={}&min_face={}".format(*options) if options else ""
    status, answer = server.ask("POST", f"/v1/detect{query}", *form(photo.name, photo.read_bytes()))
    assert status == 200 and json.loads(answer) == expected and len(expected["faces"]) >= 1
    assert answer.decode() in text  # to the last character


def test_the_bundle_is_described(server: Target) -> None:
    status, answer = server.ask("GET", "/v1/model")
    described: dict[str, Any] = json.loads(answer)
    assert status == 200 and described["name"] == "default" and "thresholds" in described


def test_other_host_names_are_refused(server: Target) -> None:
    for host, status in ((f"localhost:{server.port}", 200), ("evil.example", 403)):
        connection = server.connect()
        connection.request("GET", "/v1/health", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()


@pytest.mark.slow
def test_a_proxys_flags_reach_the_server() -> None:
    flags = ("--root-path", "/mask/", "--allow-host", "a.example", "--allow-host", "b.example")
    with running_server(*flags, "--allow-origin", "https://app.example") as target:
        for host, status in (("a.example", 200), ("b.example:443", 200), ("127.0.0.1", 200), ("c.example", 403)):
            connection = target.connect()
            headers = {"Host": host, "Origin": "https://app.example"}
            connection.request("GET", "/mask/v1/health", headers=headers)
            answer = connection.getresponse()
            assert answer.status == status
            assert answer.headers["Access-Control-Allow-Origin"] == ("https://app.example" if status == 200 else None)
            connection.close()


@pytest.mark.slow
def test_nothing_is_logged() -> None:
    server = start_server("-m", "pipeline.serve")
    target = target_of(server)
    photo = hopper().read_bytes()
    assert target.ask("POST", "/v1/detect", *form("secret.jpg", photo))[0] == 200
    assert target.ask("POST", "/v1/detect", *form("secret.jpg", photo[:5000]))[0] == 422
    assert target.ask("POST", "/v1/detect", b"secret", "multipart/form-data; boundary=x")[0] == 400
    assert target.ask("GET", "/secret")[0] == 404
    with socket.create_connection((target.host, target.port)) as connection:
        connection.sendall(b"secret\r\n\r\n")
        assert connection.recv(9999)
    server.send_signal(signal.SIGTERM)
    assert server.communicate(timeout=10) == ("", "")
    assert server.returncode == 0


@pytest.mark.slow
def test_it_ends_soon_while_a_photo_never_ends(tmp_path: Path) -> None:
    go = tmp_path / "go"
    server = start_server("-c", SLOW.replace("GO", repr(str(go))), "--workers", "1")
    target = target_of(server)
    photo = write_picture(tmp_path / "a.png").read_bytes()
    answers: list[tuple[int, bytes]] = []
    posts = [
        threading.Thread(target=lambda: answers.append(target.ask("POST", "/v1/detect", photo, "image/png")))
        for _ in range(2)
    ]
    with socket.create_connection((HERE, target.port)) as idle, socket.create_connection((HERE, target.port)) as half:
        half.sendall(
            b"POST /v1/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n"
        )
        idle.sendall(b"GET")
        for post in posts:
            post.start()
        while target.metrics()["mask_requests_in_flight"] < 3 or not go.with_suffix(".begun").exists():
            time.sleep(0.01)
        begin = time.monotonic()
        server.send_signal(signal.SIGINT)
        assert server.wait(10) == 0
        assert time.monotonic() - begin < 2
    for post in posts:
        post.join(5)
    line = b'{"error":"the server is shutting down; try again later"}'
    assert answers == [(503, line)] * 2
    assert server.communicate() == ("", "")


@pytest.mark.slow
def test_a_photo_in_progress_is_finished(tmp_path: Path) -> None:
    go = tmp_path / "go"
    server = start_server("-c", SLOW.replace("GO", repr(str(go))))
    target = target_of(server)
    photo = write_picture(tmp_path / "a.png").read_bytes()
    answers: list[tuple[int, bytes]] = []
    post = threading.Thread(target=lambda: answers.append(target.ask("POST", "/v1/detect", photo, "image/png")))
    post.start()
    while not go.with_suffix(".begun").exists():
        time.sleep(0.01)
    server.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    go.touch()
    post.join(5)
    assert server.wait(5) == 0
    assert [status for status, _ in answers] == [200]
    assert server.communicate() == ("", "")


@pytest.mark.slow
def test_the_token_comes_from_the_environment() -> None:
    with running_server(token="secret") as target:
        assert b'"label": "without_mask"' in target.detect(hopper().read_bytes())
        assert is_idle_within(target)
        assert Target(target.host, target.port).ask("GET", "/v1/model")[0] == 401


def test_an_open_server_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    apps: list[Any] = []

    class NoServer:
        async def serve(self, sockets: Any) -> None: ...

    def make_server(app: Any, limits: Any) -> NoServer:
        apps.append(app)
        return NoServer()

    monkeypatch.setattr(http_server, "make_server", make_server)
    monkeypatch.setattr(serve, "limit_malloc_arenas", lambda: True)
    monkeypatch.delenv("MASK_TOKEN", raising=False)
    for host, warned in (("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)):
        assert serve.main(["--port", "0", "--host", host]) == 0
        err = capsys.readouterr().err
        assert err.startswith("warning: everyone who reaches http://0.0.0.0:") == warned and err.count("\n") == warned
    assert serve.main(["--port", "0", "--host", "0.0.0.0", "--allow-host", "mask.example.org"]) == 0
    assert capsys.readouterr().err.startswith("warning: everyone who reaches http://0.0.0.0:")
    monkeypatch.setenv("MASK_TOKEN", "secret")
    assert serve.main(["--port", "0", "--host", "0.0.0.0"]) == 0
    assert capsys.readouterr().err == "" and len(apps) == 5
    statuses = [TestClient(app).get("/v1/health").status_code for app in apps]  # addressed as testserver
    assert statuses == [403, 403, 200, 403, 200]
    # At one address of a network, the server answers to this address and to the name of --host.
    monkeypatch.setattr(http_server, "bound_address", lambda _: ipaddress.ip_address("192.0.2.2"))
    assert serve.main(["--port", "0", "--host", "localhost"]) == 0
    for name, status in (("192.0.2.2", 200), ("localhost", 200), ("evil.example", 403)):
        assert TestClient(apps[-1], base_url=f"http://{name}").get("/v1/health").status_code == status


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--port", "-1"], "--port is -1; give 0 to 65535"),
        (["--port", "65536"], "--port is 65536"),
        (["--workers", "0"], "--workers is 0; give 1 to 1024"),
        (["--threads", "0"], "--threads is 0"),
        (["--max-bytes", "0"], "--max-bytes is 0; give 1 to 1000000000"),
        (["--max-pixels", "99999999"], "--max-pixels is 1e+08; give 1 to 89478485"),
        (["--detect-seconds", "nan"], "--detect-seconds is nan; give 0.1 to 86400"),
        (["--head-seconds", "0"], "--head-seconds is 0; give 0.1"),
        (["--body-seconds", "inf"], "--body-seconds is inf"),
        (["--waiting", "-1"], "--waiting is -1; give 0 to 10000"),
        (["--connections", "0"], "--connections is 0; give 1 to 10000"),
        (["--token", ""], "--token is not a valid token"),
        (["--token", "a b "], "--token is not a valid token; give ASCII letters, digits and signs"),
        (["--token", "ä"], "--token is not a valid token"),
        (["--host", "no such host"], "--host no such host: is an unknown name; give an address of this machine"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1: is not an address of this machine; give one of its"),
        (["--root-path", "mask"], "--root-path mask: is not a path prefix; give one such as /mask"),
        (["--allow-host", "a", "--allow-host", "*"], "--allow-host *: names no single host; repeat the flag"),
        (["--allow-origin", "*"], "--allow-origin *: would let every web page use this server; set MASK_TOKEN"),
        (["--port", "0", "--bundle", "missing"], "missing/bundle.json: not found"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: list[str], line: str
) -> None:
    monkeypatch.delenv("MASK_TOKEN", raising=False)
    monkeypatch.setattr(serve, "limit_malloc_arenas", lambda: True)
    assert serve.main(args) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {line}") and err.count("\n") == 1


def test_an_empty_token_in_the_environment_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASK_TOKEN", "")
    assert serve.main([]) == 1
    assert capsys.readouterr().err.startswith("error: MASK_TOKEN is not a valid token")


def test_a_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with http_server.listen(HERE, 0) as other:
        port = other.getsockname()[1]
        assert serve.main(["--port", str(port)]) == 1
    assert capsys.readouterr().err == f"error: port {port} is taken; give another with --port\n"


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for module in ("pipeline.serve.app", "pipeline.serve.http_server", "pipeline.serve.metrics"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert serve.main(["--port", "0"]) == 1
    how = "run `make install-serve`, or `pip install '.[serve]'` in an environment of your own"
    line = f"error: this needs the package {package!r}; in the project's folder, {how}\n"
    assert capsys.readouterr() == ("", line)


def test_serving_loads_no_torch() -> None:
    code = "import sys, pipeline.serve.app; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
