"""The application on a real server of this process, and a predictor that takes its time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.serve.app import create_app
from pipeline.serve.http_server import listen, make_server
from pipeline.serve.limits import Limits
from tests.helpers.fake_predictor import FakeDetections, FakePredictor
from tests.load.server_process import HERE, Target


class SlowPredictor(FakePredictor):
    """Detects when it is let: each detection waits until `go` is set. begun: how many have begun."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.begun = 0

    def detect(self, *args: Any) -> FakeDetections:
        self.begun += 1
        assert self.go.wait(20)
        return super().detect(*args)


@contextmanager
def served(predictor: FakePredictor, limits: Limits | None = None, workers: int = 1) -> Iterator[Target]:
    """A server in a thread, ended with the block."""
    limits = limits or Limits()
    server = make_server(create_app(predictor, limits, workers=workers), limits)  # type: ignore[arg-type]
    with listen(HERE, 0) as bound:
        port = bound.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield Target(HERE, port)
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def until(true: Any, seconds: float = 10) -> None:
    """Waits until `true()` is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def received(connection: socket.socket, seconds: float = 5) -> bytes:
    """All that comes until the other side closes."""
    connection.settimeout(seconds)
    pieces = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)
