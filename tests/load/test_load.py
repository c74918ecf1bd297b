"""The load test and the fuzz test, on real and fake servers."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from tests.helpers.fake_predictor import FakePredictor, write_picture
from tests.helpers.serve.served import served
from tests.load import command as load
from tests.load.clients import LoadResult
from tests.load.http_fuzz import fuzz_server, send
from tests.load.malformed import MalformedRequest, malformed_requests
from tests.load.request_fuzzer import RequestFuzzer, SendStep
from tests.load.server_process import HERE, Target, running_server

METRICS = b"process_resident_memory_bytes 1e8\nmask_requests_in_flight 0\n"


def record(out: str) -> dict[str, Any]:
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_a_short_load_on_a_real_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert load.main(["--clients", "2", "--seconds", "2"]) == 0
    out = capsys.readouterr().out
    found = record(out)
    assert found["clients"] == 2 and found["requests"] >= 2 and found["errors"] == {} and found["flat"] is None
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert 50 < found["memory_mb"]["start"] <= found["memory_mb"]["peak"]
    assert "2 clients for" in out and "unknown (run 20 s or more)" in out


@pytest.mark.slow
def test_malformed_requests_on_a_real_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "SLOW_SECONDS", 1.0)
    assert load.main(["--malformed", "60"]) == 0
    out, err = capsys.readouterr()
    found = record(out)
    assert found["malformed"] == sum(found["ended"].values()) == 60 and found["problems"] == [] and err == ""
    assert {status for status in found["ended"] if status != "closed"} <= {
        "400", "403", "404", "405", "408", "413", "415", "422", "429"
    }  # fmt: skip
    assert found["good_photos_meanwhile"] >= 1
    assert "slow head" in out and "bomb: a head that claims many pixels" in out


def fuzzer(target: Target, seed: int = 0) -> RequestFuzzer:
    return RequestFuzzer(target, bytes(range(256)) * 20, 10_000, 0.1, random.Random(seed))


def test_the_seed_determines_the_requests() -> None:
    here = Target(HERE, 1)
    first, again = list(malformed_requests(fuzzer(here), 100)), list(malformed_requests(fuzzer(here), 100))
    assert first == again != list(malformed_requests(fuzzer(here, seed=1), 100))
    kinds = {request.kind for request in first}
    assert len(kinds) > 40 and all(request.steps for request in first)


@contextmanager
def answering(status: int, body: bytes) -> Iterator[Target]:
    """Run a server that answers every POST with this status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, METRICS if self.path == "/metrics" else b"{}")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(status, body)

        def _answer(self, code: int, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None: ...

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *args: Any) -> None: ...  # connections are reset on purpose

    with Quiet((HERE, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Target(HERE, server.server_port)
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (422, b'{"error": "a line"}', None),
        (200, b'{"error": "a line"}', "k: answered with 200"),
        (500, b'{"error": "a line"}', "k: answered with 500"),
        (422, b"no JSON", "k: 422 without a clear line"),
        (422, b'{"error": "two\\nlines"}', "k: 422 without a clear line"),
        (422, b'{"error": ""}', "k: 422 without a clear line"),
        (422, b'{"detail": "a line"}', "k: 422 without a clear line"),
    ],
)
def test_answers_are_checked(status: int, body: bytes, problem: str | None) -> None:
    with answering(status, body) as target:
        outcome = send(target, MalformedRequest("k", [b"POST / HTTP/1.1\r\n\r\n"]), 5)
    assert outcome.ending == str(status)
    assert outcome.problem is None if problem is None else str(outcome.problem).startswith(problem)


def test_a_server_that_never_answers_is_a_problem() -> None:
    with answering(422, b"") as target:  # it waits for the rest of the head
        outcome = send(target, MalformedRequest("k", [b"POST"]), 0.3)
        assert outcome.problem == "k: neither answered nor closed in 0.3 seconds"
        assert send(target, MalformedRequest("k", [b"POST", SendStep.RESET]), 5).ending == "closed"


def test_a_server_that_refuses_the_photo_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(500, b"{}") as target:
        assert load.main(["--url", f"http://{HERE}:{target.port}", "--clients", "1", "--seconds", "0.5"]) == 1
    assert capsys.readouterr().err == "error: the photo is refused with 500: {}\n"


def test_a_server_that_accepts_everything_fails_the_fuzz_test(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, b"{}") as target:
        found = fuzz_server(fuzzer(target), 12)
    assert any("answered with 200" in problem for problem in found.problems)
    assert load.report(found) == 1 and "answered with 200" in capsys.readouterr().err


def test_errors_under_load_fail(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    class SometimesFailing(FakePredictor):
        def detect(self, *args: Any) -> Any:
            found = super().detect(*args)
            if len(self.calls) % 5 == 0:
                raise RuntimeError("fails")
            return found if len(self.calls) % 7 else found[:0]  # type: ignore[index]

    photo = write_picture(tmp_path / "a.png")
    with served(SometimesFailing()) as target:
        url = f"http://{HERE}:{target.port}"
        assert load.main(["--url", url, "--clients", "2", "--seconds", "0.5", "--photo", str(photo)]) == 1
    found = record(capsys.readouterr().out)
    assert found["errors"]["status 500"] > 0 and found["requests"] > 0


@pytest.mark.parametrize(("end", "flat"), [(109, True), (111, False)])
def test_memory_is_constant_within_a_tenth(end: float, flat: bool) -> None:
    found = LoadResult(1, 60.0, [5.0])
    found.memory = {"start": 50, "warm": 100, "end": end, "peak": end}
    assert found.flat is flat and found.good is flat
    found.seconds = 5
    assert found.flat is None and found.good


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--clients", "0"], "--clients is 0; give 1 to 1000"),
        (["--seconds", "0"], "--seconds is 0; give 0.5 or more"),
        (["--malformed", "0"], "--malformed is 0; give 1 or more"),
        (["--photo", "missing.jpg"], "missing.jpg: No such file or directory; check the name"),
        (["--url", "http://example.com:80"], "--url http://example.com:80: is not a server on this machine"),
        (
            ["--url", "https://127.0.0.1:80"],
            "--url https://127.0.0.1:80: is not a server on this machine; give an address",
        ),
        (["--url", "http://127.0.0.1"], "--url http://127.0.0.1: is not a server"),
        (["--url", "http://127.0.0.1:8", "--workers", "1"], "--bundle and --workers are for a started server"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], args: list[str], line: str) -> None:
    assert load.main(args) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {line}") and err.count("\n") == 1


@pytest.mark.slow
def test_a_server_that_does_not_start(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="the server did not start; see above"), running_server("--bundle", "missing"):
        pytest.fail("it started")
    assert "missing/bundle.json: not found" in capfd.readouterr().err


def test_a_server_that_ends_early_is_an_error() -> None:
    code = "print('serving at http://127.0.0.1:1 ', flush=True)"
    with pytest.raises(UserError, match="the server ended with code 0"), running_server(command=["-c", code]):
        threading.Event().wait(1)
