"""Connections of a real server: slow clients, broken requests, limits."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.serve.limits import Limits
from tests.helpers.fake_predictor import FakePredictor, write_picture
from tests.helpers.serve.served import SlowPredictor, received, served, until
from tests.load.server_process import Target

LIMITS = Limits(head_seconds=0.5, body_seconds=0.5, max_bytes=3_000_000, connections=20)
POST = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with served(FakePredictor(), LIMITS) as target:
        yield target


def connect(target: Target) -> socket.socket:
    return socket.create_connection((target.host, target.port), 5)


def statuses(data: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def error_message(data: bytes) -> str:
    """Return the message of the last answer."""
    head, _, body = data.rpartition(b"\r\n\r\n")
    assert b"application/json" in head
    return str(json.loads(body)["error"])


@pytest.mark.parametrize("pieces", [[], [b"GET / HT"], [HEALTH[:10], HEALTH[10:30]]])
def test_a_slow_head_is_refused(target: Target, pieces: list[bytes]) -> None:
    with connect(target) as connection:
        begin = time.monotonic()
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.2)
        data = received(connection)
        assert 0.4 < time.monotonic() - begin < 2
    assert statuses(data) == [408] and error_message(data) == "the request's head did not arrive within 0.5 seconds"


def test_a_slow_head_after_a_good_request(target: Target) -> None:
    with connect(target) as connection:
        connection.sendall(HEALTH)
        assert statuses(connection.recv(9999)) == [200]
        time.sleep(0.7)  # a pause between requests may be longer than head_seconds
        for i in range(8):
            try:
                connection.sendall(HEALTH[i : i + 1])
            except OSError:
                break
            time.sleep(0.1)
        assert statuses(received(connection)) == [408]


def test_requests_follow_each_other_on_a_connection(target: Target) -> None:
    with connect(target) as connection:
        for _ in range(3):
            connection.sendall(HEALTH)
            time.sleep(0.3)
        connection.sendall(HEALTH * 3 + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert statuses(received(connection)) == [200] * 7


def test_an_unused_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.serve.http_server.KEEP_ALIVE_SECONDS", 0.3)
    with served(FakePredictor(), LIMITS) as target, connect(target) as connection:
        connection.sendall(HEALTH)
        begin = time.monotonic()
        assert statuses(received(connection)) == [200]
        assert time.monotonic() - begin < 2


def test_a_slow_body_is_refused(target: Target) -> None:
    with connect(target) as connection:
        connection.sendall(POST + b"Content-Length: 100\r\n\r\n")
        for _ in range(8):
            try:
                connection.sendall(b"x")
            except OSError:
                break
            time.sleep(0.1)
        data = received(connection)
    assert (
        statuses(data) == [408]
        and error_message(data) == "the upload did not arrive within 0.5 seconds; try a smaller photo"
    )
    until(lambda: target.metrics()["mask_requests_in_flight"] == 0)


def test_invalid_http_gets_one_line(target: Target) -> None:
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nA B: c\r\n\r\n",
        b"x" * 20_000,
    ):
        with connect(target) as connection:
            connection.sendall(garbage)
            data = received(connection)
        assert statuses(data) == [400] and error_message(data).startswith("this is not a valid HTTP/1.1 request")


def test_a_long_head_is_refused_in_one_piece_and_in_many(target: Target) -> None:
    head = b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: " + b"a" * 17_000 + b"\r\n\r\n"
    for size in (len(head), 1000):
        with connect(target) as connection:
            try:
                for start in range(0, len(head), size):
                    connection.sendall(head[start : start + size])
                    time.sleep(0.01)
            except OSError:
                pass  # the server refused the head before its end
            data = received(connection)
        assert statuses(data) == [400] and "longer than 16384 bytes" in error_message(data)


def test_bad_chunks_in_the_middle_of_an_upload(target: Target) -> None:
    with connect(target) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        time.sleep(0.2)  # now the application waits for more
        connection.sendall(b"no size\r\n")
        data = received(connection)
    assert statuses(data) == [400] and error_message(data).startswith("this is not a valid HTTP/1.1 request")
    until(lambda: target.metrics()["mask_requests_in_flight"] == 0)


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
def test_a_client_that_sends_too_much_gets_the_reason(target: Target, close: bytes) -> None:
    with connect(target) as connection:
        connection.sendall(POST + close + b"Content-Length: 9000000\r\n\r\n")
        for _ in range(90):
            connection.sendall(bytes(100_000))  # to the end: the server receives and discards it
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413 and "larger than 3 MB" in json.loads(answer.read())["error"]


def test_a_client_that_asks_before_sending_too_much_is_answered_at_once(target: Target) -> None:
    with connect(target) as connection:
        begin = time.monotonic()
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 9000000\r\n\r\n")
        assert statuses(received(connection)) == [413]  # and closed: the body could be a request
        assert time.monotonic() - begin < 2


def test_a_client_that_asks_before_sending_gets_100_continue(target: Target, tmp_path: Path) -> None:
    photo = write_picture(tmp_path / "a.png").read_bytes()
    with connect(target) as connection:
        connection.sendall(POST + f"Expect: 100-continue\r\nContent-Length: {len(photo)}\r\n\r\n".encode())
        assert connection.recv(9999).startswith(b"HTTP/1.1 100 ")
        connection.sendall(photo)
        assert statuses(connection.recv(9999)) == [200]


def test_an_endless_unwanted_body_is_cut_off(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.serve.middleware.DRAIN_SECONDS", 0.5)
    with connect(target) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        end = time.monotonic() + 10
        with pytest.raises(OSError):  # its type depends on the system
            while time.monotonic() < end:
                connection.sendall(b"x" * 1000)
                time.sleep(0.05)
    assert time.monotonic() < end


def test_connections_are_capped(target: Target) -> None:
    open_connections = [connect(target) for _ in range(LIMITS.connections)]
    with connect(target) as one_more:
        data = received(one_more)
    assert statuses(data) == [503] and error_message(data) == "too many connections are open; try again later"
    for connection in open_connections:
        connection.close()
    until(lambda: healthy(target))


def healthy(target: Target) -> bool:
    try:
        return target.ask("GET", "/v1/health")[0] == 200
    except OSError:
        return False


def test_a_client_that_receives_nothing_is_cut_off(target: Target) -> None:
    idle_reader = socket.socket()
    files = target.metrics()["process_open_fds"]
    idle_reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    idle_reader.connect((target.host, target.port))
    with idle_reader:
        idle_reader.sendall(b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
        until(lambda: target.metrics()["process_open_fds"] > files)
        until(lambda: target.metrics()["process_open_fds"] <= files)


def test_work_of_a_disconnected_client_is_dropped(tmp_path: Path) -> None:
    slow = SlowPredictor()
    photo = write_picture(tmp_path / "a.png").read_bytes()
    whole = POST + f"Content-Length: {len(photo)}\r\n\r\n".encode() + photo
    with served(slow) as target:
        first, second = connect(target), connect(target)
        first.sendall(whole)
        until(lambda: slow.begun == 1)
        second.sendall(whole)
        until(lambda: target.metrics()["mask_requests_in_flight"] == 2)
        second.close()
        until(lambda: target.metrics()["mask_requests_in_flight"] == 1)
        slow.go.set()
        assert statuses(first.recv(9999)) == [200]
        first.close()
        assert slow.begun == 1
