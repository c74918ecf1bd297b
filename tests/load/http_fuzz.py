"""Sends malformed requests to a server, several at a time, and looks whether it is well afterwards."""

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

from tests.load.malformed import MalformedRequest, RequestFuzzer, SendStep
from tests.load.server_process import RAW_TYPE, Target, is_idle_within

SENDERS = 16
PATIENCE_SECONDS = 15.0  # for an answer, beyond what the server allows a slow client
MAX_MEMORY_RATIO = 1.25  # times as much as before is within bounds
MAX_EXTRA_FILES = 4  # open files
CLOSED = "closed"


@dataclass(frozen=True)
class RequestOutcome:
    """What became of an attempt. ended: the answer's status, or CLOSED; problem: what was wrong with that."""

    kind: str
    ending: str
    problem: str | None = None


@dataclass
class FuzzResult:
    """A storm of malformed requests. problems: what was not as it should be, during and afterwards."""

    outcomes: list[RequestOutcome] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    good_photos: int = 0  # answered as before, meanwhile
    memory: dict[str, float] = field(default_factory=dict)  # MB

    def by_kind(self) -> dict[str, Counter[str]]:
        """How many attempts of each kind ended how."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for outcome in self.outcomes:
            counts[outcome.kind][outcome.ending] += 1
        return dict(sorted(counts.items()))

    def record(self) -> dict[str, Any]:
        """All of it as JSON values."""
        ended = Counter(outcome.ending for outcome in self.outcomes)
        return {
            "malformed": len(self.outcomes),
            "seconds": round(self.seconds, 1),
            "ended": dict(sorted(ended.items())),
            "good_photos_meanwhile": self.good_photos,
            "memory_mb": {name: None if math.isnan(mb) else round(mb, 1) for name, mb in self.memory.items()},
            "problems": self.problems,
        }


def send(target: Target, attempt: MalformedRequest, patience: float) -> RequestOutcome:
    """Sends a malformed request; it should be answered with 4xx and a JSON error, or the connection closed."""
    try:
        with socket.create_connection((target.host, target.port), patience) as connection:
            return _send_steps(connection, attempt)
    except TimeoutError:
        return RequestOutcome(
            attempt.kind, "nothing", f"{attempt.kind}: neither answered nor closed in {patience:g} seconds"
        )
    except (OSError, http.client.HTTPException):  # reset, or closed in the middle of an answer
        return RequestOutcome(attempt.kind, CLOSED)


def _send_steps(connection: socket.socket, attempt: MalformedRequest) -> RequestOutcome:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for step in attempt.steps:
            if step is SendStep.RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return RequestOutcome(attempt.kind, CLOSED)
            if step is SendStep.HALF_CLOSE:
                connection.shutdown(socket.SHUT_WR)
            elif isinstance(step, bytes):
                connection.sendall(step)
            elif select.select([connection], [], [], step)[0]:  # it has lost patience
                break
    except (BrokenPipeError, ConnectionResetError):
        pass  # closed, perhaps with an answer before
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return _check_response(attempt.kind, answer.status, answer.read())


def _check_response(kind: str, status: int, body: bytes) -> RequestOutcome:
    if not 400 <= status < 500:
        return RequestOutcome(kind, str(status), f"{kind}: answered with {status}: {body[:200]!r}")
    try:
        line = json.loads(body)["error"]
        clear = isinstance(line, str) and line.isprintable() and 0 < len(line) < 1000
    except (ValueError, KeyError, TypeError):
        clear = False
    return RequestOutcome(
        kind, str(status), None if clear else f"{kind}: {status} without a clear line: {body[:200]!r}"
    )


def fuzz_server(maker: RequestFuzzer, count: int) -> FuzzResult:
    """Sends so many malformed requests, and meanwhile the good photo now and then."""
    target, photo, storm = maker.target, maker.photo, FuzzResult()
    expected = target.detect(photo)
    before = target.metrics()
    patience = maker.slow_seconds + PATIENCE_SECONDS
    begin, over = time.monotonic(), threading.Event()

    def go_on_as_usual() -> None:
        while not over.wait(0.25):
            status, body = target.ask("POST", "/v1/detect", photo, RAW_TYPE)
            if status == 200 and body == expected:
                storm.good_photos += 1
            elif status != 429:
                storm.problems.append(f"meanwhile a good photo got {status}: {body[:200]!r}")

    usual = threading.Thread(target=go_on_as_usual, daemon=True)
    usual.start()
    with ThreadPoolExecutor(SENDERS) as pool:
        storm.outcomes = list(pool.map(lambda each: send(target, each, patience), list(maker.requests(count))))
    over.set()
    usual.join()
    storm.seconds = time.monotonic() - begin
    storm.problems += [outcome.problem for outcome in storm.outcomes if outcome.problem]
    storm.problems += _health_problems(target, before, photo, expected)
    after = target.metrics()
    name = "process_resident_memory_bytes"
    storm.memory = {"before": before.get(name, math.nan) / 1e6, "after": after.get(name, math.nan) / 1e6}
    if storm.memory["after"] > MAX_MEMORY_RATIO * storm.memory["before"]:
        storm.problems.append("afterwards the server takes {after:.0f} MB after {before:.0f}".format(**storm.memory))
    return storm


def _health_problems(target: Target, before: dict[str, float], photo: bytes, expected: bytes) -> list[str]:
    """What is wrong with a server after a storm."""
    problems = []
    if not is_idle_within(target):
        problems.append("afterwards requests are still under way")
    status, _ = target.ask("GET", "/v1/health")
    if status != 200:
        problems.append(f"afterwards /v1/health says {status}")
    if target.detect(photo) != expected:
        problems.append("afterwards the good photo gets another answer")
    after = target.metrics()
    started, files = "process_start_time_seconds", "process_open_fds"
    if after.get(started) != before.get(started):
        problems.append("the server is another one than before")
    if after.get(files, 0) > before.get(files, 0) + MAX_EXTRA_FILES:
        problems.append(f"afterwards {after[files]:g} files are open, before {before[files]:g}")
    return problems
