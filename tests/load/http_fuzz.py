"""Sends malformed requests to a server, several at a time, and checks the server afterwards."""

from __future__ import annotations

import http.client
import json
import math
import select
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.load.malformed import MalformedRequest, malformed_requests
from tests.load.request_fuzzer import RequestFuzzer, SendStep
from tests.load.server_process import RAW_TYPE, Target, is_idle_within

SENDERS = 16
PATIENCE_SECONDS = 15.0  # to wait for an answer, in addition to the time that the server allows a slow client
MAX_MEMORY_RATIO = 1.25  # allowed memory after / memory before
MAX_EXTRA_FILES = 4  # allowed additional open files
CLOSED = "closed"


@dataclass(frozen=True)
class RequestOutcome:
    """The result of a malformed request."""

    kind: str
    """The request's kind."""
    ending: str
    """The answer's status, or CLOSED."""
    problem: str | None = None
    """What was wrong with the ending; None when nothing was."""


@dataclass
class FuzzResult:
    """The result of a fuzz run."""

    outcomes: list[RequestOutcome] = field(default_factory=list)
    """The outcome of each malformed request."""
    problems: list[str] = field(default_factory=list)
    """What was wrong during the run and after it."""
    seconds: float = 0.0
    """Time of the whole run."""
    good_photos: int = 0
    """Good photos answered correctly during the run."""
    memory: dict[str, float] = field(default_factory=dict)
    """The server's memory in MB, before and after."""

    def by_kind(self) -> dict[str, Counter[str]]:
        """Return the number of requests of each kind by their ending."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for outcome in self.outcomes:
            counts[outcome.kind][outcome.ending] += 1
        return dict(sorted(counts.items()))

    def record(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        ended = Counter(outcome.ending for outcome in self.outcomes)
        return {
            "malformed": len(self.outcomes),
            "seconds": round(self.seconds, 1),
            "ended": dict(sorted(ended.items())),
            "good_photos_meanwhile": self.good_photos,
            "memory_mb": {name: None if math.isnan(mb) else round(mb, 1) for name, mb in self.memory.items()},
            "problems": self.problems,
        }


def send(target: Target, request: MalformedRequest, patience: float) -> RequestOutcome:
    """Send a malformed request. The server should answer with 4xx and a JSON error, or close the connection."""
    try:
        with socket.create_connection((target.host, target.port), patience) as connection:
            return _send_steps(connection, request)
    except TimeoutError:
        return RequestOutcome(
            request.kind, "nothing", f"{request.kind}: neither answered nor closed in {patience:g} seconds"
        )
    except (OSError, http.client.HTTPException):  # the connection was reset, or closed during an answer
        return RequestOutcome(request.kind, CLOSED)


def _send_steps(connection: socket.socket, request: MalformedRequest) -> RequestOutcome:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for step in request.steps:
            if step is SendStep.RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return RequestOutcome(request.kind, CLOSED)
            if step is SendStep.HALF_CLOSE:
                connection.shutdown(socket.SHUT_WR)
            elif isinstance(step, bytes):
                connection.sendall(step)
            elif select.select([connection], [], [], step)[0]:  # the server has answered or closed
                break
    except (BrokenPipeError, ConnectionResetError):
        pass  # closed, possibly after an answer
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return _check_response(request.kind, answer.status, answer.read())


def _check_response(kind: str, status: int, body: bytes) -> RequestOutcome:
    if not 400 <= status < 500:
        return RequestOutcome(kind, str(status), f"{kind}: answered with {status}: {body[:200]!r}")
    try:
        message = json.loads(body)["error"]
        clear = isinstance(message, str) and message.isprintable() and 0 < len(message) < 1000
    except (ValueError, KeyError, TypeError):
        clear = False
    return RequestOutcome(
        kind, str(status), None if clear else f"{kind}: {status} without a clear line: {body[:200]!r}"
    )


def fuzz_server(fuzzer: RequestFuzzer, count: int) -> FuzzResult:
    """Send `count` malformed requests, and the good photo from time to time."""
    target, photo, result = fuzzer.target, fuzzer.photo, FuzzResult()
    expected = target.detect(photo)
    before = target.metrics()
    patience = fuzzer.slow_seconds + PATIENCE_SECONDS
    begin, over = time.monotonic(), threading.Event()

    def post_good_photos() -> None:
        while not over.wait(0.25):
            status, body = target.ask("POST", "/v1/detect", photo, RAW_TYPE)
            if status == 200 and body == expected:
                result.good_photos += 1
            elif status != 429:
                result.problems.append(f"during the run, a good photo got {status}: {body[:200]!r}")

    good_client = threading.Thread(target=post_good_photos, daemon=True)
    good_client.start()
    with ThreadPoolExecutor(SENDERS) as pool:
        result.outcomes = list(
            pool.map(lambda each: send(target, each, patience), list(malformed_requests(fuzzer, count)))
        )
    over.set()
    good_client.join()
    result.seconds = time.monotonic() - begin
    result.problems += [outcome.problem for outcome in result.outcomes if outcome.problem]
    result.problems += _health_problems(target, before, photo, expected)
    after = target.metrics()
    name = "process_resident_memory_bytes"
    result.memory = {"before": before.get(name, math.nan) / 1e6, "after": after.get(name, math.nan) / 1e6}
    if result.memory["after"] > MAX_MEMORY_RATIO * result.memory["before"]:
        result.problems.append("afterwards the server takes {after:.0f} MB after {before:.0f}".format(**result.memory))
    return result


def _health_problems(target: Target, before: dict[str, float], photo: bytes, expected: bytes) -> list[str]:
    """Return what is wrong with a server after the run."""
    problems = []
    if not is_idle_within(target):
        problems.append("afterwards requests are still in flight")
    status, _ = target.ask("GET", "/v1/health")
    if status != 200:
        problems.append(f"afterwards /v1/health says {status}")
    if target.detect(photo) != expected:
        problems.append("afterwards the good photo gets another answer")
    after = target.metrics()
    start_time, files = "process_start_time_seconds", "process_open_fds"
    if after.get(start_time) != before.get(start_time):
        problems.append("the server was restarted")
    if after.get(files, 0) > before.get(files, 0) + MAX_EXTRA_FILES:
        problems.append(f"afterwards {after[files]:g} files are open, before {before[files]:g}")
    return problems
