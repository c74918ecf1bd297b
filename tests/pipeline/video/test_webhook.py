"""Events are posted to real servers in order, with retries, and never block the video."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from common.errors import UserError
from pipeline.video import webhook
from pipeline.video.events import Event
from pipeline.video.webhook import Webhook, check_webhook_address

CLOSE_CONNECTION, HANG = "close", "hang"


class HookServer:
    """Gives one request after another the next answer, then always 200; records the requests."""

    def __init__(self, *answers: int | str) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.times: list[float] = []
        self.address = ""
        self.release = threading.Event()  # ends a hanging answer
        self._answers = list(answers)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.times.append(time.monotonic())
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.requests.append((request.command, request.path, dict(request.headers), body))
        code = self._answers.pop(0) if self._answers else 200
        if code == HANG:
            self.release.wait(20)
        if isinstance(code, int):
            request.send_response(code)
            if 300 <= code < 400:
                request.send_header("Location", f"{self.address}/moved")
            request.send_header("Content-Length", "0")
            request.end_headers()
        request.close_connection = True

    @property
    def tracks(self) -> list[int]:
        return [json.loads(body)["track"] for _, _, _, body in self.requests]


@contextmanager
def hook_server(*answers: int | str, port: int = 0) -> Iterator[HookServer]:
    recorder = HookServer(*answers)

    class HookHandler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            recorder.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), HookHandler)
    server.daemon_threads = True
    recorder.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield recorder
    finally:
        recorder.release.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def make_event(track: int) -> Event:
    words = "entered without mask", "마스크.mp4", 1.5, None, 30, track, "without_mask"
    return Event("entered", *words, False, 0.9, None, 0.5, 1.0, 2.0, 3.0, 4.0)


def quick_webhook(address: str, **options: Any) -> Webhook:
    return Webhook(address, **{"initial_backoff": 0.01, **options})


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_events_arrive_as_json_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    with hook_server() as server:
        with quick_webhook(f"{server.address}/api/hook?key=1#part") as hook:
            for track in range(20):
                hook.add(make_event(track))
        assert server.tracks == list(range(20)) and (hook.sent, hook.lost) == (20, 0)
    method, path, headers, body = server.requests[3]
    assert (method, path, headers["Content-Type"]) == ("POST", "/api/hook?key=1", "application/json")
    assert "Authorization" not in headers
    assert json.loads(body) == {
        "event": "entered",
        "text": "entered without mask",
        "source": "마스크.mp4",
        "time": 1.5,
        "clock": None,
        "frame": 30,
        "track": 3,
        "label": "without_mask",
        "unsure": False,
        "score": 0.9,
        "previous": None,
        "seconds": 0.5,
        "x1": 1.0,
        "y1": 2.0,
        "x2": 3.0,
        "y2": 4.0,
    }
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("refusal", [500, 503, 429, 408, CLOSE_CONNECTION])
def test_temporary_failures_are_retried_with_growing_waits(refusal: int | str) -> None:
    with hook_server(*[refusal] * 4) as server:
        with quick_webhook(server.address, initial_backoff=0.02) as hook:
            hook.add(make_event(1))
            hook.add(make_event(2))
        assert server.tracks == [1] * 5 + [2] and (hook.sent, hook.lost) == (2, 0)
    waits = [after - before for before, after in zip(server.times[:4], server.times[1:5], strict=True)]
    assert all(wait >= 0.02 * 2**i for i, wait in enumerate(waits))


def test_a_server_that_starts_later() -> None:
    with hook_server() as gone:
        port = int(gone.address.rsplit(":", 1)[1])
    with quick_webhook(gone.address, initial_backoff=0.2) as hook:  # no server listens there
        hook.add(make_event(1))
        time.sleep(0.1)
        with hook_server(port=port) as server:
            hook.close()
    assert server.tracks == [1] and hook.lost == 0


def test_no_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(webhook, "MAX_ATTEMPTS", 2)
    with hook_server() as gone:
        pass
    with quick_webhook(gone.address) as hook:
        hook.add(make_event(1))
    assert (hook.sent, hook.lost) == (0, 1)
    message = f"warning: {gone.address}: an event could not be sent (Connection refused)"
    assert capsys.readouterr().err.splitlines()[0] == message


def test_no_message_shows_the_path_of_a_webhook(capsys: pytest.CaptureFixture[str]) -> None:
    with hook_server(404) as server:
        with quick_webhook(f"{server.address}/services/T1/SeCrEt?key=SeCrEt") as hook:
            hook.add(make_event(1))
        assert hook.lost == 1
    shown = capsys.readouterr().err
    assert f"warning: {server.address}: an event could not be sent" in shown and "SeCrEt" not in shown


@pytest.mark.parametrize("refusal", [400, 401, 404, 301, 302, 307])
def test_other_refusals_are_not_retried(refusal: int, capsys: pytest.CaptureFixture[str]) -> None:
    with hook_server(refusal) as server:
        with quick_webhook(server.address) as hook:
            hook.add(make_event(1))
            hook.add(make_event(2))
        assert server.tracks == [1, 2] and (hook.sent, hook.lost) == (1, 1)
    assert capsys.readouterr().err == (
        f"warning: {server.address}: an event could not be sent (it answered {refusal})\n"
        f"error: {server.address}: 1 of 2 events could not be sent; check the --webhook address\n"
    )


def test_an_event_refused_too_often_is_lost_and_the_next_ones_are_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webhook, "MAX_ATTEMPTS", 3)
    with hook_server(*[500] * 6) as server:
        with quick_webhook(server.address) as hook:
            for track in (1, 2, 3):
                hook.add(make_event(track))
        assert server.tracks == [1, 1, 1, 2, 2, 2, 3] and (hook.sent, hook.lost) == (1, 2)
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {server.address}: an event could not be sent (it answered 500)",
        f"error: {server.address}: 2 of 3 events could not be sent; check the --webhook address",
    ]


def test_a_hanging_server_does_not_block(capsys: pytest.CaptureFixture[str]) -> None:
    with hook_server(HANG) as server:
        hook = quick_webhook(server.address)
        began = time.monotonic()
        for track in range(500):
            hook.add(make_event(track))
        assert time.monotonic() - began < 0.5
        hook.close(timeout=0.2)
        assert time.monotonic() - began < 3
    hook._thread.join(5)  # its connection is closed now, which is not reported any more
    assert hook.lost == 500
    assert (
        capsys.readouterr().err
        == f"error: {server.address}: 500 of 500 events could not be sent; check the --webhook address\n"
    )


def test_a_hanging_server_is_retried() -> None:
    with hook_server(HANG) as server:
        with quick_webhook(server.address, timeout=0.2) as hook:
            hook.add(make_event(1))
            hook.add(make_event(2))
        assert server.tracks == [1, 1, 2] and (hook.sent, hook.lost) == (2, 0)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(webhook, "MAX_QUEUED", 10)
    with hook_server(HANG) as server:
        with quick_webhook(server.address) as hook:
            hook.add(make_event(0))
            wait_until(lambda: len(server.requests) == 1)
            for track in range(1, 31):
                hook.add(make_event(track))
            server.release.set()  # the first one gets no answer: its connection is closed, and it is sent again
        assert server.tracks == [0, *range(11)] and (hook.sent, hook.lost) == (11, 20)
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {server.address}: an event could not be sent (too many wait to be sent)",
        f"error: {server.address}: 20 of 31 events could not be sent; check the --webhook address",
    ]


def test_close_waits_for_unsent_events_until_its_timeout(capsys: pytest.CaptureFixture[str]) -> None:
    with hook_server(*[500] * 99) as server:
        hook = quick_webhook(server.address, initial_backoff=30)
        for track in range(5):
            hook.add(make_event(track))
        wait_until(lambda: len(server.requests) == 1)
        began = time.monotonic()
        hook.close(timeout=0.1)
        assert time.monotonic() - began < 3 and not hook._thread.is_alive()
    assert (hook.sent, hook.lost) == (0, 5) and "5 of 5 events could not be sent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ("me:secret", "Basic bWU6c2VjcmV0"),
        ("me", "Basic bWU6"),
        ("m%40e:s%3Ae%2Fcret", "Basic bUBlOnM6ZS9jcmV0"),  # m@e and s:e/cret
        ("m@e:s:e/cret", "Basic bUBlOnM6ZS9jcmV0"),
    ],
)
def test_user_and_password_are_sent_as_basic_authentication(
    user: str, header: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with hook_server(200, 404) as server:
        with quick_webhook(server.address.replace("://", f"://{user}@")) as hook:
            hook.add(make_event(1))
            hook.add(make_event(2))
        assert [headers["Authorization"] for _, _, headers, _ in server.requests] == [header] * 2
        assert server.requests[0][2]["Host"] == server.address.removeprefix("http://")
    message = capsys.readouterr().err
    assert f"{server.address}: an event could not be sent" in message and "me" not in message and "cret" not in message


def test_a_bad_host_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(webhook, "MAX_ATTEMPTS", 1)
    with quick_webhook(f"http://{'a' * 80}/") as hook:  # a label of more than 63 letters
        hook.add(make_event(1))
    assert hook.lost == 1 and "an event could not be sent" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address",
    [
        "",
        "hook",
        "127.0.0.1:8123/hook",
        "ftp://127.0.0.1/hook",
        "file:///etc/passwd",
        "http://",
        "http:///hook",
        "http://host:port/",
        "http://host:99999/",
        "http://host:0/",
        "http://[::1/",
        "http://host/two words",
        "http://host/\r\nX-More: 1",
        "http://host/한",
    ],
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(UserError) as caught:
        Webhook(address)
    assert "--webhook is not a web address" in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://host", "https://me:pw@host:8123/a?b=c", "http://[::1]:8123/", "HTTP://HOST/"]
)
def test_good_addresses(address: str) -> None:
    check_webhook_address(address)
